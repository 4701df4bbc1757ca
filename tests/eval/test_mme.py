"""MME: its figures worked out by hand, its reading of answers, and both layouts of its folder."""

import pytest

from latentum_jax.eval import mme


def test_score_by_hand():
    """By hand: of "count" 3 of 4 questions are right, 75, and one of two pictures wholly, 50;
    of "OCR" all, 200; of "code_reasoning" 1 of 2, 50, and no picture. 325 and 50 in all."""
    right = [
        ("count", "a", True),
        ("count", "b", True),
        ("count", "a", True),
        ("count", "b", False),
        ("OCR", "a", True),  # another picture than that of "count"
        ("OCR", "a", True),
        ("code_reasoning", "c", False),
        ("code_reasoning", "c", True),
    ]
    found = mme.score(right)
    assert found["tasks"]["count"] == {
        "n": 4,
        "accuracy": 75,
        "accuracy_plus": 50,
        "score": 125,
    }
    assert found["tasks"]["OCR"]["score"] == 200
    assert found["tasks"]["code_reasoning"]["score"] == 50
    assert (found["perception"], found["cognition"]) == (325, 50)
    assert list(found["tasks"]) == ["count", "OCR", "code_reasoning"]


def test_all_right_makes_2000_and_800():
    """A task would be missing from the official lists."""
    right = [(t, "a", True) for t in mme.PERCEPTION + mme.COGNITION for _ in range(2)]
    found = mme.score(right)
    assert (found["perception"], found["cognition"]) == (2000, 800)


@pytest.mark.parametrize(
    ("said", "answer"),
    [("Yes", True), ("no.", False), (" YES, it is", True), ("I do", None), ("Now", False)],
)
def test_reading(said, answer):
    """Answers would be counted otherwise than by the four letters that the benchmark reads."""
    assert mme.read_answer(said) is answer


def write(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


BOTH = "Is it a?\tYes\nIs it b?\tNo\n"


def test_three_layouts(tmp_path):
    """A published folder would have to be rewritten, or a picture have another's questions."""
    write(
        tmp_path,
        {
            "count/1.txt": BOTH,
            "count/1.png": "",
            "scene/images/2.jpg": "",
            "scene/questions_answers_YN/2.txt": BOTH,
            "color.txt": "3.png\tIs it c?\tNo\n3.png\tIs it d?\tYes\n",
            "color/3.png": "",
        },
    )
    found = {(q.task, q.image.name, q.question.split("?")[0], q.yes) for q in
             mme.read_questions(tmp_path)}  # fmt: skip
    assert found == {
        ("count", "1.png", "Is it a", True),
        ("count", "1.png", "Is it b", False),
        ("scene", "2.jpg", "Is it a", True),
        ("scene", "2.jpg", "Is it b", False),
        ("color", "3.png", "Is it c", False),
        ("color", "3.png", "Is it d", True),
    }


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"colour/1.txt": BOTH, "colour/1.png": ""}, "'colour' is no task of MME"),
        ({"count/1.txt": BOTH}, "1.txt, line 1: there is no image 1 in"),
        ({"count/1.txt": "Is it a? Yes\n", "count/1.png": ""}, "expected question and answer with"),
        ({"count.txt": "Is it a?\tYes\n"}, "expected image, question and answer with tabs"),
        ({"count/1.txt": "a?\tMaybe\n", "count/1.png": ""}, "line 1: the answer is 'Maybe'"),
        (
            {"count/1.txt": "a?\tYes\n", "count/1.png": ""},
            "count/1.png has 1 questions",
        ),
        ({"readme.md": ""}, "has no tasks"),
    ],
)
def test_what_is_not_mme(tmp_path, files, words):
    """A broken folder would give a figure that is too low, or a traceback."""
    write(tmp_path, files)
    with pytest.raises(ValueError, match=words):
        mme.read_questions(tmp_path)
