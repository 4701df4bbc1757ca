"""One and many, against lists written out by hand."""

import pytest

from latentum_jax.rl.nouns import KNOWN, is_plural, plural, singular

MANY = {
    "knife": "knives",
    "sheep": "sheep",
    "person": "people",
    "bus": "buses",
    "bench": "benches",
    "computer mouse": "computer mice",
    "skis": "skis",
    "scissors": "scissors",
    "wine glass": "wine glasses",
    "toothbrush": "toothbrushes",
    "sports ball": "sports balls",
    "vase": "vases",
    "horse": "horses",
    "berry": "berries",
    "monkey": "monkeys",
    "box": "boxes",
    "policeman": "policemen",
    "human": "humans",
    "walrus": "walruses",
    "lens": "lenses",
    "cookie": "cookies",
}


@pytest.mark.parametrize("one, many", MANY.items())
def test_both_ways(one, many):
    """A wrong number asks for "knifes", or takes two words of one thing for two things."""
    assert (plural(one), singular(many)) == (many, one)


def test_every_known_noun_comes_back():
    """Breaks if a rule changes a name of COCO."""
    assert len(KNOWN) > 80
    assert {noun: singular(plural(noun)) for noun in KNOWN} == {noun: noun for noun in KNOWN}
    assert {noun: singular(noun) for noun in KNOWN} == {noun: noun for noun in KNOWN}


@pytest.mark.parametrize("many", ["knifes", "benchs", "sheeps", "persons", "sandwichs"])
def test_geneval_s_own_plurals(many):
    """GenEval adds an s to everything."""
    assert singular(many) == many[:-1] in KNOWN


def test_is_plural():
    """ "a photo of dogs" has no article because there are many, "a photo of dog" is an error."""
    assert [is_plural(noun) for noun in ("dogs", "dog", "skis", "bus")] == [
        True,
        False,
        True,
        False,
    ]
