"""Batches made ahead: in their order, and the same after a restart, however many threads."""

import threading
import time

import numpy as np
import pytest

from latentum_jax.data.loader import batches


def make(index):
    time.sleep(0.003 * (index % 3))  # later ones are done sooner
    return {"index": np.asarray([index])}


def numbers(iterator, count):
    return [int(next(iterator)["index"][0]) for _ in range(count)]


@pytest.mark.parametrize("threads", [1, 3])
def test_order_and_restart(threads):
    """A batch that comes twice or never after a restart makes another run of it."""
    iterator = batches(make, threads=threads)
    assert numbers(iterator, 10) == list(range(10))
    state = iterator.get_state()
    assert numbers(iterator, 5) == list(range(10, 15))
    resumed = batches(make, threads=threads)
    resumed.set_state(state)
    assert numbers(resumed, 5) == list(range(10, 15))


def test_several_are_made_at_once():
    """Three wait for each other: with fewer threads this would never end."""
    barrier = threading.Barrier(3, timeout=20)

    def wait(index):
        barrier.wait()
        return {"index": np.asarray([index])}

    assert numbers(batches(wait, length=6, threads=3), 6) == list(range(6))


def test_the_end():
    """`length` batches and no more."""
    assert len(list(batches(make, length=4, threads=2))) == 4
