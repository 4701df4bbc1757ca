"""Parameters on disk by path, read and written a part at a time.

Small models lie in one safetensors file, large ones in an orbax checkpoint, which any number of
hosts restore onto any sharding. Either is walked through without ever being in memory whole.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import EllipsisType
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import tensorstore as ts
from safetensors import SafetensorError, safe_open
from tqdm import tqdm

Index = int | slice | tuple[slice, ...] | EllipsisType

LFS = b"version https://git-lfs"
CHUNK = 64 * 2**20  # bytes of an orbax checkpoint that are read or written at once
DTYPES = {
    "F64": np.dtype("float64"),
    "F32": np.dtype("float32"),
    "F16": np.dtype("float16"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "I64": np.dtype("int64"),
    "I32": np.dtype("int32"),
    "I16": np.dtype("int16"),
    "I8": np.dtype("int8"),
    "U8": np.dtype("uint8"),
    "BOOL": np.dtype("bool"),
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclasses.dataclass(frozen=True)
class Lazy:
    """An array that is read when it is indexed: `x[...]` is all of it, `x[i]` a layer.

    stacked: whether the first axis is of layers, one of which is a good part to read at a time.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[Any], np.ndarray]
    stacked: bool = False

    @classmethod
    def of(cls, value: Any) -> "Lazy":
        """An array that is there already."""
        if isinstance(value, Lazy):
            return value
        return cls(tuple(value.shape), np.dtype(value.dtype), lambda i: np.asarray(value)[i])

    @classmethod
    def stack(cls, layers: Sequence[Any]) -> "Lazy":
        """Arrays that are there already, one a layer, as one."""
        first = layers[0]

        def read(index: Index) -> np.ndarray:
            if isinstance(index, int):
                return np.asarray(layers[index])
            return np.stack([np.asarray(layer) for layer in layers])[index]

        return cls((len(layers), *first.shape), np.dtype(first.dtype), read, stacked=True)

    def __getitem__(self, index: Index) -> np.ndarray:
        return self.read(index)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[...] if dtype is None else self[...].astype(dtype)

    @property
    def nbytes(self) -> int:
        """Of all of it."""
        return math.prod(self.shape) * self.dtype.itemsize

    def parts(self) -> Iterator[tuple[Index, np.ndarray]]:
        """(index, value) of each part, one after another."""
        if not self.stacked:
            yield ..., self[...]
            return
        for layer in range(self.shape[0]):
            yield layer, self[layer]

    def astype(self, dtype: Any) -> "Lazy":
        """The same in another dtype, converted as it is read."""
        dtype = np.dtype(dtype)
        if dtype == self.dtype:
            return self
        read = self.read
        return dataclasses.replace(self, dtype=dtype, read=lambda i: read(i).astype(dtype))

    def onto(self, sharding: jax.sharding.Sharding) -> jax.Array:
        """On the devices of `sharding`, of which each host reads what its own ones hold."""
        return jax.make_array_from_callback(self.shape, sharding, self.read)


def on_device(x: np.ndarray | jax.Array, dtype: Any = None) -> jax.Array:
    """An array in a dtype, its own by default. What is read from disk is converted on the host: on
    a device each shape would be a program to compile."""
    if dtype is not None and isinstance(x, np.ndarray):
        x = x.astype(dtype, copy=False)
    return jnp.asarray(x, dtype)


def open_safetensors(file: Path) -> dict[str, Lazy]:
    """The tensors of a file by name; what is open is closed between one and the next.

    Raises ValueError, one sentence, where it is missing, a git-LFS pointer, damaged or cut short.
    """
    if not file.is_file():
        raise ValueError(f"{file} is missing: the checkpoint is half downloaded")
    with file.open("rb") as start:
        if start.read(len(LFS)) == LFS:
            raise ValueError(f"{file} is a git-LFS pointer, not weights: run `git lfs pull` there")
    made = {}
    try:
        with safe_open(str(file), "np") as opened:
            for name in opened.keys():  # noqa: SIM118  (no mapping)
                part = opened.get_slice(name)
                shape = tuple(part.get_shape())
                dtype = DTYPES.get(part.get_dtype(), np.dtype(np.void))
                made[name] = Lazy(shape, dtype, _tensor_reader(file, name), len(shape) > 2)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file} is damaged or cut short: {error}") from error
    return made


def _tensor_reader(file: Path, name: str) -> Callable[[Index], np.ndarray]:
    def read(index: Index) -> np.ndarray:
        # A file that stayed open would keep every page that was ever read of it in memory.
        with safe_open(str(file), "np") as opened:
            if index is ...:
                return opened.get_tensor(name)
            return opened.get_slice(name)[index]

    return read


def write_safetensors(
    file: Path, tensors: Mapping[str, Lazy], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes tensors one after another into one file."""
    with file.open("wb") as out:
        out.write(safetensors_header(tensors, metadata))
        for _, x in _with_progress(_aligned(tensors), file.name):
            for _, value in x.parts():
                out.write(np.ascontiguousarray(value).view(np.uint8).data)


def _with_progress(arrays: Mapping[str, Lazy], name: str) -> Iterator[tuple[str, Lazy]]:
    """The items, with a bar of bytes on the terminal once they have taken two seconds."""
    total = sum(x.nbytes for x in arrays.values())
    with tqdm(total=total, desc=name, unit="B", unit_scale=True, delay=2.0) as bar:
        for path, x in arrays.items():
            yield path, x
            bar.update(x.nbytes)


def safetensors_header(
    tensors: Mapping[str, Lazy], metadata: Mapping[str, str] | None = None
) -> bytes:
    """What a file of tensors begins with; their bytes follow, those of wider dtypes first."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, x in _aligned(tensors).items():
        begin, end = end, end + x.nbytes
        header[name] = {
            "dtype": NAMES[x.dtype],
            "shape": list(x.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _aligned(tensors: Mapping[str, Lazy]) -> dict[str, Lazy]:
    """Wider dtypes first: torch reads no float32 that begins at an odd place."""
    return dict(sorted(tensors.items(), key=lambda item: -item[1].dtype.itemsize))


def open_checkpoint(folder: Path) -> dict[str, Lazy]:
    """The arrays of an orbax checkpoint by path.

    Raises ValueError, one sentence, where it is broken.
    """
    try:
        tree = json.loads((folder / "_METADATA").read_text("utf-8"))["tree_metadata"].values()
        paths = ["/".join(key["key"] for key in leaf["key_metadata"]) for leaf in tree]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder} is no orbax checkpoint: {error}") from error
    return {path: _open_array(folder, path) for path in paths}


def _open_array(folder: Path, path: str) -> Lazy:
    store = _done(ts.open(_spec(folder, path), open=True, read=True, context=_context()), path)
    read = lambda index: np.asarray(_done(store[index].read(), path))  # noqa: E731
    a_layer_a_chunk = store.rank > 1 and store.chunk_layout.read_chunk.shape[0] == 1
    return Lazy(tuple(store.shape), store.dtype.numpy_dtype, read, a_layer_a_chunk)


def write_checkpoint(folder: Path, arrays: Mapping[str, Lazy]) -> None:
    """Writes arrays by path as an orbax checkpoint, a part of one at a time.

    `orbax.checkpoint.StandardCheckpointer().restore(folder, target)` reads it; orbax itself would
    have wanted all of the arrays in memory before it began.
    """
    folder.mkdir()
    context = _context()
    for path, x in _with_progress(arrays, folder.name):
        spec = _spec(folder, path) | {
            "dtype": x.dtype.name,
            "metadata": {
                "shape": x.shape,
                "chunks": _chunks(x),
                "compressor": {"id": "zstd", "level": 1},
            },
            # Zeros are written too: orbax takes a chunk that is not there for one that was lost.
            "store_data_equal_to_fill_value": True,
        }
        store = _done(ts.open(spec, create=True, context=context), path)
        for index, value in x.parts():
            _done(store[index].write(value), path)
    metadata = {
        "tree_metadata": {str(tuple(path.split("/"))): _leaf(path) for path in arrays},
        "use_ocdbt": True,
        "use_zarr3": False,
        "store_array_data_equal_to_fill_value": True,
        "custom_metadata": None,
    }
    (folder / "_METADATA").write_text(json.dumps(metadata), "utf-8")


def _done(request: ts.Future | ts.WriteFutures, path: str) -> Any:
    """What tensorstore was asked for. Raises ValueError, one sentence, where it failed."""
    try:
        return request.result()
    except Exception as error:  # whatever fits the status
        raise ValueError(f"{path}: {str(error).split(' [')[0]}") from error


def _context() -> ts.Context:
    return ts.Context({"file_io_sync": False, "cache_pool": {"total_bytes_limit": 0}})


def _spec(folder: Path, path: str) -> dict[str, Any]:
    """Where orbax keeps an array."""
    base = {"driver": "file", "path": f"{folder.resolve()}/"}
    name = path.replace("/", ".")
    return {"driver": "zarr", "kvstore": {"driver": "ocdbt", "base": base, "path": f"{name}/"}}


def _leaf(path: str) -> dict[str, Any]:
    keys = [{"key": key, "key_type": 2} for key in path.split("/")]  # 2: of a dict
    return {
        "key_metadata": keys,
        "value_metadata": {"value_type": "jax.Array", "skip_deserialize": False},
    }


def _chunks(x: Lazy) -> list[int]:
    """A layer, cut across its longest axis until a chunk is small enough."""
    chunk = [1, *x.shape[1:]] if x.stacked else list(x.shape)
    while math.prod(chunk) * x.dtype.itemsize > CHUNK:
        longest = chunk.index(max(chunk))
        chunk[longest] = -(-chunk[longest] // 2)
    return chunk
