"""What single stages do to a batch before the model sees it."""

import jax
import jax.numpy as jnp
import numpy as np

from latentum_jax.train.stages.mome import drop_condition
from latentum_jax.train.stages.sequence import random_codes

KEY = jax.random.key(0)


def test_only_rows_that_draw_alone_lose_their_prompt():
    """Breaks if dropout touches interleaved rows, or replaces part of a prompt."""
    labels = jnp.full((400, 3), -100).at[:200, 1].set(5)
    batch = {"tokens": jnp.ones((400, 3), jnp.int32), "labels": labels}
    dropped = np.asarray(drop_condition(batch, KEY, 0.25, 0)["tokens"] == 0)
    assert not dropped[:200].any()
    np.testing.assert_array_equal(dropped.any(1), dropped.all(1))
    assert 0.15 < dropped[200:, 0].mean() < 0.35  # 200 draws of 0.25: 3 standard errors are 0.09


def test_code_noise_replaces_its_share():
    """Breaks if the robustness noise is off, total, or draws codes that do not exist."""
    codes = jnp.full((50, 16, 4), 255)
    noisy = np.asarray(random_codes(KEY, codes, 256, 0.15))
    assert 0.12 < (noisy != 255).mean() < 0.18  # 3200 draws of 0.15 x 255/256
    assert noisy.min() >= 0 and noisy.max() < 256
    assert random_codes(KEY, codes, 256, 0.0) is codes
