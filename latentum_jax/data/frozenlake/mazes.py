"""Mazes of the VSP FrozenLake benchmark: sampling, checking and solving (LatentUM, Appendix C).

A maze of level n is n x n letters: S start, G goal, H hole, F ice. Cells are (row, column), from 0.
Moves are the letters L D R U, which are gymnasium's actions 0 1 2 3.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from typing import Any

import numpy as np
from jaxtyping import Int

Cell = tuple[int, int]

LEVELS = (3, 4, 5, 6, 7, 8)
HOLE_SHARE = {3: 0.17, 4: 0.18, 5: 0.19, 6: 0.19, 7: 0.20, 8: 0.20}  # published, a level
LONGEST_PATH = {3: 6, 4: 8, 5: 8, 6: 11, 7: 16, 8: 16}  # published, a level
MOVES = {"L": 0, "D": 1, "R": 2, "U": 3}
STEPS = {"L": (0, -1), "D": (1, 0), "R": (0, 1), "U": (-1, 0)}

_TRIES = 20_000  # candidates in a row without a new maze before sampling gives up


@dataclass(frozen=True)
class Maze:
    """A square maze. `Maze.parse` checks what comes from outside, the constructor nothing."""

    grid: tuple[str, ...]

    @classmethod
    def parse(cls, level: Any, rows: Any) -> Maze:
        """Builds a maze of `level` from a list of rows; ValueError says what is wrong with them."""
        _check_level(level)
        if not isinstance(rows, list | tuple) or not all(isinstance(row, str) for row in rows):
            raise ValueError(f"A maze is a list of rows of letters, got {rows!r}.")
        if any(len(row) != len(rows) for row in rows):
            widths = [len(row) for row in rows]
            raise ValueError(f"A maze is square, got {len(rows)} rows of widths {widths}.")
        if len(rows) != level:
            size = f"{len(rows)}x{len(rows)}"
            raise ValueError(f"A maze of level {level} is {level}x{level}, got {size}.")
        maze = cls(tuple(rows))
        if unknown := sorted(set(maze.flat) - set("SFHG")):
            raise ValueError(f"A maze is made of the letters S F H G, got {' '.join(unknown)!r}.")
        for letter, name in (("S", "start S"), ("G", "goal G")):
            if (count := maze.flat.count(letter)) != 1:
                raise ValueError(f"A maze has exactly one {name}, got {count}.")
        if distances(maze)[maze.start] < 0:
            raise ValueError("The goal G cannot be reached from the start S.")
        return maze

    @property
    def level(self) -> int:
        """The number of rows, which is the number of columns."""
        return len(self.grid)

    @cached_property
    def flat(self) -> str:
        """All letters, row after row."""
        return "".join(self.grid)

    @cached_property
    def start(self) -> Cell:
        """The cell of S."""
        return divmod(self.flat.index("S"), self.level)

    @cached_property
    def goal(self) -> Cell:
        """The cell of G."""
        return divmod(self.flat.index("G"), self.level)

    @cached_property
    def holes(self) -> tuple[Cell, ...]:
        """The cells of H in reading order."""
        return tuple(divmod(i, self.level) for i, c in enumerate(self.flat) if c == "H")


def sample_maze(
    rng: np.random.Generator,
    level: int,
    *,
    hole_share: float | None = None,
    path_lengths: tuple[int, int] | None = None,
    split: str | None = None,
) -> Maze:
    """Draws a maze: distinct S and G, every other cell a hole with probability `hole_share`.

    Drawn again until the goal can be reached in a number of steps within `path_lengths` (both ends
    count; default 1 to the level's longest published path) and the maze is in `split` ("train",
    "test"; default either). `hole_share` defaults to the level's published share.
    """
    _check_level(level)
    share = HOLE_SHARE[level] if hole_share is None else hole_share
    low, high = path_lengths or (1, LONGEST_PATH[level])
    if not 0 <= share <= 1:
        raise ValueError(f"hole_share is a probability, got {share}.")
    if split not in (None, "train", "test"):
        raise ValueError(f'split is "train", "test" or None, got {split!r}.')
    for _ in range(_TRIES):
        maze = _candidate(rng, level, share)
        if split is not None and split_of(maze) != split:
            continue
        if low <= _bfs(maze)[maze.start[0] * level + maze.start[1]] <= high:
            return maze
    raise ValueError(
        f"No maze of level {level} with hole share {share} and a shortest path of {low} to {high} "
        f"steps came up in {_TRIES} tries."
    )


def unique_mazes(
    seed: int, level: int, count: int, split: str | None = None, **options
) -> list[Maze]:
    """Draws `count` different mazes; a larger count begins with the mazes of a smaller one.

    `options` go to `sample_maze`. ValueError where the level has not enough mazes that are likely
    enough to come up (level 3 holds a few thousand).
    """
    rng = np.random.default_rng([seed, level])
    found: dict[str, Maze] = {}
    repeats = 0
    while len(found) < count:
        maze = sample_maze(rng, level, split=split, **options)
        repeats = repeats + 1 if maze.flat in found else 0
        found.setdefault(maze.flat, maze)
        if repeats == _TRIES:
            raise ValueError(
                f"Only {len(found)} different mazes of level {level} came up, {count} were wanted."
            )
    return list(found.values())


def split_of(maze: Maze) -> str:
    """The split a maze belongs to, for ever and everywhere: "test" for about 1 in 10."""
    digest = hashlib.sha256(maze.flat.encode()).digest()
    return "test" if int.from_bytes(digest[:8], "big") % 10 == 0 else "train"


@lru_cache(maxsize=1 << 14)
def distances(maze: Maze) -> Int[np.ndarray, "n n"]:
    """Steps from each cell to the goal, -1 on holes and where the goal cannot be reached.

    The array is shared between calls and read-only.
    """
    array = np.array(_bfs(maze), dtype=np.int64).reshape(maze.level, maze.level)
    array.flags.writeable = False
    return array


def best_moves(maze: Maze) -> list[list[str]]:
    """A move on a shortest path from each cell; of several the first in the order L, D, R, U.

    "G" at the goal, "H" on holes, "X" where the goal cannot be reached.
    """
    cells = range(maze.level)
    return [[_best_move(maze, (row, column)) for column in cells] for row in cells]


def shortest_path(maze: Maze, start: Cell | None = None) -> str:
    """The best moves from `start` (default S) to the goal, such as "RRD"; "" at the goal."""
    cell = maze.start if start is None else start
    moves = ""
    while (move := _best_move(maze, cell)) != "G":
        if move not in MOVES:
            raise ValueError(f"The goal cannot be reached from cell {cell}.")
        moves += move
        cell = step(maze, cell, move)
    return moves


def step(maze: Maze, cell: Cell, move: str) -> Cell:
    """The cell a move leads to; a wall keeps you in place. Holes and the goal do not hold you."""
    check_move(move)
    down, right = STEPS[move]
    last = maze.level - 1
    return min(max(cell[0] + down, 0), last), min(max(cell[1] + right, 0), last)


def check_move(move: str) -> None:
    """ValueError unless the move is one of the letters L D R U."""
    if move not in MOVES:
        raise ValueError(f"A move is one of L D R U, got {move!r}.")


def load_mazes(path: str | os.PathLike[str]) -> list[Maze]:
    """Reads mazes from JSONL lines `{"level": 4, "grid": ["SFFF", ...]}`; blank lines are skipped.

    ValueError names the file and the number of the first line that is not a maze.
    """
    mazes = []
    with open(path, "rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                mazes.append(_read_maze(line))
            except ValueError as error:
                raise ValueError(f"{os.fspath(path)}, line {number}: {error}") from error
    return mazes


def _read_maze(line: bytes) -> Maze:
    try:
        entry = json.loads(line)
    except ValueError as error:
        raise ValueError(f"not JSON ({error}).") from error
    if not isinstance(entry, dict):
        raise ValueError('expected an object with the keys "level" and "grid".')
    for key in ("level", "grid"):
        if key not in entry:
            raise ValueError(f'the key "{key}" is missing.')
    return Maze.parse(entry["level"], entry["grid"])


def _check_level(level: Any) -> None:
    if not isinstance(level, (int, np.integer)) or level not in LEVELS:
        raise ValueError(f"A level is a whole number from 3 to 8, got {level!r}.")


def _candidate(rng: np.random.Generator, level: int, share: float) -> Maze:
    cells = np.where(rng.random(level * level) < share, "H", "F")
    start = int(rng.integers(level * level))
    goal = (start + 1 + int(rng.integers(level * level - 1))) % (level * level)  # any cell but S
    cells[start], cells[goal] = "S", "G"
    return Maze(tuple("".join(row) for row in cells.reshape(level, level).tolist()))


@cache
def _neighbours(level: int) -> tuple[tuple[int, ...], ...]:
    """Per flat cell index, the flat indices of the cells beside it."""
    inside = range(level)
    return tuple(
        tuple(
            (row + down) * level + column + right
            for down, right in STEPS.values()
            if row + down in inside and column + right in inside
        )
        for row in inside
        for column in inside
    )


def _bfs(maze: Maze) -> list[int]:
    """Steps to the goal per flat cell index, breadth first from the goal; -1 where none lead."""
    neighbours, flat = _neighbours(maze.level), maze.flat
    steps = [-1] * len(flat)
    first = flat.index("G")
    steps[first] = 0
    queue = deque([first])
    while queue:
        cell = queue.popleft()
        for beside in neighbours[cell]:
            if steps[beside] < 0 and flat[beside] != "H":
                steps[beside] = steps[cell] + 1
                queue.append(beside)
    return steps


def _best_move(maze: Maze, cell: Cell) -> str:
    if maze.grid[cell[0]][cell[1]] == "H":
        return "H"
    steps = distances(maze)
    if steps[cell] <= 0:
        return "G" if steps[cell] == 0 else "X"
    return next(m for m in MOVES if steps[step(maze, cell, m)] == steps[cell] - 1)
