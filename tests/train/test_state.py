"""One step by hand: loss w x, so that the gradient is x."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

from latentum_jax.sharding import make_mesh
from latentum_jax.train.stages.stage import Stage
from latentum_jax.train.state import gradients, make_act, make_step, merge, start_state


def loss(params, extra, batch, key):
    return {"only": params["part"]["w"] * batch["x"]}, ({"seen": batch["x"]}, batch["x"])


def after(trainable, extra, left, key):
    return trainable, {"sum": extra["sum"] + left}, {}


def begin(params, stage, optimizer, **options):
    axes = {name: (None,) * jnp.ndim(x) for name, x in flatten_dict(params, sep="/").items()}
    return start_state(params, stage, optimizer, mesh=make_mesh({}), axes=axes, **options)


@pytest.fixture
def run():
    """A state with w = 3, averaged, and a step of plain gradient descent at rate 0.5."""
    stage = Stage(trainable="w", loss=loss, extra={"sum": jnp.zeros(())}, after=after)
    optimizer = optax.sgd(0.5, momentum=0.9)
    params = {"part": {"w": jnp.asarray(3.0), "frozen": jnp.asarray(7.0)}}
    state = begin(params, stage, optimizer, average=True)
    return state, make_step(stage, optimizer, state, seed=0, ema_decay=0.9)


def test_a_step_by_hand(run):
    """w - 0.5 x 2 = 2; at step 0 the average keeps (1 + 0) / (10 + 0) = 0.1 of 3: 0.3 + 0.9 x 2."""
    state, step = run
    state, metrics = step(state, {"x": jnp.asarray(2.0)})
    assert merge(state.trainable, state.frozen) == {"part": {"w": 2.0, "frozen": 7.0}}
    assert float(state.ema["part/w"]) == pytest.approx(2.1)
    assert {k: float(v) for k, v in metrics.items()} == {
        "loss": 6.0, "grad_norm": 2.0, "skipped": 0.0, "seen": 2.0
    }  # fmt: skip
    assert int(state.step) == 1 and float(state.extra["sum"]) == 2.0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_changes_nothing(run, bad):
    """Breaks if one bad batch spoils the weights, the optimizer, the average or what a stage keeps;
    the step after it is as if it had not been."""
    state, step = run
    state, _ = step(state, {"x": jnp.asarray(2.0)})
    state, metrics = step(state, {"x": jnp.asarray(bad)})
    assert float(metrics["skipped"]) == 1 and int(state.step) == 2
    assert float(state.trainable["part/w"]) == 2.0 and float(state.extra["sum"]) == 2.0
    state, metrics = step(state, {"x": jnp.asarray(2.0)})
    # Momentum: 2 + 0.9 x 2 = 3.8, w = 2 - 0.5 x 3.8.
    assert float(state.trainable["part/w"]) == pytest.approx(0.1) and float(metrics["skipped"]) == 0


def mean_of_marked(params, extra, batch, key):
    """mean of w x over the rows that are marked, and mean of 3 w over all of them."""
    w, mark = params["w"], batch["mark"]
    marked = jnp.sum(w * batch["x"] * mark) / jnp.maximum(jnp.sum(mark), 1)
    return {"marked": marked, "all": jnp.mean(3 * w * jnp.ones_like(mark))}, ({}, batch["x"])


def test_a_batch_in_parts_is_the_batch():
    """Rows 0 and 2 are the first part, 1 and 3 the second: of marks 1 1 1 0 they have 2 and 1. The
    loss is w (1 + 2 + 6) / 3 + 3 w = 6 w; parts of equal weight would make 2.75 of the 3."""
    stage = Stage(
        trainable="w", loss=mean_of_marked, counts=lambda batch: {"marked": jnp.sum(batch["mark"])}
    )
    state = begin({"w": jnp.asarray(2.0)}, stage, optax.sgd(0.5), average=False)
    batch = {"x": jnp.asarray([1.0, 2.0, 6.0, 100.0]), "mark": jnp.asarray([1.0, 1.0, 1.0, 0.0])}
    for parts in (1, 2):
        loss, _, left, grads = gradients(stage, state, batch, jax.random.key(0), parts)
        assert float(loss) == pytest.approx(12.0) and float(grads["w"]) == pytest.approx(6.0)
    assert left.tolist() == [1.0, 6.0, 2.0, 100.0]


def toward(params, extra, batch, key):
    """(w - x)^2 / 2, whose gradient w - x is another one after every update."""
    w = params["part"]["w"]
    return {"only": (w - batch["x"]) ** 2 / 2}, ({"at": w}, batch["x"])


def test_two_epochs_are_two_steps():
    """By hand, x = 1, rate 0.5, momentum 0.9, w = 3: gradients 2, then w = 2 and 1, with velocity
    0.9 x 2 + 1 = 2.8, so w = 0.6. A state is averaged twice, and `after` is asked twice; the step
    is counted once. Metrics are means: losses 2 and 1/2, w 3 and 2."""
    stage = Stage(trainable="w", loss=toward, extra={"sum": jnp.zeros(())}, after=after)
    params = {"part": {"w": jnp.asarray(3.0), "frozen": jnp.asarray(7.0)}}
    optimizer = optax.sgd(0.5, momentum=0.9)
    states, steps = [], []
    for epochs in (1, 2):
        own = dataclasses.replace(stage, epochs=epochs)
        states.append(begin(params, own, optimizer, average=True))
        steps.append(make_step(own, optimizer, states[-1], seed=0, ema_decay=0.05))
    batch = {"x": jnp.asarray(1.0)}
    once, first = steps[0](states[0], batch)
    once, second = steps[0](once, batch)
    twice, metrics = steps[1](states[1], batch)
    assert float(twice.trainable["part/w"]) == pytest.approx(0.6)
    chex.assert_trees_all_close(twice.replace(step=0), once.replace(step=0), rtol=1e-6)
    assert int(twice.step) == 1 and float(twice.extra["sum"]) == 2.0
    assert float(metrics["loss"]) == pytest.approx(1.25) and float(metrics["at"]) == 2.5
    expected = jax.tree.map(lambda a, b: (a + b) / 2, first, second)
    chex.assert_trees_all_close(metrics, expected, rtol=1e-6)


def test_one_epoch_of_two_may_be_skipped():
    """w goes below 0 in the first epoch: the second has no finite loss and changes nothing; half
    of the step was skipped."""

    def loss(params, extra, batch, key):
        return {"only": jnp.log(params["w"])}, ({}, batch["x"])

    stage = Stage(trainable="w", loss=loss, epochs=2)
    state = begin({"w": jnp.asarray(2.0)}, stage, optax.sgd(8.0), average=False)
    step = make_step(stage, optax.sgd(8.0), state, seed=0, ema_decay=0.0)
    state, metrics = step(state, {"x": jnp.zeros(2)})
    # By hand: 2 - 8 / 2 = -2, whose logarithm is NaN.
    assert float(state.trainable["w"]) == -2.0 and int(state.step) == 1
    assert float(metrics["skipped"]) == 0.5


def test_a_batch_is_acted_on_before_it_is_learnt_from():
    """Breaks if what acts is given half of the parameters, or randomness that does not follow from
    seed and step alone, or is the step's own; without it a batch is passed on as it is."""
    seen = []

    def acting(params, batch, key):
        seen.append((params, jax.random.key_data(key).tolist()))
        return {"x": batch["x"] + 1}

    params = {"part": {"w": jnp.asarray(3.0), "frozen": jnp.asarray(7.0)}}
    stage = Stage(trainable="w", loss=toward, act=acting)
    state = begin(params, stage, optax.sgd(0.5), average=False)
    act, batch = make_act(stage, seed=5), {"x": jnp.asarray(1.0)}
    assert act(state, batch)["x"] == 2.0
    act(state.replace(step=state.step + 1), batch)
    act(state, batch)
    make_act(stage, seed=6)(state, batch)
    assert all(given == params for given, _ in seen)
    (first, second, again, other) = (key for _, key in seen)
    own = jax.random.key_data(jax.random.fold_in(jax.random.key(5), 0)).tolist()
    assert first == again and first not in (second, other, own)
    assert make_act(dataclasses.replace(stage, act=None), seed=5)(state, batch) is batch
