"""Programs are kept on disk, and what tracing found: what one run has made, the next one reads."""

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from latentum_jax.files import write_json

FOLDER, SECONDS = "JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"
_asked = False  # whether `keep_programs` was called
DAMAGED = re.compile(r"Error reading persistent compilation cache entry for '([^']+)'")


def keep_programs() -> None:
    """Has jax, which must not have been imported yet, keep what took long to compile.

    In JAX_COMPILATION_CACHE_DIR where that is set, nowhere if it is empty, else in the user's cache
    folder. A program that cannot be read is compiled and kept anew, with a warning.
    """
    global _asked
    _asked = True
    folder = os.environ.setdefault(FOLDER, str(default_folder()))
    os.environ.setdefault(SECONDS, "0.05")
    if folder:
        warnings.showwarning = functools.partial(_show, Path(folder), warnings.showwarning)


def kept_in() -> str:
    """The folder, empty where nothing is kept."""
    return os.environ.get(FOLDER, "")


def keeps_whole() -> bool:
    """Whether programs are kept as `kept.Program` does it too."""
    return _asked and bool(kept_in())


def default_folder() -> Path:
    """One for each kind of processor, for programs that run on it are made for it alone."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "latentum_jax" / f"programs-{processor()}"


@functools.cache
def processor() -> str:
    """Tells this machine's kind of processor from others."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        kind = next(line for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        kind = platform.processor()
    return hashlib.sha256(f"{platform.machine()} {kind}".encode()).hexdigest()[:12]


def known(name: str, of: Any, find: Callable[[], Any]) -> Any:
    """What `find()` returns, a JSON value that `of` and this library's code alone decide.

    An earlier run's where programs are kept: tracing a model for the shapes of its parameters takes
    longer than reading them.
    """
    if not kept_in():
        return find()
    made_by = hashlib.sha256(f"{_code()} {of!r}".encode()).hexdigest()[:32]
    file = Path(kept_in()) / f"{name}-{made_by}.json"
    try:
        return json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):  # none, or a damaged one
        found = find()
    with contextlib.suppress(OSError):  # a folder that takes nothing costs time alone
        write_json(file, found)
    return found


@functools.cache
def _code() -> str:
    """Tells this library's code, and the libraries that trace it, from any other."""
    code = hashlib.sha256()
    for file in sorted(Path(__file__).parent.rglob("*.py")):
        code.update(file.read_bytes())
    return f"{code.hexdigest()} {versions()}"


def versions() -> str:
    """Of the libraries that trace and compile it."""
    return " ".join(importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax"))


def _show(folder: Path, usual: Callable[..., None], message: Warning, *where: Any) -> None:
    """Shows a warning; one of a damaged program clears its place, which jax would never fill."""
    damaged = DAMAGED.match(str(message))
    if not damaged:
        usual(message, *where)
        return
    for entry in folder.glob(f"{damaged[1]}-*"):
        entry.unlink(missing_ok=True)
    text = f"latentum: warning: {folder} has a damaged program, {damaged[1]}: it is made anew"
    print(text, file=sys.stderr)
