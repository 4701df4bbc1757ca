"""Batches from samples on disk: in another order every epoch, several to a row if they fit.

Row r of a batch of R rows reads samples r, r + R, r + 2R, ... of the shuffled epochs, one after
another. So a batch depends on the seed and on how far its rows have read alone, whoever makes it:
each process makes its own rows, and a run that goes on reads what it would have read.
"""

import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grain
import numpy as np

from latentum_jax.data.faults import BadSample, Faults
from latentum_jax.data.interleaved import Row, RowShape, stack
from latentum_jax.data.packing import fits, pack, size_of

SAMPLES = 64  # in a row at most
PICKS = 1000  # so many broken samples one after another, and there are no good ones


class Streams(Iterator[Row]):
    """An endless iterator over batches, made ahead in threads.

    make: sample number -> a row that holds it alone; raises BadSample for one that cannot be used,
      which `faults` counts and the next of its stream stands for. count: how many samples there
      are. rows: in a batch; here: those that are made. shape: what samples are packed into; None
      gives each a row of its own.

    `get_state` is where the rows made here stand behind the batch that came last, 0 for others.
    """

    def __init__(
        self,
        make: Callable[[int], Row],
        count: int,
        *,
        seed: int,
        rows: int,
        here: slice,
        faults: Faults,
        shape: RowShape | None = None,
        threads: int = 1,
        ahead: int = 2,
    ):
        self.make, self.rows, self.here, self.shape, self.faults = make, rows, here, shape, faults
        self.order = grain.MapDataset.range(count).seed(seed).shuffle().repeat()
        self.threads, self.ahead = threads, ahead
        self.read = np.zeros(rows, np.int64)  # samples of each stream
        self._made: queue.Queue | None = None
        self._stop = threading.Event()

    def __next__(self) -> Row:
        if self._made is None:
            self._made = queue.Queue(self.ahead)
            threading.Thread(target=self._work, args=(self.read.copy(),), daemon=True).start()
        found = self._made.get()
        if isinstance(found, BaseException):
            self._made.put(found)  # whoever asks again gets it again
            raise found
        batch, self.read = found
        return batch

    def get_state(self) -> dict[str, Any]:
        """For `set_state`, as JSON has it."""
        return {"read": self.read.tolist()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on from there. Raises ValueError once batches have been asked for."""
        if self._made is not None:
            raise ValueError("the streams are read already, set where they stand before that")
        self.read = np.asarray(state["read"], np.int64)

    def close(self) -> None:
        """Lets the threads go."""
        self._stop.set()

    def _work(self, read: np.ndarray) -> None:
        with ThreadPoolExecutor(self.threads) as pool:
            while not self._stop.is_set():
                try:
                    places, after = range(self.rows)[self.here], read.copy()
                    made, after[self.here] = zip(
                        *pool.map(self._row, places, read[self.here].tolist()), strict=True
                    )
                    found, read = (stack(made), after), after
                except BaseException as error:  # for the thread that asks
                    found = error
                self._put(found)
                if isinstance(found, BaseException):
                    return

    def _put(self, found: Any) -> None:
        while not self._stop.is_set():
            try:
                return self._made.put(found, timeout=0.5)
            except queue.Full:
                continue

    def _row(self, row: int, read: int) -> tuple[Row, int]:
        """The next row of a stream, and how far it has been read then."""
        first, read = self._sample(row, read)
        if self.shape is None:
            return first, read
        parts, sizes = [first], [size_of(first, self.shape)]
        while len(parts) < SAMPLES:
            another, further = self._sample(row, read)
            size = size_of(another, self.shape)
            if not fits([*sizes, size], self.shape):
                break  # it begins the next row
            parts, sizes, read = [*parts, another], [*sizes, size], further
        return pack(parts, self.shape), read

    def _sample(self, row: int, read: int) -> tuple[Row, int]:
        """The next good sample of a stream."""
        for attempt in range(PICKS):
            try:
                made = self.make(self.order[(read + attempt) * self.rows + row])
                return made, read + attempt + 1
            except BadSample as error:
                self.faults.note(error)
                last = error
        raise ValueError(f"{PICKS} samples one after another are broken: the last is {last}")
