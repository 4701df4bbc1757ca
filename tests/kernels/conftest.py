"""Kernels are run as the device at hand has them (`JAX_PLATFORMS=cuda pytest tests/kernels`)."""

import jax
import pytest


@pytest.fixture(autouse=True, scope="module")
def exact():
    """A GPU's and a TPU's products of fp32 are of fewer bits otherwise, those of what is expected
    too: hence as wide as the widest fixture."""
    with jax.default_matmul_precision("highest"):
        yield
