"""The world model's stage on a RECON folder, at the smallest size."""

import dataclasses

import numpy as np
import pytest

from latentum_jax.configs import nav_tiny
from latentum_jax.data.navigation.recon import write_trajectory
from latentum_jax.data.navigation.walks import walk
from latentum_jax.data.navigation.world import draw_all, random_room
from latentum_jax.models.folder import read_folder
from latentum_jax.train.loop import train_stage
from latentum_jax.train.recipe import stage_config
from tests.small import SMALL
from tests.train.small_recipes import metrics_of


@pytest.mark.slow
def test_a_world_model_trains_on_a_recon_folder(tmp_path):
    """Breaks if a row of frames and actions does not become a step of stage `sft`."""
    rng = np.random.default_rng(0)
    room = random_room(rng)
    poses = walk(rng, room, 6)
    write_trajectory(tmp_path / "recon" / "0", draw_all(room, poses), poses)
    config = stage_config(nav_tiny.get_config(), "sft")
    language = dataclasses.replace(SMALL.language, vocab_size=512)
    config.model.update(dataclasses.replace(SMALL, language=language).to_dict())
    sizes = {"buckets": (), "rows": 2, "length": 160, "images": 5, "targets": 1}
    config.data.update(sizes | {"source": "recon", "path": str(tmp_path / "recon"), "threads": 1})
    config.steps = 2
    done = train_stage(config, tmp_path / "run")
    lines = metrics_of(tmp_path / "run")
    assert [line["step"] for line in lines] == [1, 2]
    assert all(np.isfinite(value) for line in lines for value in line.values())
    assert lines[0]["images"] > 0 and len(read_folder(done).tokenizer) == 512
