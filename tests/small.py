"""A LatentUM small enough to compile in a second, with random parameters in every place."""

import dataclasses
import functools
import zlib

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from latentum_jax.config import (
    DecoderConfig,
    HeadConfig,
    LanguageConfig,
    LatentUMConfig,
    MMDiTConfig,
    QuantizerConfig,
    VAEConfig,
    VisionConfig,
)
from latentum_jax.models.folder import expected_shapes
from latentum_jax.models.latentum import LatentUM, Params
from latentum_jax.tokenizer import Tokenizer

SMALL = LatentUMConfig(
    VisionConfig(
        image_size=28, patch_size=7, hidden_size=32, num_layers=2, num_heads=2, mlp_size=64
    ),
    LanguageConfig(
        vocab_size=300,
        hidden_size=32,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        mlp_size=64,
        rope_theta=1e4,
    ),
    QuantizerConfig(num_codebooks=2, codebook_size=8, embedding_dim=16, mlp_ratio=1),
    HeadConfig(num_layers=2, num_heads=2),
)


# Draws the z_q of `SMALL`.
DECODER = DecoderConfig(
    MMDiTConfig(
        depth=2,
        hidden_size=32,
        num_heads=2,
        mlp_size=64,
        context_dim=16,
        dual_layers=1,
        position_side=8,
        token_patches=2,
    ),
    VAEConfig(channels=(8, 8), layers_per_level=1, norm_groups=4),
    image_size=32,
)


@dataclasses.dataclass(frozen=True)
class Small:
    """The model, its parameters and a tokenizer."""

    model: LatentUM
    params: Params
    tokenizer: Tokenizer

    def run(self, method: str, *args: object) -> object:
        """A method of the model, compiled, on the parameters."""
        apply = lambda p, *a: self.model.apply({"params": p}, *a, method=method)  # noqa: E731
        return jax.jit(apply)(self.params, *args)


@functools.cache
def make_small() -> Small:
    """Made without compiling anything."""
    params = random_params(SMALL)
    tokenizer = Tokenizer.train(["Done! move up down left right"], SMALL.language.vocab_size)
    return Small(LatentUM(SMALL), params, tokenizer)


def random_params(config: LatentUMConfig) -> Params:
    """Of a model of these sizes."""
    flat = {path: _random(path, shape) for path, shape in expected_shapes(config).items()}
    return traverse_util.unflatten_dict(flat, sep="/")


def _random(path: str, shape: tuple[int, ...]) -> jax.Array:
    """Norm scales around 1, kernels that keep the variance, everything else of size 0.3."""
    value = np.random.default_rng(zlib.crc32(path.encode())).standard_normal(shape)
    if path.endswith("scale"):
        value = 1 + 0.2 * value
    elif path.endswith(("kernel", "lm_head")):
        value *= shape[-2] ** -0.5
    else:
        value *= 0.3
    return jnp.asarray(value, jnp.float32)
