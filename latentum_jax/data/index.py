"""Indices of large files: rows made once by reading the files through, kept, and memory-mapped.

The name of a kept index holds a digest of what it was made from, so that it is never used for
files that have changed. It appears whole or not at all, under a name of its own until then: all
hosts of a run may be making it at once.
"""

import hashlib
import json
import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from latentum_jax.files import whole

KEEP = 64 << 20  # bytes of files; the index of less is made in a moment and is not kept
THREADS = 8  # they wait for the disk together

Scan = Callable[[int, Path], np.ndarray]


def index_rows(
    files: Sequence[Path], kind: str, dtype: np.dtype, scan: Scan, folder: Path | None = None
) -> np.ndarray:
    """scan(0, files[0]), scan(1, files[1]), ... one behind the other, as `dtype` [rows].

    They are kept beside the first file or, where nothing can be written there, in `folder`; in
    memory where that is None too. `kind` names the scan and changes whenever its rows do.

    Raises whatever `scan` raises, and then keeps nothing.
    """
    stats = [file.stat() for file in files]
    place = _place(files[0].parent, folder)
    if place is None or sum(stat.st_size for stat in stats) < KEEP:
        return np.concatenate(list(_scanned(files, scan))) if files else np.zeros(0, dtype)
    names = [os.path.relpath(file, place) for file in files]
    stamps = [(stat.st_size, stat.st_mtime_ns) for stat in stats]
    stem = f".{files[0].name}.{kind}-{_digest(names)}"
    path = place / f"{stem}-{_digest(stamps)}.index"
    rows = _load(path, dtype)
    if rows is not None:
        return rows
    _write(path, dtype, _scanned(files, scan))
    for old in place.iterdir():
        if old.name.startswith(f"{stem}-") and old.suffix == ".index" and old != path:
            old.unlink(missing_ok=True)
    rows = _load(path, dtype)
    if rows is None:
        raise ValueError(f"{path}: was written and cannot be read back")
    return rows


def _place(beside: Path, folder: Path | None) -> Path | None:
    if os.access(beside, os.W_OK):
        return beside
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def _digest(values: Sequence[object]) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]


def _scanned(files: Sequence[Path], scan: Scan) -> Iterator[np.ndarray]:
    with ThreadPoolExecutor(THREADS) as threads:
        yield from threads.map(scan, range(len(files)), files)


def _write(path: Path, dtype: np.dtype, parts: Iterator[np.ndarray]) -> None:
    """The number of rows, 8 bytes, and the rows."""
    settled = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    count = 0
    with whole(settled) as unfinished, unfinished.open("wb") as file:
        file.write(bytes(8))
        for part in parts:
            count += len(part)
            file.write(part.astype(dtype, copy=False).tobytes())
        file.seek(0)
        file.write(count.to_bytes(8, "little"))
    os.replace(settled, path)


def _load(path: Path, dtype: np.dtype) -> np.ndarray | None:
    """The rows, memory-mapped; None where the file is not there or not whole."""
    if not path.is_file() or path.stat().st_size < 8:
        return None
    with path.open("rb") as file:
        count = int.from_bytes(file.read(8), "little")
    if path.stat().st_size != 8 + count * dtype.itemsize:
        return None
    if count == 0:
        return np.zeros(0, dtype)
    # A plain view: np.memmap makes an object of its own of every row that is read.
    return np.asarray(np.memmap(path, dtype, "r", offset=8, shape=(count,)))
