"""Batches that are pure functions of their number, made ahead by grain, in order."""

from collections.abc import Callable, Iterator
from typing import Any

import grain
from absl import flags

from latentum_jax.data.interleaved import Row

ENDLESS = 1 << 40


class Batches(Iterator[Row]):
    """An iterator over make(0), make(1), ..., which `set_state` puts back to where `get_state` was.

    They are made in a thread, or where that is too slow in `workers` processes of their own, in the
    same order. Whoever starts some from a script has to guard it by `__name__ == "__main__"`.
    """

    def __init__(
        self, make: Callable[[int], Row], *, length: int = ENDLESS, ahead: int = 4, workers: int = 0
    ):
        self.make, self.length, self.ahead, self.workers = make, length, ahead, workers
        self.next_index = 0
        self._made: grain.DatasetIterator | None = None

    def __next__(self) -> Row:
        if self._made is None:
            self._made = self._open()
        batch = next(self._made)
        self.next_index += 1
        return batch

    def get_state(self) -> dict[str, Any]:
        """For `set_state`, as JSON has it; however many workers there are."""
        return {"next_index": self.next_index}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on from there."""
        self.close()
        self.next_index = state["next_index"]

    def close(self) -> None:
        """Lets threads and processes go."""
        if self._made is not None:
            self._made.close()
            self._made = None

    def _open(self) -> grain.DatasetIterator:
        numbers = grain.MapDataset.range(self.next_index, self.length)
        threads = 0 if self.workers else 1
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=self.ahead)
        made = numbers.map(self.make).to_iter_dataset(options)
        if not self.workers:
            return iter(made)
        if not flags.FLAGS.is_parsed():  # grain looks for its own, of which none is given here
            flags.FLAGS.mark_as_parsed()
        # They come through shared memory, of which a container has little: each makes one ahead.
        return iter(made.mp_prefetch(grain.MultiprocessingOptions(num_workers=self.workers)))
