"""Whether what a planner imagines is true: the player's cell in each image it drew on the way.

Nothing is decoded to pixels. The cell is read in two ways: the model is asked about its own codes,
and the codes are compared, in z_q space, with those of pictures of the maze drawn by the simulator.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from latentum_jax.data.frozenlake.frames import State, advance, draw, states
from latentum_jax.data.frozenlake.mazes import MOVES, Maze
from latentum_jax.data.frozenlake.questions import parse_cell
from latentum_jax.eval.batches import padded_batches
from latentum_jax.pretrained import LatentUM

QUESTION = "Where is the player?"
BATCH = 64
STEPS_AT_ONCE = 16  # whose candidates' z_q are held in memory


@dataclass(frozen=True)
class Imagined:
    """An image drawn after a move: its codes [L C], and the walk up to the state it should show."""

    codes: np.ndarray
    walk: tuple[State, ...]


def score_images(
    model: LatentUM, walks: Sequence[tuple[Maze, str, np.ndarray]]
) -> dict[str, float | int]:
    """Shares of the images [J L C] of walks (maze, moves, images) that show the player rightly.

    "steps" is the number of images judged, those drawn after a move; "own_answer" and
    "nearest_frame" the shares in which the cell read in either way is the true one (0 of none).
    """
    images = [image for walk in walks for image in imagined(*walk)]
    if not images:
        return {"steps": 0, "own_answer": 0.0, "nearest_frame": 0.0}
    with tqdm(total=2 * len(images), desc="imagined states", unit="check") as bar:
        told = _own_answers(model, images, bar)
        near = _nearest_frames(model, images, bar)
    true = [image.walk[-1].player for image in images]
    return {
        "steps": len(images),
        "own_answer": float(np.mean([a == b for a, b in zip(told, true, strict=True)])),
        "nearest_frame": float(np.mean([a == b for a, b in zip(near, true, strict=True)])),
    }


def imagined(maze: Maze, moves: str, images: np.ndarray) -> list[Imagined]:
    """The images that were drawn after a move, each with the true walk up to there."""
    walk = tuple(states(maze, moves))
    count = min(len(moves), len(images))
    return [Imagined(images[i], walk[: i + 2]) for i in range(count)]


def candidates(walk: Sequence[State]) -> list[State]:
    """States that the last image of a walk might show, each picture once.

    Those that every possible last move leads to, those of the walk so far, and the player, turned
    as he truly is and with the same cells visited, in every other cell that is no hole.
    """
    last, before = walk[-1], walk[-2]
    found = [advance(before, move) for move in MOVES] + list(walk[:-1])
    taken = {state.player for state in found}
    level = last.maze.level
    for cell in (divmod(i, level) for i in range(level * level)):
        if cell not in taken and cell not in last.maze.holes:
            found.append(State(last.maze, cell, last.facing, last.visited))
    return list(dict.fromkeys(found))


def _own_answers(model: LatentUM, images: Sequence[Imagined], bar: Any) -> list[Any]:
    told = []
    for batch, real in padded_batches(images, BATCH):
        codes = np.stack([image.codes for image in batch])
        answers = model.describe(codes, QUESTION, max_new_tokens=16)
        told += [parse_cell(answer) for answer in answers[:real]]
        bar.update(real)
    return told


def _nearest_frames(model: LatentUM, images: Sequence[Imagined], bar: Any) -> list[Any]:
    near = []
    for start in range(0, len(images), STEPS_AT_ONCE):
        some = images[start : start + STEPS_AT_ONCE]
        options = [candidates(image.walk) for image in some]
        frames = list(dict.fromkeys(state for group in options for state in group))
        vectors = dict(zip(frames, _z_q_of_frames(model, frames), strict=True))
        drawn = _z_q(model, [image.codes for image in some], STEPS_AT_ONCE)
        for group, vector in zip(options, drawn, strict=True):
            apart = [np.square(vectors[state] - vector).sum() for state in group]
            near.append(group[int(np.argmin(apart))].player)
        bar.update(len(some))
    return near


def _z_q_of_frames(model: LatentUM, frames: Sequence[State]) -> list[np.ndarray]:
    codes = []
    for batch, real in padded_batches(frames, BATCH):
        codes += list(model.encode([draw(state) for state in batch])[1][:real])
    return _z_q(model, codes, BATCH)


def _z_q(model: LatentUM, codes: Sequence[np.ndarray], size: int) -> list[np.ndarray]:
    vectors = []
    for batch, real in padded_batches(codes, size):
        vectors += list(model.z_q(np.stack(batch))[:real])
    return vectors
