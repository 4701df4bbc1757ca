"""A run is the same whatever devices it is spread over."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


def on_meshes(*args):
    """What `tests.train.on_meshes` prints."""
    command = [sys.executable, "-m", "tests.train.on_meshes", *map(str, args)]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    "stage",
    [
        "mome",
        *(  # minutes, and the same loop, mesh and losses' sums
            pytest.param(stage, marks=pytest.mark.slow)
            for stage in (
                *("vlm", "mbaq", "sft", "grpo", "latentumm", "vae", "pixel_decoder"),
                *("align", "align_dynamics"),
            )
        ),
    ],
)
def test_the_losses_are_those_of_one_device(stage, tmp_path):
    """20 steps in fp32 on 1 device, and on 8 as fsdp x tensor and as data x tensor x sequence.
    Breaks if a sum misses a device, randomness depends on where rows are, or a gradient is counted
    on every device."""
    found = on_meshes(stage, tmp_path)
    one = found.pop("one")
    assert len(one) == 20 and np.ptp(one) > 0.05
    for name, losses in found.items():
        np.testing.assert_allclose(losses, one, rtol=1e-5, err_msg=name)
