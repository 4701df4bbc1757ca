"""What a stage is to the loop."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from latentum_jax.models.latentum import Params

Metrics = dict[str, jax.Array]
Terms = dict[str, jax.Array]  # of which a loss is the sum
# (params, extra, batch, key) -> terms of the loss, (metrics, what `after` needs)
Loss = Callable[[Params, Any, Any, jax.Array], tuple[Terms, tuple[Metrics, Any]]]
# (trainable params by path, extra, what the loss left, key) -> the same, corrected, and metrics
After = Callable[
    [dict[str, jax.Array], Any, Any, jax.Array], tuple[dict[str, jax.Array], Any, Metrics]
]


def unchanged(params: Params) -> Params:
    """Of a stage that takes the parameters as they come, or leaves them as they are."""
    return params


def as_many(batch: Any) -> Terms:
    """Terms that are means over the same number of places in every part of a batch."""
    return {}


@dataclasses.dataclass(frozen=True)
class Stage:
    """A loss over some of the parameters.

    trainable: regular expression over parameter paths; the rest is frozen.
    start: makes the stage's first parameters of the ones it is given.
    finish: makes of the last ones those that are written: what `start` has added goes.
    counts: how many places of a batch those terms of the loss are means over that do not have as
        many in every part of a batch; what a batch in parts has to be weighted by.
    extra: further state that the loss reads and `after` updates (code usage), {} for none.
    after: runs behind the optimizer's update (dead-code restart), None for nothing.
    """

    trainable: str
    loss: Loss
    counts: Callable[[Any], Terms] = as_many
    start: Callable[[Params], Params] = unchanged
    finish: Callable[[Params], Params] = unchanged
    extra: Any = dataclasses.field(default_factory=dict)
    after: After | None = None
