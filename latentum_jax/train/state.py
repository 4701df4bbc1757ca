"""The state of a run and one step of it, pure."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct, traverse_util

from latentum_jax.models.latentum import Params
from latentum_jax.train.stages.stage import Stage

Flat = dict[str, jax.Array]


class TrainState(struct.PyTreeNode):
    """Parameters by path, split into what trains and what is frozen, and what goes with them.

    `ema` holds the moving average of `trainable`, {} where none is kept; `extra` the stage's own.
    """

    step: jax.Array
    trainable: Flat
    frozen: Flat
    opt_state: Any
    ema: Flat
    extra: Any

    def params(self, *, averaged: bool = False) -> Params:
        """All parameters as a nested dict, the averaged ones where kept and asked for."""
        return merge(self.ema if averaged and self.ema else self.trainable, self.frozen)


def merge(trainable: Flat, frozen: Flat) -> Params:
    """Both halves as one nested dict."""
    return traverse_util.unflatten_dict({**frozen, **trainable}, sep="/")


def start_state(
    params: Params, stage: Stage, optimizer: optax.GradientTransformation, *, average: bool
) -> TrainState:
    """Step 0. Raises ValueError where the stage's expression matches no parameter."""
    flat = traverse_util.flatten_dict(stage.start(params), sep="/")
    trainable = {name: value for name, value in flat.items() if re.search(stage.trainable, name)}
    if not trainable:
        raise ValueError(f"no parameter matches {stage.trainable!r}")
    frozen = {name: value for name, value in flat.items() if name not in trainable}
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        trainable=trainable,
        frozen=frozen,
        opt_state=optimizer.init(trainable),
        ema=jax.tree.map(jnp.copy, trainable) if average else {},
        extra=stage.extra,
    )


def make_step(
    stage: Stage, optimizer: optax.GradientTransformation, *, seed: int, ema_decay: float
) -> Callable[[TrainState, Any], tuple[TrainState, dict[str, jax.Array]]]:
    """(state, batch) -> (state, metrics); randomness is folded from the seed and the step.

    A step whose loss or gradient is not finite changes nothing: metrics have `skipped` 1, not 0.
    """

    def step(state: TrainState, batch: Any) -> tuple[TrainState, dict[str, jax.Array]]:
        key, after_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), state.step))

        def loss(trainable: Flat) -> tuple[jax.Array, Any]:
            return stage.loss(merge(trainable, state.frozen), state.extra, batch, key)

        (value, (metrics, left)), grads = jax.value_and_grad(loss, has_aux=True)(state.trainable)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.trainable)
        trainable = optax.apply_updates(state.trainable, updates)
        norm = optax.tree.norm(grads)
        finite = jnp.isfinite(value) & jnp.isfinite(norm)
        metrics = {"loss": value, "grad_norm": norm, "skipped": 1.0 - finite, **metrics}
        extra = state.extra
        if stage.after is not None:
            trainable, extra, more = stage.after(trainable, extra, left, after_key)
            metrics |= more
        ema = state.ema
        if ema:
            # A short memory at first, so that the random start is forgotten.
            decay = jnp.minimum(ema_decay, (1.0 + state.step) / (10.0 + state.step))
            ema = optax.incremental_update(trainable, ema, 1.0 - decay)
        made = (trainable, opt_state, ema, extra)
        kept = (state.trainable, state.opt_state, state.ema, state.extra)
        made = jax.tree.map(lambda new, old: jnp.where(finite, new, old), made, kept)
        trainable, opt_state, ema, extra = made
        state = TrainState(state.step + 1, trainable, state.frozen, opt_state, ema, extra)
        return state, metrics

    return jax.jit(step, donate_argnums=0)
