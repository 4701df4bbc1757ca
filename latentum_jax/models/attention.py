"""The one attention door: `attend(q, k, v, q_at, k_at)`, with visibility described, not drawn.

A token is described by its `Placement`. Understanding tokens (and everything in a KV cache) have
block 0 and see what stands at or before them. A generation block j > 0 sees itself causally and
block 0 up to `context`: the dual-sequence rule of section 3.3 (and, with questions in the place of
images, several questions about one picture in one row). Who sees whom follows from

    visible = valid_k and ((block_q = block_k and position_k <= position_q)
                           or (block_k = 0 and position_k <= context_q))
"""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float


class Placement(struct.PyTreeNode):
    """Where tokens stand. All arrays are [B, T]; positions also drive the rotary embedding."""

    position: jax.Array  # int, place in the row
    block: jax.Array  # int, 0 for U, j > 0 for the G block (or question) j
    context: jax.Array  # int, last position of block 0 that a token of block > 0 sees
    valid: jax.Array  # bool, False for padding

    @classmethod
    def causal(cls, position: jax.Array, valid: jax.Array | None = None) -> "Placement":
        """Plain causal tokens of block 0 at `position` [B, T]."""
        zero = jnp.zeros_like(position)
        valid = jnp.ones(position.shape, bool) if valid is None else valid
        return cls(position, zero, position, valid)

    @classmethod
    def join(cls, parts: "list[Placement]") -> "Placement":
        """Concatenates placements along T."""
        if len(parts) == 1:
            return parts[0]
        return cls(
            *(
                jnp.concatenate([getattr(p, name) for p in parts], axis=1)
                for name in ("position", "block", "context", "valid")
            )
        )


def visible(q_at: Placement, k_at: Placement) -> Bool[Array, "B T S"]:
    """The dense form of the rule above."""
    q_pos, k_pos = q_at.position[:, :, None], k_at.position[:, None, :]
    k_block = k_at.block[:, None, :]
    own = (q_at.block[:, :, None] == k_block) & (k_pos <= q_pos)
    shared = (k_block == 0) & (k_pos <= q_at.context[:, :, None])
    return (own | shared) & k_at.valid[:, None, :]


def attend(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K H"],
    q_at: Placement | None = None,
    k_at: Placement | None = None,
) -> Float[Array, "B T N H"]:
    """Softmax attention with N/K query heads to a key head, scores and softmax in fp32.

    Without placements everything sees everything; with them a query that may see nothing (padding)
    gives zeros, not NaN.
    """
    b, t, n, h = q.shape
    grouped = q.reshape(b, t, k.shape[2], n // k.shape[2], h) * jnp.asarray(h**-0.5, q.dtype)
    scores = jnp.einsum("btkgh,bskh->bkgts", grouped, k, preferred_element_type=jnp.float32)
    if q_at is None or k_at is None:
        weights = jax.nn.softmax(scores, axis=-1)
    else:
        mask = visible(q_at, k_at)[:, None, None]
        # A finite stand-in for -inf: a query that sees nothing must give zeros, and zero gradients.
        scores = jnp.where(mask, scores, -1e30)
        top = jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True))
        weights = jnp.where(mask, jnp.exp(scores - top), 0.0)
        total = jnp.sum(weights, axis=-1, keepdims=True)
        weights = weights / jnp.where(total > 0, total, 1.0)
    out = jnp.einsum("bkgts,bskh->btkgh", weights.astype(v.dtype), v)
    return out.reshape(b, t, n, h)
