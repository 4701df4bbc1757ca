"""Endless training rows of the small world, each from a room of the train split."""

import dataclasses
import itertools
import re

import numpy as np

from latentum_jax.config import VisionConfig
from latentum_jax.data.interleaved import (
    Row,
    RowBuilder,
    RowShape,
    caption_row,
    picture_row,
    question_row,
)
from latentum_jax.data.navigation import questions
from latentum_jax.data.navigation.motion import Pose, actions_between
from latentum_jax.data.navigation.questions import View
from latentum_jax.data.navigation.samples import CONTEXT, asked
from latentum_jax.data.navigation.walks import random_pose, walk
from latentum_jax.data.navigation.words import Action, prompt
from latentum_jax.data.navigation.world import draw_all, random_room
from latentum_jax.images import see, square
from latentum_jax.tokenizer import Tokenizer, user_turn

ROLLOUT = 8  # steps that a rollout goes on with the references it began with


def random_view(rng: np.random.Generator, split: str = "train") -> View:
    """A room of a split, seen from somewhere in it."""
    room = random_room(rng, split)
    return View(room, random_pose(rng, room))


@dataclasses.dataclass(frozen=True)
class NavigationRows:
    """Makes rows of every kind for one tokenizer and one vision encoder.

    stride: steps of a walk from one frame of a "world" row to the next.
    """

    tokenizer: Tokenizer
    vision: VisionConfig
    system: str
    stride: int = 1

    def shape(self, length: int, images: int, targets: int) -> RowShape:
        """Sizes of a row of this model."""
        return RowShape(length, images, targets, self.vision)

    def questions(self, rng: np.random.Generator, length: int, as_codes: bool) -> Row:
        """One picture with as many questions as fit; `as_codes`: shown as its codes."""
        view = random_view(rng)
        return question_row(
            see(view.draw(), self.vision),
            questions.turns(rng, view),
            self.tokenizer,
            self.shape(length, 1, 0),
            system=self.system,
            as_codes=as_codes,
        )

    def caption(self, rng: np.random.Generator, length: int) -> Row:
        """A caption and the picture it describes."""
        view = random_view(rng)
        pixels = see(view.draw(), self.vision)
        return caption_row(
            questions.caption(view), pixels, self.tokenizer, self.shape(length, 1, 1)
        )

    def world(self, rng: np.random.Generator, length: int, futures: int) -> Row:
        """4 frames of a walk and the actions between them, then several actions that may come next,
        each a question of its own, and the frames they lead to.

        What all of them share is read once. In every other row the last frames seen, one to all,
        are shown as codes: the window of a latent rollout fills with what was drawn.
        """
        room = random_room(rng)
        seen = walk(rng, room, (CONTEXT - 1) * self.stride)[:: self.stride]
        last = Pose(*seen[-1])
        ends = [walk(rng, room, self.stride, start=last)[-1] for _ in range(futures)]
        drawn = draw_all(room, np.concatenate([seen, ends]))
        latent = int(rng.integers(1, CONTEXT + 1)) if rng.random() < 0.5 else 0
        builder = RowBuilder(self.tokenizer, self.shape(length, CONTEXT + futures, futures))
        head, tail = user_turn("\0", self.system).split("\0")
        past = actions_between(seen)
        *shared, _ = asked(drawn[:CONTEXT], [*past, Action(0, 0, 0)])
        builder.text(head)
        for entry in shared:
            if entry["type"] == "text":
                builder.text(entry["text"])
            else:
                read = len(builder.pixels) < CONTEXT - latent
                builder.image(see(entry["image"], self.vision), as_codes=not read)
        for end, picture in zip(ends, drawn[CONTEXT:], strict=True):
            (action,) = actions_between(np.stack([seen[-1], end]))
            *_, question = asked(drawn[:CONTEXT], [*past, action])
            builder.question().text(question["text"]).text(tail).drawn(see(picture, self.vision))
        return builder.finish()


@dataclasses.dataclass(frozen=True)
class NavigationPictures:
    """Rows of pictures alone, for a decoder that draws them `side` pixels wide."""

    vision: VisionConfig
    side: int
    references: int
    stride: int = 1

    def row(self, rng: np.random.Generator) -> Row:
        """A frame as it is `seen` and as it is drawn, and the first frames of its walk.

        It is up to 8 frames behind them: a rollout keeps the references that it began with.
        """
        if not self.references:
            return picture_row(random_view(rng).draw(), self.vision, self.side)
        room, ahead = random_room(rng), int(rng.integers(ROLLOUT))
        poses = walk(rng, room, (self.references + ahead) * self.stride)[:: self.stride]
        drawn = draw_all(room, np.delete(poses, slice(self.references, -1), axis=0))
        row = picture_row(drawn[-1], self.vision, self.side)
        before = [square(x, self.side, canvas=self.vision.canvas) for x in drawn[:-1]]
        return {**row, "references": np.stack(before)}


def phrases() -> list[str]:
    """The published words between the frames and the numbers of a question, each as a whole."""
    number = 11111
    whole = prompt([Action(number, number, number)] * 2)
    return list(dict.fromkeys(part for part in re.split(rf"<image>|{number}", whole) if part))


def corpus(seed: int = 0, count: int = 300) -> list[str]:
    """Texts that hold every word the world says or hears but its phrases."""
    rng = np.random.default_rng(seed)
    texts = [*questions.vocabulary()] * 3
    for _ in range(count):
        view = random_view(rng)
        texts += itertools.chain.from_iterable(questions.turns(rng, view))
        actions = actions_between(walk(rng, view.room, 8))
        texts += [f"{a.dx:.2f}" for a in actions] + [f"{a.dy:.2f}" for a in actions]
        texts += [f"{a.dyaw:.0f}" for a in actions]
    return texts + ["<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n"] * 20


def train_tokenizer(vocab_size: int) -> Tokenizer:
    """The tokenizer of a model that is trained on nothing else."""
    return Tokenizer.train(corpus(), vocab_size, phrases=phrases())
