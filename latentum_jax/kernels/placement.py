"""Who sees whom, described token by token instead of drawn as a mask.

Understanding tokens (and everything in a KV cache) have block 0 and see what stands at or before
them. A generation block j > 0 sees itself causally and block 0 up to `context`: the dual-sequence
rule of section 3.3 (and, with questions in the place of images, several questions about one picture
in one row). Where samples share a row, each has a block of its own in the place of block 0: the
`base` of its tokens. Who sees whom follows from

    visible = valid_k and ((block_q = block_k and position_k <= position_q)
                           or (block_k = base_q and position_k <= context_q))
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool


class Placement(struct.PyTreeNode):
    """Where tokens stand. All arrays are [B, T]; positions also drive the rotary embedding."""

    position: jax.Array  # int, place in the row
    block: jax.Array  # int, of U its base, another for every G block (or question)
    context: jax.Array  # int, last position of the base that a token of another block sees
    valid: jax.Array  # bool, False for padding
    base: jax.Array  # int, block of the U of a token's own sample, 0 for the first of a row

    @classmethod
    def causal(cls, position: jax.Array, valid: jax.Array | None = None) -> "Placement":
        """Plain causal tokens of block 0 at `position` [B, T]."""
        zero = jnp.zeros_like(position)
        valid = jnp.ones(position.shape, bool) if valid is None else valid
        return cls(position, zero, position, valid, zero)

    @classmethod
    def join(cls, parts: "list[Placement]") -> "Placement":
        """Concatenates placements along T."""
        if len(parts) == 1:
            return parts[0]
        return cls(
            *(
                jnp.concatenate([getattr(p, name) for p in parts], axis=1)
                for name in ("position", "block", "context", "valid", "base")
            )
        )


def visible(q_at: Placement, k_at: Placement) -> Bool[Array, "B T S"]:
    """The dense form of the rule above."""
    q = (x[:, :, None] for x in (q_at.position, q_at.block, q_at.context, q_at.base))
    k = (x[:, None, :] for x in (k_at.position, k_at.block))
    return sees(*q, *k) & k_at.valid[:, None, :]


def sees(
    q_position: Any, q_block: Any, q_context: Any, q_base: Any, k_position: Any, k_block: Any
) -> Any:
    """The rule for keys that are valid, of arrays that broadcast."""
    own = (q_block == k_block) & (k_position <= q_position)
    return own | ((k_block == q_base) & (k_position <= q_context))
