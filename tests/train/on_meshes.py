"""`python -m tests.train.on_meshes STAGE FOLDER`: the losses of a stage on several meshes, as JSON;
with `resume` behind it, of a run on 4 devices that dies and goes on on half and on double of them.

A process of its own, for it needs eight devices.
"""

import contextlib
import json
import os
import shutil
import sys
from pathlib import Path
from unittest import mock

# A device's collectives wait in threads of one pool: few of them can wait for one another for ever.
os.environ["NPROC"] = "32"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["XLA_FLAGS"] += " --xla_cpu_collective_call_terminate_timeout_seconds=300"

import jax  # noqa: E402

from latentum_jax.rl.start import start_of  # noqa: E402
from latentum_jax.sharding import make_mesh  # noqa: E402
from latentum_jax.train import loop  # noqa: E402
from latentum_jax.train import start as begin  # noqa: E402
from tests.models_on_disk import write_random_model  # noqa: E402
from tests.train.small_recipes import METRIC, config_of, watched  # noqa: E402

MESHES = {
    "one": {},
    "fsdp x tensor": {"fsdp": 4, "tensor": 2},
    "data x tensor x sequence": {"data": 2, "tensor": 2, "sequence": 2},
}


def losses(config, sizes, folder):
    """Of every step on a mesh of the first devices, or what `METRIC` has instead."""
    count = 1
    for size in sizes.values():
        count *= size
    some = lambda asked: make_mesh(asked, jax.devices()[:count])  # noqa: E731
    config.mesh.update({"data": 1, "fsdp": 1, "tensor": 1, "sequence": 1} | sizes)
    with mock.patch.object(loop, "make_mesh", some):
        loop.train_stage(config, folder, start_of)
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)[METRIC.get(config.stage, "loss")] for line in lines]


def resumed(stage, model, folder):
    """What `resume` is said to give."""

    def dies(index, batch):
        if index == 13:
            raise KeyboardInterrupt

    config = config_of(stage, model)
    config.checkpoint_every = 5
    with (
        mock.patch.object(begin, "open_feed", watched(dies)),
        contextlib.suppress(KeyboardInterrupt),
    ):
        losses(config, {"fsdp": 4}, folder / "broken")
    found = {"one": losses(config_of(stage, model), {}, folder / "one")}
    for name, sizes in (("half", {"fsdp": 2}), ("double", {"data": 2, "fsdp": 4})):
        shutil.copytree(folder / "broken", folder / name)
        found[name] = losses(config_of(stage, model), sizes, folder / name)
    return found


def main():
    stage, folder = sys.argv[1], Path(sys.argv[2])
    model = str(write_random_model(folder / "model"))
    if sys.argv[3:] == ["resume"]:
        print(json.dumps(resumed(stage, model, folder)))
        return
    found = {
        name: losses(config_of(stage, model), sizes, folder / name)
        for name, sizes in MESHES.items()
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
