"""Multiple choice: three forms of questions, letters read from words, figures by hand."""

import base64
import json
from io import BytesIO

import pytest
from PIL import Image

from latentum_jax.eval import mcq


def picture():
    file = BytesIO()
    Image.new("RGB", (4, 4)).save(file, format="PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("said", "letter"),
    [
        ("B", "B"),
        ("b.", "B"),
        ("(C) a cat", "C"),
        ("A: dog", "A"),
        ("The answer is B.", "B"),
        ("Option (C)", "C"),
        ("Answer: B because it is blue", "B"),
        ("The answer is A", "A"),
        ("B is right", "B"),
        ("A dog", "A"),  # by its words: that "A" is an article
        ("It is a red dog!", "A"),
        ("a cat and a dog", None),
        ("A. or B.", "A"),
        ("Either A. or B.", None),
        ("E", None),
        ("", None),
        ("hotdogs", None),
    ],
)
def test_letters_read_from_words(said, letter):
    """A right answer in other words would be lost, or a letter be read where there is none."""
    assert mcq.read_letter(said, ("dog", "bird", "cat")) == letter


def test_an_article_is_no_letter():
    """ "A bird" would count as option A."""
    assert mcq.read_letter("A bird", ("dog", "bird", "cat")) == "B"


def test_score_by_hand():
    """By hand: of x 1 of 2 questions, of y 1 of 1; q2 is asked twice and must be right both times:
    2 of 3 in all."""
    answered = [("q1", "x", True), ("q2", "x", True), ("q2", "x", False), ("q3", "y", True)]
    assert mcq.score(answered) == {
        "n": 3,
        "accuracy": 2 / 3,
        "categories": {"x": {"n": 2, "accuracy": 0.5}, "y": {"n": 1, "accuracy": 1.0}},
    }


SEED = {"data_id": "1_2", "question_id": "7", "question": "What?", "question_type_id": 3} | {
    "choice_a": "x",
    "choice_b": 0,
    "choice_c": "z",
    "choice_d": None,
    "answer": "B",
}


def test_seed(tmp_path):
    """The published file would not be read as it is, or a choice that is 0 be lost."""
    (tmp_path / "1_2.jpg").write_bytes(picture())
    (tmp_path / "s.json").write_text(json.dumps({"questions": [SEED], "question_type": {"a": 3}}))
    [choice] = mcq.read_questions(tmp_path / "s.json", tmp_path).questions
    assert choice.image == tmp_path / "1_2.jpg"
    assert (choice.options, choice.correct, choice.category) == (("x", "0", "z"), 1, "3")
    assert choice.question == f"What?\nA. x\nB. 0\nC. z\n{mcq.BY_LETTER}"


def test_mmbench(tmp_path):
    """Pictures in base64, one of them told by its index, hints and empty columns."""
    code = base64.b64encode(picture()).decode()
    lines = ["index\timage\tquestion\thint\tA\tB\tC\tanswer\tcategory"]
    lines += [f"1\t{code}\tWhat?\tLook.\tx\ty\tz\tC\tocr", "2\t1\tWho?\t\tu\tv\t\tA\tfaces"]
    (tmp_path / "m.tsv").write_text("\n".join(lines))
    first, second = mcq.read_questions(tmp_path / "m.tsv", None).questions
    assert first.image == second.image == picture()
    assert first.question.startswith("Look.\nWhat?\nA. x\n") and first.correct == 2
    assert (second.options, second.category) == (("u", "v"), "faces")
    turned = mcq.read_questions(tmp_path / "m.tsv", None, circular=True).questions
    told = [(q.name, q.options[q.correct], q.correct) for q in turned]
    assert told == [("1", "z", 2), ("1", "z", 1), ("1", "z", 0), ("2", "u", 0), ("2", "u", 1)]
    assert len({q.key for q in turned}) == 5


def test_mmmu(tmp_path):
    """Its lists are written as text; open questions and several pictures are left out, and said."""
    (tmp_path / "a.png").write_bytes(picture())
    base = {"question": "<image 1> What?", "options": "['x', 'y']", "answer": "A"}
    base |= {"image_1": "a.png", "subfield": "Art"}
    kinds = [{}, {"question_type": "open"}, {"image_2": "b.png"}, {"options": "['<image 1>', 'y']"}]
    lines = [json.dumps({**base, **more, "id": f"q{i}"}) for i, more in enumerate(kinds)]
    (tmp_path / "m.jsonl").write_text("\n".join(lines))
    given = mcq.read_questions(tmp_path / "m.jsonl", tmp_path)
    [choice] = given.questions
    assert choice.question.startswith("What?\nA. x\nB. y\n") and choice.category == "Art"
    several = "it has several pictures"
    assert given.left_out == {"q1": "it is open", "q2": several, "q3": several}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"answer": "D"}, "line 1: the answer is 'D', expected one of A, B, C"),
        ({"answer": "x"}, "the answer is 'x'"),
        ({"answer": None}, "the answer is None"),
        ({"choice_b": None, "answer": "A"}, "options choice_a, choice_c, expected them without a"),
        ({"choice_b": None, "choice_c": None}, "expected from 2 to 10 options"),
        ({"data_id": "9"}, "there is no image 9 in"),
        ({"data_id": None}, "there is no picture, under any of image"),
        ({"data_id": "!" * 99}, "neither a file nor base64"),
        ({"question": ""}, '"question" is empty'),
        ({"options": "x, y"}, '"options" is .x, y., expected a list'),
    ],
)
def test_what_is_no_question(tmp_path, change, words):
    """A question without its answer would be counted as answered wrongly."""
    (tmp_path / "1_2.jpg").write_bytes(picture())
    (tmp_path / "s.jsonl").write_text(json.dumps({**SEED, **change}))
    with pytest.raises(ValueError, match=words):
        mcq.read_questions(tmp_path / "s.jsonl", tmp_path)
