"""Pictures of what a model imagines: as large as what it saw, beside the right true one."""

import itertools
import json

import numpy as np
import pytest
from PIL import Image

from latentum_jax.config import VisionConfig
from latentum_jax.data.frozenlake.frames import advance, draw, read_state, start_state, states
from latentum_jax.data.frozenlake.mazes import shortest_path, unique_mazes
from latentum_jax.data.frozenlake.stream import random_state
from latentum_jax.eval import frames
from latentum_jax.images import square, unlaid
from tests.fake_model import FakeDecoder, FakeModel

MAZES = [maze for level in (3, 6, 8) for maze in unique_mazes(3, level, 4, "test")]


@pytest.mark.parametrize("maze", MAZES)
def test_a_drawn_state_is_read_back(maze):
    """Breaks if a tile is taken for another: the simulator's row would show another walk."""
    for state in states(maze, shortest_path(maze)):
        read = read_state(draw(state))
        assert (read.maze, read.player, read.visited) == (maze, state.player, state.visited)
        np.testing.assert_array_equal(draw(read), draw(state))


def test_what_is_no_drawn_state_is_not_read():
    """Breaks if a photo, a resized maze or one with two players is taken for a state."""
    picture = draw(start_state(MAZES[0]))
    noisy = picture.copy()
    noisy[0, 0, 0] ^= 1
    twins = np.concatenate([picture] * 2)
    for wrong in (noisy, picture[:100, :100], twins, np.concatenate([twins] * 2, axis=1)):
        assert read_state(wrong) is None


@pytest.mark.parametrize("canvas", [None, 384])
@pytest.mark.parametrize("shape", [(192, 192), (384, 384), (512, 512), (200, 100)])
def test_unlaid_is_the_inverse_of_square(shape, canvas):
    """Breaks if a decoded picture is cut or scaled otherwise than it was laid when seen."""
    width, height = shape
    y, x = np.mgrid[:height, :width]
    smooth = np.stack([255 * x / width, 255 * y / height, 128 + 0 * x], -1).astype(np.uint8)
    seen = square(smooth, 192, canvas=canvas)
    back = unlaid(seen, shape, VisionConfig(canvas=canvas))
    assert back.shape == smooth.shape
    assert np.abs(back[4:-4, 4:-4].astype(int) - smooth[4:-4, 4:-4]).max() <= 4


def test_psnr_by_hand():
    """An error of 51 everywhere is a fifth of 255: 20 log10(5) = 13.979 dB."""
    black = np.zeros((2, 2, 3), np.uint8)
    assert frames.psnr(black + 51, black) == pytest.approx(13.979, abs=1e-3)
    assert frames.psnr(black, black) == 100


def test_files(tmp_path):
    """One sheet with both rows, and a GIF that ends when the longer row does."""
    maze = MAZES[0]
    walked = [draw(state) for state in states(maze, shortest_path(maze))]
    frames.write_frames(tmp_path / "walk", walked, walked[:1])
    width, gap = walked[0].shape[1], frames.GAP
    with Image.open(tmp_path / "walk.png") as sheet:
        assert sheet.size == (len(walked) * (width + gap) - gap, 2 * (width + gap) - gap)
        got = np.asarray(sheet)
        np.testing.assert_array_equal(got[:width, -width:], walked[-1])
        np.testing.assert_array_equal(got[-width:, :width], walked[0])
    with Image.open(tmp_path / "walk.gif") as film:
        assert film.n_frames == len(walked)
    frames.write_frames(tmp_path / "none", [], [])
    assert not (tmp_path / "none.png").exists()


def test_a_cell_is_right_or_wrong():
    """Breaks if an answer of another size counts, or cells are compared in another order."""
    true = np.array([["P", "F"], ["H", "G"]])
    agree = frames._agreement("P F\nF G", true)
    np.testing.assert_array_equal(agree, [[True, True], [False, True]])
    assert not frames._agreement("P F H\nF G H\nF F F", true).any()
    assert not frames._agreement("no map", true).any()


def test_evaluation_by_hand(tmp_path):
    """Breaks if a wrong picture is not seen: this decoder never moves the player from the start."""
    model = FakeModel([])
    known = [random_states(level) for level in (3, 4)]
    for state in itertools.chain(*known):
        model.code(state)
        model.code(start_state(state.maze))
    results = frames.evaluate(
        model, FakeDecoder(model, still=True), (3, 4), 5, 1, tmp_path, checkpoint="fake"
    )
    assert json.loads((tmp_path / "results.json").read_text()) == results
    for level, shown in zip(("3", "4"), known, strict=True):
        moved = sum(state.player != state.maze.start for state in shown)
        found = results["levels"][level]
        assert moved > 0 and found["simulator"] == 1
        assert found["player"] == pytest.approx(1 - moved / 5)
        # Two cells are wrong then: the one he left and the one he is in (perhaps the goal's).
        assert found["cells"] == pytest.approx(1 - 2 * moved / (5 * int(level) ** 2), abs=1e-4)
        assert 10 < found["psnr"] < 100
    assert "| 3 | 5 |" in frames.table(results)


def test_plans_are_drawn_beside_the_simulator(tmp_path):
    """Breaks if rows of one sheet belong to different plans, or a photo stops the command."""
    maze = MAZES[0]
    Image.fromarray(draw(start_state(maze))).save(tmp_path / "maze.png")
    Image.fromarray(np.full((192, 192, 3), 7, np.uint8)).save(tmp_path / "photo.png")
    model = FakeModel([start_state(maze)])
    (plan,) = model.plan([draw(start_state(maze))])
    images = [tmp_path / "maze.png", tmp_path / "photo.png"]
    sheets = frames.write_plans(
        model, FakeDecoder(model), images, [plan, plan], "fine", tmp_path / "out"
    )
    sizes = []
    for sheet in sheets:
        with Image.open(sheet) as opened:
            sizes.append(opened.size)
            got = np.asarray(opened)
    width, gap = 192, frames.GAP
    across = len(plan.codes) * (width + gap) - gap
    assert sizes == [(across, 2 * width + gap), (across, width)]
    np.testing.assert_array_equal(got[:, -width:], draw(states(maze, shortest_path(maze))[-1]))


def random_states(level):
    """The moments that an evaluation of 5 mazes with seed 1 shows."""
    rng = np.random.default_rng((1, level))
    return [random_state(rng, maze) for maze in unique_mazes(1, level, 5, "test")]


def test_turning_at_the_edge_is_drawn():
    """A move into the wall changes only the facing, which is read back too."""
    state = advance(start_state(MAZES[0]), "U" if MAZES[0].start[0] == 0 else "L")
    assert read_state(draw(state)).facing == state.facing
