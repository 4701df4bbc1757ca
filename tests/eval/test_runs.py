"""Results folders: what is finished stays, what is not is done again, others are refused."""

import json

import pytest

from latentum_jax.eval.runs import Run, digest_of, markdown, model_settings, run_in

SETTINGS = {"benchmark": "b", "checkpoint": "m", "sampling": {"top_k": 3}}


def test_goes_on_where_it_stopped(tmp_path):
    """A finished item would be asked again, or the half line of a kill be believed."""
    with run_in(tmp_path / "out", SETTINGS) as run:
        run.add([{"key": "1", "said": "é"}, {"key": "2", "said": "b"}])
    with (tmp_path / "out/items.jsonl").open("a") as file:
        file.write('{"key": "3", "sa')
    with run_in(tmp_path / "out", SETTINGS) as run:
        assert list(run.done) == ["1", "2"]
        run.add([{"key": "3", "said": "c"}])
        whole = run.finish({"score": 1.0}, "| table |\n")
    lines = [json.loads(line) for line in (tmp_path / "out/items.jsonl").read_text().splitlines()]
    assert [line["said"] for line in lines] == ["é", "b", "c"]
    assert json.loads((tmp_path / "out/results.json").read_text()) == whole
    assert whole == {**SETTINGS, "score": 1.0}
    assert (tmp_path / "out/table.md").read_text() == "| table |\n"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({**SETTINGS, "checkpoint": "n"}, "another run: checkpoint was 'm' and is 'n'"),
        ({**SETTINGS, "more": 1}, "more was None and is 1"),
        ({**SETTINGS, "sampling": {"top_k": 4}}, "sampling was {'top_k': 3} and is {'top_k': 4}"),
    ],
)
def test_another_run_is_refused(tmp_path, settings, words):
    """Answers of two models would make one figure."""
    with run_in(tmp_path, SETTINGS):
        pass
    with pytest.raises(ValueError, match=words), run_in(tmp_path, settings):
        pass


def test_other_folders_are_refused(tmp_path):
    """The files of something else would be mixed with ours, or a damaged line be skipped."""
    (tmp_path / "thesis.txt").write_text("")
    with pytest.raises(ValueError, match="is not empty .it has thesis.txt."):
        Run(tmp_path, SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    with run_in(tmp_path / "out", SETTINGS) as run:
        run.add([{"key": "1"}])
        with pytest.raises(ValueError, match="another run is under way"):
            run_in(tmp_path / "out", SETTINGS).__enter__()
    (tmp_path / "out/items.jsonl").write_text('{"key": "1"}\nnonsense\n{"key": "2"}\n')
    with pytest.raises(ValueError, match="items.jsonl, line 2: damaged"):
        Run(tmp_path / "out", SETTINGS)


def test_a_model_trained_further_is_another(tmp_path):
    """Weights that changed under one name would be taken for the same model."""
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "weights").write_bytes(bytes(200_000))
    first = model_settings("m", tmp_path, None)
    (tmp_path / "metrics.json").write_text("{}")  # of this very run, say
    assert model_settings("m", tmp_path, None) == first
    (tmp_path / "weights").write_bytes(bytes(199_999) + b"1")
    assert model_settings("m", tmp_path, None)["model"] != first["model"]


def test_digest_of_files(tmp_path):
    """Data that changed would be taken for the same, also where a line moved to the next file."""
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_text("12"), b.write_text("3")
    first = digest_of([a, b])
    a.write_text("1"), b.write_text("23")
    assert len(first) == 16 and digest_of([a, b]) != first


def test_markdown():
    """A table would not be one."""
    assert markdown(["a", "b"], [["x", "1"]]) == "| a | b |\n| --- | ---: |\n| x | 1 |\n"
