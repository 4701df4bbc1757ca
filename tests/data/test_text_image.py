"""Batches of texts with pictures: what rows one by one would be, broken samples replaced."""

import io

import numpy as np
import pytest
from PIL import Image

from latentum_jax.data.faults import BadSample, Faults
from latentum_jax.data.interleaved import RowShape, stack
from latentum_jax.data.text_image import TextImage, text_image_batch, text_image_row
from tests.small import SMALL


def picture(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 24, 3), np.uint8)
    Image.fromarray(pixels).save(file := io.BytesIO(), "PNG")
    return file.getvalue()


class Samples:
    """Ten samples, some of them broken each in its way."""

    def __len__(self):
        return 10

    def __getitem__(self, index):
        if index == 3:
            raise BadSample("3", "cannot be read")
        text = "up " * 99 if index == 5 else "up down left"[: 2 + index]
        return TextImage(str(index), text, b"no picture" if index in (4, 7) else picture(index))


def batch(small, first, faults, images=1):
    picks = [lambda attempt, one=one: (one + attempt) % 10 for one in first]
    shape = RowShape(40, images, 1, SMALL.vision)
    return text_image_batch(Samples(), picks, small.tokenizer, shape, faults)


@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize(
    "first, used, bad",
    [([8, 0, 8], [8, 0, 8], ""), ([3, 1], [6, 1], "345"), ([7, 2, 5], [8, 2, 6], "57")],
)
def test_is_what_rows_one_by_one_are(small, images, first, used, bad):
    """A text beside the picture of a sample that was replaced teaches nonsense."""
    shape = RowShape(40, images, 1, SMALL.vision)
    rows = [text_image_row(Samples()[index], small.tokenizer, shape) for index in used]
    faults = Faults(None, 9)
    for _ in range(2):
        made, expected = batch(small, first, faults, images), stack(rows)
        assert made.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_array_equal(made[name], value)
            assert made[name].dtype == value.dtype
    assert faults.seen() == set(bad)


def test_too_many_broken_samples(small):
    """They end the run, whatever is wrong with them."""
    with pytest.raises(ValueError, match="^3 broken samples, expected at most 2: the last is 5: "):
        batch(small, [3], Faults(None, 2))
