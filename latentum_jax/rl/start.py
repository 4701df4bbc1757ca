"""What a run starts with: of `grpo` here, of every other stage as `train.start` says."""

from collections.abc import Mapping

import jax.numpy as jnp
from ml_collections import ConfigDict

from latentum_jax.config import LatentUMConfig
from latentum_jax.data.faults import Faults
from latentum_jax.models.folder import model_axes
from latentum_jax.models.latentum import LatentUM
from latentum_jax.rl.acting import judging, rolling
from latentum_jax.rl.feed import open_prompts
from latentum_jax.rl.grpo import REFERENCE, check, grpo_stage, make_act
from latentum_jax.sharding import Axes
from latentum_jax.train import start as others
from latentum_jax.train.data import Here, every_row
from latentum_jax.train.start import Start, model_writer, starting_model


def start_of(config: ConfigDict, faults: Faults, here: Here = every_row) -> Start:
    """`train.start.start_of`, and of stage `grpo`.

    Raises ValueError for a config that is wrong.
    """
    known = (*others.KNOWN, "grpo")
    if config.stage not in known:
        raise ValueError(f"stage is {config.stage!r}, expected one of {known}")
    if config.stage != "grpo":
        return others.start_of(config, faults, here)
    others.check_computing(config)
    check(config)
    folder = starting_model(config)
    ids, tokenizer = folder.tokenizer.ids, folder.tokenizer
    dtype = jnp.dtype(config.dtype)
    model, plain = (LatentUM(folder.config, dtype, remat) for remat in (config.remat, "none"))
    roll = rolling(config, plain, folder.chat, tokenizer)
    act = make_act(plain, config, ids, roll, judging(config, plain, tokenizer))
    stages = (grpo_stage(one, config, ids, act) for one in (model, plain))
    heads = others.head_counts(folder.config)
    own = others.with_factors(config, *stages, grpo_axes(folder.config), heads)
    feed = open_prompts(config, folder.config, folder.chat, tokenizer, faults, here)
    return Start(folder.params, *own, feed, model_writer(folder, own[0]))


def grpo_axes(model: LatentUMConfig) -> Mapping[str, Axes]:
    """Logical axes of the parameters by path, of the reference's as of the policy's."""
    axes = model_axes(model)
    return {**axes, **{f"{REFERENCE}/{path}": own for path, own in axes.items()}}
