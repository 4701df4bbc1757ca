"""The vision tower against the public code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from latentum_jax.models.internvit import InternViT, pixel_shuffle, resize_bicubic
from tests import published


@pytest.fixture(scope="module")
def golden():
    return published.outputs("vision/out")


def pixels(values):
    """[B, 3, P, P] as ours."""
    return jnp.asarray(values.transpose(0, 2, 3, 1))


def test_embeddings(golden):
    """Patches cut or flattened in another order, class token or positions misplaced."""
    model = InternViT(published.config().vision)
    embed = jax.jit(lambda p, x: model.apply({"params": p}, x, method="embed"))
    got = embed(published.params()["vision"], pixels(golden["pixel_values"]))
    np.testing.assert_allclose(got, golden["vit_embeddings"], atol=1e-4)


def test_features(golden):
    """Any layer, the missing final norm, the dropped class token, the order of the shuffle."""
    features = published.run("encode_image", pixels(golden["pixel_values"]))
    np.testing.assert_allclose(features, golden["get_vit_feature"], atol=1e-4)
    understood = published.run("understand", jnp.asarray(golden["get_vit_feature"]))
    np.testing.assert_allclose(understood, golden["extract_feature"], atol=1e-4)


def test_other_sizes(golden):
    """Positions of a larger picture are resized bicubically, as torch does it."""
    features = published.run("encode_image", pixels(golden["pixel_values_168"]))
    np.testing.assert_allclose(features, golden["get_vit_feature_168"], atol=1e-4)


@pytest.mark.parametrize("source, target", [(8, 5), (3, 32)])
def test_bicubic(source, target):
    """Borders and non-integer ratios, which 8 to 12 does not reach."""
    square = np.random.default_rng(0).standard_normal((source, source, 2)).astype(np.float32)
    expected = torch.nn.functional.interpolate(
        torch.tensor(square).permute(2, 0, 1)[None], size=(target, target), mode="bicubic"
    )[0]
    got = resize_bicubic(jnp.asarray(square), target)
    np.testing.assert_allclose(got, expected.permute(1, 2, 0), atol=1e-5)


def test_pixel_shuffle_joins_neighbours():
    """Tokens 0, 1 and those below them become the first token, in that order."""
    x = jnp.arange(16.0).reshape(1, 16, 1)
    shuffled = pixel_shuffle(x, 2)
    assert shuffled.tolist() == [[[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]]
