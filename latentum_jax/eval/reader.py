"""A reader of mazes' codes that is none of the model's: counts of what stood where codes were.

Of a maze up to 6x6 a visual token of the tiny model is a cell. The simulator's pictures are
encoded, and of every combination of codes is counted what was in its cell; a picture that was drawn
is then read cell by cell. No branch, head or decoder of the model has a say, so that a policy which
pleases the understanding branch alone is found out.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int
from tqdm import tqdm

from latentum_jax.data.frozenlake.frames import State, draw
from latentum_jax.data.frozenlake.stream import Mazes, random_state
from latentum_jax.pretrained import LatentUM

CONTENTS = ("outside", "free", "hole", "goal", "player")
OUTSIDE, FREE, HOLE, GOAL, PLAYER = range(len(CONTENTS))
BATCH = 100


def contents(state: State, side: int) -> Int[np.ndarray, " L"]:
    """What a caption says of every cell of a canvas of `side` x `side`, in reading order."""
    grid = np.full((side, side), OUTSIDE)
    grid[: state.maze.level, : state.maze.level] = FREE
    for cell in state.maze.holes:
        grid[cell] = HOLE
    grid[state.maze.goal] = GOAL
    grid[state.player] = PLAYER
    return grid.reshape(-1)


@dataclasses.dataclass(frozen=True)
class Reader:
    """`counts` [V ... V contents]: how often each content went with each combination of codes."""

    counts: np.ndarray

    @classmethod
    def of(cls, model: LatentUM, *, seed: int = 0, count: int = 3000) -> "Reader":
        """From so many of the simulator's pictures of training mazes, encoded by the model.

        Raises ValueError where a visual token of the model is no cell.
        """
        vision, quantizer = model.config.vision, model.config.quantizer
        if vision.canvas is None:
            raise ValueError("the reader reads a cell from a visual token: the model has no canvas")
        side = int(vision.num_tokens**0.5)
        rng = np.random.default_rng(seed)
        shape = (quantizer.codebook_size,) * quantizer.num_codebooks
        counts = np.zeros((*shape, len(CONTENTS)), np.int64)
        for _ in tqdm(range(0, count, BATCH), desc="reader", unit="batch"):
            states = [random_state(rng, Mazes().draw(rng)) for _ in range(BATCH)]
            codes = model.encode([draw(state) for state in states])[1]
            true = np.stack([contents(state, side) for state in states])
            np.add.at(counts, (*np.moveaxis(codes, -1, 0), true), 1)
        return cls(counts)

    def read(self, codes: Int[np.ndarray, "B L C"]) -> Int[np.ndarray, "B L"]:
        """The likeliest content of every cell; combinations that were never seen are -1."""
        found = self.counts[tuple(np.moveaxis(codes, -1, 0))]
        return np.where(found.sum(-1) > 0, found.argmax(-1), -1)

    def correct(self, codes: Int[np.ndarray, "B L C"], states: Sequence[State]) -> dict[str, float]:
        """Shares that pictures show rightly: "cells" of the mazes, the cells of each content, and
        whole "mazes"."""
        read = self.read(codes)
        side = int(read.shape[1] ** 0.5)
        true = np.stack([contents(state, side) for state in states])
        right = read == true
        shares = {"cells": right[true != OUTSIDE].mean(), "mazes": right.all(axis=1).mean()}
        for content in (FREE, HOLE, GOAL, PLAYER):
            shares[CONTENTS[content]] = right[true == content].mean()
        return {name: float(share) for name, share in shares.items()}
