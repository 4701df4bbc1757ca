"""Several processes that train as one, by launch/local.py on virtual CPU devices."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from latentum_jax.train.hosts import connect
from tests.models_on_disk import write_random_model
from tests.train.small_recipes import ALIGNERS, BUCKETS, METRIC, metrics_of, wait_for_a_step

ROOT = Path(__file__).parents[2]
KILLS = 8
RECIPE = str(ROOT / "tests/train/small_recipes.py")


def command(folder, processes, devices, *options):
    """Of a run whose model is in `folder`."""
    train = ["train", "--config", RECIPE, "--workdir", str(folder / f"{processes}x{devices}")]
    launch = [sys.executable, "launch/local.py", "--processes", str(processes)]
    launch += ["--cpu-devices", str(devices), "--", *train]
    return [*launch, f"--config.init_from={folder / 'model'}", *options]


def run(*args):
    """Its exit status, and what it had to say."""
    done = subprocess.run(
        command(*args), cwd=ROOT, env=environment(), capture_output=True, text=True
    )
    return done.returncode, done.stderr


def environment():
    return {**os.environ, "NPROC": "32"}  # as in on_meshes


def losses(folder, name, metric="loss"):
    return [line[metric] for line in metrics_of(folder / name)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With a model and the run of one process with four devices."""
    path = tmp_path_factory.mktemp("processes")
    write_random_model(path / "model")
    status, said = run(path, 1, 4, "--config.mesh.fsdp=4")
    assert status == 0, said[-3000:]
    return path


def test_two_processes_are_one(folder):
    """Breaks if a process trains on rows of its own making, keeps its gradients to itself, or
    writes over what the other has written."""
    status, said = run(folder, 2, 2, "--config.mesh.fsdp=4")
    assert status == 0, said[-3000:]
    np.testing.assert_allclose(losses(folder, "2x2"), losses(folder, "1x4"), rtol=1e-5)
    names = {path.name for path in (folder / "2x2").iterdir()}
    assert {"model", "metrics.jsonl", "config.json", "checkpoints"} <= names


MESHES = {
    "fsdp-tensor": {"fsdp": 4, "tensor": 2},
    "data-tensor-sequence": {"data": 2, "tensor": 2, "sequence": 2},
}


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("stage", [*BUCKETS, "grpo", "vae", "pixel_decoder", *ALIGNERS])
def test_two_processes_of_four_devices_are_one_device(stage, tmp_path):
    """20 steps of every stage in fp32. Breaks if a sum misses the other process, or rows, random
    numbers or parts of a parameter are not those that one device has."""
    model, recipe = write_random_model(tmp_path / "model"), tmp_path / "recipe.py"
    recipe.write_text(
        "from tests.train.small_recipes import config_of\n"
        f"get_config = lambda: config_of({stage!r}, {str(model)!r})\n"
    )
    begins = stage in BUCKETS or stage == "grpo"  # the others from nothing
    own = (f"--config={recipe}", f"--config.init_from={model if begins else ''}")

    def trained(name, processes, devices, sizes):
        mesh = {"data": 1, "fsdp": 1, "tensor": 1, "sequence": 1} | sizes
        options = [f"--config.mesh.{axis}={size}" for axis, size in mesh.items()]
        workdir = f"--workdir={tmp_path / name}"
        status, said = run(tmp_path, processes, devices, *own, *options, workdir)
        assert status == 0, said[-3000:]
        return losses(tmp_path, name, METRIC.get(stage, "loss"))

    one = trained("one", 1, 1, {})
    assert len(one) == 20 and np.ptp(one) > 0.05
    for name, sizes in MESHES.items():
        found = trained(name, 2, 4, sizes)
        print(stage, name, np.max(np.abs(np.divide(found, one) - 1)))  # shown with -rP
        np.testing.assert_allclose(found, one, rtol=1e-5, err_msg=name)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_killed_process_costs_the_steps_since_the_last_checkpoint(folder):
    """One of two is killed at any moment, both are started again, until the run is through. Breaks
    if what goes on is not the run that would have been, to the last digit."""
    options = ("--config.mesh.fsdp=4", "--config.checkpoint_every=5", "--config.steps=200")
    status, said = run(folder, 2, 2, *options, f"--workdir={folder / 'whole'}")
    assert status == 0, said[-3000:]
    rng, broken = random.Random(0), folder / "broken"
    again = [*command(folder, 2, 2, *options), f"--workdir={broken}"]
    for kill in range(50):
        one = subprocess.Popen(again, cwd=ROOT, env=environment(), start_new_session=True)
        if kill < KILLS:
            wait_for_a_step(broken, one)
            time.sleep(rng.uniform(0, 4))
            kill_one_of(one.pid, rng)
        if one.wait() == 0:
            break
    assert kill >= KILLS
    assert losses(folder, "broken") == losses(folder, "whole")


def kill_one_of(launcher, rng):
    """kill -9 to a process of a run."""
    found = Path(f"/proc/{launcher}/task/{launcher}/children")
    children = found.read_text().split() if found.exists() else []
    if children:
        os.kill(int(rng.choice(children)), signal.SIGKILL)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((None, 2, None), "--processes and --process need --coordinator HOST:PORT"),
        (("here", 2, 0), "--coordinator is 'here', expected HOST:PORT or auto"),
        (("here:1", None, 0), "--coordinator here:1 needs --processes and --process"),
        (("here:1", 2, 2), "--process is 2, expected one of 0 to 1"),
    ],
)
def test_what_does_not_go_together_is_refused(given, said):
    """Breaks if a process waits for others that will never come."""
    with pytest.raises(ValueError, match=said):
        connect(*given)
