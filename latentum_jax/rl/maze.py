"""A caption of a maze as questions about its picture, in the words that a tiny model knows."""

import zlib
from collections.abc import Sequence

import numpy as np

from latentum_jax.data.frozenlake.mazes import LEVELS, Cell
from latentum_jax.data.frozenlake.questions import (
    GROUNDS,
    HOW_BIG,
    HOW_MANY_HOLES,
    WHERE_IS_GOAL,
    WHERE_IS_PLAYER,
    parse_caption,
    what_is_at,
)
from latentum_jax.rl.questions import Question

MOST = 24  # cells that are asked about, half of them holes where there are as many
FEWEST = 2  # the same where there is no hole at all
# A caption does not say where the start is: it is no option, and the cell that the player stands
# on, which at first is the start, is not asked about.
_GROUNDS = (GROUNDS["F"], GROUNDS["H"], GROUNDS["G"])
_DIGITS = tuple("0123456789")


def maze_questions(
    caption: str, rng: np.random.Generator | None = None, *, most: int = MOST
) -> tuple[Question, ...]:
    """Size and number of holes, where player and goal are (row and column apart), and what is at
    `most` cells.

    Of the cells all holes and as many others, in reading order: at random where there are more, by
    `rng` or, where that is None, the same ones for a caption every time. Holes are counted up to 9.

    Raises ValueError where the text is no caption (`data.frozenlake.questions.caption`), or a cell
    of it lies outside its maze.
    """
    level, player, goal, holes = _read(caption)
    rng = np.random.default_rng(zlib.crc32(caption.encode())) if rng is None else rng
    cells = [divmod(i, level) for i in range(level * level)]
    others = [cell for cell in cells if cell not in {player, goal, *holes}]
    some = _pick(rng, sorted(holes - {player}), most // 2)
    others = _pick(rng, others, len(some) or min(FEWEST, most))
    sizes = tuple(f"{n}x{n}" for n in LEVELS)
    size = Question("size", HOW_BIG, sizes, sizes.index(f"{level}x{level}"))
    count = Question("holes", HOW_MANY_HOLES, _DIGITS, len(holes))
    return (
        *([size, count] if len(holes) < len(_DIGITS) else [size]),
        *_where("player", WHERE_IS_PLAYER, player, level),
        *_where("goal", WHERE_IS_GOAL, goal, level),
        *(_what("hole", cell) for cell in some),
        *(_what("ice", cell) for cell in others),
    )


def _read(caption: str) -> tuple[int, Cell, Cell, frozenset[Cell]]:
    """Level, player, goal and holes of a caption whose cells all lie in its maze."""
    found = parse_caption(caption)
    if found is None:
        raise ValueError(f"{caption!r} is no caption of a maze")
    level, player, goal, holes = (found[name] for name in ("level", "player", "goal", "holes"))
    if level not in LEVELS:
        raise ValueError(f"{caption!r} is of level {level}, expected one from 3 to 8")
    for row, column in (player, goal, *sorted(holes)):
        if not (0 <= row < level and 0 <= column < level):
            where = f"row {row + 1} column {column + 1}"
            raise ValueError(f"{caption!r} has {where} outside a maze of level {level}")
    return level, player, goal, holes


def _where(kind: str, text: str, cell: Cell, level: int) -> tuple[Question, Question]:
    """Row and column of the answer "row 2 column 3", the column behind the right row."""
    row, column = cell
    numbers = tuple(str(number + 1) for number in range(level))
    return (
        Question(f"{kind}_row", text, numbers, row, "row "),
        Question(f"{kind}_column", text, numbers, column, f"row {row + 1} column "),
    )


def _what(ground: str, cell: Cell) -> Question:
    return Question(ground, what_is_at(cell), _GROUNDS, _GROUNDS.index(ground))


def _pick(rng: np.random.Generator, cells: Sequence[Cell], most: int) -> list[Cell]:
    """At most so many of the cells, in their order."""
    chosen = rng.choice(len(cells), min(most, len(cells)), replace=False)
    return [cells[i] for i in sorted(chosen)]
