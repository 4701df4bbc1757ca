"""Codes read by what stood where they were, with no part of the model that draws or answers."""

import numpy as np
import pytest

from latentum_jax.data.frozenlake.frames import State, draw, start_state
from latentum_jax.data.frozenlake.mazes import Maze
from latentum_jax.data.frozenlake.stream import Mazes, random_state
from latentum_jax.eval.reader import FREE, GOAL, HOLE, OUTSIDE, PLAYER, Reader, contents
from latentum_jax.pretrained import LatentUM
from tests.fake_model import FakeModel

MAZE = Maze(("SFH", "FFF", "HFG"))


def test_contents_of_a_canvas():
    """Breaks if a cell is read from another place than the picture has it: the player stands on
    the start, cells beyond the maze are outside."""
    found = contents(start_state(MAZE), 4).reshape(4, 4)
    expected = [
        [PLAYER, FREE, HOLE, OUTSIDE],
        [FREE, FREE, FREE, OUTSIDE],
        [HOLE, FREE, GOAL, OUTSIDE],
        [OUTSIDE] * 4,
    ]
    np.testing.assert_array_equal(found, expected)


def test_shares_by_hand():
    """Breaks if a share is taken over other cells than it says. Code 0 is outside, 1 free, 2 a
    hole, 3 the goal, 4 the player; of nine cells the picture has one hole and the goal wrong."""
    counts = np.zeros((6, 5), np.int64)
    counts[range(5), range(5)] = 1
    true = contents(start_state(MAZE), 4)
    drawn = true.copy()
    drawn[2], drawn[10] = FREE, 5  # code 5 was never seen
    found = Reader(counts).correct(np.stack([true, drawn])[..., None], [start_state(MAZE)] * 2)
    assert found["cells"] == pytest.approx(16 / 18)
    assert found["mazes"] == 0.5
    assert found["hole"] == pytest.approx(3 / 4)
    assert found["goal"] == 0.5
    assert found["player"] == found["free"] == 1.0


def test_the_simulators_pictures_are_read_rightly():
    """Breaks if the reader cannot be believed: of pictures that were none of those it counted, it
    reads every cell."""
    model = LatentUM.from_pretrained("frozenlake-tiny")
    reader = Reader.of(model, count=500)
    rng = np.random.default_rng(99)
    states: list[State] = [random_state(rng, Mazes().draw(rng)) for _ in range(50)]
    codes = model.encode([draw(state) for state in states])[1]
    assert reader.correct(codes, states)["cells"] > 0.998


def test_a_model_whose_tokens_are_no_cells():
    """Breaks if cells are read where a token is no cell."""
    with pytest.raises(ValueError, match="the model has no canvas"):
        Reader.of(FakeModel([]))
