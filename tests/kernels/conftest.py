"""Kernels are run as the device at hand has them (`JAX_PLATFORMS=cuda pytest tests/kernels`)."""

import jax
import pytest


@pytest.fixture(autouse=True)
def exact():
    """A GPU's and a TPU's products of fp32 are of fewer bits otherwise."""
    with jax.default_matmul_precision("highest"):
        yield
