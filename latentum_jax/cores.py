"""On a CPU, the rows of a batch side by side: each core runs the same program for some of them."""

import os
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

FEWEST = 8  # rows of a group, each a token at a time: fewer wait for weights, read once together
ENOUGH = 16  # rows of each of more groups than there are cores
NEAR = 16 << 20  # bytes that stay in cores' caches while they are used again and again
Made = TypeVar("Made")


def groups(rows: int, fewest: int | None = None) -> int:
    """Into how many groups, all of one size, rows are best divided: one on a GPU or a TPU.

    Cores that share the products of a small model wait for one another as long as they multiply:
    two are 1.5 to 1.9 times as fast where each has rows to itself (bundled models). Every core gets
    a group, of `fewest` rows at least, 8 by default, and several where each has `ENOUGH` of them
    (or `fewest`, if that is given): what a core reads again and again stays near it.
    """
    cores = _cores()
    if cores == 1:
        return 1
    enough, fewest = fewest or ENOUGH, fewest or FEWEST
    return cores * (rows // (enough * cores)) or max(1, min(cores, rows // fewest))


def side_by_side(
    run: Callable[..., Made], *given: Any, apart: bool = True, fewest: int | None = None
) -> Made:
    """`run(*given)` of arrays that begin with an axis of rows, as do the numpy arrays it makes.

    Rows are divided into `groups`, of one size, so that there is one program, with the last row
    again where one is not full. Those that are not to be `apart` are one.
    """
    rows = len(given[0])
    count = groups(rows, fewest) if apart else 1
    if count == 1:
        return run(*given)
    size = -(-rows // count)
    count = -(-rows // size)
    parts = np.split(np.minimum(np.arange(count * size), rows - 1), count)

    def own(x: Any, part: np.ndarray) -> Any:
        taken = np.asarray(x)[part]  # not by jax, to which each size would be a program
        return jnp.asarray(taken) if isinstance(x, jax.Array) else taken

    with at_once(count) as threads:
        made = list(threads.map(lambda part: run(*(own(x, part) for x in given)), parts))
    return jax.tree.map(lambda *parts: np.concatenate(parts)[:rows], *made)


def near(size: int) -> bool:
    """Whether weights of so many bytes are read from a core's caches: one row then takes it little,
    while of others a few rows take as long as one."""
    return size <= NEAR


def abreast(count: int) -> int:
    """How many of `count` groups run at once."""
    return min(count, _cores())


def at_once(count: int) -> Executor:
    """Where `count` groups run, `abreast`; one runs where it is called."""
    return _Here() if count == 1 else ThreadPoolExecutor(abreast(count))


class _Here(Executor):
    """Runs what it is given before it goes on."""

    def submit(self, run: Callable[..., Made], /, *args: Any, **kwargs: Any) -> "Future[Made]":
        future: Future[Made] = Future()
        try:
            future.set_result(run(*args, **kwargs))
        except Exception as error:  # told by `result`, as a thread's is
            future.set_exception(error)
        return future


def _cores() -> int:
    """That can run programs of their own."""
    if jax.default_backend() != "cpu" or jax.local_device_count() > 1:
        return 1
    return os.cpu_count() or 1
