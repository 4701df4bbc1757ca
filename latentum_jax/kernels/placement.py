"""Who sees whom, described token by token instead of drawn as a mask.

Understanding tokens (and everything in a KV cache) have block 0 and see what stands at or before
them. A generation block j > 0 sees itself causally and block 0 up to `context`: the dual-sequence
rule of section 3.3 (and, with questions in the place of images, several questions about one picture
in one row). Who sees whom follows from

    visible = valid_k and ((block_q = block_k and position_k <= position_q)
                           or (block_k = 0 and position_k <= context_q))
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool


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
    q = (x[:, :, None] for x in (q_at.position, q_at.block, q_at.context))
    k = (x[:, None, :] for x in (k_at.position, k_at.block))
    return sees(*q, *k) & k_at.valid[:, None, :]


def sees(q_position: Any, q_block: Any, q_context: Any, k_position: Any, k_block: Any) -> Any:
    """The rule for keys that are valid, of arrays that broadcast."""
    own = (q_block == k_block) & (k_position <= q_position)
    return own | ((k_block == 0) & (k_position <= q_context))
