"""Runs that are cut, and the report of what a folder holds, with parts that measure nothing."""

import dataclasses
import json

import pytest

from latentum_jax.cli import main
from latentum_jax.miniature import report
from latentum_jax.miniature.part import Part, Section, Sizes
from latentum_jax.miniature.spread import cell
from tests.models_on_disk import write_random_model

FEW = Sizes(mazes=2)


@pytest.fixture
def parts(monkeypatch):
    """Two, which note what they are asked for; the second fails once, at seed 1."""
    asked = []

    def measure(name):
        def values(given, seed):
            asked.append((name, seed))
            if asked.count(("b", 1)) == 1 and asked[-1] == ("b", 1):
                raise ValueError("the machine stopped")
            return {"x": float(seed + given.sizes.mazes)}

        return values

    def tell(seeds, spread):
        return Section(f"x is {cell(spread['x'])}", {"": f"<svg>{len(seeds)}</svg>"})

    made = [Part(n, n.upper(), n == "b", ("mazes",), measure(n), tell) for n in ("a", "b")]
    monkeypatch.setattr(report, "PARTS", tuple(made))
    return asked


@pytest.fixture
def models(tmp_path):
    return {name: str(write_random_model(tmp_path / name)) for name in ("mazes", "world")}


def test_what_is_finished_is_not_measured_again(parts, models, tmp_path):
    """Breaks if a cut costs more than the seed that was under way, a later seed or part the ones
    before it, or the report forgets what was measured earlier."""
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="the machine stopped"):
        report.run(None, models, FEW, (0, 1), out)
    assert "x is 2.5 ± 0.7" in (out / "miniature.md").read_text()  # of part a: 2 and 3
    assert report.run("b", models, FEW, (0, 1, 2), out) == out / "miniature.md"
    assert parts == [("a", 0), ("a", 1), ("b", 0), ("b", 1), ("b", 1), ("b", 2)]
    page = (out / "miniature.md").read_text()
    assert page.index("## A") < page.index("x is 2.5") < page.index("## B") < page.index("x is 3.0")
    assert "mazes 2; seeds 0, 1, 2;" in page and "](miniature/b.svg)" in page
    assert (out / "miniature/b.svg").read_text() == "<svg>3</svg>"
    results = json.loads((out / "b/results.json").read_text())
    assert results["seeds"] == {"0": {"x": 2.0}, "1": {"x": 3.0}, "2": {"x": 4.0}}


def test_another_size_is_another_run(parts, models, tmp_path):
    """Breaks if seeds of other sizes or models are put together, or a size that a part does not
    read stops it."""
    report.run("a", models, FEW, (0,), tmp_path / "out")
    report.run("a", models, dataclasses.replace(FEW, steps=9), (0,), tmp_path / "out")
    with pytest.raises(ValueError, match=r"sizes was {'mazes': 2} and is {'mazes': 3}"):
        report.run("a", models, Sizes(mazes=3), (0,), tmp_path / "out")
    with pytest.raises(ValueError, match="checkpoint was"):
        swapped = {"mazes": models["world"], "world": models["mazes"]}
        report.run("a", swapped, FEW, (0,), tmp_path / "out")


def test_bad_input_on_the_command_line(tmp_path, capsys):
    """One sentence, exit code 2, nothing written."""
    out = tmp_path / "out"
    for args, message in [
        (["--parts", "pixel"], "there is no part 'pixel', expected some of fine_coarse, pixels"),
        (["--seeds", "0,x"], "expected a whole number from 0, got 'x'"),
        (["--parts", "cem", "--world", "nowhere"], "there is no model at nowhere"),
        (["--walks", "0"], "expected at least 1, got 0"),
    ]:
        assert main(["miniature", "--out", str(out), *args]) == 2
        told = capsys.readouterr().err.strip().splitlines()
        assert len(told) == 1 and message in told[0]
    assert not out.exists()
