"""LoRA (arXiv 2106.09685): of any stage's linear maps, low-rank corrections alone are trained.

Beside a frozen kernel W [in out] lie factors A `lora_a` [in r] and B `lora_b` [r out], with a
leading axis where layers are stacked; `models.layers` computes x W + (x A) B. The scale alpha / r
is put on B here, before a stage's loss sees it and where W + alpha/r A B is written: what trains
and what is checkpointed does not hold it.
"""

import dataclasses
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from latentum_jax.models.latentum import Params
from latentum_jax.models.layers import LORA_A, LORA_B
from latentum_jax.models.stored import Index, Lazy
from latentum_jax.sharding import Axes
from latentum_jax.train.stages.stage import Stage

F = TypeVar("F", bound=Callable[..., Any])


def with_lora(stage: Stage, targets: Sequence[str], *, rank: int, alpha: float, seed: int) -> Stage:
    """The stage, training factors of the kernels at these paths and nothing else.

    A begins at random with variance 1 / in, B as zeros, so that the first step is taken from the
    model as it is. Of a stage that corrects parameters behind the optimizer's update (dead codes),
    these are frozen and are not corrected.

    Raises ValueError where the rank or alpha is not above 0.
    """
    if rank < 1 or alpha <= 0:
        raise ValueError(f"lora has rank {rank} and alpha {alpha}, expected both above 0")
    scale = alpha / rank

    def start(params: Params) -> Params:
        flat = flatten_dict(stage.start(params), sep="/")
        for path in targets:
            a, b = beside(path)
            flat[a], flat[b] = _first_factors(
                flat[path].shape, rank, (seed, zlib.crc32(a.encode()))
            )
        return unflatten_dict(flat, sep="/")

    def finish(params: Params) -> Params:
        flat = flatten_dict(params, sep="/")
        for path in targets:
            a, b = (flat.pop(factor) for factor in beside(path))
            flat[path] = merged(flat[path], a, b, scale)
        return stage.finish(unflatten_dict(flat, sep="/"))

    return dataclasses.replace(
        stage,
        trainable=rf"/({LORA_A}|{LORA_B})$",
        loss=_scaled(stage.loss, scale),
        act=stage.act and _scaled(stage.act, scale),
        start=start,
        finish=finish,
        extra=stage.extra if stage.after is None else {},
        after=None,
    )


def targets_of(stage: Stage, axes: Mapping[str, Axes], pattern: str) -> list[str]:
    """Paths that a regular expression finds among what a stage trains.

    Raises ValueError where it finds none, or one that is no kernel of a linear map.
    """
    found = [p for p in axes if re.search(stage.trainable, p) and re.search(pattern, p)]
    if not found:
        raise ValueError(f"lora.targets {pattern!r} matches nothing that the stage trains")
    for path in found:
        if not path.endswith("/kernel") or len(_of_one_layer(axes[path])) != 2:
            raise ValueError(
                f"lora.targets {pattern!r} matches {path}, which is no kernel of a linear map"
            )
    return found


def factor_axes(axes: Mapping[str, Axes], targets: Sequence[str]) -> dict[str, Axes]:
    """Logical axes of factors by path: those of their kernels, and none for the rank."""
    made: dict[str, Axes] = {}
    for path in targets:
        *layers, into, out = axes[path]
        a, b = beside(path)
        made |= {a: (*layers, into, None), b: (*layers, None, out)}
    return made


def merged(kernel: Any, a: Any, b: Any, scale: float) -> Lazy:
    """kernel + scale a b in fp32, a layer at a time where they are stacked."""
    kernel, stacked = Lazy.of(kernel), len(kernel.shape) > 2

    def read(index: Index) -> np.ndarray:
        by_layer = stacked and isinstance(index, int)
        part, rest = (index, ...) if by_layer else (..., index)
        product = np.asarray(a[part], np.float32) @ np.asarray(b[part], np.float32)
        return (np.asarray(kernel[part], np.float32) + scale * product)[rest]

    return Lazy(kernel.shape, np.dtype(np.float32), read, stacked)


def without_factors(params: Params) -> Params:
    """The parameters as they were before any factor was added."""
    flat = flatten_dict(params, sep="/")
    kept = {p: x for p, x in flat.items() if p.rpartition("/")[2] not in (LORA_A, LORA_B)}
    return unflatten_dict(kept, sep="/")


def beside(path: str) -> tuple[str, str]:
    """Where the factors of a kernel lie."""
    module = path.removesuffix("kernel")
    return module + LORA_A, module + LORA_B


def _first_factors(
    shape: Sequence[int], rank: int, seed: tuple[int, int]
) -> tuple[Lazy, np.ndarray]:
    *layers, into, out = shape

    def draw(index: Index) -> np.ndarray:
        drawn = np.random.default_rng(seed).standard_normal((*layers, into, rank), np.float32)
        return (drawn / np.float32(into**0.5))[index]

    a = Lazy((*layers, into, rank), np.dtype(np.float32), draw)
    return a, np.zeros((*layers, rank, out), np.float32)


def _scaled(function: F, scale: float) -> F:
    """A function of parameters and more, which sees alpha / r B."""

    def with_scale(params: Params, *args: Any) -> Any:
        put = lambda path, x: x * scale if path[-1].key == LORA_B else x  # noqa: E731
        return function(jax.tree_util.tree_map_with_path(put, params), *args)

    return with_scale


def _of_one_layer(axes: Axes) -> list[str | None]:
    return [axis for axis in axes if axis != "layers"]
