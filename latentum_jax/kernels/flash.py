"""Attention under the dual-sequence rule of section 3.3 without its mask or scores in memory.

Flash attention over blocks of queries and keys, forward and backward. Which pairs of blocks hold a
query that sees a key is found once; the others are neither read nor computed. A row of U and G
sequences is mostly such others: a G block sees its own image and some of U.

Forward, for a block of queries, over the blocks of keys that it sees (s the scores):

    o = sum exp(s - lse) v,   lse = log sum exp(s)

Backward, with p = exp(s - lse) and delta = sum(do o):

    dv = p^T do,   ds = p (do v^T - delta),   dq = ds k,   dk = ds^T q
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int

from latentum_jax.kernels.dispatch import Split, Target, dispatch, product
from latentum_jax.kernels.placement import Placement, sees, visible
from latentum_jax.sharding import spec

TILE = 128  # T and S are padded to a multiple of it
LONGEST = 8192  # tokens whose keys and values a TPU core's fast memory holds
MASKED = -1e30  # a finite stand-in for -inf: a query that sees nothing gives zeros, not NaN
NOBODY = -1  # block of keys that no one sees

Saved = tuple[Array, Array, Array, Placement, Placement, Array, Array]


def fits(q: Float[Array, "B N T H"], k: Float[Array, "B K S H"]) -> bool:
    """Whether the sizes are such that blocks are full and worth skipping."""
    h, longest = q.shape[-1], max(q.shape[2], k.shape[2])
    return min(q.shape[2], k.shape[2]) >= TILE and longest <= LONGEST and h in (64, 128, 256)


@jax.custom_vjp
def flash_attention(
    q: Float[Array, "B N T H"],
    k: Float[Array, "B K S H"],
    v: Float[Array, "B K S H"],
    q_at: Placement,
    k_at: Placement,
) -> Float[Array, "B N T H"]:
    """Softmax attention of q, which is scaled already, by the rule of `placement`.

    Scores and softmax are in fp32. Queries that see nothing give zeros.
    """
    return _forward(q, k, v, q_at, k_at)[0]


def _forward(q: Array, k: Array, v: Array, q_at: Placement, k_at: Placement) -> tuple[Array, Saved]:
    split = _split(q, k, forward=True)
    o, lse = dispatch(forward_kernel, forward_twin, q, k, v, q_at, k_at, fits=True, split=split)
    return o, (q, k, v, q_at, k_at, o, lse)


def _backward(saved: Saved, do: Array) -> tuple[Array | None, ...]:
    q, k, v, q_at, k_at, o, lse = saved
    delta = jnp.sum(do.astype(jnp.float32) * o.astype(jnp.float32), axis=-1)
    given = (q, k, v, q_at, k_at, do, lse, delta)
    split = _split(q, k, forward=False)
    made = dispatch(backward_kernel, backward_twin, *given, fits=True, split=split)
    return *made, None, None


def _split(q: Array, k: Array, *, forward: bool) -> Split | None:
    """Rows, heads and queries lie apart on a mesh; all keys are with every query."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.size < 2:
        return None
    b, n, t, _ = q.shape
    heads = "heads" if spec(("kv_heads",), k.shape[1:2], mesh) != (None,) else None
    row, head, token = spec(("batch", heads, "length"), (b, n, t), mesh)
    queries, keys = P(row, head, token, None), P(row, head, None, None)
    column, q_at, k_at = P(row, head, token), P(row, token), P(row, None)
    given = (queries, keys, keys, q_at, k_at)
    if forward:
        return Split(given, (queries, column))

    def joined(made: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        if token is None:
            return made
        return made[0], *jax.lax.psum(made[1:], token)

    return Split((*given, queries, column, column), (queries, keys, keys), joined)


flash_attention.defvjp(_forward, _backward)


def forward_twin(
    q: Array, k: Array, v: Array, q_at: Placement, k_at: Placement
) -> tuple[Float[Array, "B N T H"], Float[Array, "B N T"]]:
    """o and lse in plain JAX."""
    scores, seen = _scores(q, k, q_at, k_at)
    top = jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True))
    weights = jnp.where(seen, jnp.exp(scores - top), 0.0)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    weights = weights / jnp.where(total > 0, total, 1.0)
    o = jnp.einsum("bkgts,bksh->bkgth", weights.astype(v.dtype), v).reshape(q.shape)
    lse = (top + jnp.log(jnp.maximum(total, 1e-30))).reshape(q.shape[:3])
    return o, lse


def backward_twin(
    q: Array,
    k: Array,
    v: Array,
    q_at: Placement,
    k_at: Placement,
    do: Float[Array, "B N T H"],
    lse: Float[Array, "B N T"],
    delta: Float[Array, "B N T"],
) -> tuple[Array, Array, Array]:
    """dq, dk and dv in plain JAX."""
    scores, seen = _scores(q, k, q_at, k_at)
    grouped = lambda x: x.reshape(*scores.shape[:4], *x.shape[3:])  # noqa: E731
    p = jnp.where(seen, jnp.exp(scores - grouped(lse)[..., None]), 0.0)
    do_v = jnp.einsum("bkgth,bksh->bkgts", grouped(do), v, preferred_element_type=jnp.float32)
    ds = (p * (do_v - grouped(delta)[..., None])).astype(q.dtype)
    dq = jnp.einsum("bkgts,bksh->bkgth", ds, k).reshape(q.shape)
    dk = jnp.einsum("bkgts,bkgth->bksh", ds, grouped(q))
    return dq, dk, jnp.einsum("bkgts,bkgth->bksh", p.astype(do.dtype), grouped(do))


def _scores(
    q: Array, k: Array, q_at: Placement, k_at: Placement
) -> tuple[Float[Array, "B K G T S"], Bool[Array, "B 1 1 T S"]]:
    b, n, t, h = q.shape
    grouped = q.reshape(b, k.shape[1], n // k.shape[1], t, h)
    if t == 1:
        # A CPU's library for products copies the right operand: that should not be the keys.
        turned = jnp.einsum("bksh,bkgth->bksgt", k, grouped, preferred_element_type=jnp.float32)
        scores = jnp.moveaxis(jax.lax.optimization_barrier(turned), 2, -1)
    else:
        scores = jnp.einsum("bkgth,bksh->bkgts", grouped, k, preferred_element_type=jnp.float32)
    seen = visible(q_at, k_at)[:, None, None]
    return jnp.where(seen, scores, MASKED), seen


def forward_kernel(
    target: Target, q: Array, k: Array, v: Array, q_at: Placement, k_at: Placement
) -> tuple[Float[Array, "B N T H"], Float[Array, "B N T"]]:
    """o and lse as a kernel: a block of a head's queries at a time."""
    b, n, t, h = q.shape
    (q,), (k, v) = _padded(q), _padded(k, v)
    q_tags, k_tags = _tags(q_at, k_at)
    size, group = _size(target), n // k.shape[1]
    seen = _pairs(q_tags, k_tags, size)
    some = lambda width: pl.BlockSpec(  # noqa: E731
        (None, None, size, width), lambda i, j, t, *_: (i, j, t, 0)
    )
    made = target.call(
        functools.partial(_forward_body, size=size, blocks=seen.shape[2]),
        grid=(b, n, seen.shape[1]),
        numbers=_lists(seen),
        in_specs=[some(h), *[_whole_head(k, group)] * 2, *_tag_specs(size, k.shape[2])],
        out_specs=[some(h), some(1)],
        out_shape=[
            jax.ShapeDtypeStruct(q.shape, v.dtype),
            jax.ShapeDtypeStruct((*q.shape[:3], 1), jnp.float32),
        ],
        name="flash_forward",
    )
    o, lse = made(q, k, v, q_tags.swapaxes(1, 2), k_tags)
    return o[:, :, :t], lse[:, :, :t, 0]


def backward_kernel(
    target: Target,
    q: Array,
    k: Array,
    v: Array,
    q_at: Placement,
    k_at: Placement,
    do: Float[Array, "B N T H"],
    lse: Float[Array, "B N T"],
    delta: Float[Array, "B N T"],
) -> tuple[Array, Array, Array]:
    """dq, dk and dv as two kernels, one for blocks of queries and one for blocks of keys."""
    t, s = q.shape[2], k.shape[2]
    (q, do), (k, v) = _padded(q, do), _padded(k, v)
    lse, delta = (x[..., 0] for x in _padded(lse[..., None], delta[..., None]))
    given = _Given(q, k, v, *_tags(q_at, k_at), do, lse, delta)
    seen = _pairs(given.q_tags, given.k_tags, _size(target))
    dk, dv = _dkv_kernel(target, seen, given)
    return _dq_kernel(target, seen, given)[:, :, :t], dk[:, :, :s], dv[:, :, :s]


class _Given(NamedTuple):
    """What the backward pass is made of, T and S filled up to whole tiles."""

    q: Array
    k: Array
    v: Array
    q_tags: Array
    k_tags: Array
    do: Array
    lse: Array
    delta: Array


def _dq_kernel(target: Target, seen: Array, x: _Given) -> Array:
    size, (b, n, _, h) = _size(target), x.q.shape
    some = lambda width: pl.BlockSpec(  # noqa: E731
        (None, None, size, width), lambda i, j, t, *_: (i, j, t, 0)
    )
    heads = [_whole_head(x.k, n // x.k.shape[1])] * 2
    made = target.call(
        functools.partial(_dq_body, size=size, blocks=seen.shape[2]),
        grid=(b, n, seen.shape[1]),
        numbers=_lists(seen),
        in_specs=[some(h), *heads, *_tag_specs(size, x.k.shape[2]), some(h), some(1), some(1)],
        out_specs=[some(h)],
        out_shape=[jax.ShapeDtypeStruct(x.q.shape, x.q.dtype)],
        name="flash_dq",
    )
    columns = (x.do, x.lse[..., None], x.delta[..., None])
    return made(x.q, x.k, x.v, x.q_tags.swapaxes(1, 2), x.k_tags, *columns)[0]


def _dkv_kernel(target: Target, seen: Array, x: _Given) -> tuple[Array, Array]:
    size, (b, heads, _, h), t = _size(target), x.k.shape, x.q.shape[2]
    group = x.q.shape[1] // heads
    some = pl.BlockSpec((None, None, size, h), lambda i, j, s, *_: (i, j, s, 0))
    queries = pl.BlockSpec((None, group, t, h), lambda i, j, s, *_: (i, j, 0, 0))
    row = pl.BlockSpec((None, None, group, t), lambda i, j, s, *_: (i, j, 0, 0))
    tags = [
        pl.BlockSpec((None, size, x.k_tags.shape[1]), lambda i, j, s, *_: (i, s, 0)),
        pl.BlockSpec((None, *x.q_tags.shape[1:]), lambda i, j, s, *_: (i, 0, 0)),
    ]
    made = target.call(
        functools.partial(_dkv_body, size=size, blocks=seen.shape[1], group=group),
        grid=(b, heads, seen.shape[2]),
        numbers=_lists(seen.swapaxes(1, 2)),
        in_specs=[some, some, *tags, queries, queries, row, row],
        out_specs=[some, some],
        out_shape=[jax.ShapeDtypeStruct(y.shape, y.dtype) for y in (x.k, x.v)],
        name="flash_dkv",
        ahead=2 if group < 4 else 1,  # a round's q and do of all heads; an H100 has 227 KB
    )
    rows = (y.reshape(b, heads, group, t) for y in (x.lse, x.delta))
    return made(x.k, x.v, x.k_tags.swapaxes(1, 2), x.q_tags, x.q, x.do, *rows)


def _forward_body(
    count_ref: Any,
    order_ref: Any,
    q_ref: Any,
    k_ref: Any,
    v_ref: Any,
    q_tags_ref: Any,
    k_tags_ref: Any,
    o_ref: Any,
    lse_ref: Any,
    *,
    size: int,
    blocks: int,
) -> None:
    q, q_tags = q_ref[...], _columns(q_tags_ref)

    def add(some: pl.Slice, carry: tuple[Array, ...]) -> tuple[Array, ...]:
        mixed, top, total = carry
        seen = sees(*q_tags, *_rows(k_tags_ref, some, 2))
        scores = jnp.where(seen, product(q, k_ref[some, :], turned=True), MASKED)
        higher = jnp.maximum(top, jnp.max(scores, axis=-1, keepdims=True))
        weights = jnp.where(seen, jnp.exp(scores - higher), 0.0)
        shrink = jnp.exp(top - higher)
        values = v_ref[some, :]
        mixed = mixed * shrink + product(weights.astype(values.dtype), values)
        return mixed, higher, total * shrink + jnp.sum(weights, axis=-1, keepdims=True)

    column = (size, 1)
    start = jnp.zeros(q.shape, jnp.float32), jnp.full(column, MASKED), jnp.zeros(column)
    mixed, top, total = _over_seen(count_ref, order_ref, size, blocks, add, start)
    o_ref[...] = (mixed / jnp.where(total > 0, total, 1.0)).astype(o_ref.dtype)
    lse_ref[...] = top + jnp.log(jnp.maximum(total, 1e-30))


def _dq_body(
    count_ref: Any,
    order_ref: Any,
    q_ref: Any,
    k_ref: Any,
    v_ref: Any,
    q_tags_ref: Any,
    k_tags_ref: Any,
    do_ref: Any,
    lse_ref: Any,
    delta_ref: Any,
    dq_ref: Any,
    *,
    size: int,
    blocks: int,
) -> None:
    q, do, lse, delta = q_ref[...], do_ref[...], lse_ref[...], delta_ref[...]
    q_tags = _columns(q_tags_ref)

    def add(some: pl.Slice, dq: Array) -> Array:
        keys = k_ref[some, :]
        seen = sees(*q_tags, *_rows(k_tags_ref, some, 2))
        p = jnp.where(seen, jnp.exp(product(q, keys, turned=True) - lse), 0.0)
        ds = p * (product(do, v_ref[some, :], turned=True) - delta)
        return dq + product(ds.astype(keys.dtype), keys)

    dq = _over_seen(count_ref, order_ref, size, blocks, add, jnp.zeros(q.shape, jnp.float32))
    dq_ref[...] = dq.astype(dq_ref.dtype)


def _dkv_body(
    count_ref: Any,
    order_ref: Any,
    k_ref: Any,
    v_ref: Any,
    k_tags_ref: Any,
    q_tags_ref: Any,
    q_ref: Any,
    do_ref: Any,
    lse_ref: Any,
    delta_ref: Any,
    dk_ref: Any,
    dv_ref: Any,
    *,
    size: int,
    blocks: int,
    group: int,
) -> None:
    keys, values = k_ref[...], v_ref[...]
    k_position, k_block = (k_tags_ref[:, pl.ds(i, 1)] for i in range(2))

    def add(some: pl.Slice, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        dk, dv = carry
        seen = sees(*_rows(q_tags_ref, some, 4), k_position, k_block)
        for head in range(group):
            q, do = q_ref[head, some, :], do_ref[head, some, :]
            lse, delta = lse_ref[pl.ds(head, 1), some], delta_ref[pl.ds(head, 1), some]
            p = jnp.where(seen, jnp.exp(product(keys, q, turned=True) - lse), 0.0)
            ds = p * (product(values, do, turned=True) - delta)
            dk, dv = dk + product(ds.astype(q.dtype), q), dv + product(p.astype(do.dtype), do)
        return dk, dv

    zero = jnp.zeros(keys.shape, jnp.float32)
    dk, dv = _over_seen(count_ref, order_ref, size, blocks, add, (zero, zero))
    dk_ref[...], dv_ref[...] = dk.astype(dk_ref.dtype), dv.astype(dv_ref.dtype)


def _over_seen(count_ref: Any, order_ref: Any, size: int, blocks: int, add: Any, start: Any) -> Any:
    """Folds `add` over the blocks that this one's tokens see, or are seen by."""
    row = pl.program_id(0) * pl.num_programs(2) + pl.program_id(2)

    def one(i: Array, carry: Any) -> Any:
        begin = pl.multiple_of(order_ref[row * blocks + i] * size, size)
        return add(pl.ds(begin, size), carry)

    return jax.lax.fori_loop(0, count_ref[row], one, start)


def _columns(tags_ref: Any) -> list[Array]:
    return [tags_ref[:, pl.ds(i, 1)] for i in range(4)]


def _rows(tags_ref: Any, some: pl.Slice, count: int) -> list[Array]:
    return [tags_ref[pl.ds(i, 1), some] for i in range(count)]


def _size(target: Target) -> int:
    """Tokens of a block: on a GPU what registers hold, on a TPU the width of its tiles."""
    return TILE if target.kind == "tpu" else 64


def _padded(*arrays: Array) -> tuple[Array, ...]:
    """[B N T ...] with T filled up to whole tiles."""
    return tuple(jnp.pad(x, ((0, 0), (0, 0), (0, -x.shape[2] % TILE), (0, 0))) for x in arrays)


def _tags(q_at: Placement, k_at: Placement) -> tuple[Int[Array, "B 4 T"], Int[Array, "B 2 S"]]:
    """What `sees` is given: position, block, context and base of queries, position and block of
    keys, NOBODY where they are padding."""
    fill = lambda x, value: jnp.pad(  # noqa: E731
        x.astype(jnp.int32), ((0, 0), (0, -x.shape[1] % TILE)), constant_values=value
    )
    block = fill(jnp.where(k_at.valid, k_at.block, NOBODY), NOBODY)
    own, base = fill(q_at.block, NOBODY - 1), fill(q_at.base, NOBODY - 1)
    queries = [fill(q_at.position, -1), own, fill(q_at.context, -1), base]
    return jnp.stack(queries, axis=1), jnp.stack([fill(k_at.position, 0), block], axis=1)


def _tag_specs(size: int, slots: int) -> list[pl.BlockSpec]:
    """Of a block of queries, as columns, and of all keys."""
    return [
        pl.BlockSpec((None, size, 4), lambda i, j, t, *_: (i, t, 0)),
        pl.BlockSpec((None, 2, slots), lambda i, j, t, *_: (i, 0, 0)),
    ]


def _whole_head(k: Array, group: int) -> pl.BlockSpec:
    """All keys of the head that a query head reads."""
    return pl.BlockSpec(
        (None, None, *k.shape[2:]), lambda i, j, t, *_: (i, jax.lax.div(j, group), 0, 0)
    )


def _pairs(q_tags: Array, k_tags: Array, size: int) -> Bool[Array, "B I J"]:
    """Which blocks of queries see something of which blocks of keys."""
    tiles = lambda x: x.reshape(*x.shape[:2], -1, size)  # noqa: E731
    q = (x[:, :, None, :, None] for x in tiles(q_tags).swapaxes(0, 1))
    k = (x[:, None, :, None, :] for x in tiles(k_tags).swapaxes(0, 1))
    return jnp.any(sees(*q, *k), axis=(3, 4))


def _lists(seen: Bool[Array, "B I J"]) -> tuple[Int[Array, "BI"], Int[Array, "BIJ"]]:
    """How many J every I goes with, and which, these first."""
    order = jnp.argsort(~seen, axis=-1, stable=True).astype(jnp.int32)
    return jnp.sum(seen, axis=-1, dtype=jnp.int32).reshape(-1), order.reshape(-1)
