"""Frames: composed pictures against the simulator's, the overlays, and success."""

import builtins

import numpy as np
import pytest

from latentum_jax.data.frozenlake.frames import (
    GREEN,
    OPACITY,
    RED,
    State,
    advance,
    draw,
    simulate,
    simulator_frames,
    start_state,
    states,
)
from latentum_jax.data.frozenlake.mazes import LEVELS, Maze, sample_maze, shortest_path

RING = Maze(("SFF", "FHF", "FFG"))


def cell_of(picture, row, column):
    return picture[64 * row : 64 * row + 64, 64 * column : 64 * column + 64]


def tinted(pixels, color):
    return np.round((1 - OPACITY) * pixels + OPACITY * np.array(color)).astype(np.uint8)


@pytest.mark.parametrize("level", LEVELS)
def test_composed_pictures_are_the_simulators(level):
    """Training would see other pixels than the simulator's, in some corner of some level."""
    rng = np.random.default_rng(level)
    for _ in range(4):
        maze = sample_maze(rng, level)
        wander = "".join(rng.choice(list("LDRU"), size=10))
        for moves in (shortest_path(maze), wander):
            frames = simulator_frames(maze, moves)
            walk = states(maze, moves)
            assert len(walk) == len(frames) == len(moves) + 1
            for state, frame in zip(walk, frames, strict=True):
                assert frame.shape == (64 * level, 64 * level, 3) and frame.dtype == np.uint8
                np.testing.assert_array_equal(draw(state, overlay=False), frame)


@pytest.mark.parametrize(
    "moves",
    [
        "LRUD",  # every facing on the start (walls) and on ice
        "DUDLRU",
        "DDRRLDRU",  # reaches the goal, then turns on it
        "RDLDRU",  # falls into the hole, then can not leave it
        "DRLDRU",
        "DDRU",
    ],
)
def test_each_ground_and_facing_is_the_simulators(moves):
    """A tile of a facing, of the goal under the player or of the broken ice would be wrong."""
    for state, frame in zip(states(RING, moves), simulator_frames(RING, moves), strict=True):
        np.testing.assert_array_equal(draw(state, overlay=False), frame)


def test_walk_by_hand():
    """Visited cells, facing or the end of the walk would be kept wrongly."""
    start = start_state(RING)
    assert start == State(RING, (0, 0), None, frozenset())
    bumped = advance(start, "L")
    assert bumped == State(RING, (0, 0), 0, frozenset({(0, 0)}))
    fallen = states(RING, "RDR")
    assert [s.player for s in fallen] == [(0, 0), (0, 1), (1, 1), (1, 1)]
    assert [s.fell for s in fallen] == [False, False, True, True]
    arrived = states(RING, "DDRRU")
    assert [s.player for s in arrived][-3:] == [(2, 1), (2, 2), (2, 2)]
    assert [s.reached for s in arrived] == [False] * 4 + [True] * 2
    assert arrived[4].visited == {(0, 0), (1, 0), (2, 0), (2, 1)}
    with pytest.raises(ValueError, match="got 'Q'"):
        advance(start, "Q")


def test_visited_cells_are_red_and_nothing_else():
    """The overlay would miss the start, cover the player, or stain cells he never stood on."""
    state = states(RING, "DDU")[-1]  # back on (1, 0), which he left before
    plain, picture = draw(state, overlay=False), draw(state)
    for row in range(3):
        for column in range(3):
            expected = cell_of(plain, row, column)
            if (row, column) in {(0, 0), (2, 0)}:
                expected = tinted(expected, RED)
            np.testing.assert_array_equal(cell_of(picture, row, column), expected)


def test_goal_is_green_once_reached():
    """An arrival would look like any other move, or the player would vanish under the green."""
    before, arrived = states(RING, "DDRR")[-2:]
    np.testing.assert_array_equal(
        cell_of(draw(before), 2, 2), cell_of(draw(before, overlay=False), 2, 2)
    )
    goal = cell_of(draw(arrived), 2, 2)
    np.testing.assert_array_equal(goal, tinted(cell_of(draw(arrived, overlay=False), 2, 2), GREEN))
    assert np.abs(goal.astype(int) - tinted(cell_of(draw(before), 2, 2), GREEN)).max() > 50


def test_pictures_do_not_share_memory():
    """Writing into one picture would change the tiles that all later ones are made of."""
    state = start_state(RING)
    first = draw(state)
    untouched = first.copy()
    first[:] = 0
    np.testing.assert_array_equal(draw(state), untouched)


def test_simulate():
    """Plans would be judged otherwise than by the simulator."""
    assert simulate(RING, "DDRR")
    assert simulate(RING, "LLDDRR")  # walls hold, detours count
    assert simulate(RING, "DDRRUUU")  # the arrival decides
    assert not simulate(RING, "DDR")
    assert not simulate(RING, "")
    assert not simulate(RING, "RDDR")  # falls first; the rest does not count
    assert simulate(RING, "UD" * 60 + "DDRR")  # more moves than gymnasium's limit of 100
    with pytest.raises(ValueError, match="got 'x'"):
        simulate(RING, "Dx")


@pytest.mark.parametrize("missing", ["gymnasium", "pygame"])
def test_missing_simulator_names_the_extra(monkeypatch, missing):
    """Without gymnasium or pygame the user would get a bare import error."""
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.partition(".")[0] == missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ModuleNotFoundError, match=rf"{missing} is missing.*latentum_jax\[envs\]"):
        simulate(RING, "D")
