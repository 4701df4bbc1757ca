"""Batches of one shape, so that no program is compiled for the last one alone."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


def padded_batches(items: Sequence[T], size: int) -> Iterator[tuple[list[T], int]]:
    """Batches of exactly `size` items, and how many of them are real.

    The last one is filled up with its last item.
    """
    for start in range(0, len(items), size):
        batch = list(items[start : start + size])
        yield batch + batch[-1:] * (size - len(batch)), len(batch)
