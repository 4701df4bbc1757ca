"""Functions whose programs are kept whole: a later run only reads them.

jax keeps what it has compiled, but traces and lowers a function anew in every process before it
knows what to read. Of `latentum demo`, with all programs on disk, that was half of the time.
"""

import contextlib
import functools
import hashlib
import inspect
import os
import pickle
import sys
import threading
import zlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.experimental import serialize_executable

from latentum_jax.files import whole
from latentum_jax.programs import keeps_whole, kept_in, known, processor, versions

# What else a program depends on.
SETTINGS = ("jax_default_matmul_precision", "jax_enable_x64", "jax_debug_nans", "jax_debug_infs")
ENVIRONMENT = ("XLA_FLAGS", "LATENTUM_KERNELS")
# As it is by default, but given: jax then tells these programs from its own of the same function.
OPTIONS = {"xla_cpu_parallel_codegen_split_count": 32}


class Program:
    """`jax.jit` of a function, which takes its programs from disk where `keep_programs` was called.

    Arguments named in `static` are part of a program, those in `donate` are used up. Only on a CPU
    with one device, where programs are known to be the same when they are read again.
    """

    def __init__(
        self, function: Callable[..., Any], static: Sequence[str], donate: Sequence[str]
    ) -> None:
        functools.update_wrapper(self, function)
        self._jit = jax.jit(function, static_argnames=static, donate_argnames=donate)
        self._signature = inspect.signature(function)
        self._static = frozenset(static)
        self._ready: dict[Hashable, Callable[..., Any]] = {}
        self._locks: defaultdict[Hashable, threading.Lock] = defaultdict(threading.Lock)

    def lower(self, *args: Any, **kwargs: Any) -> jax.stages.Lowered:
        """As that of `jax.jit`."""
        return self._jit.lower(*args, **kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The function's result."""
        if not (keeps_whole() and _alone()):
            return self._jit(*args, **kwargs)
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        given = {n: x for n, x in bound.arguments.items() if n not in self._static}
        static = tuple(bound.arguments[n] for n in sorted(self._static))
        leaves, tree = jax.tree.flatten(given)
        if any(isinstance(x, jax.core.Tracer) for x in leaves):  # part of another program
            return self._jit(*args, **kwargs)
        key = (self.__module__, tree, tuple(map(_kind, leaves)), static, _settings())
        if key not in self._ready:
            with self._locks[key]:  # threads that need the same wait for the first
                if key not in self._ready:
                    self._ready[key] = self._find(key, bound.arguments)
        return self._ready[key](**given)

    def _find(self, key: Hashable, arguments: dict[str, Any]) -> Callable[..., Any]:
        """The program that an earlier run has kept, or one compiled now, which is kept.

        Code that has changed traces anew; what is lowered to the same is the same program.
        """
        lower = functools.cache(lambda: self._jit.lower(**arguments))
        if " at 0x" in repr(key):  # of something that nothing but its place in memory tells
            return lower().compile()
        file = Path(kept_in()) / known(self.__name__, key, lambda: self._name(lower(), key))
        return _read(file) or self._make(lower(), file)

    def _name(self, lowered: jax.stages.Lowered, key: Hashable) -> str:
        of = f"{lowered.as_text()} {key!r} {versions()}"
        return f"{self.__name__}-{hashlib.sha256(of.encode()).hexdigest()[:32]}.program"

    def _make(self, lowered: jax.stages.Lowered, file: Path) -> Callable[..., Any]:
        """Compiles a program and keeps it, unless jax has read it: such a one does not run when it
        has been written again. Then jax's is removed, so that the next run makes and keeps it."""
        before = _reads()
        made = lowered.compile(OPTIONS)
        with contextlib.suppress(Exception):  # what cannot be kept costs time alone
            if _reads() > before:
                for entry in file.parent.glob(f"jit_{self.__name__}-*"):
                    entry.unlink(missing_ok=True)
                return made
            kept = zlib.compress(pickle.dumps(serialize_executable.serialize(made)), 1)
            with whole(file) as unfinished:
                unfinished.write_bytes(kept)
        return made


def program(
    static: Sequence[str] = (), donate: Sequence[str] = ()
) -> Callable[[Callable[..., Any]], Program]:
    """A decorator, see `Program`."""
    return lambda function: Program(function, static, donate)


def _read(file: Path) -> Callable[..., Any] | None:
    """A program on disk, if it is there and whole."""
    try:
        kept = file.read_bytes()
    except OSError:
        return None
    try:
        return serialize_executable.deserialize_and_load(*pickle.loads(zlib.decompress(kept)))
    except Exception:  # noqa: BLE001 whatever a damaged file leads to
        print(f"latentum: warning: {file} is damaged: it is made anew", file=sys.stderr)
        return None


def _reads() -> int:
    """How many programs this thread has read from jax's own cache."""
    return getattr(_local, "reads", 0)


def _note(event: str, **_: Any) -> None:
    if event.endswith("/compilation_cache/cache_hits"):
        _local.reads = _reads() + 1


_local = threading.local()
jax.monitoring.register_event_listener(_note)


def _kind(x: Any) -> tuple[Any, ...]:
    """What of an argument decides about a program."""
    kind = jax.typeof(x)
    return kind.shape, str(kind.dtype), kind.weak_type


def _settings() -> tuple[Any, ...]:
    return (
        processor(),
        *(getattr(jax.config, name) for name in SETTINGS),
        *(os.environ.get(name) for name in ENVIRONMENT),
    )


def _alone() -> bool:
    """Whether programs are for one CPU, and are compiled at all."""
    one = jax.default_backend() == "cpu" and jax.device_count() == 1
    return one and not jax.config.jax_disable_jit
