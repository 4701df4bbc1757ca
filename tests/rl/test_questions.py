"""Questions of prompts: what is asked, and which option is right."""

import pytest

from latentum_jax.rl.questions import decompose, decompose_all


def asked(prompt):
    """(kind, first line without the instruction, the right choice), the choices by number."""
    found = []
    for question in decompose(prompt):
        first, *choices = question.text.split("\n")
        named = dict(choice.split(". ", 1) for choice in choices)
        assert tuple(named) == question.options and question.prefix == ""
        sentence = first.removeprefix("Answer the following question with the given option only. ")
        found.append((question.kind, sentence, named[question.options[question.correct]]))
    return found


def test_a_count_in_the_published_words():
    """The wording is the paper's; by hand: 0 is A, so 2 is C, the third of eleven options."""
    (question,) = decompose("a photo of two clocks")
    assert question.text == (
        "Answer the following question with the given option only. How many valid clocks are there "
        "in the image? Valid means the object is clearly visible, complete and not partially "
        "occluded by other objects and contains no artifacts.\n"
        "A. 0\nB. 1\nC. 2\nD. 3\nE. 4\nF. 5\nG. 6\nH. 7\nI. 8\nJ. 9\nK. 10"
    )
    assert (question.kind, question.options, question.correct) == ("count", tuple("ABCDEFGHIJK"), 2)


def test_every_kind():
    """Breaks if an atom of the prompt is not asked about, or its answer is another choice."""
    found = asked("an orange umbrella to the left of three striped metal boxes")
    assert len(found) == 6
    assert found[0] == ("existence", "Is there an umbrella in the image?", "yes")
    assert found[1] == ("colour", "What color is the umbrella?", "orange")
    assert found[2][1].startswith("How many valid boxes") and found[2][2] == "3"
    assert found[3] == ("pattern", "What pattern do the boxes have?", "striped")
    assert found[4] == ("material", "What are the boxes made of?", "metal")
    assert found[5] == ("relation", "Where is the umbrella relative to the boxes?", "left of")


def test_relations():
    """A direction is one of four, a depth one of two, everything else is yes or no."""
    assert asked("two dogs behind a car chasing a cat")[-2:] == [
        ("relation", "Where are the dogs relative to the car?", "behind"),
        ("relation", "Is the car chasing the cat?", "yes"),
    ]


def test_ten_colours_and_one_more():
    """Gray is none of the ten: it is offered beside them."""
    assert [len(decompose(f"a {colour} cat")[1].options) for colour in ("red", "gray")] == [10, 11]


def test_things_of_one_noun_are_told_apart():
    """ "What color is the dog?" has no answer where there are a red one and a blue one."""
    found = asked("a red dog chasing two blue dogs")
    assert found[0] == ("existence", "Is there a red dog in the image?", "yes")
    assert found[1][1].startswith("How many valid blue dogs are") and found[1][2] == "2"
    assert found[2:] == [("relation", "Is the red dog chasing the blue dogs?", "yes")]
    with pytest.raises(ValueError, match="names 'dog' twice, with nothing to tell them apart"):
        decompose("a dog chasing two dogs")


def test_many_prompts():
    """One bad prompt would stop a run, or vanish without a word."""
    found = decompose_all(["a dog", "a black and white cat", "a dog", "two cats"])
    assert list(found.questions) == ["a dog", "two cats"]
    assert list(found.refused) == ["a black and white cat"]
    head, reason = found.report().split("\n")
    assert head == "2 of 3 prompts taken apart into questions"
    assert reason.endswith("'black' is no noun")
