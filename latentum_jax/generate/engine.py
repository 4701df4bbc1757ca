"""Continuous batching: requests take turns in the rows of one batch, without recompiling.

Two programs: `admit` runs prompts through the understanding branch into free rows, `advance` takes
all rows further until one of them is free again. What a request says and draws depends on its
prompt, its seed and its limits alone.
"""

import collections
import dataclasses
import functools
import os
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from latentum_jax.generate.rows import DONE, Limits, Room, RowLimits, Rows, start, step
from latentum_jax.generate.sampling import GREEDY, Sampling, row_keys, row_seeds
from latentum_jax.models.latentum import LatentUM, Params
from latentum_jax.tokenizer import SpecialIds


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


@dataclasses.dataclass(frozen=True)
class Request:
    """What waits for a row."""

    number: int
    prompt: np.ndarray
    seed: int
    limits: Limits


class Engine:
    """`rows` rows, each with room for a prompt of `width` tokens and an answer within `limits`: one
    of several, where requests differ in kind."""

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
        self.model, self.params = model, params
        self.width = width
        self.room = Room.of(width, limits, model.config.vision.num_tokens)
        self._settings = {"ids": ids, "text": text, "codes": codes}
        self._group = max(1, rows // 4)  # requests that one call admits
        _check_memory(model, rows, self.room.slots)
        self._rows = _empty(model, params, rows, self.room)
        self._at: list[Request | None] = [None] * rows
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
        known = [r.number for r in (*self._at, *self._waiting) if r is not None]
        if request not in known:
            raise ValueError(f"request {request} is not among those under way, {sorted(known)}")
        self._cancelled.add(request)

    def events(self, rounds: int = 16) -> Iterator[Event]:
        """What happens until nothing is left to do, looked up every `rounds` steps or sooner."""
        while self._waiting or any(self._at):
            yield from self._drop_cancelled()
            self._admit()
            if any(self._at):
                self._advance(rounds)
                yield from self._tell()

    def _drop_cancelled(self) -> Iterator[Event]:
        for request in [r for r in self._waiting if r.number in self._cancelled]:
            self._waiting.remove(request)
            yield self._ended(request, (), np.zeros((0, *self._rows.codes.shape[2:]), np.int32))
        if not self._cancelled:
            return
        status = np.array(self._rows.status)
        seen = _fetch(self._rows)
        for row, request in enumerate(self._at):
            if request is not None and request.number in self._cancelled:
                status[row] = DONE
                self._at[row] = None
                yield self._ended(request, *_so_far(seen, row))
        self._rows = self._rows.replace(status=jnp.asarray(status))

    def _admit(self) -> None:
        """Gives free rows to those that wait, in one call for as many as there are rows for."""
        free = [row for row, request in enumerate(self._at) if request is None]
        taken = [(row, self._waiting.popleft()) for row in free[: len(self._waiting)]]
        group = self._group
        for begin in range(0, len(taken), group):
            some = taken[begin : begin + group]
            for row, request in some:
                self._at[row] = request
                self._told[request.number] = (0, 0)
            self._rows = self._admitted(some, group)

    def _admitted(self, some: list[tuple[int, Request]], group: int) -> Rows:
        """The rows with new requests in theirs; calls of fewer than `group` are filled up with
        copies of the first whose rows do not exist."""
        filled = [*some, *[(len(self._at), some[0][1])] * (group - len(some))]
        requests = [request for _, request in filled]
        prompt = np.zeros((group, self.width, requests[0].prompt.shape[1]), np.float32)
        for i, request in enumerate(requests):
            prompt[i, : len(request.prompt)] = request.prompt
        limits = (
            jnp.asarray([getattr(request.limits, name) for request in requests])
            for name in ("steps", "images", "text")
        )
        return admit(
            self.model,
            self.params,
            self._rows,
            jnp.asarray([row for row, _ in filled]),
            jnp.asarray(prompt, self.model.dtype),
            jnp.asarray([len(request.prompt) for request in requests]),
            row_keys(row_seeds([request.seed for request in requests], group)),
            RowLimits(*limits),
            room=self.room,
        )

    def _advance(self, rounds: int) -> None:
        running = sum(request is not None for request in self._at)
        leave = running - 1 if self._waiting else 0
        self._rows = advance(self.model, self.params, self._rows, rounds, leave, **self._settings)

    def _tell(self) -> Iterator[Event]:
        """Events of what is new in every row."""
        seen = _fetch(self._rows)
        length = seen["codes"].shape[2]
        for row, request in enumerate(self._at):
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
                self._at[row] = None
                yield self._ended(request, *_so_far(seen, row))

    def _ended(self, request: Request, tokens: tuple[int, ...], codes: np.ndarray) -> Done:
        self._told.pop(request.number, None)
        cancelled = request.number in self._cancelled
        self._cancelled.discard(request.number)
        return Done(request.number, tokens, codes, cancelled)


@functools.partial(jax.jit, static_argnames=("model", "room"), donate_argnames="rows")
def admit(
    model: LatentUM,
    params: Params,
    rows: Rows,
    places: Int[Array, "A"],
    prompt: Float[Array, "A T D"],
    lengths: Int[Array, "A"],
    keys: jax.Array,
    limits: RowLimits,
    *,
    room: Room,
) -> Rows:
    """Starts prompts in the rows `places`; those of places that do not exist are dropped."""
    fresh = start(model, params, prompt, lengths, keys, limits, room)
    return jax.tree.map(lambda x, new: x.at[places].set(new, mode="drop"), rows, fresh)


@functools.partial(
    jax.jit, static_argnames=("model", "ids", "text", "codes"), donate_argnames="rows"
)
def advance(
    model: LatentUM,
    params: Params,
    rows: Rows,
    rounds: Int[Array, ""] | int,
    leave: Int[Array, ""] | int,
    *,
    ids: SpecialIds,
    text: Sampling,
    codes: Sampling,
) -> Rows:
    """Takes the rows `rounds` steps further, or until no more than `leave` are under way."""

    def go_on(carry: tuple[Array, Rows]) -> Array:
        done, rows = carry
        return (done < rounds) & (jnp.sum(rows.status != DONE) > leave)

    def further(carry: tuple[Array, Rows]) -> tuple[Array, Rows]:
        done, rows = carry
        return done + 1, step(model, params, rows, ids=ids, text=text, codes=codes)

    return jax.lax.while_loop(go_on, further, (jnp.zeros((), jnp.int32), rows))[1]


def _empty(model: LatentUM, params: Params, rows: int, room: Room) -> Rows:
    """Rows that are all free; nothing is compiled for it."""
    prompt = jax.ShapeDtypeStruct((rows, 1, model.config.language.hidden_size), model.dtype)
    numbers = jax.ShapeDtypeStruct((rows,), jnp.int32)
    keys = row_keys(jnp.zeros(rows, jnp.uint32))
    begin = functools.partial(start, model, room=room)
    own = RowLimits(numbers, numbers, numbers)
    shapes = jax.eval_shape(begin, params, prompt, numbers, keys, own).replace(keys=None)
    made = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return made.replace(keys=keys, status=jnp.full(rows, DONE, jnp.int32))


def _fetch(rows: Rows) -> dict[str, np.ndarray]:
    """What events are made of."""
    names = ("status", "tokens", "count", "codes", "images", "drawn")
    return jax.device_get({name: getattr(rows, name) for name in names})


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
