"""A conversion table: published keys and our parameter paths, one row each, walked both ways."""

import dataclasses
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from flax import traverse_util

from latentum_jax.models.latentum import Params
from latentum_jax.models.stored import Index, Lazy

State = Mapping[str, np.ndarray | Lazy]
Shapes = Mapping[str, tuple[int, ...]]
FLOATS = ("float32", "bfloat16", "float16")


@dataclasses.dataclass(frozen=True)
class Layout:
    """A change of layout and its inverse, on one array (of one layer)."""

    ours: Callable[[np.ndarray], np.ndarray]
    published: Callable[[np.ndarray], np.ndarray]


def patches(side_of: Callable[[int], int]) -> Layout:
    """[D, c, p, p] <-> [p p c, D]; `side_of` gives p of the number of rows."""

    def published(kernel: np.ndarray) -> np.ndarray:
        side = side_of(kernel.shape[0])
        return kernel.reshape(side, side, -1, kernel.shape[1]).transpose(3, 2, 0, 1)

    return Layout(lambda w: w.transpose(2, 3, 1, 0).reshape(-1, w.shape[0]), published)


SAME = Layout(lambda x: x, lambda x: x)
LINEAR = Layout(np.transpose, np.transpose)  # [out, in] <-> [in, out]
RGB_PATCHES = patches(lambda rows: math.isqrt(rows // 3))
LEADING_1 = Layout(lambda x: x[0], lambda x: x[None])
LEADING_1_1 = Layout(lambda x: x[0, 0], lambda x: x[None, None])


@dataclasses.dataclass(frozen=True)
class Row:
    """A published key and the path it goes to; `{}` in the key is an index of our leading axis.

    The index of the first is `first`, for layers of which we stack some. Several keys are parts of
    one array of ours, equal ones, joined along their first axis (q, k and v).
    """

    key: str | tuple[str, ...]
    path: str
    layout: Layout = SAME
    first: int = 0

    @property
    def keys(self) -> tuple[str, ...]:
        """All keys, not yet numbered."""
        return (self.key,) if isinstance(self.key, str) else self.key

    @property
    def stacked(self) -> bool:
        """Whether our array has a leading axis of layers."""
        return "{}" in self.keys[0]

    def places(self, shape: tuple[int, ...]) -> Iterator[tuple[tuple[str, ...], Index]]:
        """The keys of every layer and the index of our array where it lies."""
        if not self.stacked:
            yield self.keys, ...
            return
        for index in range(shape[0]):
            yield tuple(key.format(index + self.first) for key in self.keys), index

    def ours(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        """Our array (of one layer) from those of its keys."""
        return self.layout.ours(parts[0] if len(parts) == 1 else np.concatenate(parts))

    def published(self, value: np.ndarray) -> list[np.ndarray]:
        """The arrays of the keys from ours (of one layer)."""
        return np.split(self.layout.published(value), len(self.keys))


def linear(key: str, path: str, first: int = 0) -> list[Row]:
    """weight and bias of a linear map."""
    return [
        Row(f"{key}.weight", f"{path}/kernel", LINEAR, first),
        Row(f"{key}.bias", f"{path}/bias", SAME, first),
    ]


def layer_norm(key: str, path: str) -> list[Row]:
    """weight and bias of a norm."""
    return [Row(f"{key}.weight", f"{path}/scale"), Row(f"{key}.bias", f"{path}/bias")]


def mlp(fc1: str, fc2: str, path: str, first: int = 0) -> list[Row]:
    """Two linear maps."""
    return [*linear(fc1, f"{path}/fc1", first), *linear(fc2, f"{path}/fc2", first)]


@dataclasses.dataclass(frozen=True)
class Table:
    """The rows of one model, and the keys that have no place with us.

    ignored: expressions over whole keys, each with the reason.
    """

    model: str
    rows: Sequence[Row]
    ignored: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def import_params(self, state: State, shapes: Shapes) -> Params:
        """Nested parameters of `shapes`, in the dtype of the state dict.

        Raises ValueError naming the key as `open` does.
        """
        return traverse_util.unflatten_dict(self.import_flat(state, shapes), sep="/")

    def import_flat(self, state: State, shapes: Shapes) -> dict[str, np.ndarray]:
        """The parameters of `shapes` alone, by path: a state dict may hold a part of the model."""
        return {path: x[...] for path, x in self.open(state, shapes).items()}

    def open(self, state: State, shapes: Shapes) -> dict[str, Lazy]:
        """The same, still to be read.

        Raises ValueError naming the key where one is unknown, missing or claimed by two rows, of
        another shape, no float, or of another dtype than the rest of its array.
        """
        self._check(state, self.published_shapes(shapes))
        return {row.path: _ours(row, state, shapes[row.path]) for row in self._rows_of(shapes)}

    def export_params(self, params: Params) -> dict[str, np.ndarray]:
        """The published state dict of nested parameters, without what is ignored on import."""
        flat = traverse_util.flatten_dict(params, sep="/")
        published = self.publish({path: Lazy.of(value) for path, value in flat.items()})
        return {key: np.ascontiguousarray(value[...]) for key, value in published.items()}

    def publish(self, flat: Mapping[str, Lazy]) -> dict[str, Lazy]:
        """The same of parameters by path, still to be read."""
        made: dict[str, Lazy] = {}
        for row in self._rows_of(flat):
            for key, value in _published(row, flat[row.path]):
                if key in made:
                    raise ValueError(f"two parameters of {self.model} claim {key}")
                made[key] = value
        return made

    def published_shapes(self, shapes: Shapes) -> dict[str, tuple[int, ...]]:
        """Every published key with its shape, from those of our parameters; nothing is made."""
        empty = {path: Lazy.of(_nothing(shape)) for path, shape in shapes.items()}
        return {key: value.shape for key, value in self.publish(empty).items()}

    def _rows_of(self, paths: Mapping[str, Any]) -> list[Row]:
        known = [row.path for row in self.rows]
        if odd := sorted(set(paths) - set(known)):
            raise ValueError(f"{odd[0]} is no parameter of {self.model}: it has no published key")
        if odd := sorted(path for path in set(known) if known.count(path) > 1):
            raise ValueError(f"two keys of {self.model} claim {odd[0]}")
        return [row for row in self.rows if row.path in paths]

    def _check(self, state: State, expected: Shapes) -> None:
        for key in state:
            if key not in expected and not any(re.fullmatch(odd, key) for odd in self.ignored):
                raise ValueError(f"the checkpoint has {key}, which is no weight of {self.model}")
        for key, shape in expected.items():
            if key not in state:
                raise ValueError(f"the checkpoint lacks {key}, expected with shape {list(shape)}")
            got = state[key].shape
            if got != shape:
                raise ValueError(f"{key} has shape {list(got)}, expected {list(shape)}")
            if state[key].dtype.name not in FLOATS:
                kind = state[key].dtype.name
                raise ValueError(f"{key} is {kind}, expected one of {', '.join(FLOATS)}")


def _ours(row: Row, state: State, shape: tuple[int, ...]) -> Lazy:
    """Our array of a row's keys."""
    places = [keys for keys, _ in row.places(shape)]
    dtype = state[places[0][0]].dtype
    for keys in places:
        for key in keys:
            if state[key].dtype != dtype:
                raise ValueError(
                    f"{key} is {state[key].dtype}, expected {dtype} as {places[0][0]}, "
                    f"which lies in one array with it"
                )

    def layer(index: int) -> np.ndarray:
        return row.ours([np.asarray(state[key]) for key in places[index]])

    def read(index: Index) -> np.ndarray:
        if not row.stacked:
            return np.ascontiguousarray(layer(0))[index]
        if isinstance(index, int):
            return layer(index)
        value = np.empty(shape, dtype)
        for i in range(shape[0]):
            value[i] = layer(i)
        return value[index]

    return Lazy(shape, dtype, read, row.stacked)


def _published(row: Row, ours: Lazy) -> Iterator[tuple[str, Lazy]]:
    """The keys of a row and their arrays, from ours."""
    one_layer = ours.shape[1:] if row.stacked else ours.shape
    shapes = [part.shape for part in row.published(_nothing(one_layer))]
    for keys, index in row.places(ours.shape):
        for part, key in enumerate(keys):
            yield key, Lazy(shapes[part], ours.dtype, _part_reader(row, ours, index, part))


def _part_reader(row: Row, ours: Lazy, layer: Index, part: int) -> Callable[[Index], np.ndarray]:
    return lambda index: row.published(ours[layer])[part][index]


def _nothing(shape: tuple[int, ...]) -> np.ndarray:
    """An array that takes no memory."""
    return np.broadcast_to(np.float32(0), shape)
