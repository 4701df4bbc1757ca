"""POPE: its reading of answers, and its figures worked out by hand."""

import json

import pytest

from latentum_jax.eval import pope


@pytest.mark.parametrize(
    ("said", "yes"),
    [
        ("Yes", True),
        ("No", False),
        ("no, there is none", False),
        ("There is not a dog", False),
        ("Yes. There is no doubt", True),  # the first sentence alone
        ("It is a dog. No cat", True),
        ("Nothing", True),  # no word of its own: "No" inside a word says nothing
        ("", True),
    ],
)
def test_reading(said, yes):
    """Answers would be counted otherwise than the benchmark's own script counts them."""
    assert pope.says_yes(said) == yes


def test_score_by_hand():
    """By hand: 3 yes said of which 2 right, 4 are yes of which 2 found, 4 of 7 right.

    precision 2/3, recall 2/4, F1 2 x 2/3 x 1/2 / (2/3 + 1/2) = 4/7, yes 3/7.
    """
    said = [True, True, True, False, False, False, False]
    true = [True, True, False, True, True, False, False]
    found = pope.score(list(zip(said, true, strict=True)))
    assert found == pytest.approx(
        {"n": 7, "accuracy": 4 / 7, "precision": 2 / 3, "recall": 0.5, "f1": 4 / 7, "yes": 3 / 7}
    )


def test_score_of_one_kind_of_answer():
    """A model that never says yes would divide by nothing."""
    never = pope.score([(False, True), (False, False)])
    assert (never["precision"], never["recall"], never["f1"], never["yes"]) == (0, 0, 0, 0)
    assert pope.score([(True, False)])["recall"] == 0


def test_categories_come_from_the_file(tmp_path):
    """Questions of the three files have the same numbers: they would be taken for each other."""
    (tmp_path / "1.jpg").write_bytes(b"")
    line = {"question_id": 1, "image": "1.jpg", "text": "Is there a dog?", "label": "yes"}
    files = [tmp_path / f"coco_pope_{name}.json" for name in ("random", "adversarial")]
    for file in files:
        file.write_text(json.dumps(line))
    found = pope.read_questions(files, tmp_path)
    assert [q.key for q in found] == ["random/1", "adversarial/1"]
    assert (
        found[0].question == "Is there a dog?\nAnswer the question using a single word or phrase."
    )
    with pytest.raises(ValueError, match="question 'random/1' was there before"):
        pope.read_questions([files[0], files[0]], tmp_path)
