"""m and n: hidden states of a unified model into the latent space of the embeddings, and back."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.core import meta
from jaxtyping import Array, Float

from latentum_jax.models.latentum import Params
from latentum_jax.models.layers import MLP, Dtype


class Mappers(nn.Module):
    """m: H -> H -> d and n: d -> H -> H, GELU MLPs; `width` H is that of hidden states."""

    width: int
    latent_dim: int
    dtype: Dtype = jnp.float32

    def setup(self) -> None:
        self.into = MLP(self.width, self.latent_dim, self.dtype, "features")
        self.back = MLP(self.width, self.width, self.dtype)

    def map(self, z: Float[Array, "*b D"]) -> Float[Array, "*b d"]:
        """m(z)."""
        return self.into(z)

    def unmap(self, latent: Float[Array, "*b d"]) -> Float[Array, "*b D"]:
        """n of a latent."""
        return self.back(latent)

    def __call__(self, z: Float[Array, "*b D"]) -> Float[Array, "*b D"]:
        """n(m(z)): what a hidden state is after the way there and back."""
        return self.back(self.into(z))


@functools.cache
def init_mapper_params(width: int, latent_dim: int, seed: int) -> Params:
    """Fresh fp32 parameters as a plain nested dict; the same for the same seed."""
    init = jax.jit(lambda k: Mappers(width, latent_dim).init(k, jnp.zeros((1, width)))["params"])
    return jax.tree.map(np.asarray, meta.unbox(init(jax.random.key(seed))))
