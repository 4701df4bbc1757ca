"""GRPO's terms, worked out by hand and against torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from latentum_jax.rl.objective import (
    advantages,
    clipped_surrogate,
    importance_weights,
    kl_estimate,
    over_rollouts,
)

LOG = np.log


def test_advantages_by_hand():
    """1 2 3 6 have mean 3 and variance (4 + 1 + 0 + 9) / 4 = 3.5; 5 9 have mean 7, deviation 2.
    Breaks if groups are mixed, or the deviation is that of a sample (divided by G - 1)."""
    found, equal = advantages(jnp.asarray([1.0, 2.0, 3.0, 6.0]), 4)
    np.testing.assert_allclose(found, np.array([-2, -1, 0, 3]) / 3.5**0.5, rtol=1e-6)
    assert equal.tolist() == [0]
    found, equal = advantages(jnp.asarray([5.0, 9.0, 0.0, 1.0]), 2)
    np.testing.assert_allclose(found, [-1, 1, -1, 1], rtol=1e-6)
    assert equal.tolist() == [0, 0]


def test_equal_groups_teach_nothing():
    """Breaks if 0 / 0 makes NaN, if rounding among equal rewards is blown up to advantages of 1, or
    if such groups are not counted. The third differs by 1e-5, which is a difference."""
    rewards = jnp.asarray([0.7, 0.7, 0.7, 0.7 + 1e-7, 0.5, 0.50001])
    found, equal = advantages(rewards, 2)
    assert found[:4].tolist() == [0, 0, 0, 0] and equal.tolist() == [1, 1, 0]
    np.testing.assert_allclose(found[4:], [-1, 1], rtol=1e-2)


def test_advantages_against_torch():
    """Breaks if a reward in half precision is normalised in it."""
    rewards = np.random.default_rng(0).uniform(size=(5, 8)).astype(np.float16)
    own = torch.tensor(rewards, dtype=torch.float64)
    expected = (own - own.mean(1, keepdim=True)) / own.std(1, keepdim=True, correction=0)
    found, _ = advantages(jnp.asarray(rewards.reshape(-1)), 8)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found.reshape(5, 8), expected, rtol=1e-4, atol=1e-5)


# (ratio, A) -> min(ratio A, clip(ratio, 0.8, 1.2) A), and its slope along log pi, which is ratio A
# where it is not clipped: far out of the range in the direction that A wants nothing is gained.
CLIPPED = [
    (1.0, 1.0, 1.0, 1.0),
    (1.1, 2.0, 2.2, 2.2),
    (1.5, 1.0, 1.2, 0.0),  # likelier than 1.2 times: not wanted more
    (0.5, 1.0, 0.5, 0.5),  # made unlikelier though it was good: can come back
    (0.5, -1.0, -0.8, 0.0),  # unlikelier than 0.8 times: not wanted less
    (1.5, -1.0, -1.5, -1.5),  # made likelier though it was bad: can come back
    (0.9, -2.0, -1.8, -1.8),
    (1.5, 0.0, 0.0, 0.0),
]


@pytest.mark.parametrize("ratio, a, value, slope", CLIPPED)
def test_the_surrogate_by_hand(ratio, a, value, slope):
    """Breaks if the clip holds on one side alone, or holds where it would keep a mistake."""

    def gain(score):
        old = jnp.asarray([[-2.0]])
        return clipped_surrogate(score[None, None], old, jnp.asarray([a]), 0.2)[0, 0]

    found, gradient = jax.value_and_grad(gain)(jnp.asarray(-2.0 + LOG(ratio), jnp.float32))
    assert float(found) == pytest.approx(value, abs=1e-6)
    assert float(gradient) == pytest.approx(slope, abs=1e-6)


def test_importance_weights_are_cut_above():
    """pi_old / pi_sampler is 1, 1.5, 4 and 0.25; at most 2. Breaks if the ratio is upside down, or
    cut below as well."""
    sampled = jnp.asarray([[-1.0, -2.0, -3.0, -1.0]])
    old = sampled + LOG(np.float32([1, 1.5, 4, 0.25]))
    np.testing.assert_allclose(
        importance_weights(old, sampled, 2.0), [[1, 1.5, 2, 0.25]], rtol=1e-5
    )


def test_the_kl_estimate_by_hand():
    """pi_ref / pi = 2: 2 - log 2 - 1; 1/2: 1/2 + log 2 - 1; 1: 0. Its mean over what pi draws is
    KL(pi || ref): of (3/4, 1/4) to (1/2, 1/2) that is 3/4 log 3/2 + 1/4 log 1/2, found here with
    the ratios 2/3 and 2."""
    scores = jnp.asarray([[-1.0, -1.0, -1.0]])
    found = kl_estimate(scores, scores + LOG(np.float32([2, 0.5, 1])))
    np.testing.assert_allclose(found, [[1 - LOG(2), LOG(2) - 0.5, 0]], atol=1e-6)
    pi, reference = np.float32([0.75, 0.25]), np.float32([0.5, 0.5])
    each = kl_estimate(jnp.asarray(LOG(pi))[None], jnp.asarray(LOG(reference))[None])[0]
    expected = 0.75 * LOG(1.5) + 0.25 * LOG(0.5)
    assert float(pi @ each) == pytest.approx(expected, rel=1e-5)


def test_every_rollout_counts_alike():
    """Means 2, 6 and, of a rollout that has no token, 0: (2 + 6 + 0) / 3. A mean over all tokens
    would be (1 + 3 + 6) / 3, in which a long plan outweighs a short one."""
    values = jnp.asarray([[1.0, 3.0, 9.0], [6.0, 9.0, 9.0], [9.0, 9.0, 9.0]])
    valid = jnp.asarray([[1, 1, 0], [1, 0, 0], [0, 0, 0]], bool)
    assert float(over_rollouts(values, valid)) == pytest.approx(8 / 3)


def test_the_whole_against_torch():
    """Value and gradient of weights x surrogate - beta KL of random policies, by torch's autograd:
    breaks by a wrong sign, or by a gradient through the old policy's part."""
    rng = np.random.default_rng(0)
    scores, old, sampled, reference = rng.normal(-2, 0.3, (4, 6, 7)).astype(np.float32)
    a = rng.normal(size=6).astype(np.float32)
    valid = rng.uniform(size=(6, 7)) < 0.7
    clip, beta, most = 0.2, 0.3, 1.2

    def ours(scores):
        weights = importance_weights(jnp.asarray(old), jnp.asarray(sampled), most)
        gain = weights * clipped_surrogate(scores, jnp.asarray(old), jnp.asarray(a), clip)
        kl = kl_estimate(scores, jnp.asarray(reference))
        return over_rollouts(beta * kl - gain, jnp.asarray(valid))

    x = torch.tensor(scores, dtype=torch.float64, requires_grad=True)
    before, drawn, first = (torch.tensor(y, dtype=torch.float64) for y in (old, sampled, reference))
    ratio, own = (x - before).exp(), torch.tensor(a, dtype=torch.float64)[:, None]
    gain = torch.minimum(ratio * own, ratio.clamp(1 - clip, 1 + clip) * own)
    gain = gain * (before - drawn).exp().clamp(max=most)
    kl = (first - x).exp() - (first - x) - 1
    mask = torch.tensor(valid, dtype=torch.float64)
    loss = (((beta * kl - gain) * mask).sum(1) / mask.sum(1)).mean()
    loss.backward()
    value, gradient = jax.value_and_grad(ours)(jnp.asarray(scores))
    assert float(value) == pytest.approx(loss.item(), rel=1e-5)
    np.testing.assert_allclose(gradient, x.grad, rtol=1e-4, atol=1e-6)
