"""Which pictures an imagined state is compared with."""

import numpy as np

from latentum_jax.data.frozenlake.frames import State, states
from latentum_jax.data.frozenlake.mazes import Maze
from latentum_jax.eval.imagined import candidates, imagined, score_images
from tests.fake_model import FakeModel

MAZE = Maze(("SFF", "HFF", "FFG"))


def test_candidates():
    """The true state would be missing, or a cell where the player could have been imagined."""
    walk = states(MAZE, "RD")
    found = candidates(walk)
    assert walk[-1] in found and walk[0] in found and walk[1] in found
    assert len(found) == len(set(found))
    cells = {state.player for state in found}
    assert cells == {(i, j) for i in range(3) for j in range(3)} - {(1, 0)}
    elsewhere = State(MAZE, (2, 0), walk[-1].facing, walk[-1].visited)
    assert elsewhere in found


def test_a_fall_is_a_candidate():
    """The true state of a walk into a hole would be missing."""
    assert states(MAZE, "D")[-1] in candidates(states(MAZE, "D"))


def test_images_without_moves_are_not_judged():
    """An image drawn after unreadable text would be held against a state that is not known."""
    images = np.zeros((3, 1, 1), np.int32)
    assert [len(image.walk) for image in imagined(MAZE, "RD", images)] == [2, 3]
    assert len(imagined(MAZE, "RDDR", images)) == 3
    none = score_images(FakeModel([]), [(MAZE, "", images)])
    assert none == {"steps": 0, "own_answer": 0.0, "nearest_frame": 0.0}
