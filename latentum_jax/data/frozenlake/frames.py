"""Pictures of a maze: gymnasium's own, composed from its tiles, with the walked path overlaid.

The simulator takes milliseconds a picture. Its picture is a mosaic of 64 x 64 tiles that depend on
nothing but the cell, so each tile is taken from it once and pictures are composed by indexing. On
top go the published overlays (LatentUM, Appendix C): a translucent red on visited cells other than
the player's, a translucent green on the goal once the player stands there.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8

from latentum_jax.data.frozenlake.mazes import MOVES, Cell, Maze, check_move, step

TILE = 64  # pixels a cell
RED, GREEN = (255, 0, 0), (0, 255, 0)
OPACITY = 0.4  # of both overlays

_GROUNDS = "SFHG"
_PLAIN = 20  # a tile per ground, then one per ground and facing of the player
_TINTED_RED, _TINTED_GREEN = _PLAIN, 2 * _PLAIN  # where the same tiles lie again, tinted


@dataclass(frozen=True)
class State:
    """A moment of a walk.

    player: the cell (row, column) he stands on. facing: the action last taken, 0..3 as in `MOVES`;
    None before the first, drawn as facing down. visited: the cells he stood on before this moment.
    """

    maze: Maze
    player: Cell
    facing: int | None = None
    visited: frozenset[Cell] = frozenset()

    @property
    def reached(self) -> bool:
        """Whether the player stands on the goal."""
        return self.ground == "G"

    @property
    def fell(self) -> bool:
        """Whether the player is in a hole."""
        return self.ground == "H"

    @property
    def ground(self) -> str:
        """The letter under the player."""
        return self.maze.grid[self.player[0]][self.player[1]]


def start_state(maze: Maze) -> State:
    """The player at S before any move."""
    return State(maze, maze.start)


def advance(state: State, move: str) -> State:
    """The state after a move. In a hole or at the goal the walk is over: the player only turns."""
    check_move(move)
    over = state.reached or state.fell
    player = state.player if over else step(state.maze, state.player, move)
    return State(state.maze, player, MOVES[move], state.visited | {state.player})


def states(maze: Maze, moves: Iterable[str]) -> list[State]:
    """The states before, between and after the moves: one more than there are moves."""
    walk = [start_state(maze)]
    for move in moves:
        walk.append(advance(walk[-1], move))
    return walk


def draw(state: State, overlay: bool = True) -> UInt8[np.ndarray, "h w 3"]:
    """The picture of a state, 64 pixels a cell; without `overlay` exactly the simulator's."""
    tiles, n = _tiles(), state.maze.level
    index = _ground_tiles(state.maze).copy()
    facing = MOVES["D"] if state.facing is None else state.facing
    index[state.player] = 4 + 4 * index[state.player] + facing
    if overlay:
        for cell in state.visited - {state.player}:
            index[cell] += _TINTED_RED
        if state.reached:
            index[state.player] += _TINTED_GREEN
    rows = tiles[index[:, None, :], np.arange(TILE)[None, :, None]]  # [n, 64, n, 192]
    return rows.reshape(n * TILE, n * TILE, 3)


def read_state(picture: UInt8[np.ndarray, "h w 3"]) -> State | None:
    """The state that `draw` drew so, None where the picture is not one of its own.

    The player's facing is read; where he has not moved it is that of a move down.
    """
    n, rest = divmod(len(picture), TILE)
    if rest or picture.shape != (n * TILE, n * TILE, 3):
        return None
    cells = picture.reshape(n, TILE, n, TILE * 3).transpose(0, 2, 1, 3).reshape(n * n, -1)
    bank = _tiles().reshape(3 * _PLAIN, -1)
    alike = [np.flatnonzero((bank == cell).all(1)) for cell in cells]
    if not all(len(tiles) for tiles in alike):
        return None
    tile = np.array([tiles[0] for tiles in alike])
    tinted_red = np.flatnonzero((tile >= _TINTED_RED) & (tile < _TINTED_GREEN))
    players = np.flatnonzero(tile % _PLAIN >= 4)
    if len(players) != 1:
        return None
    letters = [_GROUNDS[i % 4] for i in tile % _PLAIN]
    # Under the player the start looks like ice: it is the one that leaves a maze with one start.
    for ground, facing in (divmod(int(i) % _PLAIN - 4, 4) for i in alike[players[0]]):
        letters[players[0]] = _GROUNDS[ground]
        rows = ["".join(letters[row * n : (row + 1) * n]) for row in range(n)]
        try:
            maze = Maze.parse(n, rows)
        except ValueError:
            continue
        visited = frozenset(divmod(int(i), n) for i in tinted_red)
        return State(maze, divmod(int(players[0]), n), facing, visited)
    return None


def simulator_frames(maze: Maze, moves: Iterable[str]) -> list[UInt8[np.ndarray, "h w 3"]]:
    """The simulator's pictures before, between and after the moves, rendered by gymnasium."""
    simulator = _simulator(maze, render_mode="rgb_array")
    simulator.reset(seed=0)
    frames = [simulator.render()]
    for move in moves:
        check_move(move)
        simulator.step(MOVES[move])
        frames.append(simulator.render())
    return frames


def simulate(maze: Maze, moves: Iterable[str]) -> bool:
    """Whether the moves reach the goal in gymnasium's simulator.

    Nothing slips. The first fall or arrival decides and later moves do not count.
    """
    simulator = _simulator(maze)
    simulator.reset(seed=0)
    for move in moves:
        check_move(move)
        _, reward, terminated, _, _ = simulator.step(MOVES[move])
        if terminated:
            return reward > 0
    return False


def _gymnasium() -> ModuleType:
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # no window is ever opened,
    os.environ.setdefault("SDL_AUDIODRIVER", "dummy")  # and without a sound card ALSA complains
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    try:
        import gymnasium
        import pygame  # noqa: F401  gymnasium asks for it only once it renders
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"FrozenLake needs gymnasium and pygame, and {error.name} is missing: "
            "pip install 'latentum_jax[envs]'."
        ) from error
    return gymnasium


def _simulator(maze: Maze, render_mode: str | None = None) -> Any:
    """FrozenLake-v1 without its wrappers, which would end long walks."""
    return (
        _gymnasium()
        .make(
            "FrozenLake-v1",
            desc=list(maze.grid),
            is_slippery=False,
            render_mode=render_mode,
            disable_env_checker=True,
        )
        .unwrapped
    )


@lru_cache(maxsize=1)
def _tiles() -> UInt8[np.ndarray, "60 64 192"]:
    """All tiles, their pixels' colours in the last axis: plain, tinted red, tinted green."""
    model = Maze(("SFF", "HFF", "GFF"))  # a cell of each ground, and room for the player elsewhere
    cells = {"S": (0, 0), "F": (0, 1), "H": (1, 0), "G": (2, 0)}
    simulator = _simulator(model, render_mode="rgb_array")
    simulator.reset(seed=0)

    def tile(cell: Cell, player: Cell, facing: int) -> UInt8[np.ndarray, "64 64 3"]:
        simulator.s, simulator.lastaction = player[0] * 3 + player[1], facing
        y, x = cell[0] * TILE, cell[1] * TILE
        return simulator.render()[y : y + TILE, x : x + TILE]

    plain = [tile(cells[ground], (2, 2), 0) for ground in _GROUNDS]
    plain += [tile(cells[g], cells[g], facing) for g in _GROUNDS for facing in range(4)]
    plain = np.stack(plain)
    bank = np.concatenate([plain, _tint(plain, RED), _tint(plain, GREEN)])
    return np.ascontiguousarray(bank.reshape(3 * _PLAIN, TILE, TILE * 3))


def _tint(
    pixels: UInt8[np.ndarray, "*shape 3"], color: tuple[int, int, int]
) -> UInt8[np.ndarray, "*shape 3"]:
    mixed = (1 - OPACITY) * pixels + OPACITY * np.array(color)
    return np.round(mixed).astype(np.uint8)


@lru_cache(maxsize=1 << 14)
def _ground_tiles(maze: Maze) -> Int[np.ndarray, "n n"]:
    return np.array([[_GROUNDS.index(letter) for letter in row] for row in maze.grid])
