"""The nearest code of every codebook, without the table of all distances in memory."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float, Int

from latentum_jax.kernels.dispatch import Target, dispatch

CHUNKS = 64  # that a kernel looks up at once
CODES = 128  # that it compares them with at once
PRECISION = jax.lax.Precision.HIGHEST  # less would change codes


def nearest_code(z: Float[Array, "M C d"], codebook: Float[Array, "C V d"]) -> Int[Array, "M C"]:
    """Index of the code at the least squared L2 distance, in fp32; the first of several."""
    _, codes, width = codebook.shape
    fits = codes % CODES == 0 and width >= 16 and pl.next_power_of_2(width) == width
    # A TPU's compiler makes no table of its own accord, and wants nothing turned.
    return dispatch(nearest_kernel, nearest_twin, z, codebook, fits=fits, tpu=False)


def nearest_twin(z: Float[Array, "M C d"], codebook: Float[Array, "C V d"]) -> Int[Array, "M C"]:
    """`nearest_code` in plain JAX."""
    return jnp.argmin(squared_distances(z, codebook), axis=-1).astype(jnp.int32)


def squared_distances(
    z: Float[Array, "*b C d"], codebook: Float[Array, "C V d"]
) -> Float[Array, "*b C V"]:
    """d^2 of every chunk to every code of its codebook, in fp32."""
    z = z.astype(jnp.float32)
    cross = jnp.einsum("...cd,cvd->...cv", z, codebook, precision=PRECISION)
    return jnp.sum(z * z, -1, keepdims=True) - 2 * cross + jnp.sum(codebook * codebook, -1)


def nearest_kernel(
    target: Target, z: Float[Array, "M C d"], codebook: Float[Array, "C V d"]
) -> Int[Array, "M C"]:
    """`nearest_code` as a kernel: some chunks of one codebook at a time."""
    many, books, width = z.shape
    codes = codebook.shape[1]
    blocks = pl.cdiv(many, CHUNKS)
    z = z.astype(jnp.float32).transpose(1, 0, 2)
    z = jnp.pad(z, ((0, 0), (0, blocks * CHUNKS - many), (0, 0)))
    book = codebook.astype(jnp.float32)
    some = lambda size: pl.BlockSpec((None, CHUNKS, size), lambda c, i, *_: (c, i, 0))  # noqa: E731
    whole = lambda *shape: pl.BlockSpec((None, *shape), lambda c, i, *_: (c, 0, 0))  # noqa: E731
    made = target.call(
        functools.partial(_body, codes=codes),
        grid=(books, blocks),
        numbers=(),
        in_specs=[some(width), whole(codes, width), whole(1, codes)],
        out_specs=[some(1)],
        out_shape=[jax.ShapeDtypeStruct((books, blocks * CHUNKS, 1), jnp.int32)],
        name="nearest_code",
    )
    (found,) = made(z, book, jnp.sum(book * book, axis=-1)[:, None])
    return found[:, :many, 0].T


def _body(z_ref: Any, book_ref: Any, square_ref: Any, found_ref: Any, *, codes: int) -> None:
    z = z_ref[...]
    own = jnp.sum(z * z, axis=-1, keepdims=True)

    def compare(i: Array, best: tuple[Array, Array]) -> tuple[Array, Array]:
        some = pl.ds(i * CODES, CODES)
        cross = jax.lax.dot_general(
            z,
            book_ref[some, :],
            (((1,), (1,)), ((), ())),
            precision=PRECISION,
            preferred_element_type=jnp.float32,
        )
        distance = own - 2 * cross + square_ref[:, some]
        nearest = jnp.min(distance, axis=-1, keepdims=True)
        place = i * CODES + jax.lax.broadcasted_iota(jnp.int32, distance.shape, 1)
        place = jnp.min(jnp.where(distance == nearest, place, codes), axis=-1, keepdims=True)
        closer = nearest < best[0]
        return jnp.where(closer, nearest, best[0]), jnp.where(closer, place, best[1])

    start = jnp.full(own.shape, jnp.inf), jnp.zeros(own.shape, jnp.int32)
    found_ref[...] = jax.lax.fori_loop(0, codes // CODES, compare, start)[1]
