"""A batch of rows that share every step, and the requests in them.

`admit` runs prompts through the understanding branch into free rows, `advance` takes all rows
further until one of them is free again, `move` brings over a row of another lane: a program each.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from latentum_jax.generate.rows import DONE, Limits, Room, RowLimits, Rows, start, step
from latentum_jax.generate.sampling import Sampling, row_keys, row_seeds
from latentum_jax.kept import program
from latentum_jax.models.latentum import LatentUM, Params
from latentum_jax.tokenizer import SpecialIds


@dataclasses.dataclass(frozen=True)
class Request:
    """What waits for a row, or is in one."""

    number: int
    prompt: np.ndarray
    seed: int
    limits: Limits


class Lane:
    """`count` rows, each with `room`. Of several lanes each may run in a thread of its own.

    What `admits` no prompts takes over requests of other lanes alone: a program less.
    """

    def __init__(
        self,
        model: LatentUM,
        params: Params,
        *,
        count: int,
        width: int,
        room: Room,
        settings: Mapping[str, Any],
        admits: bool = True,
    ):
        self.model, self.params, self.settings = model, params, settings
        self.width, self.room, self.admits = width, room, admits
        self.rows = _empty(model, params, count, room)
        self.at: list[Request | None] = [None] * count
        self._new: list[tuple[int, Request]] = []  # in rows that are still those of others
        self._group = max(1, count // 4)  # requests that one call admits

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return any(self.at)

    @property
    def free(self) -> int:
        """Rows without a request."""
        return sum(request is None for request in self.at)

    @property
    def under_way(self) -> int:
        """Rows with a request."""
        return len(self.at) - self.free

    @property
    def begun(self) -> bool:
        """Whether all requests have: those that were taken since the lane last ran have not."""
        return not self._new

    def take(self, request: Request) -> None:
        """Gives a free row to a request, which starts when the lane runs next."""
        row = self.at.index(None)
        self.at[row] = request
        self._new.append((row, request))

    def run(self, rounds: int, leave: int) -> None:
        """Starts what is new, then takes the rows `rounds` steps further, or until no more than
        `leave` are under way."""
        while self._new:
            self.rows = self._admitted(self._new[: self._group])
            del self._new[: self._group]
        if rounds:
            self._advance(rounds, leave)
        jax.block_until_ready(self.rows.status)

    def prepare(self) -> None:
        """Compiles what `run` runs, before anyone waits for it; the lane is empty."""
        if self.admits:
            nothing = np.zeros((1, self.model.config.language.hidden_size), np.float32)
            nobody = Request(-1, nothing, 0, Limits(1, 0, 1))
            self.rows = self._admitted([(len(self.at), nobody)])  # in a row that does not exist
        self._advance(0, 0)

    def join(self, other: "Lane") -> None:
        """Takes the requests of another lane, as many as there are free rows for: what those have
        said and drawn so far, and their caches."""
        coming = [i for i, request in enumerate(other.at) if request is not None][: self.free]
        for row in coming:
            place = self.at.index(None)
            self.rows = move(self.rows, other.rows, place, row)
            self.at[place] = other.at[row]
        if coming:
            other.stop(coming)

    def prepare_join(self, other: "Lane") -> None:
        """Compiles what `join` runs, before anyone waits for it; both lanes are empty."""
        self.rows = move(self.rows, other.rows, 0, 0)

    def stop(self, rows: Sequence[int]) -> None:
        """Ends what is in these rows, and frees them."""
        status = np.array(self.rows.status)
        status[list(rows)] = DONE
        self.rows = self.rows.replace(status=jnp.asarray(status))
        for row in rows:
            self.at[row] = None

    def seen(self) -> dict[str, np.ndarray]:
        """What events are made of."""
        names = ("status", "tokens", "count", "codes", "images", "drawn")
        return jax.device_get({name: getattr(self.rows, name) for name in names})

    def _advance(self, rounds: int, leave: int) -> None:
        self.rows = advance(self.model, self.params, self.rows, rounds, leave, **self.settings)

    def _admitted(self, some: Sequence[tuple[int, Request]]) -> Rows:
        """The rows with new requests in theirs; calls of fewer than `_group` are filled up with
        copies of the first whose rows do not exist."""
        filled = [*some, *[(len(self.at), some[0][1])] * (self._group - len(some))]
        requests = [request for _, request in filled]
        prompt = np.zeros((self._group, self.width, requests[0].prompt.shape[1]), np.float32)
        for i, request in enumerate(requests):
            prompt[i, : len(request.prompt)] = request.prompt
        limits = (
            jnp.asarray([getattr(request.limits, name) for request in requests])
            for name in ("steps", "images", "text")
        )
        return admit(
            self.model,
            self.params,
            self.rows,
            jnp.asarray([row for row, _ in filled]),
            jnp.asarray(prompt, self.model.dtype),
            jnp.asarray([len(request.prompt) for request in requests]),
            row_keys(row_seeds([request.seed for request in requests], self._group)),
            RowLimits(*limits),
            room=self.room,
        )


@program(static=("model", "room"), donate=("rows",))
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


@program(donate=("rows",))
def move(rows: Rows, others: Rows, place: Int[Array, ""] | int, row: Int[Array, ""] | int) -> Rows:
    """`rows` with `row` of the `others` at `place`."""
    return jax.tree.map(lambda x, other: x.at[place].set(other[row]), rows, others)


@program(static=("model", "ids", "text", "codes"), donate=("rows",))
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
