"""Files of records: every form is read, and what is no record is named with its place."""

import json

import pytest

from latentum_jax.eval import given


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.jsonl", '{"q": "1"}\n\n{"q": "2"}\n'),
        ("a.json", '{"q": "1"}\n{"q": "2"}\n'),  # POPE's .json files hold a value a line
        ("b.json", '[{"q": "1"}, {"q": "2"}]'),
        ("c.json", '{"questions": [{"q": "1"}, {"q": "2"}], "question_type": {}}'),  # SEED's
        ("d.tsv", "q\tempty\n1\t\n2\t\n"),
        ("e.csv", 'q\n"1"\n"2"\n'),
    ],
)
def test_every_form(tmp_path, name, text):
    """A published file would have to be rewritten first."""
    (tmp_path / name).write_text(text)
    assert [record for _, record in given.read_records(tmp_path / name)] == [{"q": "1"}, {"q": "2"}]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.jsonl", '{"q": 1}\n{"q"\n', "a.jsonl, line 2: not JSON"),
        ("a.jsonl", "\n\n", "there is nothing in it"),
        ("a.jsonl", "{}\n3\n", "line 2: expected an object, got 3"),
        ("b.json", "[{}, 3]", "entry 2: expected an object, got 3"),
        ("d.tsv", "a\tb\n1\n", "line 2: expected 2 columns"),
        ("d.tsv", "a\tb\n1\t2\t3\n", "line 2: expected 2 columns"),
    ],
)
def test_what_is_no_record(tmp_path, name, text, words):
    """The user would have to search a long file for the fault."""
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=words):
        given.read_records(tmp_path / name)


def test_a_field_of_a_tsv_may_have_lines_and_pictures(tmp_path):
    """A question of two lines, or a picture of 200 kB in base64, would break its row apart."""
    (tmp_path / "a.tsv").write_text(f'q\timage\n"two\nlines\u2028 here"\t{"A" * 200_000}\n')
    [(place, record)] = given.read_records(tmp_path / "a.tsv")
    assert record == {"q": "two\nlines\u2028 here", "image": "A" * 200_000}


def test_fields():
    """A number would be taken for text, true for a number, or nothing for something."""
    record = {"n": 3, "t": "x", "yes": True, "none": "", "l": []}
    assert given.field(record, "here", "n", int) == 3
    for name, kind, words in (
        ("gone", str, 'here: the key "gone" is missing'),
        ("n", str, '"n" is 3, expected text'),
        ("yes", int, '"yes" is True, expected a whole number'),
        ("none", str, '"none" is empty'),
        ("l", list, '"l" is empty'),
    ):
        with pytest.raises(ValueError, match=words):
            given.field(record, "here", name, kind)


def test_yes_or_no():
    """A label that is neither would count as no."""
    assert given.yes_or_no(" Yes ", "here") and not given.yes_or_no("no", "here")
    with pytest.raises(ValueError, match="here: the answer is 'maybe', expected yes or no"):
        given.yes_or_no("maybe", "here")


def test_unique():
    """Of two questions with one number the second would be taken for finished."""
    given.unique([("a", "line 1"), ("b", "line 2")], "question")
    with pytest.raises(ValueError, match="line 3: question 'a' was there before, in line 1"):
        given.unique([("a", "line 1"), ("b", "line 2"), ("a", "line 3")], "question")


def test_not_text(tmp_path):
    """A picture given for a list of questions would end in a traceback."""
    (tmp_path / "a.jsonl").write_bytes(json.dumps("é").encode("latin-1") + b"\xff")
    with pytest.raises(ValueError, match="is no text in UTF-8"):
        given.read_records(tmp_path / "a.jsonl")
    with pytest.raises(ValueError, match="there is no such file"):
        given.read_records(tmp_path / "b.jsonl")
