"""Whose turn it is, in a batch whose rows are at different places."""

import jax.numpy as jnp
import pytest

from latentum_jax.generate.rows import BRIEF, DONE, IMAGE, PATIENCE, TEXT, served

LATE = PATIENCE + 1


@pytest.mark.parametrize(
    "status, waited, said, expected",
    [
        ([TEXT, TEXT, IMAGE, DONE], 1, BRIEF, (True, False)),
        ([TEXT, IMAGE, IMAGE, DONE], 1, BRIEF, (False, True)),
        ([TEXT, IMAGE], 1, BRIEF, (True, False)),  # of as many the words: more draw then
        ([TEXT, IMAGE, IMAGE], LATE, BRIEF, (True, True)),
        ([TEXT, IMAGE, IMAGE], 1, BRIEF - 1, (True, False)),
        ([TEXT, IMAGE, IMAGE], LATE, BRIEF - 1, (True, True)),
        ([IMAGE, DONE, DONE], 1, 0, (False, True)),
        ([DONE, DONE], LATE, 0, (False, False)),
    ],
)
def test_most_go_first_and_nobody_waits_for_long(status, waited, said, expected):
    """Breaks if a step computes for few rows what it could compute for many, if many wait for a
    word that would bring another row back to them, or if few rows among many others starve."""
    each = lambda number: jnp.full(len(status), number)  # noqa: E731
    assert tuple(map(bool, served(jnp.asarray(status), each(waited), each(said)))) == expected
