"""Continuous batching: requests take turns in the rows of one batch, without recompiling.

Rows are those of one batch, a `Lane`, or on a CPU of several that its cores run side by side, that
join when requests have become few, and whose last requests go on in small ones. What a request
says and draws depends on its prompt, its seed and its limits alone.
"""

import collections
import dataclasses
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from latentum_jax.cores import ENOUGH, abreast, at_once, groups, near
from latentum_jax.generate.lane import Lane, Request
from latentum_jax.generate.rows import DONE, Limits, Room
from latentum_jax.generate.sampling import GREEDY, Sampling, row_seeds
from latentum_jax.models.latentum import LatentUM, Params, bytes_of_a_token
from latentum_jax.tokenizer import SpecialIds

SPELL = 16  # steps at most that a lane takes before it may join another
FEW = (4, 1)  # rows of a CPU's small lanes; a row takes it 0.5 and 4 take 0.7 of the time of 16
SINGLE = 8  # its lanes of one row, of weights that are `near`: two take a sixth of the time of 16


@dataclasses.dataclass(frozen=True)
class Said:
    """Text tokens that a request has said since it was last told, `<img>`, `</img>` among them."""

    request: int
    tokens: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Drawn:
    """Codes [k C] of visual tokens `first`, `first` + 1, ... of a request's image."""

    request: int
    image: int
    first: int
    codes: np.ndarray


@dataclasses.dataclass(frozen=True)
class Done:
    """All that a request has said, and its images [J L C]. Whole ones alone if it was cancelled."""

    request: int
    tokens: tuple[int, ...]
    codes: np.ndarray
    cancelled: bool


Event = Said | Drawn | Done


class Engine:
    """`rows` rows, or on a CPU a few more, each with room for a prompt of `width` tokens and an
    answer within `limits`: one of several, where requests differ in kind.

    Its programs are compiled when it is made: no request waits for that.
    """

    def __init__(
        self,
        model: LatentUM,
        params: Params,
        *,
        ids: SpecialIds,
        rows: int,
        width: int,
        limits: Sequence[Limits],
        text: Sampling = GREEDY,
        codes: Sampling = GREEDY,
    ):
        """Raises ValueError where the rows do not fit into the memory that is free."""
        self.model = model
        self.width = width
        self.room = Room.of(width, limits, model.config.vision.num_tokens)
        sizes, few = lane_sizes(rows, near(bytes_of_a_token(params)))
        self._singles = len(few) if set(few) == {1} else 0
        _check_memory(model, sum(sizes + few), self.room.slots)
        settings = {"ids": ids, "text": text, "codes": codes}
        kind = {"width": width, "room": self.room, "settings": settings}
        self._lanes = [Lane(model, params, count=size, **kind) for size in sizes]
        self._lanes += [Lane(model, params, count=size, admits=False, **kind) for size in few]
        for lane in {len(lane.at): lane for lane in self._lanes}.values():
            lane.prepare()
        pairs = itertools.permutations(self._lanes, 2)
        for one, other in {(len(a.at), len(b.at)): (a, b) for a, b in pairs}.values():
            if max(len(one.at), len(other.at)) > 1:
                one.prepare_join(other)
        self._told: dict[int, tuple[int, int]] = {}  # request: tokens, visual tokens told so far
        self._waiting: collections.deque[Request] = collections.deque()
        self._cancelled: set[int] = set()
        self._count = 0

    def submit(
        self,
        prompt: Float[Array, "T D"] | Float[np.ndarray, "T D"],
        limits: Limits,
        *,
        seed: int = 0,
    ) -> int:
        """Queues an embedded prompt; the number that its events will carry.

        Raises ValueError where it is longer, or may go on for longer, than a row has room for.
        """
        if not 0 < len(prompt) <= self.width:
            raise ValueError(
                f"the prompt has {len(prompt)} tokens, this engine takes from 1 to {self.width}"
            )
        asked = Room.of(self.width, [limits], self.model.config.vision.num_tokens)
        for name in ("slots", "tokens", "images"):
            if getattr(asked, name) > getattr(self.room, name):
                raise ValueError(
                    f"{limits} needs a row of {getattr(asked, name)} {name}, "
                    f"those of this engine have {getattr(self.room, name)}"
                )
        row_seeds([seed], 1)  # refuses what is none
        request = Request(self._count, np.asarray(prompt), seed, limits)
        self._count += 1
        self._waiting.append(request)
        return request.number

    def cancel(self, request: int) -> None:
        """Ends a request, waiting or running, at the next event. Raises ValueError for others."""
        running = (r for lane in self._lanes for r in lane.at)
        known = [r.number for r in (*running, *self._waiting) if r is not None]
        if request not in known:
            raise ValueError(f"request {request} is not among those under way, {sorted(known)}")
        self._cancelled.add(request)

    def events(self, rounds: int = 16) -> Iterator[Event]:
        """What happens until nothing is left to do, looked up every `rounds` steps or sooner.

        Lanes go on by themselves: what one has to tell does not wait for the others.
        """
        running: dict[Future[None], Lane] = {}
        count = len(self._lanes)
        rounds = rounds if count == 1 else min(rounds, SPELL)
        with at_once(count) as threads:
            while True:
                idle = [lane for lane in self._lanes if lane not in running.values()]
                yield from self._drop_cancelled(idle)
                self._deal(idle)
                self._join(idle)
                due = [
                    lane for lane in idle if lane.busy and not self._held(lane, running.values())
                ]
                for lane in due[: abreast(count) - len(running)]:
                    moves_on = self._few and len(lane.at) > 1  # as soon as what is new has begun
                    steps = 0 if moves_on else rounds
                    running[threads.submit(lane.run, steps, self._leave(lane))] = lane
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    future.result()
                    lane = running.pop(future)
                    self._lanes.sort(key=lambda other: other is lane)  # behind those that wait
                    yield from self._tell(lane)

    def _drop_cancelled(self, lanes: Sequence[Lane]) -> Iterator[Event]:
        for request in [r for r in self._waiting if r.number in self._cancelled]:
            self._waiting.remove(request)
            codes = self._lanes[0].rows.codes.shape[2:]
            yield self._ended(request, (), np.zeros((0, *codes), np.int32))
        for lane in lanes:
            gone = [i for i, r in enumerate(lane.at) if r and r.number in self._cancelled]
            if gone:
                seen, requests = lane.seen(), [lane.at[row] for row in gone]
                lane.stop(gone)
                for row, request in zip(gone, requests, strict=True):
                    yield self._ended(request, *_so_far(seen, row))

    def _deal(self, lanes: Sequence[Lane]) -> None:
        """Gives free rows to those that wait, in the lane that has fewest of them: a lane takes as
        long for one request as for many."""
        while self._waiting:
            some = [lane for lane in lanes if lane.admits and lane.free]
            lane = min(some, key=lambda lane: lane.free, default=None)
            if lane is None:
                return
            request = self._waiting.popleft()
            self._told[request.number] = (0, 0)
            lane.take(request)

    def _join(self, lanes: Sequence[Lane]) -> None:
        """Moves requests together where fewer lanes have rows for all, and then into the smallest
        that has: rows that are free take as long as the others. So few that each can have a lane of
        its own are parted. Where some wait, rows are soon theirs."""
        if self._waiting:
            return
        some = [lane for lane in lanes if lane.busy and lane.begun]
        if self._few:
            for single in [lane for lane in lanes if len(lane.at) == 1 and not lane.busy]:
                last = max(some, key=lambda lane: lane.under_way, default=single)
                if len(last.at) > 1:
                    single.join(last)
            return
        for last in sorted(some, key=lambda lane: lane.under_way):
            others = [lane for lane in some if lane is not last]
            if last.under_way <= sum(lane.free for lane in others):
                for lane in others:
                    lane.join(last)
                some = others
        for lane in some:
            empty = [other for other in lanes if lane.under_way <= other.free and not other.busy]
            smallest = min([lane, *empty], key=lambda other: len(other.at))
            if smallest is not lane:
                smallest.join(lane)

    def _held(self, lane: Lane, running: Iterable[Lane]) -> bool:
        """Whether a lane waits for one that has rows for all of its requests, to join it then."""
        room = max((other.free for other in running), default=0)
        return not self._few and lane.begun and not self._waiting and lane.under_way <= room

    @property
    def _few(self) -> bool:
        """Whether all requests under way can each have a lane of their own."""
        return sum(lane.under_way for lane in self._lanes) <= self._singles

    def _leave(self, lane: Lane) -> int:
        """With how many rows under way a lane is to stop: at once where one is free for another."""
        return lane.under_way - 1 if self._waiting else 0

    def _tell(self, lane: Lane) -> Iterator[Event]:
        """Events of what is new in every row."""
        seen = lane.seen()
        length = seen["codes"].shape[2]
        for row, request in enumerate(lane.at):
            if request is None:
                continue
            tokens, visual = self._told[request.number]
            said, images = int(seen["count"][row]), int(seen["images"][row])
            drawing = int(seen["drawn"][row]) if images < seen["codes"].shape[1] else 0
            drawn = images * length + drawing % length
            if said > tokens:
                yield Said(request.number, tuple(seen["tokens"][row, tokens:said].tolist()))
            while visual < drawn:
                image, first = divmod(visual, length)
                last = min(length, drawn - image * length)
                yield Drawn(request.number, image, first, seen["codes"][row, image, first:last])
                visual = image * length + last
            self._told[request.number] = (said, visual)
            if seen["status"][row] == DONE:
                lane.at[row] = None
                yield self._ended(request, *_so_far(seen, row))

    def _ended(self, request: Request, tokens: tuple[int, ...], codes: np.ndarray) -> Done:
        self._told.pop(request.number, None)
        cancelled = request.number in self._cancelled
        self._cancelled.discard(request.number)
        return Done(request.number, tokens, codes, cancelled)


def lane_sizes(rows: int, is_near: bool) -> tuple[list[int], list[int]]:
    """Rows of each lane: of those that requests begin in, all of one size and so of one program,
    and of those that the last go on in. `is_near`: the weights are (`near`)."""
    if abreast(2) == 1:  # cores that share everything, or no CPU's
        return [rows], []
    if is_near and rows <= SINGLE:
        return [1] * rows, []
    count = groups(rows, None if is_near else ENOUGH)
    own = -(-rows // count)
    return [own] * count, [1] * SINGLE if is_near else [size for size in FEW if size < own]


def _so_far(seen: dict[str, np.ndarray], row: int) -> tuple[tuple[int, ...], np.ndarray]:
    tokens = seen["tokens"][row, : seen["count"][row]]
    return tuple(tokens.tolist()), seen["codes"][row, : seen["images"][row]].copy()


def _check_memory(model: LatentUM, rows: int, slots: int) -> None:
    """ValueError, which says what would fit, where the caches of so many rows do not."""
    c = model.config.language
    a_row = 2 * c.num_layers * slots * c.num_kv_heads * c.head_dim * jnp.dtype(model.dtype).itemsize
    free = _free_memory(jax.devices()[0])
    if rows * a_row > free:
        raise ValueError(
            f"{rows} rows of {slots} tokens need {rows * a_row / 1e9:.1f} GB of cache, "
            f"{free / 1e9:.1f} GB are free: {int(free // a_row)} rows would fit"
        )


def _free_memory(device: jax.Device) -> int:
    """Bytes, of the device where it tells, else of this machine."""
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"] - stats["bytes_in_use"]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
