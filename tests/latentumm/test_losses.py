"""LatentUMM's terms by hand and against torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from latentum_jax.latentumm.losses import (
    cosine,
    generation_loss,
    modal_loss,
    preference_loss,
    rollouts,
    target_loss,
    task_loss,
)


def some(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_squared_errors_by_hand():
    """(1, 2) and (3, 2): (4 + 0) / 2 = 2. (0, 0) and (1, 3): (1 + 9) / 2 = 5."""
    a, b = jnp.array([[1.0, 2.0], [0.0, 0.0]]), jnp.array([[3.0, 2.0], [1.0, 3.0]])
    for term in (modal_loss, task_loss, generation_loss):
        np.testing.assert_allclose(term(a, b), [2, 5])


def test_the_target_is_half_of_both():
    """z_t = (1, 2) to (1, 0): 2; z_v = (3, 0) to (0, 0): 4.5; half of 6.5 is 3.25."""
    z_t, e_t = jnp.array([[1.0, 2.0]]), jnp.array([[1.0, 0.0]])
    z_v, e_v = jnp.array([[3.0, 0.0]]), jnp.array([[0.0, 0.0]])
    np.testing.assert_allclose(target_loss(z_t, z_v, e_t, e_v), [3.25])


def test_preference_by_hand():
    """Scores 0.9, 0.5, 0.7: log(1 + exp(-0.4)) = 0.513015; all alike: log 2."""
    scores = jnp.array([[0.9, 0.2], [0.5, 0.2], [0.7, 0.2]])
    np.testing.assert_allclose(preference_loss(scores), [0.513015, np.log(2)], rtol=1e-5)


def test_terms_equal_torch():
    """Means over a batch, as the published code takes them."""
    drawn = [some(seed, 5, 8) for seed in range(4)]
    t, (a, b, c, d) = [torch.tensor(x) for x in drawn], map(jnp.asarray, drawn)
    np.testing.assert_allclose(modal_loss(a, b).mean(), F.mse_loss(t[0], t[1]), rtol=1e-6)
    both = 0.5 * (F.mse_loss(t[0], t[2]) + F.mse_loss(t[1], t[3]))
    np.testing.assert_allclose(target_loss(a, b, c, d).mean(), both, rtol=1e-6)
    np.testing.assert_allclose(cosine(a, b), F.cosine_similarity(t[0], t[1]), rtol=1e-5)
    scores = some(9, 4, 5)
    s = torch.tensor(scores)
    expected = -F.logsigmoid(s.max(0).values - s.min(0).values).mean()
    np.testing.assert_allclose(preference_loss(jnp.asarray(scores)).mean(), expected, rtol=1e-6)


def test_cosine_of_zero_has_a_gradient():
    """Breaks a run whose latents are zero at first: 0/0, or a gradient of a root at 0."""
    value, grad = jax.value_and_grad(lambda x: cosine(x, jnp.ones(3)))(jnp.zeros(3))
    assert value == 0 and np.isfinite(grad).all()


def test_rollouts_are_sigma_away():
    """z + sigma eps, each rollout and sample its own eps: 4 x 50 x 64 draws, sigma to 2%."""
    z = jnp.full((50, 64), 3.0)
    made = rollouts(jax.random.key(0), z, 4, 0.05)
    assert made.shape == (4, 50, 64)
    off = np.asarray(made) - 3.0
    assert off.std() == pytest.approx(0.05, rel=0.02) and abs(off.mean()) < 0.002
    assert not np.allclose(off[0], off[1]) and not np.allclose(off[0, 0], off[0, 1])
