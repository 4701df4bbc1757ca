"""A text and its picture: what sources of them give, and the row that text to image trains on."""

import dataclasses

import numpy as np

from latentum_jax.data.faults import blaming
from latentum_jax.data.interleaved import Row, RowShape, caption_row
from latentum_jax.images import see
from latentum_jax.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class TextImage:
    """A sample: `where` it is, its text, and its picture as a file's bytes or uint8 [H, W, 3]."""

    where: str
    text: str
    image: bytes | np.ndarray


def text_image_row(sample: TextImage, tokenizer: Tokenizer, shape: RowShape) -> Row:
    """`caption_row` of a sample.

    Raises BadSample where its picture cannot be read or its text does not fit.
    """
    with blaming(sample.where):
        pixels = see(sample.image, shape.vision)
        return caption_row(sample.text, pixels, tokenizer, shape)
