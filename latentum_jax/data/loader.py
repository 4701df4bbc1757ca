"""Batches by grain: made ahead in a thread, in order, with an iterator that can be put back."""

from collections.abc import Callable

import grain

from latentum_jax.data.interleaved import Row

ENDLESS = 1 << 40


def batches(
    make: Callable[[int], Row], *, length: int = ENDLESS, ahead: int = 4
) -> grain.DatasetIterator:
    """An iterator over make(0), make(1), ...; `get_state` and `set_state` resume it exactly."""
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=ahead)
    return iter(grain.MapDataset.range(length).map(make).to_iter_dataset(options))
