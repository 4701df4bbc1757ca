"""What single stages do to a batch before the model sees it."""

import jax
import jax.numpy as jnp
import numpy as np

from latentum_jax.train.stages.mome import drop_condition
from latentum_jax.train.stages.sequence import earlier_tokens, random_codes

KEY = jax.random.key(0)


def test_only_rows_that_draw_alone_lose_their_prompt():
    """Breaks if dropout touches interleaved rows, or replaces part of a prompt."""
    labels = jnp.full((400, 3), -100).at[:200, 1].set(5)
    zero = jnp.zeros((400, 3), jnp.int32)
    batch = {"tokens": zero + 1, "labels": labels, "base": zero}
    dropped = np.asarray(drop_condition(batch, KEY, 0.25, 0)["tokens"] == 0)
    assert not dropped[:200].any()
    np.testing.assert_array_equal(dropped.any(1), dropped.all(1))
    assert 0.15 < dropped[200:, 0].mean() < 0.35  # 200 draws of 0.25: 3 standard errors are 0.09


def test_packed_samples_lose_their_prompts_one_by_one():
    """Breaks if all samples of a row are dropped together, or one of them in part."""
    base = jnp.broadcast_to(jnp.array([0, 0, 2, 2]), (400, 4))
    batch = {"tokens": base * 0 + 1, "labels": base * 0 - 100, "base": base}
    dropped = np.asarray(drop_condition(batch, KEY, 0.25, 0)["tokens"] == 0)
    np.testing.assert_array_equal(dropped[:, ::2], dropped[:, 1::2])
    assert 0.15 < dropped[:, 2].mean() < 0.35 and (dropped[:, 0] != dropped[:, 2]).any()


def test_code_noise_replaces_its_share():
    """Breaks if the robustness noise is off, total, or draws codes that do not exist."""
    codes = jnp.full((50, 16, 4), 255)
    noisy = np.asarray(random_codes(KEY, codes, 256, 0.15))
    assert 0.12 < (noisy != 255).mean() < 0.18  # 3200 draws of 0.15 x 255/256
    assert noisy.min() >= 0 and noisy.max() < 256
    assert random_codes(KEY, codes, 256, 0.0) is codes


def test_stale_tokens_come_from_earlier_pictures_at_the_same_place():
    """Breaks if a G block is shown a later picture, another place, or always the truth."""
    pictures, length = 4, 16
    # Code = 100 x picture + place, so that it tells where it came from.
    codes = (100 * jnp.arange(pictures)[:, None, None] + jnp.arange(length)[:, None])[None]
    codes = jnp.broadcast_to(codes, (64, pictures, length, 2))
    slots = jnp.broadcast_to(jnp.asarray([1, 3]), (64, 2))
    target = jnp.take_along_axis(codes, slots[:, :, None, None], axis=1)
    given = np.asarray(earlier_tokens(KEY, codes, target, slots, 0.4))
    np.testing.assert_array_equal(given % 100, np.asarray(target) % 100)
    np.testing.assert_array_equal(given[..., 0], given[..., 1])
    picture = given[..., 0] // 100
    assert set(np.unique(picture[:, 0])) == {0, 1} and set(np.unique(picture[:, 1])) == {0, 1, 2, 3}
    assert 0.33 < (picture != np.asarray([1, 3])[:, None]).mean() < 0.47
    assert earlier_tokens(KEY, codes, target, slots, 0.0) is target


def test_a_picture_alone_has_nothing_stale():
    """Breaks if text to image, whose picture stands first, is given anything but its own codes."""
    codes = jnp.arange(32).reshape(1, 1, 16, 2)
    given = earlier_tokens(KEY, codes, codes, jnp.zeros((1, 1), jnp.int32), 0.5)
    np.testing.assert_array_equal(given, codes)
