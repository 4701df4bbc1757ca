"""GenEval's rules against pictures worked out by hand, and what is said of files of other forms."""

import json

import pytest

from latentum_jax.eval import geneval
from latentum_jax.eval.geneval import Thing, faults, positions

HERE = (0.0, 0.0, 10.0, 10.0)


def moved(x, y, size=10):
    return tuple(map(float, (x, y, x + size, y + size)))


@pytest.mark.parametrize(
    ("first", "where"),
    [
        # Offset of centres, less a tenth of both sizes, by the length of the whole offset.
        (moved(-20, 0), {"left of"}),  # (-20 + 2) / 20 = -0.9
        (moved(20, 0), {"right of"}),
        (moved(0, -20), {"above"}),  # y grows downwards
        (moved(0, 20), {"below"}),
        (moved(10, 10), {"right of", "below"}),  # (10 - 2) / 14.14 = 0.57 both ways
        (moved(-7.5, -7.5), {"left of", "above"}),  # 5.5 / 10.61 = 0.52
        (moved(6, 6), set()),  # 4 / 8.49 = 0.47
        (moved(4, 0), set()),  # 2 / 4 is not more than half
        (moved(4.1, 0), {"right of"}),  # 2.1 / 4.1 = 0.51
        (moved(1.9, 0), set()),  # nothing is left of it
        (moved(0, 0), set()),
        (moved(30, 14), {"right of"}),  # 28 and 12 of 33.1: 0.85 and 0.36
        ((-25.0, -40.0, 35.0, 50.0), set()),  # around it: sizes count as a whole
    ],
)
def test_positions_by_hand(first, where):
    """A thing a little to the left would be left of another, or one far away would not."""
    assert positions(first, HERE) == where


def prompt(tag, include, exclude=()):
    record = {"tag": tag, "include": include, "exclude": list(exclude), "prompt": "a photo"}
    clauses = geneval._clauses
    return geneval.Prompt(tag, "a photo", clauses(include, ""), clauses(exclude, ""), record)


def dog(score=0.95, box=HERE, colour=None, name="dog"):
    return Thing(name, box, score, colour)


TWO = prompt("counting", [{"class": "dog", "count": 2}], [{"class": "dog", "count": 3}])
ONE = prompt("single_object", [{"class": "dog", "count": 1}])
BOTH = prompt("two_object", [{"class": "dog", "count": 1}, {"class": "cat", "count": 1}])
RED = prompt("colors", [{"class": "dog", "count": 1, "color": "red"}])
LEFT = prompt(
    "position",
    [{"class": "cat", "count": 1}, {"class": "dog", "count": 1, "position": ["left of", 0]}],
)
CAT = dog(name="cat", box=moved(50, 0))


@pytest.mark.parametrize(
    ("asked", "things", "why"),
    [
        (TWO, [dog(), dog()], None),
        (TWO, [dog()], "1 dog, expected 2"),
        (TWO, [dog(), dog(), dog()], "3 dog, expected fewer than 3"),
        (TWO, [dog(), dog(), dog(0.9)], None),  # to be counted a thing must be surer than 0.9
        (TWO, [dog(), dog(0.8)], "1 dog, expected 2"),
        (ONE, [dog(0.31)], None),
        (ONE, [dog(0.3)], "0 dog, expected 1"),  # surer than 0.3
        (ONE, [dog(), dog()], None),  # more than asked for is no fault where nothing excludes it
        (ONE, [dog(name="cat")], "0 dog, expected 1"),
        (BOTH, [dog(), CAT], None),
        (BOTH, [dog()], "0 cat, expected 1"),
        (RED, [dog(colour="red")], None),
        (RED, [dog(colour="blue")], "0 red dog, expected 1"),
        (RED, [dog()], "0 red dog, expected 1"),
        # The surest things count, so many as are asked for.
        (RED, [dog(0.6, colour="red"), dog(0.7, colour="blue")], "0 red dog, expected 1"),
        (RED, [dog(0.7, colour="red"), dog(0.6, colour="blue")], None),
        (LEFT, [CAT, dog()], None),
        (LEFT, [CAT, dog(box=moved(90, 0))], "dog right of cat, expected left of"),
        (LEFT, [CAT, dog(box=moved(50, 0))], "dog nowhere cat, expected left of"),
        (LEFT, [dog()], "nothing for dog to be left of"),
    ],
)
def test_rules(asked, things, why):
    """A picture would be scored otherwise than by the published rules."""
    found = faults(asked, things)
    assert found[-1:] == ([] if why is None else [why])


def test_no_more_than_sixteen_of_a_class():
    """By hand: of 17 detections 16 count, so "fewer than 17" holds as in the published script."""
    many = prompt("counting", [{"class": "dog", "count": 1}], [{"class": "dog", "count": 17}])
    assert faults(many, [dog()] * 17) == []


def test_score_is_the_mean_over_tags():
    """By hand: of single_object 2 of 3 pictures are right, of colors 0 of 1: (2/3 + 0) / 2 = 1/3,
    while 2 of all 4 would be 1/2. One picture of 4 a prompt is told of, others are missing."""
    prompts = [ONE, RED]
    seen = {
        geneval.image_name(0, 0): [dog()],
        geneval.image_name(0, 1): [],
        geneval.image_name(0, 3): [dog()],
        geneval.image_name(1, 2): [dog(colour="blue")],
    }
    found = geneval.evaluate(prompts, seen, 4)
    assert found["tags"] == {
        "single_object": {"n": 3, "accuracy": 2 / 3},
        "colors": {"n": 1, "accuracy": 0.0},
    }
    assert found["score"] == pytest.approx(1 / 3)
    assert found["missing"] == [
        "00000/samples/0002.png",
        *(f"00001/samples/000{i}.png" for i in (0, 1, 3)),
    ]
    text = geneval.table(found)
    assert "| single_object | 3 | 66.7 |" in text and "| mean over tags | 4 | 33.3 |" in text
    assert "of 8 pictures 4 have no detections and do not count: 00000/samples/0002.png" in text
    with pytest.raises(ValueError, match="detections of '00002/samples/0000.png': 2 prompts of 4"):
        geneval.evaluate(prompts, {"00002/samples/0000.png": []}, 4)
    with pytest.raises(ValueError, match="there are detections of no picture"):
        geneval.evaluate(prompts, {}, 4)


GOOD = {"tag": "single_object", "include": [{"class": "dog", "count": 1}], "prompt": "a dog"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tag": "shapes"}, "line 2: the tag is 'shapes', expected one of single_object"),
        ({"tag": None}, '"tag" is None, expected text'),
        ({"prompt": ""}, '"prompt" is empty'),
        ({"include": []}, '"include" is empty'),
        ({"include": ["dog"]}, "expected objects of class and count, got 'dog'"),
        ({"include": [{"class": "dog"}]}, 'the key "count" is missing'),
        ({"include": [{"class": "dog", "count": 0}]}, "the count of 'dog' is 0"),
        ({"include": [{"class": "a", "count": 1, "position": ["near", 0]}]}, "position is .'near'"),
        (
            {"include": [{"class": "a", "count": 1, "position": ["above", 0]}]},
            "'a' is placed against entry 0 of \"include\", expected one before its own, 0",
        ),
    ],
)
def test_what_is_no_prompt(tmp_path, change, words):
    """A prompt of which half is not understood would be scored by the other half."""
    (tmp_path / "p.jsonl").write_text(f"{json.dumps(GOOD)}\n{json.dumps({**GOOD, **change})}\n")
    with pytest.raises(ValueError, match=words):
        geneval.read_prompts(tmp_path / "p.jsonl")


THING = {"class": "dog", "box": [0, 0, 1, 1]}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"objects": [THING]}, 'the key "image" is missing'),
        ({"image": "a"}, '"objects" is missing or no list'),
        ({"image": "a", "objects": [{"class": "dog", "box": [0, 1]}]}, "an object is .*got"),
        ({"image": "a", "objects": [{"class": "dog", "box": "0011"}]}, "an object is .*got"),
        ({"image": "a", "objects": [{**THING, "score": "high"}]}, "the score of 'dog' is 'high'"),
    ],
)
def test_what_is_no_detection(tmp_path, line, words):
    """A detector's own format would be read as pictures of nothing."""
    (tmp_path / "d.jsonl").write_text(json.dumps(line))
    with pytest.raises(ValueError, match=words):
        geneval.read_detections(tmp_path / "d.jsonl")


def test_detections(tmp_path):
    """Score or colour would be lost on the way from the file; or one picture count twice."""
    line = json.dumps({"image": "a", "objects": [THING, {**THING, "score": 0.5, "color": "red"}]})
    (tmp_path / "d.jsonl").write_text(line)
    box = (0.0, 0.0, 1.0, 1.0)
    things = [Thing("dog", box), Thing("dog", box, 0.5, "red")]
    assert geneval.read_detections(tmp_path / "d.jsonl") == {"a": things}
    (tmp_path / "d.jsonl").write_text(f"{line}\n{line}")
    with pytest.raises(ValueError, match="line 2: image 'a' was there before"):
        geneval.read_detections(tmp_path / "d.jsonl")
