"""Batches by grain: made ahead in threads, in order, with an iterator that can be put back."""

from collections.abc import Callable

import grain

from latentum_jax.data.interleaved import Row

ENDLESS = 1 << 40


def batches(
    make: Callable[[int], Row], *, length: int = ENDLESS, ahead: int = 4, threads: int = 1
) -> grain.DatasetIterator:
    """An iterator over make(0), make(1), ...; `get_state` and `set_state` resume it exactly.

    ahead: batches that wait to be taken, or are being made, at a time.
    threads: how many are made at once, a batch by each; more than `ahead` have nothing to do.
      Decoding pictures lets other threads run, drawing mazes does not.
    """
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)
    return iter(grain.MapDataset.range(length).map(make).to_iter_dataset(options))
