"""One step by hand: loss w x, so that the gradient is x."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

from latentum_jax.sharding import make_mesh
from latentum_jax.train.stages.stage import Stage
from latentum_jax.train.state import gradients, make_step, merge, start_state


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
