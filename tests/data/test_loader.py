"""Batches made ahead: in order, put back exactly, the same however many make them."""

import os

import numpy as np
import pytest

from latentum_jax.data.loader import Batches


def made(number):
    """A batch that says its number and who made it."""
    return {"number": np.full(3, number), "process": np.asarray(os.getpid())}


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_come_in_order_and_are_put_back(workers):
    """Breaks if workers change the order, a state counts what was only made ahead, or processes
    are not processes of their own."""
    feed = Batches(made, workers=workers)
    first = [next(feed) for _ in range(5)]
    assert [int(batch["number"][0]) for batch in first] == [0, 1, 2, 3, 4]
    assert len({int(batch["process"]) for batch in first}) == max(1, workers)
    assert (int(first[0]["process"]) == os.getpid()) == (not workers)
    state = feed.get_state()
    assert state == {"next_index": 5}  # for any number of workers
    assert int(next(feed)["number"][0]) == 5
    feed.set_state(state)
    assert int(next(feed)["number"][0]) == 5
    feed.close()


def test_batches_end_where_they_are_told_to():
    """Breaks if the length is lost, or counts from where a feed was put back to."""
    feed = Batches(made, length=4)
    feed.set_state({"next_index": 2})
    assert [int(batch["number"][0]) for batch in feed] == [2, 3]
    feed.close()
