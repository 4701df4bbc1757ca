"""Sampling against the reference's filtered distributions, and against what rows may not share."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from latentum_jax.generate.sampling import GREEDY, Sampling, filter_logits, fold, row_keys, sample
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


def test_a_row_draws_the_same_alone():
    """Breaks if a row's draw depends on its batch mates or its place in the batch."""
    logits = jax.random.normal(jax.random.key(0), (5, 40))
    seeds = jnp.asarray([3, 1, 4, 1, 5], jnp.uint32)
    together = sample(fold(row_keys(seeds), jnp.asarray(7)), logits, Sampling())
    for row in range(5):
        keys = fold(row_keys(seeds[row : row + 1]), jnp.asarray(7))
        assert sample(keys, logits[row : row + 1], Sampling())[0] == together[row]


def test_greedy_takes_the_likeliest():
    """Breaks if temperature 0 divides by zero or draws."""
    logits = jnp.asarray([[0.0, 3.0, 1.0]])
    keys = row_keys(jnp.asarray([0], jnp.uint32))
    assert sample(keys, logits, GREEDY).tolist() == [1]
    assert sample(keys, logits, Sampling(0.9, 1, 1.0)).tolist() == [1]


def test_bad_values_are_named():
    """Breaks if a negative temperature or an empty nucleus goes unnoticed."""
    for bad in ({"temperature": -1.0}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.5}):
        with pytest.raises(ValueError, match="expected temperature"):
            Sampling(**bad)
