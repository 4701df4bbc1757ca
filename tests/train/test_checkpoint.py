"""Checkpoints: what they refuse, what a fault leaves of them, and devices that come and go."""

import os
import random
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from latentum_jax.files import locked
from latentum_jax.train import start as begin
from latentum_jax.train.checkpoint import differing
from latentum_jax.train.loop import train_stage
from tests.models_on_disk import write_random_model
from tests.train.small_recipes import metrics_of, wait_for_a_step, watched
from tests.train.test_loop import Killed, config_of
from tests.train.test_meshes import ROOT, on_meshes


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return str(write_random_model(tmp_path_factory.mktemp("start") / "model"))


@pytest.fixture
def stopped(start, tmp_path, monkeypatch):
    """The folder of a run that died after the checkpoint of its second step of four."""

    def dies(index, batch):
        if index == 3:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(begin, "open_feed", watched(dies))
        with pytest.raises(Killed):
            train_stage(config_of("mbaq", start), tmp_path / "run")
    return tmp_path / "run"


def test_another_config_is_refused(start, stopped):
    """Breaks if a run goes on with settings that make it another, or with none but these."""
    config = config_of("mbaq", start)
    config.optimizer.learning_rate = 0.5
    said = r"step 2 does not fit this config \(optimizer.learning_rate was 0.01, .* has 0.5\)"
    with pytest.raises(ValueError, match=said):
        train_stage(config, stopped)
    train_stage(config_of("mbaq", start, keep=7, accumulate=2), stopped)
    assert len(metrics_of(stopped)) == 4


def test_what_differs_is_told_by_key():
    """Breaks if a key that is new or gone goes unseen, or one that is free is not."""
    saved = {"seed": 0, "mesh": {"data": 1}, "data": {"path": "a", "rows": 2}, "gone": 1}
    config = {"seed": 1, "mesh": {"data": 8}, "data": {"path": "b", "rows": 2}, "new": 2}
    found = differing(saved, config)
    assert found == {"gone": (1, None), "new": (None, 2), "seed": (0, 1)}


def test_one_run_a_folder(start, stopped):
    """Breaks if two runs write into one folder."""
    with locked(stopped), pytest.raises(ValueError, match="another run is under way in"):
        train_stage(config_of("mbaq", start), stopped)
    train_stage(config_of("mbaq", start), stopped)


def test_a_full_disk_leaves_the_last_good_one(start, tmp_path, monkeypatch):
    """Breaks if what could not be written takes the checkpoint before it along, or the run ends
    without a word of it."""
    room = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fills(index, batch):
        if index == 3:
            time.sleep(1)  # until the checkpoint of step 2 is whole
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, room[1]))

    try:
        with monkeypatch.context() as patch:
            patch.setattr(begin, "open_feed", watched(fills))
            with pytest.raises(OSError, match="cannot be written, that of step 2 is there"):
                train_stage(config_of("mbaq", start), tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, room)
    train_stage(config_of("mbaq", start), tmp_path)
    assert [line["step"] for line in metrics_of(tmp_path)] == [1, 2, 3, 4]


@pytest.mark.slow
def test_on_half_and_double_the_devices(tmp_path):
    """A run on 4 devices dies and goes on on 2 and on 8. Breaks if a checkpoint belongs to the mesh
    that it was saved from."""
    found = on_meshes("mbaq", tmp_path, "resume")
    for name in ("half", "double"):
        np.testing.assert_allclose(found[name], found["one"], rtol=1e-5, err_msg=name)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_kill_9_at_any_moment(start, tmp_path):
    """20 times, across savings of checkpoints. Breaks if the run that goes on is not the one that
    would have been, to the last digit."""
    command = [sys.executable, "-m", "latentum_jax.cli", "train"]
    command += ["--config", "tests/train/small_recipes.py", f"--config.init_from={start}"]
    command += ["--config.checkpoint_every=3", "--config.steps=1500"]
    subprocess.run([*command, "--workdir", str(tmp_path / "whole")], cwd=ROOT, check=True)
    rng, broken = random.Random(0), tmp_path / "broken"
    for kill in range(100):
        one = subprocess.Popen([*command, "--workdir", str(broken)], cwd=ROOT)
        if kill < 20:
            wait_for_a_step(broken, one)
            time.sleep(rng.uniform(0, 0.8))
            os.kill(one.pid, signal.SIGKILL)
        if one.wait() == 0:
            break
    assert kill >= 20
    losses = lambda name: [line["loss"] for line in metrics_of(tmp_path / name)]  # noqa: E731
    assert losses("broken") == losses("whole") and len(losses("whole")) == 1500
