"""LPIPS (Zhang et al., 2018): how far two pictures are apart to AlexNet's features.

The features of five layers, each of length 1 at every place, are compared by their squared
difference, weighted by channel, averaged over places and summed over layers. The weights are the
user's: AlexNet's, and those of the channels (`latentum_jax.convert.lpips` reads both).
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from latentum_jax.models.latentum import Params

# Width of the kernel, stride, padding and outputs of AlexNet's convolutions; where it is pooled.
CONVOLUTIONS = ((11, 4, 2, 64), (5, 1, 2, 192), (3, 1, 1, 384), (3, 1, 1, 256), (3, 1, 1, 256))
POOLED = (1, 2)  # in front of these; windows of 3, every 2
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of pictures in [-1, 1]
LEAST = 63  # pixels of a side, of which the last layers still have one place


def expected_shapes() -> dict[str, tuple[int, ...]]:
    """Shapes of all parameters, by path."""
    shapes: dict[str, tuple[int, ...]] = {}
    inputs = 3
    for i, (width, _, _, outputs) in enumerate(CONVOLUTIONS):
        shapes[f"conv{i}/kernel"] = (width, width, inputs, outputs)
        shapes[f"conv{i}/bias"] = (outputs,)
        shapes[f"weight{i}"] = (outputs,)
        inputs = outputs
    return shapes


@jax.jit
def lpips(
    params: Params, a: UInt8[Array, "N h w 3"], b: UInt8[Array, "M h w 3"]
) -> Float[Array, "N"]:
    """The distance of each picture of a to that of b, or to the only one there is (M = 1).

    Raises ValueError for pictures too small for the layers.
    """
    if min(a.shape[1:3]) < LEAST:
        raise ValueError(f"pictures are {a.shape[1:3]}, expected {LEAST} pixels a side at least")
    total = jnp.zeros(())
    for i, (x, y) in enumerate(zip(_features(params, a), _features(params, b), strict=True)):
        apart = (_unit(x) - _unit(y)) ** 2
        total = total + jnp.mean(apart @ params[f"weight{i}"], axis=(1, 2))
    return total


def _features(params: Params, pictures: Array) -> Iterator[Array]:
    x = pictures.astype(jnp.float32) / 127.5 - 1
    x = (x - jnp.asarray(SHIFT)) / jnp.asarray(SCALE)
    for i, (_, stride, padding, _) in enumerate(CONVOLUTIONS):
        if i in POOLED:
            window, step = (1, 3, 3, 1), (1, 2, 2, 1)
            x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, step, "VALID")
        layer = params[f"conv{i}"]
        x = jax.lax.conv_general_dilated(
            x,
            layer["kernel"],
            (stride, stride),
            [(padding, padding)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        x = jax.nn.relu(x + layer["bias"])
        yield x


def _unit(x: Array) -> Array:
    return x / (jnp.linalg.norm(x, axis=-1, keepdims=True) + 1e-10)
