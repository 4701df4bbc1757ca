"""Trajectories on disk: what is written is read back, and whatever is broken is named."""

import os
import pickle
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from latentum_jax.data.faults import BadSample
from latentum_jax.data.navigation import recon
from latentum_jax.data.navigation.motion import actions_between
from latentum_jax.data.navigation.recon import (
    POSES,
    Trajectories,
    read_numbers,
    read_trajectory,
    write_trajectory,
)
from latentum_jax.data.navigation.words import Action

# Half a meter east, a quarter turn left, half a meter ahead (north).
WALK = np.array([[0, 0, 0], [0.5, 0, 0], [0.5, 0, np.pi / 2], [0.5, 0.5, np.pi / 2]])
WALK = np.concatenate([WALK, WALK[-1:], WALK[-1:]])


def frames(count=6):
    return list(np.random.default_rng(0).integers(0, 256, (count, 16, 16, 3), np.uint8))


@pytest.fixture
def folder(tmp_path):
    write_trajectory(tmp_path / "one", frames(), WALK, suffix=".png")
    return tmp_path


def rewrite(folder, **changed):
    data = {"position": WALK[:, :2], "yaw": WALK[:, 2]} | changed
    data = {name: value for name, value in data.items() if value is not None}
    (folder / "one" / POSES).write_bytes(pickle.dumps(data))


def refused(folder):
    with pytest.raises(BadSample) as caught:
        read_trajectory(folder / "one")
    assert caught.value.where == str(folder / "one") and "\n" not in str(caught.value)
    return caught.value.reason


def test_round_trip(folder):
    """Breaks if frames are ordered as text (10 before 2), or poses are not those written."""
    found = read_trajectory(folder / "one")
    np.testing.assert_array_equal(found.poses, WALK)
    pixels = [np.asarray(Image.open(path)) for path in found.frames]
    np.testing.assert_array_equal(pixels, frames())
    first = [Action(0.5, 0, 0), Action(0, 0, 90), Action(0.5, 0, 0), Action(0, 0, 0)]
    assert actions_between(found.poses)[:4] == first
    many = np.zeros((12, 3))
    write_trajectory(folder / "many", frames(12), many)
    names = [path.name for path in read_trajectory(folder / "many").frames]
    assert names == [f"{number}.jpg" for number in range(12)]


def test_windows_are_all_of_all_trajectories(folder):
    """Breaks if a window runs over the end of a trajectory, or one is left out or counted twice."""
    write_trajectory(folder / "two", frames(7), np.zeros((7, 3)), suffix=".png")
    found = Trajectories(folder, size=5)
    assert len(found) == 2 + 3
    shown = [[(path.parent.name, int(path.stem)) for path in found[i].frames] for i in range(5)]
    firsts = [("one", 0), ("one", 1), ("two", 0), ("two", 1), ("two", 2)]
    assert shown == [[(name, first + i) for i in range(5)] for name, first in firsts]
    apart = Trajectories(folder, size=3, stride=3)  # 0, 3, 6: the second trajectory alone has it
    assert [int(path.stem) for path in apart[1].frames] == [0, 3, 6] and len(apart) == 2
    with pytest.raises(BadSample, match="6 frames, expected 7 at least"):
        apart[0]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_of_every_age_are_read(folder, protocol):
    """Breaks if a pickle of an older Python or numpy is taken for a bad one."""
    data = {"position": WALK[:, :2], "yaw": WALK[:, 2:].astype(np.float32)}
    text = pickle.dumps(data, protocol)
    (folder / "one" / POSES).write_bytes(text.replace(b"numpy._core", b"numpy.core"))
    if protocol < 4:  # names of modules are lines, whose lengths are not told
        np.testing.assert_allclose(read_trajectory(folder / "one").poses, WALK, atol=1e-6)
    (folder / "one" / POSES).write_bytes(text)
    np.testing.assert_allclose(read_trajectory(folder / "one").poses, WALK, atol=1e-6)
    lists = {"position": WALK[:, :2].tolist(), "yaw": [np.float64(x) for x in WALK[:, 2]]}
    (folder / "one" / POSES).write_bytes(pickle.dumps(lists, protocol))
    np.testing.assert_array_equal(read_trajectory(folder / "one").poses, WALK)


class Evil:
    """What a pickle could run."""

    def __reduce__(self):
        return os.mkdir, ("was_run",)


@pytest.mark.parametrize(
    ("held", "told"),
    [
        (Evil(), r"it holds (posix|nt)\.mkdir, expected numbers and arrays"),
        ({"yaw": [Evil()]}, r"it holds (posix|nt)\.mkdir"),
        (np.array([Evil()], object), "it holds an array of object, expected numbers"),
        (np.array(["a"]), "it holds an array of <U1, expected numbers"),
        (print, r"it holds builtins\.print"),
        (range(3), r"it holds builtins\.x?range"),
    ],
)
def test_a_pickle_runs_nothing(tmp_path, monkeypatch, held, told):
    """Breaks if opening a data set can run a program."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / POSES
    for protocol in (2, 4, 5):
        file.write_bytes(pickle.dumps(held, protocol).replace(b"__builtin__", b"builtins"))
        with pytest.raises(ValueError, match=told):
            read_numbers(file)
    assert not (tmp_path / "was_run").exists()


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"position": None}, "traj_data.pkl has no position"),
        ({"yaw": None}, "traj_data.pkl has no yaw"),
        ({"yaw": WALK[:3, 2]}, "traj_data.pkl has 6 positions and 3 yaws"),
        ({"position": WALK[:4, :2], "yaw": WALK[:4, 2]}, "there are 6 frames and 4 poses"),
        ({"position": WALK}, "position is [6, 3], expected [T 2]"),
        ({"yaw": WALK}, "yaw is [6, 3], expected [T]"),
        ({"yaw": WALK[:, 2] * np.nan}, "yaw has numbers that are not finite"),
        ({"position": WALK[:, :2] + np.inf}, "position has numbers that are not finite"),
        ({"position": "east"}, "position is not of numbers"),
        ({"position": [[0, 0], [1]]}, "position is not of numbers"),
    ],
)
def test_poses_that_are_none(folder, changed, told):
    """Breaks if frames are paired with poses that they were not seen from."""
    rewrite(folder, **changed)
    assert told in refused(folder)


def test_frames_and_files_that_are_none(folder, tmp_path):
    """Breaks if a gap shifts every later frame by one, or an error does not say where."""
    one = folder / "one"
    (one / "2.png").rename(one / "kept")
    assert refused(folder) == "frame 2 is missing, the last is 5"
    (one / "kept").rename(one / "2.png")
    shutil.copy(one / "3.png", one / "3.jpg")
    assert refused(folder) == "frame 3 is there twice"
    (one / "3.jpg").unlink()
    (one / POSES).write_bytes((one / POSES).read_bytes()[:-20])
    assert re.match("traj_data.pkl (is damaged|cannot be read)", refused(folder))
    (one / POSES).write_bytes(pickle.dumps([1.0]))
    assert refused(folder) == "traj_data.pkl has no position"
    (one / POSES).unlink()
    assert refused(folder) == "there is no traj_data.pkl"
    rewrite(folder)
    for path in one.glob("*.png"):
        path.unlink()
    assert refused(folder).startswith("there are no frames")


def test_folders_that_are_none(tmp_path):
    """Breaks if a wrong path trains on nothing."""
    with pytest.raises(ValueError, match="there is no such folder"):
        Trajectories(tmp_path / "none", size=5)
    with pytest.raises(ValueError, match="has no trajectories"):
        Trajectories(tmp_path, size=5)
    write_trajectory(tmp_path / "short", frames(4), WALK[:4])
    short = Trajectories(tmp_path, size=5)
    told = "4 frames, expected 5 at least: 4 to begin with and 1 to come"
    with pytest.raises(BadSample, match=told):
        short[0]
    with pytest.raises(ValueError, match="windows of 1 frames"):
        Trajectories(tmp_path, size=1)


def test_nothing_half_written(tmp_path, monkeypatch):
    """Breaks if an interrupted or refused trajectory is left behind, to be read as one."""
    with pytest.raises(ValueError, match="3 frames and 6 poses"):
        write_trajectory(tmp_path / "one", frames(3), WALK)
    with pytest.raises(ValueError, match="frames are asked for as '.gif'"):
        write_trajectory(tmp_path / "one", frames(), WALK, suffix=".gif")
    monkeypatch.setattr(recon.pickle, "dumps", lambda data: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_trajectory(tmp_path / "one", frames(), WALK)
    assert not list(tmp_path.iterdir())
