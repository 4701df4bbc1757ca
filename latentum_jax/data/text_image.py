"""A text and its picture: what sources of them give, and the row that text to image trains on."""

import dataclasses

import numpy as np

from latentum_jax.data.faults import blaming
from latentum_jax.data.interleaved import Later, RowShape, caption_row_later
from latentum_jax.images import see
from latentum_jax.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class TextImage:
    """A sample: `where` it is, its text, and its picture as a file's bytes or uint8 [H, W, 3]."""

    where: str
    text: str
    image: bytes | np.ndarray


def text_image_row(sample: TextImage, tokenizer: Tokenizer, shape: RowShape) -> Later:
    """`caption_row_later` of a sample.

    Raises BadSample where its text does not fit, and when called where its picture cannot be read.
    """

    def seen() -> np.ndarray:
        with blaming(sample.where):
            return see(sample.image, shape.vision)

    with blaming(sample.where):
        return caption_row_later(sample.text, seen, tokenizer, shape)
