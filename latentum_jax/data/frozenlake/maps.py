"""Mazes as the VSP benchmark publishes them: folders level3, level4, ... of text files, a map each.

A map is a table of cells between pipes, @ the player, * the goal, # a hole, _ ice, with or without
a row and a column of titles; or rows of the simulator's letters S F H G.
"""

import os
import re
from pathlib import Path

from latentum_jax.data.frozenlake.mazes import Maze

LETTERS = {"@": "S", "*": "G", "#": "H", "_": "F", **{letter: letter for letter in "SFHG"}}
_IN_WORDS = "pure_text"  # where the same maps are told in sentences


def load_maps(folder: str | os.PathLike[str]) -> tuple[list[Maze], dict[str, str]]:
    """The mazes of all text files in a folder and the folders in it, and of each file that cannot
    be read the reason. Files are taken in order of their numbers.

    Raises ValueError where not one can be read.
    """
    root = Path(folder)
    files = [file for file in root.rglob("*.txt") if _IN_WORDS not in file.parts]
    mazes, unreadable = [], {}
    for file in sorted(files, key=lambda file: _in_order(file.relative_to(root))):
        try:
            mazes.append(read_map(file.read_text("utf-8"), _level_of(file)))
        except ValueError as error:  # not UTF-8 either
            unreadable[str(file.relative_to(root))] = str(error)
    if not mazes:
        name, reason = next(iter(unreadable.items()), ("it", "there are no text files in it"))
        raise ValueError(f"{root} has no map that can be read; {name}: {reason}")
    return mazes, unreadable


def read_map(text: str, level: int | None = None) -> Maze:
    """The maze of a map, which is of `level` where that is known. ValueError says what is wrong."""
    rows = [row for line in text.splitlines() if (row := _cells(line))]
    if not rows:
        raise ValueError("there are no rows of cells @ * # _ or S G H F")
    return Maze.parse(len(rows) if level is None else level, rows)


def _cells(line: str) -> str:
    """The cells of a line as letters; none where it holds but titles, or the rule below them."""
    if "|" not in line:
        letters = line.replace(" ", "")
        return letters if letters and set(letters) <= set("SFHG") else ""
    cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
    body = cells if cells[0] in LETTERS else cells[1:]  # a title, or nothing, may come first
    if not body or not any(cell in LETTERS for cell in body):
        return ""
    if odd := [cell for cell in body if cell not in LETTERS]:
        raise ValueError(f"a cell is one of {' '.join(LETTERS)}, got {odd[0]!r}")
    return "".join(LETTERS[cell] for cell in body)


def _level_of(file: Path) -> int | None:
    """What the nearest folder called level3, level_3, level3_text, ... says."""
    for part in reversed(file.parts[:-1]):
        if found := re.match(r"level[ _-]?(\d+)", part, re.IGNORECASE):
            return int(found[1])
    return None


def _in_order(path: Path) -> list[tuple[int, str]]:
    """2.txt before 10.txt."""
    pieces = re.split(r"(\d+)", str(path))
    return [(int(piece), "") if piece.isdigit() else (-1, piece) for piece in pieces]
