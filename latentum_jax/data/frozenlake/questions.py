"""Short questions about a state of a maze with their answers, and a caption that can be read back.

The wording is few and short words so that a tiny model with a small vocabulary can learn it. Rows
and columns are counted from 1 in every text and from 0 in every value.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from latentum_jax.data.frozenlake.frames import State
from latentum_jax.data.frozenlake.mazes import (
    MOVES,
    Cell,
    best_moves,
    distances,
    shortest_path,
    step,
)

T = TypeVar("T")

DONE = "Done!"
UNREACHABLE = "X"  # answers next, remaining and path of a player who fell
WHERE_IS_PLAYER = "Where is the player?"
WHERE_IS_GOAL = "Where is the goal?"
HOW_MANY_HOLES = "How many holes?"
HOW_BIG = "How big is the maze?"
GROUNDS = {"F": "ice", "H": "hole", "S": "start", "G": "goal"}

_DIRECTIONS = {"L": "left", "D": "down", "R": "right", "U": "up"}
_BESIDE = {"L": "left of", "D": "below", "R": "right of", "U": "above"}
_CELL = re.compile(r"row (\d+) column (\d+)")
_CAPTION = re.compile(
    r"a (\d+)x(\d+) maze, player at (row \d+ column \d+), goal at (row \d+ column \d+), "
    r"(no holes|holes at row \d+ column \d+(?:, row \d+ column \d+)*)(?:, goal reached)?"
)


@dataclass(frozen=True)
class Question:
    """A question about a picture with its answer; kind is one of `KINDS`."""

    kind: str
    question: str
    answer: str


def ask(kind: str, state: State, rng: np.random.Generator) -> Question:
    """A question of `kind` about `state`; `rng` picks the cell or direction it is about.

    is_hole and safe come up equally often with yes and no where the state has both. safe and leads
    look at the ground alone, also when the walk is over.
    """
    if kind not in _ASKERS:
        raise ValueError(f"A kind of question is one of {', '.join(KINDS)}, got {kind!r}.")
    return Question(kind, *_ASKERS[kind](state, rng))


def caption(state: State) -> str:
    """The state in words: size, player, goal, holes in reading order, and the goal if reached.

    "a 4x4 maze, player at row 1 column 1, goal at row 4 column 4, holes at row 2 column 2"
    """
    maze = state.maze
    holes = ", ".join(map(cell_text, maze.holes))
    parts = [
        f"a {maze.level}x{maze.level} maze",
        f"player at {cell_text(state.player)}",
        f"goal at {cell_text(maze.goal)}",
        f"holes at {holes}" if holes else "no holes",
    ]
    return ", ".join(parts + ["goal reached"] * state.reached)


def parse_caption(text: str) -> dict[str, Any] | None:
    """Reads a caption back: level (int), player and goal (cells), holes (frozenset of cells).

    None where the text does not have the form of a caption. The cells may lie outside the maze: a
    model wrote them.
    """
    match = _CAPTION.fullmatch(text.strip())
    if match is None or match[1] != match[2]:
        return None
    return {
        "level": int(match[1]),
        "player": parse_cell(match[3]),
        "goal": parse_cell(match[4]),
        "holes": frozenset(_cell(found) for found in _CELL.finditer(match[5])),
    }


def parse_map(text: str) -> list[list[str]] | None:
    """Reads rows of entries separated by spaces, as in the answers to map, moves and distances.

    None unless there are as many entries in every row as there are rows.
    """
    rows = [line.split() for line in text.strip().splitlines()]
    square = rows and all(len(row) == len(rows) for row in rows)
    return rows if square else None


def parse_cell(text: str) -> Cell | None:
    """Reads "row 2 column 3" as the cell (1, 2), counted from 0; None for any other text."""
    match = _CELL.fullmatch(text.strip())
    return _cell(match) if match else None


def cell_text(cell: Cell) -> str:
    """ "row 2 column 3" for the cell (1, 2)."""
    return f"row {cell[0] + 1} column {cell[1] + 1}"


def what_is_at(cell: Cell) -> str:
    """The question that a word of `GROUNDS` answers."""
    return f"What is at {cell_text(cell)}?"


def _cell(match: re.Match[str]) -> Cell:
    return int(match[1]) - 1, int(match[2]) - 1


def _layout(rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(" ".join(row) for row in rows)


def _pick(rng: np.random.Generator, options: Sequence[T]) -> T:
    return options[int(rng.integers(len(options)))]


def _balanced(rng: np.random.Generator, yes: Sequence[T], no: Sequence[T]) -> T:
    """An option of one of the two sides, each with probability 1/2 unless one is empty."""
    return _pick(rng, _pick(rng, [side for side in (yes, no) if side]))


def _cells(state: State, letters: str) -> list[Cell]:
    level = state.maze.level
    return [divmod(i, level) for i, letter in enumerate(state.maze.flat) if letter in letters]


def _beyond(state: State, move: str) -> str:
    """What lies beside the player in the direction of a move."""
    cell = step(state.maze, state.player, move)
    return "wall" if cell == state.player else GROUNDS[state.maze.grid[cell[0]][cell[1]]]


def _map(state: State, rng: np.random.Generator) -> tuple[str, str]:
    rows = [list(row) for row in state.maze.grid]
    rows[state.player[0]][state.player[1]] = "P"
    return "Draw the map.", _layout(rows)


def _moves(state: State, rng: np.random.Generator) -> tuple[str, str]:
    return "Best move from each cell?", _layout(best_moves(state.maze))


def _distances(state: State, rng: np.random.Generator) -> tuple[str, str]:
    rows = distances(state.maze).tolist()
    texts = [[UNREACHABLE if steps < 0 else str(steps) for steps in row] for row in rows]
    return "Steps to the goal from each cell?", _layout(texts)


def _player(state: State, rng: np.random.Generator) -> tuple[str, str]:
    return WHERE_IS_PLAYER, cell_text(state.player)


def _goal(state: State, rng: np.random.Generator) -> tuple[str, str]:
    return WHERE_IS_GOAL, cell_text(state.maze.goal)


def _what(state: State, rng: np.random.Generator) -> tuple[str, str]:
    """About each sort of ground equally often, else the answer would mostly be ice."""
    cell = _pick(rng, _cells(state, _pick(rng, sorted(set(state.maze.flat)))))
    return what_is_at(cell), GROUNDS[state.maze.grid[cell[0]][cell[1]]]


def _is_hole(state: State, rng: np.random.Generator) -> tuple[str, str]:
    cell = _balanced(rng, _cells(state, "H"), _cells(state, "SFG"))
    return f"Is {cell_text(cell)} a hole?", "yes" if cell in state.maze.holes else "no"


def _beside(state: State, rng: np.random.Generator) -> tuple[str, str]:
    move = _pick(rng, list(MOVES))
    return f"What is {_BESIDE[move]} the player?", _beyond(state, move)


def _safe(state: State, rng: np.random.Generator) -> tuple[str, str]:
    """Walking into a wall is safe: it keeps the player in place."""
    unsafe = [move for move in MOVES if _beyond(state, move) == "hole"]
    move = _balanced(rng, [move for move in MOVES if move not in unsafe], unsafe)
    return f"Is moving {_DIRECTIONS[move]} safe?", "no" if move in unsafe else "yes"


def _leads(state: State, rng: np.random.Generator) -> tuple[str, str]:
    move = _pick(rng, list(MOVES))
    answer = cell_text(step(state.maze, state.player, move))
    return f"Where does moving {_DIRECTIONS[move]} lead?", answer


def _holes(state: State, rng: np.random.Generator) -> tuple[str, str]:
    return HOW_MANY_HOLES, str(len(state.maze.holes))


def _size(state: State, rng: np.random.Generator) -> tuple[str, str]:
    return HOW_BIG, f"{state.maze.level}x{state.maze.level}"


def _next(state: State, rng: np.random.Generator) -> tuple[str, str]:
    answer = UNREACHABLE if state.fell else _path_from(state)[:1] or DONE
    return "What is the best next move?", answer


def _remaining(state: State, rng: np.random.Generator) -> tuple[str, str]:
    answer = UNREACHABLE if state.fell else str(len(_path_from(state)))
    return "How many steps to the goal?", answer


def _reached(state: State, rng: np.random.Generator) -> tuple[str, str]:
    return "Is the goal reached?", "yes" if state.reached else "no"


def _path(state: State, rng: np.random.Generator) -> tuple[str, str]:
    answer = UNREACHABLE if state.fell else ",".join(_path_from(state)) or DONE
    return "Shortest path?", answer


def _path_from(state: State) -> str:
    return shortest_path(state.maze, state.player)


def _describe(state: State, rng: np.random.Generator) -> tuple[str, str]:
    return "Describe the maze.", caption(state)


_ASKERS = {
    "map": _map,
    "moves": _moves,
    "distances": _distances,
    "player": _player,
    "goal": _goal,
    "cell": _what,
    "is_hole": _is_hole,
    "beside": _beside,
    "safe": _safe,
    "leads": _leads,
    "holes": _holes,
    "size": _size,
    "next": _next,
    "remaining": _remaining,
    "reached": _reached,
    "path": _path,
    "describe": _describe,
}
KINDS = tuple(_ASKERS)
