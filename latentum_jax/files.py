"""Files and folders that appear whole or not at all, and Python files of the user."""

import fcntl
import importlib.util
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import Any

BUNDLED = Path(str(resources.files("latentum_jax"))) / "checkpoints"  # models of the package


@contextmanager
def whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A path to write to that becomes `path` once the block ends well, and vanishes otherwise."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        yield unfinished
        _settle(unfinished)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """The same for a folder; what was at `path` is replaced once the block ends well."""
    path = Path(path)
    unfinished, old = (path.with_name(f".{path.name}.{end}") for end in ("unfinished", "old"))
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        unfinished.mkdir(parents=True)
        yield unfinished
        for file in unfinished.rglob("*"):
            if file.is_file():
                _settle(file)
        if path.exists():
            os.replace(path, old)
        os.replace(unfinished, path)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


@contextmanager
def locked(folder: str | os.PathLike[str], *, wanted: bool = True) -> Iterator[None]:
    """Keeps a folder to this process while the block runs, where that is `wanted`.

    Raises ValueError where another process has it.
    """
    if not wanted:
        yield
        return
    Path(folder).mkdir(parents=True, exist_ok=True)
    with (Path(folder) / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"another run is under way in {folder}") from error
        yield


def _settle(file: Path) -> None:
    """Waits until a file is on the disk: a name that is there sooner may outlive a crash alone."""
    with file.open("rb") as opened:
        os.fsync(opened.fileno())


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes text as UTF-8."""
    with whole(path) as unfinished:
        unfinished.write_text(text, "utf-8")


def write_json(path: str | os.PathLike[str], values: Any) -> None:
    """Writes indented JSON."""
    write_text(path, json.dumps(values, indent=1, ensure_ascii=False) + "\n")


def write_jsonl(path: str | os.PathLike[str], lines: Sequence[Any]) -> None:
    """Writes one JSON value a line."""
    write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def module_at(path: str | os.PathLike[str], what: str) -> ModuleType:
    """The module of a Python file that holds a `what`, such as a config.

    Raises ValueError where there is no such file or it fails.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no {what} file {path}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever a user's file may raise
        raise ValueError(f"{path} cannot be read as a {what}: {error!r}") from error
    return module
