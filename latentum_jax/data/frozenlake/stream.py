"""Endless training rows of mazes, never on disk.

Every maze is drawn from the train split, so that no held-out grid is ever seen (App. C).
"""

import dataclasses

import numpy as np

from latentum_jax.config import VisionConfig
from latentum_jax.data.frozenlake import questions, samples
from latentum_jax.data.frozenlake.frames import State, advance, draw, start_state, states
from latentum_jax.data.frozenlake.mazes import (
    LONGEST_PATH,
    MOVES,
    Maze,
    sample_maze,
    shortest_path,
    step,
)
from latentum_jax.data.interleaved import (
    Row,
    RowShape,
    caption_row,
    interleaved_row,
    picture_row,
    question_row,
)
from latentum_jax.images import see, square
from latentum_jax.tokenizer import Tokenizer

# Questions that supervise planning, most of them in every cell at once, and how often each is
# asked; all others fill the rest of a row.
PLANNING = {"moves": 0.5, "next": 0.8, "distances": 0.3, "map": 0.4}
PLAIN = tuple(kind for kind in questions.KINDS if kind not in PLANNING)


@dataclasses.dataclass(frozen=True)
class Mazes:
    """What mazes are drawn: levels with their weights, and how far from the published share."""

    levels: tuple[int, ...] = (3, 4, 5, 6)
    weights: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4)
    harder: float = 0.4  # of the mazes have a share of holes drawn from 0.1 to 0.35

    def draw(self, rng: np.random.Generator, steps: tuple[int, int] | None = None) -> Maze:
        """A training maze, one whose shortest path has so many steps where `steps` says.

        Mazes are drawn from the whole mix until one fits, so that levels share a window of long
        paths as they share all mazes. Raises ValueError where none can, or none of 100,000 does.
        """
        possible = steps is None or steps[0] <= max(LONGEST_PATH[level] for level in self.levels)
        for _ in range(100_000 if possible else 0):
            share = rng.uniform(0.1, 0.35) if rng.random() < self.harder else None
            level = int(rng.choice(self.levels, p=np.divide(self.weights, sum(self.weights))))
            maze = sample_maze(rng, level, hole_share=share, split="train")
            if steps is None or steps[0] <= len(shortest_path(maze)) <= steps[1]:
                return maze
        raise ValueError(f"no maze of levels {self.levels} has a shortest path of {steps} steps")


def random_state(rng: np.random.Generator, maze: Maze) -> State:
    """A moment of a walk: the start, somewhere on the shortest path, or after a random walk."""
    state = start_state(maze)
    kind = rng.random()
    if kind < 0.3:
        return state
    if kind < 0.65:
        path = shortest_path(maze)
        for move in path[: rng.integers(1, len(path) + 1)]:
            state = advance(state, move)
        return state
    for _ in range(rng.integers(1, 8)):
        if state.reached:
            break
        options = [m for m in MOVES if step(maze, state.player, m) not in maze.holes]
        state = advance(state, options[rng.integers(len(options))])
    return state


def question_turns(rng: np.random.Generator, state: State) -> list[tuple[str, str]]:
    """Questions about a state: those on planning by their shares, then all others shuffled."""
    kinds = [kind for kind, share in PLANNING.items() if rng.random() < share]
    kinds += list(rng.permutation(PLAIN))
    asked = (questions.ask(kind, state, rng) for kind in kinds)
    return [(turn.question, turn.answer) for turn in asked]


@dataclasses.dataclass(frozen=True)
class MazeRows:
    """Makes rows of every kind for one tokenizer and one vision encoder."""

    tokenizer: Tokenizer
    vision: VisionConfig
    system: str
    mazes: Mazes = Mazes()

    def shape(self, length: int, images: int, targets: int) -> RowShape:
        """Sizes of a row of this model."""
        return RowShape(length, images, targets, self.vision)

    def questions(self, rng: np.random.Generator, length: int, as_codes: bool) -> Row:
        """One picture with as many questions as fit; `as_codes`: shown as its codes."""
        state = random_state(rng, self.mazes.draw(rng))
        # Questions come with either filter: `answer` shrinks by bicubic, everything else bilinear.
        resample = "bicubic" if rng.random() < 0.5 else "bilinear"
        return question_row(
            see(draw(state), self.vision, resample=resample),
            question_turns(rng, state),
            self.tokenizer,
            self.shape(length, 1, 0),
            system=self.system,
            as_codes=as_codes,
        )

    def caption(self, rng: np.random.Generator, length: int) -> Row:
        """A caption and the picture it describes."""
        state = random_state(rng, self.mazes.draw(rng))
        pixels = see(draw(state), self.vision)
        shape = self.shape(length, 1, 1)
        return caption_row(questions.caption(state), pixels, self.tokenizer, shape)

    def fine(self, rng: np.random.Generator, length: int, steps: tuple[int, int]) -> Row:
        """A shortest walk, one move and one picture a step."""
        sample = samples.fine_sample(self.mazes.draw(rng, steps), prompt=samples.SHORT_PROMPT)
        return self._interleaved(sample, self.shape(length, steps[1] + 1, steps[1]))

    def coarse(self, rng: np.random.Generator, length: int) -> Row:
        """A description, one picture of the whole walk, and the list of moves."""
        sample = samples.coarse_sample(self.mazes.draw(rng))
        return self._interleaved(sample, self.shape(length, 2, 1))

    def _interleaved(self, sample: samples.Sample, shape: RowShape) -> Row:
        return interleaved_row(sample, self.tokenizer, shape, system=self.system, draw=draw)


@dataclasses.dataclass(frozen=True)
class MazePictures:
    """Rows of pictures alone, for a decoder that draws them `side` pixels wide."""

    vision: VisionConfig
    side: int
    references: int
    mazes: Mazes = Mazes()

    def row(self, rng: np.random.Generator) -> Row:
        """A moment of a walk as it is `seen` and as it is drawn, and the moments before it."""
        maze = self.mazes.draw(rng)
        if not self.references:
            return picture_row(draw(random_state(rng, maze)), self.vision, self.side)
        walk = states(maze, shortest_path(maze))
        last = int(rng.integers(1, len(walk)))
        row = picture_row(draw(walk[last]), self.vision, self.side)
        before = [draw(walk[max(0, last - back)]) for back in range(self.references, 0, -1)]
        drawn = [square(picture, self.side, canvas=self.vision.canvas) for picture in before]
        return {**row, "references": np.stack(drawn)}


def corpus(seed: int = 0, count: int = 400) -> list[str]:
    """Texts that hold every word a maze model says or hears, to train its tokenizer on."""
    rng = np.random.default_rng(seed)
    texts = [samples.SHORT_PROMPT, samples.COARSE_PROMPT, samples.PROMPT] * 20
    mazes = Mazes(levels=(3, 4, 5, 6, 7, 8), weights=(1,) * 6)
    for _ in range(count):
        maze = mazes.draw(rng)
        state = random_state(rng, maze)
        for kind in questions.KINDS:
            turn = questions.ask(kind, state, rng)
            texts += [turn.question, turn.answer]
        for sample in (samples.fine_sample(maze, prompt=""), samples.coarse_sample(maze)):
            parts = sample["messages"][1]["content"]
            texts += [part["text"] for part in parts if part["type"] == "text"]
    return texts + ["<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n"] * 20


def train_tokenizer(vocab_size: int) -> Tokenizer:
    """The tokenizer of a model that is trained on nothing else."""
    return Tokenizer.train(corpus(), vocab_size)
