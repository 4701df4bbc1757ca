"""Devices that tests are about: the one at hand, and those that are not here."""

import importlib.util

import jax
import pytest

from latentum_jax.kernels.dispatch import GPU, INTERPRET, TPU

HERE = {"gpu": GPU, "tpu": TPU}.get(jax.default_backend(), INTERPRET)

installed = importlib.util.find_spec("libtpu") and importlib.util.find_spec("jax_cuda12_plugin")
compiles = pytest.mark.skipif(not installed, reason="pip install 'latentum_jax[aot]'")
