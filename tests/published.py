"""The published model at a tiny size (tests/golden), as our config and parameters."""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file

from latentum_jax.config import LatentUMConfig
from latentum_jax.convert.latentum import TABLE, config_from_published
from latentum_jax.models.folder import expected_shapes
from latentum_jax.models.latentum import LatentUM, Params

GOLDEN = Path(__file__).parent / "golden"


@functools.cache
def state_dict() -> dict[str, np.ndarray]:
    """The weights by their published keys."""
    return load_file(str(GOLDEN / "tiny/model.safetensors"))


@functools.cache
def config() -> LatentUMConfig:
    """Its config."""
    return config_from_published(json.loads((GOLDEN / "tiny/config.json").read_text()))


@functools.cache
def params() -> Params:
    """Its parameters."""
    return jax.tree.map(jnp.asarray, TABLE.import_params(state_dict(), expected_shapes(config())))


@functools.cache
def outputs(name: str) -> dict[str, np.ndarray]:
    """The reference's inputs and outputs `golden/NAME.npz`."""
    return dict(np.load(GOLDEN / f"{name}.npz"))


def run(method: str, *args: object) -> object:
    """A method of the model, compiled, on its parameters."""
    model = LatentUM(config())
    return jax.jit(lambda p, *a: model.apply({"params": p}, *a, method=method))(params(), *args)
