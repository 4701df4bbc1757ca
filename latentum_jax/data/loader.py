"""Batches by grain, made ahead in a thread or in processes, in order, to be gone on with."""

from collections.abc import Callable, Iterator
from typing import Any

import grain
from absl import flags

from latentum_jax.data.interleaved import Row

ENDLESS = 1 << 40


class Batches(Iterator[Row]):
    """make(0), make(1), ..., up to `length` of them.

    ahead: batches that are made before they are asked for, by each worker. workers: processes that
    make them, for a `make` whose Python is the bottleneck; 0 is a thread of this one. What comes,
    and the state to go on from, is the same with any number.
    """

    def __init__(
        self,
        make: Callable[[int], Row],
        *,
        length: int = ENDLESS,
        ahead: int = 4,
        workers: int = 0,
    ):
        self.make, self.length, self.ahead, self.workers = make, length, ahead, workers
        self._next = 0
        self._made: grain.DatasetIterator | None = None

    def __next__(self) -> Row:
        if self._made is None:
            self._made = self._open()
        row = next(self._made)
        self._next += 1
        return row

    def get_state(self) -> dict[str, Any]:
        """For `set_state`, as JSON has it."""
        return {"next_index": self._next}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on from there."""
        self._next, self._made = int(state["next_index"]), None

    def _open(self) -> grain.DatasetIterator:
        numbers = grain.MapDataset.range(self._next, self.length)
        threads = grain.ReadOptions(num_threads=1, prefetch_buffer_size=self.ahead)
        made = numbers.map(self.make).to_iter_dataset(threads)
        if self.workers:
            if not flags.FLAGS.is_parsed():  # grain's processes are told the flags of this one
                flags.FLAGS.mark_as_parsed()
            shared = grain.MultiprocessingOptions(self.workers, per_worker_buffer_size=self.ahead)
            made = made.mp_prefetch(shared)
        return iter(made)
