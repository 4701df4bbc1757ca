"""What is left of a distribution, by the reference and by hand; the kernel against its twin."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from latentum_jax.kernels.sampling import Sampling, filter_logits, pick_kernel, pick_twin
from tests.devices import HERE
from tests.published import outputs


@pytest.mark.parametrize("case", range(5))
def test_filtered_distribution_is_the_published_one(case):
    """Breaks if temperature, top-k and nucleus change order or the nucleus loses its last token."""
    golden = outputs("sampling/out")
    temperature, top_k, top_p = golden[f"args_{case}"].tolist()
    sampling = Sampling(temperature, int(top_k), top_p)
    probs = jax.nn.softmax(filter_logits(jnp.asarray(golden["logits"]), sampling))
    np.testing.assert_allclose(probs, golden[f"sample_probs_{case}"], atol=1e-6)
    np.testing.assert_allclose(probs, golden[f"planner_probs_{case}"], atol=1e-6)


def test_nucleus_by_hand():
    """Breaks if the token that crosses p is dropped: 0.5 + 0.3 crosses 0.6, 0.2 is outside."""
    logits = jnp.log(jnp.asarray([0.2, 0.5, 0.3]))
    kept = jnp.isfinite(filter_logits(logits, Sampling(1.0, 0, 0.6)))
    assert kept.tolist() == [False, True, True]


def test_what_ties_with_the_last_token_stays():
    """Breaks if of equals some are drawn and others are not: .1 .4 .25 .25, of which the first .25
    crosses .6; and the second of the likeliest by top-k is as good as the third."""
    logits = jnp.log(jnp.asarray([0.1, 0.4, 0.25, 0.25]))
    for sampling in (Sampling(1.0, 0, 0.6), Sampling(1.0, 2, 1.0), Sampling(1.0, 2, 0.95)):
        kept = jnp.isfinite(filter_logits(logits, sampling))
        assert kept.tolist() == [False, True, True, True]
        drawn = {
            int(pick_kernel(HERE, logits[None], noise[None], sampling)[0])
            for noise in 100 * jnp.eye(4)
        }
        assert drawn == {1, 2, 3}


def test_kernel_by_hand():
    """Of .2 .5 .3 a nucleus of .6 leaves the last two, top-1 of negative logits the largest: noise
    cannot bring back the others, but decides between those that are left."""
    logits = jnp.log(jnp.asarray([[0.2, 0.5, 0.3]]))
    noise = jnp.asarray([[80.0, 0.0, 1.0]])
    draw = lambda *settings: pick_kernel(HERE, logits, noise, Sampling(*settings)).tolist()  # noqa: E731
    assert draw(1.0, 0, 0.6) == [2]
    assert draw(1.0, 1, 1.0) == [1]
    assert draw(1.0, 0, 1.0) == [0]
    assert draw(0.01, 0, 1.0) == [1]  # -161 + 80, -69, -120 + 1: temperature divides logits


def sorted_filter(logits, sampling):
    """The same as the public code does it: sort, cut, and put back where it came from."""
    scaled = np.float64(logits) / sampling.temperature
    if sampling.top_k:
        kth = np.sort(scaled, axis=-1)[:, -sampling.top_k, None]
        scaled = np.where(scaled < kth, -np.inf, scaled)
    order = np.argsort(-scaled, axis=-1)
    probs = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    probs = np.take_along_axis(probs / probs.sum(axis=-1, keepdims=True), order, axis=-1)
    inside = np.cumsum(probs, axis=-1) - probs <= sampling.top_p
    kept = np.zeros(logits.shape, bool)
    np.put_along_axis(kept, order, inside, axis=-1)
    return np.where(kept, scaled, -np.inf)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(1.0, 0, 0.9), Sampling(0.7, 9, 1.0)])
@pytest.mark.parametrize("width", [64, 151_936])
def test_what_is_left_is_what_sorting_leaves(sampling, width):
    """Breaks if a search by bits goes wrong somewhere between the least and the greatest numbers,
    or probabilities of all words add up too coarsely: fp32 may tell 15 of those 151,936 otherwise,
    where all are nearly as likely."""
    logits = np.random.default_rng(width).normal(0, 4, (4, width)).astype(np.float32)
    logits[1] *= 1e-3
    logits[2] -= 50
    logits[3, ::2] = -np.inf
    found = np.asarray(filter_logits(jnp.asarray(logits), sampling))
    expected = sorted_filter(logits, sampling)
    both = np.isfinite(found) & np.isfinite(expected)
    np.testing.assert_allclose(found[both], expected[both], rtol=1e-6)
    odd = np.sum(np.isfinite(found) != np.isfinite(expected), axis=-1)
    assert (odd <= 1e-4 * width).all() and not odd[[0, 2, 3]].any()


@pytest.mark.parametrize(
    "sampling",
    [Sampling(), Sampling(1.0, 0, 0.9), Sampling(0.7, 10, 1.0), Sampling(1.0, 0, 1.0)],
    ids=str,
)
@pytest.mark.parametrize("width", [300, 2048])
def test_kernel_draws_what_the_twin_draws(sampling, width):
    """Breaks if a threshold is off by one token: of 64 rows, many draw a token next to it."""
    logits = 3 * jax.random.normal(jax.random.key(0), (64, width))
    noise = jax.random.gumbel(jax.random.key(1), logits.shape)
    expected = pick_twin(logits, noise, sampling)
    np.testing.assert_array_equal(pick_kernel(HERE, logits, noise, sampling), expected)
    # With noise that outweighs the logits, whatever is left is as likely: the sets must be equal.
    loud = 100 * noise
    expected = pick_twin(logits, loud, sampling)
    np.testing.assert_array_equal(pick_kernel(HERE, logits, loud, sampling), expected)


def test_noise_draws_as_jax_does():
    """Breaks if the pick is not jax's own draw from the filtered distribution."""
    logits = jax.random.normal(jax.random.key(0), (1, 50))
    key, sampling = jax.random.key(3), Sampling()
    noise = jax.random.gumbel(key, (50,))[None]
    expected = jax.random.categorical(key, filter_logits(logits, sampling)[0])
    assert pick_twin(logits, noise, sampling)[0] == expected
