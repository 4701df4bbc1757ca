"""A caption of a maze as questions about its picture, in the words that a tiny model knows."""

import zlib
from collections.abc import Sequence

import numpy as np

from latentum_jax.data.frozenlake.mazes import Cell
from latentum_jax.data.frozenlake.questions import (
    GROUNDS,
    WHERE_IS_GOAL,
    WHERE_IS_PLAYER,
    is_hole,
    parse_caption,
    what_is_at,
)
from latentum_jax.rl.questions import YES_NO, Question

FEWEST = 2  # cells that are asked about where no hole is
MOST = 24  # cells that are asked about, half of them holes where there are as many


def maze_questions(
    caption: str, rng: np.random.Generator | None = None, *, most: int = MOST
) -> tuple[Question, ...]:
    """Where the player and the goal are, row and column apart, and what `most` cells hold.

    The holes and as many other cells, in reading order: at random where there are more, by `rng`
    or, where that is None, the same ones for a caption every time. Of every second hole it is asked
    what is there, of all other cells whether they are holes: a caption does not say which of them
    was the start.

    Raises ValueError where the text is no caption (`data.frozenlake.questions.caption`), or a cell
    of it lies outside its maze.
    """
    found = parse_caption(caption)
    if found is None:
        raise ValueError(f"{caption!r} is no caption of a maze")
    level, holes = found["level"], found["holes"]
    cells = [divmod(i, level) for i in range(level * level)]
    if outside := {found["player"], found["goal"], *holes} - set(cells):
        row, column = min(outside)
        where = f"row {row + 1} column {column + 1}"
        raise ValueError(f"{caption!r} has {where} outside a maze of level {level}")
    rng = np.random.default_rng(zlib.crc32(caption.encode())) if rng is None else rng
    some = _pick(rng, sorted(holes), most // 2)
    others = [cell for cell in cells if cell not in holes]
    others = _pick(rng, others, len(some) or min(FEWEST, most))
    return (
        *_where("player", WHERE_IS_PLAYER, found["player"], level),
        *_where("goal", WHERE_IS_GOAL, found["goal"], level),
        *(_hole(cell, number) for number, cell in enumerate(some)),
        *(Question("is_hole", is_hole(cell), YES_NO, YES_NO.index("no")) for cell in others),
    )


def _where(kind: str, text: str, cell: Cell, level: int) -> tuple[Question, Question]:
    """Row and column of the answer "row 2 column 3", the column behind the right row."""
    row, column = cell
    numbers = tuple(str(number + 1) for number in range(level))
    return (
        Question(f"{kind}_row", text, numbers, row, "row "),
        Question(f"{kind}_column", text, numbers, column, f"row {row + 1} column "),
    )


def _hole(cell: Cell, number: int) -> Question:
    if number % 2:
        grounds = tuple(GROUNDS.values())
        return Question("cell", what_is_at(cell), grounds, grounds.index(GROUNDS["H"]))
    return Question("is_hole", is_hole(cell), YES_NO, YES_NO.index("yes"))


def _pick(rng: np.random.Generator, cells: Sequence[Cell], most: int) -> list[Cell]:
    """At most so many of the cells, in their order."""
    chosen = rng.choice(len(cells), min(most, len(cells)), replace=False)
    return [cells[i] for i in sorted(chosen)]
