"""What a stage is to the loop."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from latentum_jax.models.latentum import Params

Metrics = dict[str, jax.Array]
# (params, extra, batch, key) -> loss, (metrics, what `after` needs)
Loss = Callable[[Params, Any, Any, jax.Array], tuple[jax.Array, tuple[Metrics, Any]]]
# (trainable params by path, extra, what the loss left, key) -> the same, corrected, and metrics
After = Callable[
    [dict[str, jax.Array], Any, Any, jax.Array], tuple[dict[str, jax.Array], Any, Metrics]
]


def unchanged(params: Params) -> Params:
    """A stage that takes the parameters as they come."""
    return params


@dataclasses.dataclass(frozen=True)
class Stage:
    """A loss over some of the parameters.

    trainable: regular expression over parameter paths; the rest is frozen.
    start: makes the stage's first parameters of the ones it is given.
    extra: further state that the loss reads and `after` updates (code usage), {} for none.
    after: runs behind the optimizer's update (dead-code restart), None for nothing.
    """

    trainable: str
    loss: Loss
    start: Callable[[Params], Params] = unchanged
    extra: Any = dataclasses.field(default_factory=dict)
    after: After | None = None
