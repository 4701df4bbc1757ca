"""Every stage at the smallest size, with rows enough for eight devices."""

import json
import time
from pathlib import Path

import numpy as np

from latentum_jax.config import AlignerConfig
from latentum_jax.configs import frozenlake_decoder, frozenlake_tiny
from latentum_jax.configs.frozenlake_tiny import bucket
from latentum_jax.data.embeddings import write_side
from latentum_jax.train.data import open_feed
from latentum_jax.train.recipe import load_config, stage_config
from tests.models_on_disk import random_model
from tests.rl import small_grpo
from tests.small import DECODER

BUCKETS = {
    "vlm": bucket("questions", 1.0, 8, 256),
    "mbaq": bucket("questions", 1.0, 8, 256),
    "mome": bucket("captions", 1.0, 8, 640),
    "sft": bucket("fine", 1.0, 8, 256, (1, 2)),
    "latentumm": bucket("captions", 1.0, 8, 640),
}


ALIGNERS = {"align": "latentumm_align", "align_dynamics": "latentumm_dynamics"}
METRIC = {"grpo": "nats"}  # of what is compared; its loss is about 0 where all is learnt from once


def config_of(stage, model):
    """20 steps of a stage, every weight held in fp32; beside `model`, a folder, may come data."""
    if stage in ALIGNERS:
        return aligner_config_of(ALIGNERS[stage], Path(model).parent / "pairs")
    if stage == "grpo":
        config = small_grpo.config_of(init_from=model, data__rows=16)
    elif stage in BUCKETS:
        link = "sft" if stage == "latentumm" else stage
        config = stage_config(frozenlake_tiny.get_config(), link)
        config.stage, config.aligner.latent_dim = stage, 16
        config.data.buckets = (BUCKETS[stage],)
        config.init_from = model
    else:
        config = stage_config(frozenlake_decoder.get_config(), stage)
        config.decoder.update(DECODER.to_dict())
        config.latentum, config.data.rows = model, 8
    config.model.update(random_model().config.to_dict())
    config.steps, config.checkpoint_every = 20, 20
    return config


def aligner_config_of(name, pairs):
    """20 steps of a stage of LatentUMM's aligner, on pairs of noise."""
    config, tiny = load_config(name, {}), AlignerConfig.tiny()
    config.aligner.update(tiny.to_dict())
    rng, ids = np.random.default_rng(0), [f"s{i}" for i in range(40)]
    for side, width in (("text", tiny.text_dim), ("image", tiny.image_dim)):
        if not (pairs / f"{side}.npz").is_file():
            write_side(pairs / f"{side}.npz", ids, rng.standard_normal((len(ids), width)))
    config.data.path, config.data.rows = str(pairs), 8
    config.steps, config.checkpoint_every = 20, 20
    return config


def get_config():
    """`mbaq`, for the command line."""
    return config_of("mbaq", "")


def watched(look):
    """`open_feed`, whose batches are shown to `look(index, batch)` before they are used."""

    class Watched:
        def __init__(self, *args):
            self.feed, self.index = open_feed(*args), 0

        def __next__(self):
            batch = next(self.feed)
            look(self.index, batch)
            self.index += 1
            return batch

        def get_state(self):
            return self.feed.get_state()

        def set_state(self, state):
            self.feed.set_state(state)

        def close(self):
            self.feed.close()

    return Watched


def metrics_of(workdir):
    """The lines of a run's metrics.jsonl."""
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def wait_for_a_step(workdir, process):
    """Until a run that was started has written a step down (at first it takes back those behind its
    checkpoint), or has ended."""
    file, before = workdir / "metrics.jsonl", 1 << 30
    while process.poll() is None:
        now = len(file.read_text().splitlines()) if file.is_file() else 0
        if now > before:
            return
        before = now
        time.sleep(0.02)
