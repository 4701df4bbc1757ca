"""Batches in order, made here or in processes, and gone on with."""

import numpy as np
import pytest

from latentum_jax.data.loader import Batches


def squares(number):
    return {"x": np.full(3, number * number)}


@pytest.mark.parametrize("workers", [0, 1])
def test_in_order_and_gone_on_with(workers):
    """Breaks if processes hand over their batches in another order, or a run that goes on, with
    another number of them, skips or repeats what they had made ahead."""
    first = Batches(squares, workers=workers)
    assert [next(first)["x"][0] for _ in range(5)] == [0, 1, 4, 9, 16]
    assert first.get_state() == {"next_index": 5}
    other = Batches(squares, workers=1 - workers)
    next(other)
    other.set_state(first.get_state())
    assert [next(other)["x"].tolist() for _ in range(2)] == [[25] * 3, [36] * 3]


def test_it_ends():
    """Breaks if a feed of so many batches goes on or raises another error at its end."""
    assert len(list(Batches(squares, length=3))) == 3
