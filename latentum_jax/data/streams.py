"""Batches from samples on disk: in another order every epoch, several to a row if they fit.

Row r of a batch of R rows reads samples r, r + R, r + 2R, ... of the shuffled epochs, one after
another. So a batch depends on the seed and on how far its rows have read alone, whoever makes it:
each process makes its own rows, and a run that goes on reads what it would have read.
"""

import functools
import sys
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from grain.experimental import index_shuffle

from latentum_jax.data.faults import BadSample, Faults
from latentum_jax.data.interleaved import Later, Row, RowShape, Stack, words_of
from latentum_jax.data.packing import fits, pack, size_of

SAMPLES = 64  # in a row at most
PICKS = 1000  # so many broken samples one after another, and there are no good ones
LOT = 16  # rows that a thread makes in one go
FEW = 1 << 16  # numbers of samples that are kept in memory in an epoch's order


Draft = Row | Callable[[], Row]


def references(rows: Row) -> int:
    """The most that any of the arrays has, as this interpreter counts them."""
    return max(sys.getrefcount(x) for x in rows.values())


UNHELD = references({"": np.zeros(1)})  # of arrays that nothing but their dict holds


class Order:
    """0 to count - 1 in another order every epoch, epoch behind epoch: order[number], endless."""

    def __init__(self, count: int, seed: int):
        self.count, self.seed = count, seed
        self._epoch = functools.lru_cache(4)(self._shuffled)  # streams may stand in different ones

    def __getitem__(self, number: int) -> int:
        epoch, place = divmod(number, self.count)
        return self._epoch(epoch)(place)

    def _shuffled(self, epoch: int) -> Callable[[int], int]:
        """From places in an epoch to samples."""
        seeds = np.random.SeedSequence((self.seed, epoch))
        if self.count <= FEW:  # of which index_shuffle takes up to 0.1 ms each
            return np.random.default_rng(seeds).permutation(self.count).tolist().__getitem__
        options = {
            "max_index": self.count - 1,
            "seed": int(seeds.generate_state(1)[0]),
            "rounds": 4,
        }
        return lambda place: index_shuffle(place, **options)


class Streams(Iterator[Row]):
    """An endless iterator over batches, made ahead in threads.

    make: sample number -> a row that holds it alone, or a function that makes it, such as `Later`,
      where a picture is to be decoded; both raise BadSample for one that cannot be used, which
      `faults` counts and the next of its stream stands for. count: how many samples there
      are. rows: in a batch; here: those that are made. shape: what samples are packed into; None
      gives each a row of its own.

    `get_state` is where the rows made here stand behind the batch that came last, 0 for others.
    """

    def __init__(
        self,
        make: Callable[[int], Draft],
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
        self.make, self.rows, self.shape, self.faults = make, rows, shape, faults
        self.here = range(rows)[here]
        self.order = Order(count, seed)
        self.threads, self.ahead = threads, ahead
        self.read = np.zeros(rows, np.int64)  # samples of each stream
        self._pool: ThreadPoolExecutor | None = None
        self._closed = False
        self._made: deque[tuple[Stack, list[Future[list[int]]]]] = deque()
        self._kept: deque[Row] = deque(maxlen=ahead + 2)

    def __next__(self) -> Row:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.threads)
        while len(self._made) <= self.ahead:
            self._begin()
        batch, after = self._made[0]  # stays where a row raises: whoever asks again gets it again
        # The last lot is the last to be ready: waited for first, it wakes this thread alone.
        read = [lot.result() for lot in reversed(after)][::-1]
        self._made.popleft()
        self._kept.append(batch.rows)
        self.read[self.here] = [far for lot in read for far in lot]
        return dict(batch.rows)

    def get_state(self) -> dict[str, Any]:
        """For `set_state`, as JSON has it."""
        return {"read": self.read.tolist()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on from there. Raises ValueError once batches have been asked for."""
        if self._pool is not None:
            raise ValueError("the streams are read already, set where they stand before that")
        self.read = np.asarray(state["read"], np.int64)

    def close(self) -> None:
        """Lets the threads go."""
        self._closed = True  # first: nothing can be submitted while a shutdown drops what waits
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _begin(self) -> None:
        """Has another batch made, each lot of its rows once their streams have been read so far: no
        thread waits for a batch to be whole, or for another thread."""
        batch = Stack(len(self.here), self._spare())
        size = max(1, min(LOT, len(self.here) // self.threads))
        lots = [range(len(self.here))[i : i + size] for i in range(0, len(self.here), size)]
        read = self.read[self.here].tolist()
        before = self._made[-1][1] if self._made else [_known([read[i] for i in x]) for x in lots]
        after: list[Future[list[int]]] = [Future() for _ in lots]
        self._made.append((batch, after))
        for places, far, own in zip(lots, before, after, strict=True):
            far.add_done_callback(functools.partial(self._have_filled, batch, places, own))

    def _have_filled(
        self, batch: Stack, places: range, own: Future[list[int]], before: Future[list[int]]
    ) -> None:
        """Has a thread `_fill` a lot and tell `own` of it; called once its streams are read."""

        def run() -> None:
            try:
                own.set_result(self._fill(batch, places, before.result()))
            except BaseException as error:  # whoever waits for the batch gets it
                own.set_exception(error)

        def dropped(task: Future[None]) -> None:
            if task.cancelled():
                own.cancel()

        if self._closed:
            own.cancel()
            return
        try:
            self._pool.submit(run).add_done_callback(dropped)
        except RuntimeError:  # closed meanwhile
            own.cancel()

    def _spare(self) -> Row:
        """Arrays of a batch that nobody holds any more, the latest: new ones would be zeroed by the
        system, older ones have left the processor's caches.

        A view holds its array, and so does jax what it has not copied or is still reading.
        """
        for _ in range(len(self._kept)):
            rows = self._kept.pop()
            if references(rows) <= UNHELD:
                return rows
            self._kept.appendleft(rows)
        return {}

    def _fill(self, batch: Stack, places: range, read: list[int]) -> list[int]:
        """Puts the next rows of streams read so far into a batch; how far they have been read then.

        Their words are made into tokens, and these put into the batch, before the first picture is
        decoded: each picture drives code and vocabulary out of the processor's caches.
        """
        numbers = [n * self.rows + self.here[i] for i, n in zip(places, read, strict=True)]
        drafts = {number: self._draft(number) for number in numbers}
        apart = self.shape is None and all(isinstance(x, Later) for x in drafts.values())
        if apart:
            lot = slice(places.start, places.stop)
            builders = [draft.builder for draft in drafts.values()]
            batch.put(lot, words_of(builders, batch.place(lot)), part=True)
            drafts = {
                number: functools.partial(draft.pictures, batch.place(place))
                for place, (number, draft) in zip(places, drafts.items(), strict=True)
            }
        after = []
        for place, far in zip(places, read, strict=True):
            made, far = self._row(self.here[place], far, drafts)
            batch.put(place, made, part=apart)
            after.append(far)
        return after

    def _row(self, row: int, read: int, drafts: dict[int, Draft | BadSample]) -> tuple[Row, int]:
        """The next row of a stream, and how far it has been read then."""
        first, read = self._sample(row, read, drafts)
        if self.shape is None:
            return first, read
        parts, sizes = [first], [size_of(first, self.shape)]
        while len(parts) < SAMPLES:
            another, further = self._sample(row, read, drafts)
            size = size_of(another, self.shape)
            if not fits([*sizes, size], self.shape):
                break  # it begins the next row
            parts, sizes, read = [*parts, another], [*sizes, size], further
        return pack(parts, self.shape), read

    def _sample(self, row: int, read: int, drafts: dict[int, Draft | BadSample]) -> tuple[Row, int]:
        """The next good sample of a stream."""
        for attempt in range(read, read + PICKS):
            number = attempt * self.rows + row
            draft = drafts.pop(number) if number in drafts else self._draft(number)
            try:
                if isinstance(draft, BadSample):
                    raise draft
                return draft() if callable(draft) else draft, attempt + 1
            except BadSample as error:
                self.faults.note(error)
                last = error
        raise ValueError(f"{PICKS} samples one after another are broken: the last is {last}")

    def _draft(self, number: int) -> Draft | BadSample:
        try:
            return self.make(self.order[number])
        except BadSample as error:
            return error


def _known(read: list[int]) -> Future[list[int]]:
    future: Future[list[int]] = Future()
    future.set_result(read)
    return future
