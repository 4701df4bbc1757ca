"""Compiled programs are kept on disk: what one run has compiled, the next one reads."""

import functools
import hashlib
import os
import platform
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

FOLDER, SECONDS = "JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"
DAMAGED = re.compile(r"Error reading persistent compilation cache entry for '([^']+)'")


def keep_programs() -> None:
    """Has jax, which must not have been imported yet, keep what took long to compile.

    In JAX_COMPILATION_CACHE_DIR where that is set, nowhere if it is empty, else in the user's cache
    folder. A program that cannot be read is compiled and kept anew, with a warning.
    """
    folder = os.environ.setdefault(FOLDER, str(default_folder()))
    os.environ.setdefault(SECONDS, "0.3")
    if folder:
        warnings.showwarning = functools.partial(_show, Path(folder), warnings.showwarning)


def kept_in() -> str:
    """The folder, empty where nothing is kept."""
    return os.environ.get(FOLDER, "")


def default_folder() -> Path:
    """One for each kind of processor, for programs that run on it are made for it alone."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        kind = next(line for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        kind = platform.processor()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    name = hashlib.sha256(f"{platform.machine()} {kind}".encode()).hexdigest()[:12]
    return Path(base) / "latentum_jax" / f"programs-{name}"


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
