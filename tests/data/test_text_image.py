"""The row of a text with its picture, and what is said of one that cannot be used."""

import io

import numpy as np
import pytest
from PIL import Image

from latentum_jax.data.faults import BadSample
from latentum_jax.data.interleaved import RowShape, caption_row
from latentum_jax.data.text_image import TextImage, text_image_row
from latentum_jax.images import see
from tests.small import SMALL

SHAPE = RowShape(40, 1, 1, SMALL.vision)


def picture():
    pixels = np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8)
    Image.fromarray(pixels).save(file := io.BytesIO(), "PNG")
    return file.getvalue()


def test_a_row_is_that_of_its_caption(small):
    """Breaks if a picture in memory is read otherwise than one in a file or an array."""
    made = text_image_row(TextImage("here", "up down", picture()), small.tokenizer, SHAPE)()
    pixels = see(Image.open(io.BytesIO(picture())), SMALL.vision)
    for name, value in caption_row("up down", pixels, small.tokenizer, SHAPE).items():
        np.testing.assert_array_equal(made[name], value)


@pytest.mark.parametrize(
    ("text", "image", "said"),
    [("up", b"no picture", "not an image in a format"), ("up " * 99, None, "at most 40 fit")],
)
def test_what_cannot_be_used_is_named(small, text, image, said):
    """Breaks if one of a million samples ends a run, or nobody knows which it was."""
    sample = TextImage("a.tar, 7.jpg", text, image or picture())
    with pytest.raises(BadSample, match=f"^a.tar, 7.jpg: .*{said}"):
        text_image_row(sample, small.tokenizer, SHAPE)()
