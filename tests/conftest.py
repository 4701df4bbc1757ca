"""What every test runs under; set before jax is imported: it reads its environment once."""

import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["HF_HUB_OFFLINE"] = "1"
# Most of the time goes into compiling programs that run once, so that they are not made faster.
QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
os.environ.setdefault("XLA_FLAGS", QUICK)
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("NPROC", "1")  # threads of XLA: the workers already fill the cores

# Compiled programs, shared by the workers and kept from one run to the next.
CACHE = Path(tempfile.gettempdir()) / f"latentum-test-cache-{os.getuid()}"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")

import beartype  # noqa: E402
import jaxtyping  # noqa: E402
import pytest  # noqa: E402


def check_calls(function, *args, **kwargs):
    """Beartype on every function but `__init__`.

    jax rebuilds a dataclass that is a pytree through its `__init__`, with whatever a transformation
    leaves in the fields: None, shapes, shardings.
    """
    if function.__name__ == "__init__":
        return function
    return beartype.beartype(function, *args, **kwargs)


sys.modules["latentum_typecheck"] = sys.modules[__name__]  # the hook takes a dotted name only
jaxtyping.install_import_hook("latentum_jax", "latentum_typecheck.check_calls")


@pytest.fixture(scope="session")
def small():
    """A very small model with random parameters, and its tokenizer."""
    from tests.small import make_small

    return make_small()
