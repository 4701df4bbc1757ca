"""The state of a run and one step of it, pure."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct, traverse_util
from jax.sharding import Mesh

from latentum_jax.models.latentum import Params, held_dtype
from latentum_jax.models.stored import Lazy
from latentum_jax.sharding import Axes, tree_shardings
from latentum_jax.train.losses import mean_of
from latentum_jax.train.stages.stage import Metrics, Stage, Terms

Flat = dict[str, jax.Array]
ACTING = 1 << 30  # in a seed: randomness of what is done before a step


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


def merge(trainable: Mapping[str, Any], frozen: Mapping[str, Any]) -> Params:
    """Both halves as one nested dict."""
    return traverse_util.unflatten_dict({**frozen, **trainable}, sep="/")


def split(params: Params, stage: Stage) -> tuple[dict[str, Any], dict[str, Any]]:
    """The stage's first parameters by path: those that train, and the frozen.

    Raises ValueError where the stage's expression matches no parameter.
    """
    flat = traverse_util.flatten_dict(stage.start(params), sep="/")
    trainable = {name: value for name, value in flat.items() if re.search(stage.trainable, name)}
    if not trainable:
        raise ValueError(f"no parameter matches {stage.trainable!r}")
    return trainable, {name: value for name, value in flat.items() if name not in trainable}


def abstract_state(
    params: Params,
    stage: Stage,
    optimizer: optax.GradientTransformation,
    *,
    mesh: Mesh,
    axes: Mapping[str, Axes],
    average: bool,
    dtype: str = "float32",
) -> TrainState:
    """Step 0 on a mesh as shapes, dtypes and shardings: what trains in fp32, what is frozen in
    `dtype` (see `held_dtype`). Of `params` the shapes are read.

    Raises ValueError where the stage's expression matches no parameter.
    """

    def make() -> TrainState:
        zeros = lambda name, x, kind: jnp.zeros(x.shape, kind)  # noqa: E731
        trainable = {name: zeros(name, x, jnp.float32) for name, x in trains.items()}
        frozen = {name: zeros(name, x, held_dtype(name, dtype)) for name, x in rests.items()}
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            trainable=trainable,
            frozen=frozen,
            opt_state=optimizer.init(trainable),
            ema=trainable if average else {},
            extra=jax.tree.map(jnp.asarray, stage.extra),
        )

    trains, rests = split(params, stage)
    made = jax.eval_shape(make)
    where = tree_shardings(mesh, axes, made)
    put = lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)  # noqa: E731
    return jax.tree.map(put, made, where)


def start_state(
    params: Params,
    stage: Stage,
    optimizer: optax.GradientTransformation,
    *,
    average: bool,
    **options: Any,
) -> TrainState:
    """`abstract_state`, filled in: parameters are read where they are to lie."""
    shapes = abstract_state(params, stage, optimizer, average=average, **options)
    trains, rests = split(params, stage)

    def place(values: Mapping[str, Any], like: Mapping[str, Any]) -> Flat:
        pairs = ((name, Lazy.of(x), like[name]) for name, x in values.items())
        return {name: x.astype(own.dtype).onto(own.sharding) for name, x, own in pairs}

    def begin(trainable: Flat) -> tuple[Any, ...]:
        ema = jax.tree.map(jnp.copy, trainable) if average else {}
        extra = jax.tree.map(jnp.asarray, stage.extra)
        return jnp.zeros((), jnp.int32), optimizer.init(trainable), ema, extra

    trainable, frozen = place(trains, shapes.trainable), place(rests, shapes.frozen)
    others = shapes.step, shapes.opt_state, shapes.ema, shapes.extra
    where = jax.tree.map(lambda x: x.sharding, others)
    step, opt_state, ema, extra = jax.jit(begin, out_shardings=where)(trainable)
    return TrainState(step, trainable, frozen, opt_state, ema, extra)


def make_step(
    stage: Stage,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    *,
    seed: int,
    ema_decay: float,
    accumulate: int = 1,
) -> Callable[[TrainState, Any], tuple[TrainState, Metrics]]:
    """(state, batch) -> (state, metrics), for states that lie as this one does.

    Randomness is folded from the seed and the step. A batch is taken in `accumulate` parts, whose
    gradients are added up; it is taken so `stage.epochs` times, and metrics are means over these.
    An update whose loss or gradient is not finite changes nothing: metrics have `skipped` 1, not 0.
    """

    def update(state: TrainState, batch: Any, key: jax.Array) -> tuple[TrainState, Metrics]:
        key, after_key = jax.random.split(key)
        value, metrics, left, grads = gradients(stage, state, batch, key, accumulate)
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
        return TrainState(state.step, trainable, state.frozen, opt_state, ema, extra), metrics

    def step(state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        if stage.epochs == 1:
            state, metrics = update(state, batch, key)
        else:
            # What is frozen stays out of the loop's carry.
            def again(learnt: TrainState, epoch: jax.Array) -> tuple[TrainState, Metrics]:
                whole = learnt.replace(frozen=state.frozen)
                learnt, metrics = update(whole, batch, jax.random.fold_in(key, epoch))
                return learnt.replace(frozen={}), metrics

            learnt, metrics = jax.lax.scan(
                again, state.replace(frozen={}), jnp.arange(stage.epochs)
            )
            state = learnt.replace(frozen=state.frozen)
            metrics = jax.tree.map(lambda x: x.mean(0), metrics)
        return state.replace(step=state.step + 1), metrics

    shardings = jax.tree.map(lambda x: x.sharding, state)
    return jax.jit(step, donate_argnums=0, out_shardings=(shardings, None))


def make_act(stage: Stage, *, seed: int) -> Callable[[TrainState, Any], Any]:
    """(state, batch) -> the batch that the step is given: what `stage.act` makes of it, with
    randomness that is folded from the seed and the step, apart from the step's own."""

    def act(state: TrainState, batch: Any) -> Any:
        if stage.act is None:
            return batch
        key = jax.random.fold_in(jax.random.key(seed ^ ACTING), state.step)
        return stage.act(merge(state.trainable, state.frozen), batch, key)

    return act


def gradients(
    stage: Stage, state: TrainState, batch: Any, key: jax.Array, parts: int
) -> tuple[jax.Array, Metrics, Any, Flat]:
    """Loss, metrics, what `after` needs, and the gradient of what trains.

    A batch in parts has the loss of the whole, as far as its terms are means over places: those of
    a part count by its share of the places. Metrics are means over the parts.
    """

    def loss(trainable: Flat, batch: Any, key: jax.Array, shares: Terms) -> tuple:
        params = merge(trainable, state.frozen)
        terms, aside = stage.loss(params, state.extra, batch, key)
        return sum(term * shares.get(name, 1.0) for name, term in terms.items()), aside

    both = jax.value_and_grad(loss, has_aux=True)
    if parts == 1:
        (value, (metrics, left)), grads = both(state.trainable, batch, key, {})
        return value, metrics, left, grads
    whole = stage.counts(batch)

    def add(carry: tuple, part: tuple) -> tuple[tuple, Any]:
        own, index = part
        shares = jax.tree.map(lambda n, all_: mean_of(parts * n, all_), stage.counts(own), whole)
        made = both(state.trainable, own, jax.random.fold_in(key, index), shares)
        (value, aside), grads = made
        return jax.tree.map(lambda x, y: x + y / parts, carry, (value, grads)), aside

    zero = jnp.zeros(()), jax.tree.map(jnp.zeros_like, state.trainable)
    given = jax.tree.map(lambda x: in_parts(x, parts), batch), jnp.arange(parts)
    (value, grads), (metrics, left) = jax.lax.scan(add, zero, given)
    left = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), left)
    return value, jax.tree.map(lambda x: x.mean(0), metrics), left, grads


def in_parts(x: jax.Array, parts: int) -> jax.Array:
    """[B ...] as [parts B/parts ...]: every part takes of the rows of every device."""
    return x.reshape(len(x) // parts, parts, *x.shape[1:]).swapaxes(0, 1)
