"""The nearest code: kernel and twin against numpy in double precision."""

import jax
import numpy as np

from latentum_jax.kernels.codebook import nearest_kernel, nearest_twin
from tests.devices import HERE


def test_nearest_by_full_distances():
    """70 chunks (more than a block) of 3 codebooks of 256 codes. Breaks if a block of codes or a
    codebook is mixed up with another."""
    z = jax.random.normal(jax.random.key(0), (70, 3, 32))
    codebook = jax.random.normal(jax.random.key(1), (3, 256, 32))
    far = np.asarray(z, np.float64)[:, :, None] - np.asarray(codebook, np.float64)
    expected = np.argmin((far**2).sum(-1), axis=-1)
    np.testing.assert_array_equal(nearest_kernel(HERE, z, codebook), expected)
    np.testing.assert_array_equal(nearest_twin(z, codebook), expected)


def test_of_equal_codes_the_first():
    """Codes 3 and 200 are one: breaks if a later block takes what an earlier one has."""
    codebook = jax.random.normal(jax.random.key(1), (1, 256, 32))
    codebook = codebook.at[0, 200].set(codebook[0, 3])
    z = codebook[:, 200][:, None]
    assert nearest_kernel(HERE, z, codebook).tolist() == [[3]]
    assert nearest_twin(z, codebook).tolist() == [[3]]
