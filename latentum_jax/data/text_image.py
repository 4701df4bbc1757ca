"""A text and its picture: what sources of them give, and the row that text to image trains on."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from latentum_jax.data.faults import BadSample, Faults, blaming, good_ones
from latentum_jax.data.interleaved import Row, RowShape, caption_row, stack
from latentum_jax.images import see
from latentum_jax.tokenizer import Tokenizer

NOTHING = np.zeros((1, 1, 3), np.uint8)  # stands for a picture that is decoded later


@dataclasses.dataclass(frozen=True)
class TextImage:
    """A sample: `where` it is, its text, and its picture as a file's bytes or uint8 [H, W, 3]."""

    where: str
    text: str
    image: bytes | np.ndarray


@runtime_checkable
class Source(Protocol):
    """Samples by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> TextImage: ...


def text_image_row(sample: TextImage, tokenizer: Tokenizer, shape: RowShape) -> Row:
    """`caption_row` of a sample.

    Raises BadSample where its picture cannot be read or its text does not fit.
    """
    with blaming(sample.where):
        pixels = see(sample.image, shape.vision)
        return caption_row(sample.text, pixels, tokenizer, shape)


def text_image_batch(
    source: Source,
    picks: Sequence[Callable[[int], int]],
    tokenizer: Tokenizer,
    shape: RowShape,
    faults: Faults,
) -> Row:
    """A row for each of `picks`: of source[pick(0)], or of the next pick that is a good sample.

    It is `stack` of what `text_image_row` makes, sooner: all samples are read, then all texts
    turned into tokens, then all pictures decoded into their place. A picture empties the
    processor's caches, and a text right behind it takes three times as long.

    Raises ValueError as `good_ones`.
    """
    slots = [good_ones(source.__getitem__, pick, faults) for pick in picks]
    first = [next(slot) for slot in slots]

    def worded(sample: TextImage, others: Iterator[TextImage]) -> tuple[TextImage, Row]:
        while True:
            try:
                return sample, _words(sample, tokenizer, shape)
            except BadSample as error:
                faults.note(error)
                sample = next(others)

    found = [worded(sample, slot) for sample, slot in zip(first, slots, strict=True)]
    side = shape.vision.image_size
    pixels = np.empty((len(slots), shape.images, side, side, 3), np.uint8)
    pixels[:, 1:] = 0
    for number, slot in enumerate(slots):
        while not _drawn(pixels[number, 0], found[number][0], shape, faults):
            found[number] = worded(next(slot), slot)
    return {**stack([row for _, row in found]), "pixels": pixels}


def _words(sample: TextImage, tokenizer: Tokenizer, shape: RowShape) -> Row:
    """The row of a sample without its pixels."""
    with blaming(sample.where):
        row = caption_row(sample.text, NOTHING, tokenizer, shape)
    del row["pixels"]
    return row


def _drawn(place: np.ndarray, sample: TextImage, shape: RowShape, faults: Faults) -> bool:
    """Whether a sample's picture could be read, into uint8 [P, P, 3]; noted where it could not."""
    try:
        with blaming(sample.where):
            place[:] = see(sample.image, shape.vision)
    except BadSample as error:
        faults.note(error)
        return False
    return True
