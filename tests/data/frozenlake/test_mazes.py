"""Mazes: what is accepted, what is drawn, and how they are solved."""

import json

import numpy as np
import pytest

from latentum_jax.data.frozenlake.frames import simulate
from latentum_jax.data.frozenlake.mazes import (
    HOLE_SHARE,
    LEVELS,
    LONGEST_PATH,
    Maze,
    best_moves,
    distances,
    load_mazes,
    sample_maze,
    shortest_path,
    split_of,
    step,
    unique_mazes,
)

# S F F     4 3 2
# F H F     3 . 1
# F F G     2 1 0
RING = Maze(("SFF", "FHF", "FFG"))
# S G H     the ice in the last column is cut off from the goal
# H H F
# H H F
CUT_OFF = Maze(("SGH", "HHF", "HHF"))


def test_maze_properties():
    """Rows and columns swapped, or the letters flattened in another order, would show here."""
    maze = Maze.parse(4, ["FSFF", "FHFH", "FFFF", "GFFF"])
    assert maze.grid == ("FSFF", "FHFH", "FFFF", "GFFF")
    assert (maze.level, maze.start, maze.goal) == (4, (0, 1), (3, 0))
    assert maze.holes == ((1, 1), (1, 3))
    assert maze.flat == "FSFFFHFHFFFFGFFF"


@pytest.mark.parametrize(
    ("level", "rows", "sentence"),
    [
        (3, ["SFF", "FF", "FFG"], "square"),
        (3, ["SFF", "FFG"], "square"),
        (3, ["SFF", "FxF", "FFG"], "letters S F H G"),
        (3, ["SSF", "FFF", "FFG"], "exactly one start"),
        (3, ["FFF", "FFF", "FFG"], "exactly one start"),
        (3, ["SFF", "FFF", "FFF"], "exactly one goal"),
        (4, ["SFF", "FFF", "FFG"], "level 4 is 4x4, got 3x3"),
        (3, ["SHF", "HHF", "FFG"], "cannot be reached"),
        (2, ["SF", "FG"], "from 3 to 8, got 2"),
        (9, ["F" * 9] * 9, "from 3 to 8, got 9"),
        ("3", ["SFF", "FFF", "FFG"], "from 3 to 8"),
        (3, "SFG", "list of rows"),
        (3, ["SFF", 3, "FFG"], "list of rows"),
    ],
)
def test_parse_refuses(level, rows, sentence):
    """A broken maze would be accepted, or refused without saying why."""
    with pytest.raises(ValueError, match=sentence):
        Maze.parse(level, rows)


def test_distances_by_hand():
    """Breadth-first search would count diagonals, walk through holes, or start at S."""
    np.testing.assert_array_equal(distances(RING), [[4, 3, 2], [3, -1, 1], [2, 1, 0]])
    np.testing.assert_array_equal(distances(CUT_OFF), [[1, 0, -1], [-1, -1, -1], [-1, -1, -1]])
    with pytest.raises(ValueError, match="read-only"):
        distances(RING)[0, 0] = 7


def test_best_moves_by_hand():
    """Ties would be broken otherwise than L, D, R, U: from S both D and R are shortest, D first."""
    assert best_moves(RING) == [["D", "R", "D"], ["D", "H", "D"], ["R", "R", "G"]]
    assert best_moves(CUT_OFF) == [["R", "G", "H"], ["H", "H", "X"], ["H", "H", "X"]]


def test_shortest_path():
    """The path would not follow the best moves, or loop for ever where the goal is out of reach."""
    assert shortest_path(RING) == "DDRR"
    assert shortest_path(RING, (0, 1)) == "RDD"
    assert shortest_path(RING, RING.goal) == ""
    for cell in ((1, 2), (1, 1)):  # cut off, and a hole
        with pytest.raises(ValueError, match="cannot be reached"):
            shortest_path(CUT_OFF, cell)


def test_step_and_walls():
    """Moves would leave the maze, or mean other directions than gymnasium's."""
    assert [step(RING, (1, 1), move) for move in "LDRU"] == [(1, 0), (2, 1), (1, 2), (0, 1)]
    assert [step(RING, (0, 0), move) for move in "LU"] == [(0, 0), (0, 0)]
    assert [step(RING, (2, 2), move) for move in "DR"] == [(2, 2), (2, 2)]
    with pytest.raises(ValueError, match="L D R U, got 'Q'"):
        step(RING, (0, 0), "Q")


@pytest.mark.parametrize("level", LEVELS)
def test_sampled_mazes_are_sound(level):
    """A maze out of the path window or the split, or with a path that fails in the simulator."""
    rng = np.random.default_rng(level)
    for split in ("train", "test"):
        for _ in range(10):
            maze = sample_maze(rng, level, path_lengths=(2, 4), split=split)
            path = shortest_path(maze)
            assert Maze.parse(level, list(maze.grid)) == maze
            assert 2 <= len(path) == distances(maze)[maze.start] <= 4
            assert split_of(maze) == split
            assert simulate(maze, path)


def test_sampled_mazes_follow_the_published_numbers():
    """Paths would be longer or holes rarer than in VSP's mazes.

    Its means are of 100 mazes a level: they may be two standard errors of such a mean away.
    """
    rng = np.random.default_rng(0)
    published = dict(zip(LEVELS, (2.1, 2.7, 3.2, 4.5, 5.2, 5.4), strict=True))
    for level in LEVELS:
        mazes = [sample_maze(rng, level) for _ in range(4000)]
        lengths = np.array([distances(maze)[maze.start] for maze in mazes])
        share = np.mean([len(maze.holes) for maze in mazes]) / (level * level - 2)
        assert abs(lengths.mean() - published[level]) < 2 * lengths.std() / np.sqrt(100)
        assert lengths.max() <= LONGEST_PATH[level]
        assert abs(share - HOLE_SHARE[level]) < 0.02


def test_start_and_goal_fall_anywhere():
    """S or G would be favoured somewhere: each of the 72 pairs of cells comes up about equally."""
    rng = np.random.default_rng(1)
    mazes = [sample_maze(rng, 3, hole_share=0.0) for _ in range(7200)]
    _, counts = np.unique([(*m.start, *m.goal) for m in mazes], axis=0, return_counts=True)
    assert len(counts) == 72
    assert counts.min() > 50 and counts.max() < 150  # 100 expected, standard deviation 10


def test_sampling_that_cannot_succeed_says_so():
    """Impossible wishes would run for ever."""
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="5 to 9 steps"):
        sample_maze(rng, 3, hole_share=1.0, path_lengths=(5, 9))
    with pytest.raises(ValueError, match="Only 72 different mazes"):  # 9 places for S, 8 for G
        unique_mazes(0, 3, 73, hole_share=0.0)
    with pytest.raises(ValueError, match="probability, got 2.0"):
        sample_maze(rng, 3, hole_share=2.0)
    with pytest.raises(ValueError, match="got 'val'"):
        sample_maze(rng, 3, split="val")
    with pytest.raises(ValueError, match="from 3 to 8"):
        sample_maze(rng, 11)


def test_split_is_a_property_of_the_maze():
    """A split that changes with the process or the seed would leak test mazes into training."""
    mazes = unique_mazes(0, 6, 2000)
    share = np.mean([split_of(maze) == "test" for maze in mazes])
    assert 0.08 < share < 0.12
    # The first 16 digits of `printf %s LETTERS | sha256sum` as a number end in 7 and in 0.
    assert split_of(RING) == "train"
    assert split_of(Maze(("SFF", "FFG", "FFF"))) == "test"
    train, test = (unique_mazes(7, 4, 200, split) for split in ("train", "test"))
    assert not {m.flat for m in train} & {m.flat for m in test}


def test_unique_mazes_repeat_with_their_seed():
    """Two runs would train on different mazes, or see one maze twice."""
    mazes = unique_mazes(3, 3, 300, "train")
    assert len({maze.flat for maze in mazes}) == 300
    assert unique_mazes(3, 3, 100, "train") == mazes[:100]
    assert unique_mazes(4, 3, 100, "train") != mazes[:100]


def test_load_mazes(tmp_path):
    """Good lines would be lost: a blank line and an unknown key are no faults."""
    path = tmp_path / "mazes.jsonl"
    line = json.dumps({"level": 3, "grid": list(RING.grid), "note": "ring"})
    path.write_text(f"{line}\n\n{line}\n")
    assert load_mazes(path) == [RING, RING]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ('{"level": 3, "grid"', "not JSON"),
        ('"\xff', "not JSON"),
        ("[3]", "expected an object"),
        ('{"grid": ["SFF", "FHF", "FFG"]}', '"level" is missing'),
        ('{"level": 3}', '"grid" is missing'),
        ('{"level": 3, "grid": 5}', "list of rows"),
        ('{"level": 3, "grid": ["SHF", "HHF", "FFG"]}', "cannot be reached"),
    ],
)
def test_load_mazes_names_the_broken_line(tmp_path, line, sentence):
    """The user would have to search a long file for the fault."""
    path = tmp_path / "mazes.jsonl"
    good = json.dumps({"level": 3, "grid": list(RING.grid)})
    path.write_text(f"{good}\n{line}\n", encoding="latin-1")
    with pytest.raises(ValueError, match=f"mazes.jsonl, line 2: .*{sentence}"):
        load_mazes(path)
