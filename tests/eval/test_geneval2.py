"""GenEval2: Soft-TIFA worked out by hand, what counts as an answer, and files of another form."""

import json

import pytest

from latentum_jax.eval import geneval2
from latentum_jax.eval.geneval2 import Prompt, variants


def test_means_by_hand():
    """By hand: AM of (1, 1/4) is 5/8, GM 1/2; of (1/2) both 1/2; of (1, 0) 1/2 and 0."""
    assert (geneval2.arithmetic([1.0, 0.25]), geneval2.geometric([1.0, 0.25])) == (0.625, 0.5)
    assert geneval2.geometric([1.0, 0.0]) == 0
    prompts = [
        Prompt("a", (("q", "yes"),) * 2, 2, ("object", "count")),
        Prompt("b", (("q", "yes"),), 1, ("object",)),
        Prompt("c", (("q", "yes"),) * 2, 2, ("object", "verb")),
    ]
    found = geneval2.score(prompts, [[1.0, 0.25], [0.5], [1.0, 0.0]])
    assert found == {
        "n": 3,
        "am": pytest.approx(100 * (0.625 + 0.5 + 0.5) / 3),
        "gm": pytest.approx(100 * (0.5 + 0.5 + 0) / 3),
        "atoms": {
            "1": {"n": 1, "am": 50, "gm": 50},
            "2": {"n": 2, "am": 56.25, "gm": 25},
        },
        "skills": {
            "count": {"n": 1, "mean": 25},
            "object": {"n": 3, "mean": pytest.approx(250 / 3)},
            "verb": {"n": 1, "mean": 0},
        },
    }
    text = geneval2.table(found)
    assert "| 2 atoms | 2 | 56.2 | 25.0 |" in text and "| all | 3 | 54.2 | 33.3 |" in text
    assert "| object | 3 | 83.3 |" in text


@pytest.mark.parametrize(
    ("question", "answer", "said"),
    [
        ("Is it red?", "Yes", {"Yes", " Yes"}),
        ("Is it red?", "yes", {"yes", "Yes", " yes", " Yes"}),
        ("How many dogs?", "five", {"five", "Five", "5", " five", " Five", " 5"}),
        ("How many dogs?", "5", {"five", "Five", "5", " five", " Five", " 5"}),
        ("How many dogs?", "forty", {"forty", "Forty", " forty", " Forty"}),
        ("Which bus?", "two", {"two", "Two", " two", " Two"}),  # no count: its digit says nothing
    ],
)
def test_variants(question, answer, said):
    """A right answer said with a digit would count as wrong, or one form count twice."""
    found = variants(question, answer)
    assert set(found) == said and len(found) == len(said)


def test_first_tokens(small):
    """Two variants that begin alike would count twice, p above 1; and the space that a digit may
    begin with would count as every number."""
    found = geneval2.probe("How many dogs?", "two", small.tokenizer)
    # The test's tokenizer knows no such word: by bytes "t", "T", "2", and a space before each.
    encode = small.tokenizer.encode
    assert found.text == "How many dogs? Answer in one word."
    assert found.following == (encode("t")[0], encode("T")[0], encode("2")[0])


GOOD = {"prompt": "two dogs", "atom_count": 2, "vqa_list": [["How many dogs?", "two"]]}


def test_pairs_and_objects(tmp_path):
    """One of the two forms of questions would not be read."""
    both = {**GOOD, "skills": ["count"]}
    other = {**GOOD, "prompt": "a", "vqa_list": [{"question": "Is it?", "answer": "Yes"}]}
    (tmp_path / "d.jsonl").write_text(f"{json.dumps(both)}\n{json.dumps(other)}")
    first, second = geneval2.read_prompts(tmp_path / "d.jsonl")
    assert first == Prompt("two dogs", (("How many dogs?", "two"),), 2, ("count",))
    assert second.questions == (("Is it?", "Yes"),) and second.skills == ()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"vqa_list": []}, 'line 2: "vqa_list" is empty'),
        ({"vqa_list": ["Is it?"]}, "an entry of \"vqa_list\" is 'Is it.', expected .question, ans"),
        ({"vqa_list": [["Is it?"]]}, "expected .question, answer"),
        ({"vqa_list": [["Is it?", " "]]}, "has no words"),
        ({"skills": ["a", "b"]}, '"skills" is .*, expected one for each of 1 questions'),
        ({"atom_count": "two"}, "\"atom_count\" is 'two', expected a whole number"),
    ],
)
def test_what_is_no_prompt(tmp_path, change, words):
    """A question would be lost, and the mean of the others be called the prompt's."""
    lines = [json.dumps(GOOD), json.dumps({**GOOD, **change})]
    (tmp_path / "d.jsonl").write_text("\n".join(lines))
    with pytest.raises(ValueError, match=words):
        geneval2.read_prompts(tmp_path / "d.jsonl")


PROMPTS = [Prompt("a", (("q", "yes"),) * 2, 2, ()), Prompt("b", (("q", "yes"),), 1, ())]


def test_answers_in_any_order(tmp_path):
    """Answers would be taken for those of another prompt."""
    lines = [{"prompt": "b", "answers": [1]}, {"prompt": "a", "answers": [0.5, 0.25]}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert geneval2.read_answers(tmp_path / "a.jsonl", PROMPTS) == [[0.5, 0.25], [1.0]]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([{"prompt": "a", "answers": [1, 1]}], "no answers for 1 prompts, such as 'b'"),
        ([{"prompt": "c", "answers": [1]}], "the prompt 'c' is not in the data"),
        ([{"prompt": "a", "answers": [1]}], "line 1: 1 answers to 2 questions"),
        ([{"prompt": "b", "answers": [1.5]}], "an answer is 1.5, expected a probability"),
        ([{"prompt": "b", "answers": ["yes"]}], "an answer is 'yes'"),
        ([{"prompt": "b", "answers": [1]}] * 2, "line 2: prompt 'b' was there before"),
    ],
)
def test_answers_that_do_not_fit(tmp_path, lines, words):
    """A judge's percentages, or those of other data, would make a figure."""
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(ValueError, match=words):
        geneval2.read_answers(tmp_path / "a.jsonl", PROMPTS)
    with pytest.raises(ValueError, match="entry 1 of the data: prompt 'a' was there before"):
        geneval2.read_answers(tmp_path / "a.jsonl", PROMPTS[:1] * 2)
