"""A text and its picture: what sources of them give, and the row that text to image trains on."""

import dataclasses
from collections.abc import Callable

import numpy as np

from latentum_jax.data.faults import blaming
from latentum_jax.data.interleaved import Later, RowShape, caption_row_later
from latentum_jax.images import see
from latentum_jax.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class TextImage:
    """A sample: `where` it is, as a string or what has one when asked, its text, and its picture,
    or what reads it."""

    where: object
    text: str
    picture: bytes | np.ndarray | Callable[[], bytes]

    @property
    def image(self) -> bytes | np.ndarray:
        """The picture, as a file's bytes or uint8 [H, W, 3]; it may be read for it."""
        return self.picture() if callable(self.picture) else self.picture


def text_image_row(sample: TextImage, tokenizer: Tokenizer, shape: RowShape) -> Later:
    """`caption_row_later` of a sample.

    Raises BadSample where its text does not fit, and when called where its picture cannot be read.
    """

    def seen(out: np.ndarray | None) -> np.ndarray:
        with blaming(sample.where):
            return see(sample.image, shape.vision, out=out)

    with blaming(sample.where):
        return caption_row_later(sample.text, seen, tokenizer, shape)
