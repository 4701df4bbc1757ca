"""Drawing tokens: what rows may not share, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from latentum_jax.generate.sampling import GREEDY, Sampling, fold, log_prob, row_keys, sample


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


def test_scores_against_torch():
    """The policy is softmax(logits / temperature): breaks if the temperature is left out, or logits
    in half precision are scored in it."""
    rng = np.random.default_rng(0)
    logits = (4 * rng.standard_normal((3, 2, 9))).astype(np.float16)
    tokens = rng.integers(0, 9, (3, 2))
    expected = torch.tensor(logits, dtype=torch.float64).div(0.7).log_softmax(-1)
    expected = expected.gather(-1, torch.tensor(tokens)[..., None])[..., 0]
    found = log_prob(jnp.asarray(logits), jnp.asarray(tokens), 0.7)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
