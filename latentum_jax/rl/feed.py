"""Prompts to reinforce on, with what their rewards need: batches that can be put back exactly.

A batch has P prompts, each for the G rollouts of a group behind one another. What is asked about
their pictures goes along in arrays, `ask/...`, so that a reward is a program like any other.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from latentum_jax.config import ChatConfig, LatentUMConfig
from latentum_jax.data.faults import BadSample, Faults
from latentum_jax.data.frozenlake import questions as words
from latentum_jax.data.frozenlake.frames import draw, start_state
from latentum_jax.data.frozenlake.mazes import Maze
from latentum_jax.data.frozenlake.stream import Mazes, random_state
from latentum_jax.data.interleaved import Row, RowShape, caption_row, stack
from latentum_jax.data.lines import Lines
from latentum_jax.data.loader import Batches
from latentum_jax.images import see
from latentum_jax.prompter import Prompter
from latentum_jax.rl.maze import maze_questions
from latentum_jax.rl.questions import Question, decompose
from latentum_jax.rl.self_reward import QuestionShape, question_batch
from latentum_jax.tokenizer import Tokenizer
from latentum_jax.train.data import Feed, Here, every_row, some_rows

ASK = "ask/"
LARGEST = 8  # cells along a side of the largest maze
OUTSIDE = " "


@dataclasses.dataclass(frozen=True)
class Prompts:
    """What makes the prompts of a config, for one model."""

    config: ConfigDict
    model: LatentUMConfig
    chat: ChatConfig
    tokenizer: Tokenizer

    def caption(self, caption: str, asked: Sequence[Question]) -> Row:
        """A prompt to draw, with the questions that its picture should answer.

        Raises ValueError where text or questions do not fit.
        """
        data, ask, quantizer = self.config.data, self.config.grpo.ask, self.model.quantizer
        blank = np.zeros((self.model.vision.num_tokens, quantizer.num_codebooks), np.int32)
        shape = RowShape(data.length, 1, 1, self.model.vision)
        row = caption_row(caption, blank, self.tokenizer, shape)
        if not self.config.grpo.rewards.get("self", 0.0):
            return row
        room = QuestionShape(ask.length, ask.questions, ask.options)
        vision, system = self.model.vision, self.chat.system
        said = question_batch([asked], self.tokenizer, room, vision=vision, system=system)
        return {**row, **{ASK + name: x[0] for name, x in said.items()}}

    def maze_caption(self, rng: np.random.Generator) -> Row:
        """A moment of a walk in words."""
        state = random_state(rng, _mazes(self.config).draw(rng))
        text = words.caption(state)
        return self.caption(text, maze_questions(text, rng, most=self.config.grpo.ask.cells))

    def maze(self, rng: np.random.Generator) -> Row:
        """A maze to solve move by move: prompt, picture and the maze itself, as letters."""
        maze = _mazes(self.config).draw(rng, tuple(self.config.grpo.moves))
        prompter = Prompter(self.model, self.chat, self.tokenizer)
        turn, _ = prompter.planning("fine", None, 1, None)
        ids = prompter.tokens(turn)
        prompt = np.full(self.config.data.length, self.tokenizer.ids.pad, np.int32)
        if len(ids) > len(prompt):
            raise ValueError(f"a prompt has {len(ids)} tokens, data.length is {len(prompt)}")
        prompt[: len(ids)] = ids
        return {
            "prompt": prompt,
            "prompt_length": np.int32(len(ids)),
            "seen": see(draw(start_state(maze)), self.model.vision)[None],
            "maze": letters_of(maze),
        }


def open_prompts(
    config: ConfigDict,
    model: LatentUMConfig,
    chat: ChatConfig,
    tokenizer: Tokenizer,
    faults: Faults,
    here: Here = every_row,
) -> Feed:
    """Batches of `data.rows` rollouts to come, `grpo.group` for each prompt.

    data.source "frozenlake" makes captions of mazes, or mazes where grpo.task is "plan"; "prompts"
    reads them from a file, a prompt a line, or JSONL with a "prompt": those that cannot be taken
    apart are broken samples (`data.faults`).

    Raises ValueError for another source, or numbers that do not go together.
    """
    group, rows = config.grpo.group, config.data.rows
    if group < 2 or rows % group:
        raise ValueError(f"data.rows is {rows}, expected a multiple of grpo.group, {group}, from 2")
    make = Prompts(config, model, chat, tokenizer)
    if config.data.source == "frozenlake":
        one = {"draw": make.maze_caption, "plan": make.maze}[config.grpo.task]
        row = lambda rng, _: one(rng)  # noqa: E731
    elif config.data.source == "prompts" and config.grpo.task == "draw":
        known = read_prompts(config.data.path, make, faults)
        order = _Order(len(known), config.seed)
        row = lambda _, place: make.caption(known[order[place]], decompose(known[order[place]]))  # noqa: E731
    else:
        raise ValueError(
            f"data.source is {config.data.source!r} and grpo.task {config.grpo.task!r}: expected "
            "'frozenlake' with 'draw' or 'plan', or 'prompts' with 'draw'"
        )
    batch = lambda i: _grouped(row, config.seed, i, rows // group, group)  # noqa: E731
    return Batches(lambda i: some_rows(batch(i), here))


def _grouped(row: Callable, seed: int, index: int, prompts: int, group: int) -> Row:
    rng = np.random.default_rng((seed, index))
    made = stack([row(rng, index * prompts + p) for p in range(prompts)])
    return {name: np.repeat(x, group, axis=0) for name, x in made.items()}


class _Order:
    """Numbers below `count`, shuffled anew every epoch, by their place in the stream."""

    def __init__(self, count: int, seed: int):
        self.count, self.seed = count, seed
        self._epoch, self._shuffled = -1, np.zeros(0, np.int64)

    def __getitem__(self, place: int) -> int:
        epoch, index = divmod(place, self.count)
        if epoch != self._epoch:
            self._shuffled = np.random.default_rng((self.seed, epoch)).permutation(self.count)
            self._epoch = epoch
        return int(self._shuffled[index])


def read_prompts(path: str, make: Prompts, faults: Faults) -> list[str]:
    """The prompts of a file that can be taken apart and fit into a row; the others are noted.

    Raises ValueError where the file is not there, or none is left.
    """
    file = Path(path)
    found = list(_jsonl(file, faults) if file.suffix == ".jsonl" else _lines(file))
    kept = []
    for where, prompt in found:
        try:
            make.caption(prompt, decompose(prompt))
            kept.append(prompt)
        except ValueError as error:
            faults.note(BadSample(where, str(error)))
    if not kept:
        raise ValueError(f"{file}: of {len(found)} prompts none can be taken apart into questions")
    return kept


def _jsonl(file: Path, faults: Faults) -> list[tuple[str, str]]:
    lines, found = Lines(file), []
    for i in range(len(lines)):
        try:
            value = lines[i]
            if not isinstance(value, dict) or not isinstance(value.get("prompt"), str):
                raise BadSample(lines.where(i), 'expected an object with a text "prompt"')
            found.append((lines.where(i), value["prompt"]))
        except BadSample as error:
            faults.note(error)
    return found


def _lines(file: Path) -> list[tuple[str, str]]:
    if not file.is_file():
        raise ValueError(f"{file}: there is no such file")
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8: {error}") from error
    return [(f"{file}, line {n}", text.strip()) for n, text in enumerate(lines, 1) if text.strip()]


def letters_of(maze: Maze) -> np.ndarray:
    """A maze as letters' numbers, uint8 [8 8], with spaces outside."""
    rows = [row.ljust(LARGEST, OUTSIDE) for row in maze.grid]
    rows += [OUTSIDE * LARGEST] * (LARGEST - len(rows))
    return np.array([[ord(letter) for letter in row] for row in rows], np.uint8)


def maze_of(letters: np.ndarray) -> Maze:
    """The way back."""
    rows = ("".join(map(chr, row)).rstrip(OUTSIDE) for row in letters)
    return Maze(tuple(row for row in rows if row))


def _mazes(config: ConfigDict) -> Mazes:
    data = config.data
    return Mazes(tuple(data.levels), tuple(data.weights), data.harder)
