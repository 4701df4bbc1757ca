"""Whose turn it is, in a batch whose rows are at different places."""

import jax.numpy as jnp
import pytest

from latentum_jax.generate.rows import DONE, IMAGE, PATIENCE, TEXT, served


@pytest.mark.parametrize(
    "status, waited, expected",
    [
        ([TEXT, TEXT, IMAGE, DONE], 1, (True, False)),
        ([TEXT, IMAGE, IMAGE, DONE], 1, (False, True)),
        ([TEXT, IMAGE], 1, (True, False)),  # of as many the words: what is drawn then is more
        ([TEXT, IMAGE, IMAGE], PATIENCE + 1, (True, True)),
        ([IMAGE, DONE, DONE], 1, (False, True)),
        ([DONE, DONE], PATIENCE + 1, (False, False)),
    ],
)
def test_most_go_first_and_nobody_waits_for_long(status, waited, expected):
    """Breaks if a step computes for few rows what it could compute for many, or if few rows among
    many others starve."""
    since = jnp.full(len(status), waited)
    assert tuple(map(bool, served(jnp.asarray(status), since))) == expected
