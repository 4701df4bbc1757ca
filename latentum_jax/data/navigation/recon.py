"""Trajectories on disk as NWM reads RECON: a folder each, of frames and of the poses they had.

`DIR/<trajectory>/0.jpg, 1.jpg, ...` beside `traj_data.pkl`, a pickled dict of "position" [T 2] in
meters and "yaw" [T] in radians. A pickle can run anything, so that ours are opened by a reader that
knows numbers and arrays of them alone.
"""

import codecs
import os
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from latentum_jax.data.faults import BadSample, blaming
from latentum_jax.files import whole_folder

POSES = "traj_data.pkl"
FRAMES = (".jpg", ".jpeg", ".png")


class Trajectory(NamedTuple):
    """T frames, oldest first, and the poses [T 3] they were seen from: meters and radians."""

    frames: tuple[Path, ...]
    poses: Float[np.ndarray, "T 3"]


class Window(NamedTuple):
    """The same of some frames of a trajectory, and where they come from."""

    frames: tuple[Path, ...]
    poses: Float[np.ndarray, "F 3"]
    where: str


def read_trajectory(folder: str | os.PathLike[str]) -> Trajectory:
    """Reads a trajectory's poses and finds its frames, which are not opened.

    Raises BadSample where one of them is missing or damaged, or they are not as many.
    """
    folder = Path(folder)
    with blaming(str(folder)):
        poses, frames = _poses(folder / POSES), _frames(folder)
        if len(frames) != len(poses):
            raise ValueError(f"there are {len(frames)} frames and {len(poses)} poses")
    return Trajectory(frames, poses)


class Trajectories:
    """Every window of frames of every trajectory of a folder, by number.

    folder: holds the trajectories' folders. size: frames of a window, F; stride: frames from one of
    them to the next. A trajectory that cannot be read, or is too short for a window, counts as one
    broken sample.

    Raises ValueError where there is no such folder, or no trajectory in it.
    """

    def __init__(self, folder: str | os.PathLike[str], *, size: int, stride: int = 1):
        if size < 2 or stride < 1:
            raise ValueError(f"windows of {size} frames, every {stride}, expected 2 and 1 at least")
        self.folder, self.size, self.stride = Path(folder), size, stride
        if not self.folder.is_dir():
            raise ValueError(f"{self.folder}: there is no such folder")
        paths = sorted(path for path in self.folder.iterdir() if path.is_dir())
        if not paths:
            raise ValueError(f"{self.folder} has no trajectories, a folder of frames each")
        self._read = [self._try(path) for path in paths]
        counts = [1 if isinstance(t, BadSample) else self._windows(t) for t in self._read]
        self._ends = np.cumsum(counts)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Window:
        """Window `index`. Raises BadSample where its trajectory is broken."""
        which = int(np.searchsorted(self._ends, index, side="right"))
        found = self._read[which]
        if isinstance(found, BadSample):
            raise BadSample(found.where, found.reason)
        first = index - int(self._ends[which - 1] if which else 0)
        part = slice(first, first + self._span(), self.stride)
        frames = found.frames[part]
        return Window(frames, found.poses[part], str(frames[-1]))

    def _span(self) -> int:
        return (self.size - 1) * self.stride + 1

    def _windows(self, trajectory: Trajectory) -> int:
        return len(trajectory.frames) - self._span() + 1

    def _try(self, path: Path) -> Trajectory | BadSample:
        try:
            found = read_trajectory(path)
        except BadSample as error:
            return error
        if self._windows(found) < 1:
            need = f"{self.size - 1} to begin with and 1 to come, every {self.stride}"
            return BadSample(
                str(path), f"{len(found.frames)} frames, expected {self._span()} at least: {need}"
            )
        return found


def write_trajectory(
    folder: str | os.PathLike[str],
    frames: Sequence[UInt8[np.ndarray, "h w 3"]] | UInt8[np.ndarray, "T h w 3"],
    poses: Float[np.ndarray, "T 3"],
    *,
    suffix: str = ".jpg",
) -> None:
    """Writes a trajectory, whole or not at all. Raises ValueError where it could not be read."""
    if len(frames) != len(poses):
        raise ValueError(f"{folder}: {len(frames)} frames and {len(poses)} poses")
    if suffix not in FRAMES:
        raise ValueError(f"{folder}: frames are asked for as {suffix!r}, expected one of {FRAMES}")
    with whole_folder(folder) as unfinished:
        for number, frame in enumerate(frames):
            options = {} if suffix == ".png" else {"quality": 95}
            Image.fromarray(frame).save(unfinished / f"{number}{suffix}", **options)
        data = {"position": poses[:, :2].copy(), "yaw": poses[:, 2].copy()}
        (unfinished / POSES).write_bytes(pickle.dumps(data))


def _frames(folder: Path) -> tuple[Path, ...]:
    """The frames 0, 1, 2, ... of a folder."""
    found: dict[int, Path] = {}
    for path in folder.iterdir():
        if path.suffix.lower() in FRAMES and path.stem.isdecimal():
            number = int(path.stem)
            if number in found:
                raise ValueError(f"frame {number} is there twice")
            found[number] = path
    if not found:
        raise ValueError(f"there are no frames (0.jpg, 1.jpg, ..., {' or '.join(FRAMES)})")
    missing = next((number for number in range(max(found)) if number not in found), None)
    if missing is not None:
        raise ValueError(f"frame {missing} is missing, the last is {max(found)}")
    return tuple(found[number] for number in range(len(found)))


def _poses(file: Path) -> Float[np.ndarray, "T 3"]:
    """The poses of a `traj_data.pkl`. Raises ValueError where it is not one."""
    if not file.is_file():
        raise ValueError(f"there is no {file.name}")
    data = read_numbers(file)
    parts = []
    for name, widths in (("position", (2,)), ("yaw", ())):
        if not isinstance(data, dict) or name not in data:
            raise ValueError(f"{file.name} has no {name}")
        try:
            values = np.asarray(data[name], np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{file.name}: {name} is not of numbers") from error
        if name == "yaw" and values.ndim == 2 and values.shape[1] == 1:
            values = values[:, 0]
        if values.ndim != 1 + len(widths) or values.shape[1:] != widths:
            told = "[T 2]" if widths else "[T]"
            raise ValueError(f"{file.name}: {name} is {list(values.shape)}, expected {told}")
        if not np.isfinite(values).all():
            raise ValueError(f"{file.name}: {name} has numbers that are not finite")
        parts.append(values)
    if len(parts[0]) != len(parts[1]):
        raise ValueError(f"{file.name} has {len(parts[0])} positions and {len(parts[1])} yaws")
    return np.concatenate([parts[0], parts[1][:, None]], axis=1)


def read_numbers(file: str | os.PathLike[str]) -> Any:
    """What a pickle holds: dicts, lists, texts, numbers and numpy arrays of numbers.

    Raises ValueError where it is damaged or holds anything else, of which nothing is run.
    """
    try:
        with open(file, "rb") as opened:
            return _Numbers(opened).load()
    except pickle.UnpicklingError as error:
        raise ValueError(f"{Path(file).name} cannot be read ({error})") from error
    except Exception as error:  # whatever damage leads the unpickler to
        name = type(error).__name__
        raise ValueError(f"{Path(file).name} is damaged or cut short ({name})") from error


def _encoded(text: str, encoding: str) -> bytes:
    """`codecs.encode`, by which old pickles hold bytes."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"it holds text as {encoding!r}, expected latin1")
    return codecs.encode(text, encoding)


def _numeric(*args: Any) -> np.dtype:
    """`numpy.dtype` of numbers: one of objects would hold whatever there is."""
    found = np.dtype(*args)
    if found.kind not in "biuf":
        raise pickle.UnpicklingError(f"it holds an array of {found}, expected numbers")
    return found


def _array_functions() -> dict[tuple[str, str], Callable[..., Any]]:
    """What numpy's pickles of arrays call, under the names that its versions gave the modules."""
    core = np._core if hasattr(np, "_core") else np.core
    known: dict[tuple[str, str], Callable[..., Any]] = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): _numeric,
        ("_codecs", "encode"): _encoded,
    }
    for name in ("numpy.core", "numpy._core"):
        known[f"{name}.multiarray", "_reconstruct"] = core.multiarray._reconstruct
        known[f"{name}.multiarray", "scalar"] = core.multiarray.scalar
        known[f"{name}.numeric", "_frombuffer"] = core.numeric._frombuffer
    return known


class _Numbers(pickle.Unpickler):
    """An unpickler that finds nothing but what arrays of numbers need."""

    known = _array_functions()

    def find_class(self, module: str, name: str) -> Any:
        """A function of `known`. Raises UnpicklingError for any other."""
        if (module, name) not in self.known:
            raise pickle.UnpicklingError(f"it holds {module}.{name}, expected numbers and arrays")
        return self.known[module, name]
