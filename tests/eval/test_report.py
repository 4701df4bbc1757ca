"""The demo page, of a model that is always right and of one that says nothing of use."""

import json
import re

import numpy as np
import pytest

from latentum_jax.data.frozenlake.frames import advance, draw, start_state
from latentum_jax.data.frozenlake.mazes import shortest_path
from latentum_jax.eval import report
from tests.fake_model import FakeDecoder, FakeModel


class Mute(FakeModel):
    """Answers everything with markup."""

    def describe(self, codes, questions, **options):
        return ["<script>&"] * len(codes)


def gather(kind=FakeModel, **options):
    starts = [start_state(report._maze(level, 0)) for level in report.LEVELS]
    later = advance(starts[2], shortest_path(starts[2].maze)[0])
    return report.gather(kind([*starts, later], **options), 0)


@pytest.fixture(scope="module")
def shown():
    return gather()


def test_page_refers_to_nothing_outside(shown, tmp_path):
    """The page would be blank, or without its pictures, when sent to somebody or opened offline."""
    text = report.write_page(shown, tmp_path / "out", tmp_path / "metrics.json").read_text()
    assert set(re.findall(r'src="(.{23})', text)) == {"data:image/jpeg;base64,"}
    without_pictures = re.sub(r'src="data:image/jpeg;base64,[^"]*"', "", text)
    assert not re.search(r"//|src|href|<link|<script|@import|url\(", without_pictures)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["index.html"]


def test_imagined_pictures_stand_with_their_step(tmp_path):
    """Breaks if a decoded image is missing, or the files beside the page are of another walk."""
    starts = [start_state(report._maze(level, 0)) for level in report.LEVELS]
    model = FakeModel([*starts, advance(starts[2], shortest_path(starts[2].maze)[0])])
    shown = report.gather(model, 0, FakeDecoder(model))
    text = report.write_page(shown, tmp_path, tmp_path / "metrics.json").read_text()
    assert report.FRAMED in text
    images = (
        sum(len(walk.moves) for walk in shown.walks[:-1]) + 2
    )  # of the coarse plan, the drawing
    assert text.count("<div class=seen>") == images
    for walk in shown.walks:
        for state, picture in zip(walk.shows, walk.imagined, strict=True):
            np.testing.assert_array_equal(picture, draw(state))
    names = sorted(path.name for path in (tmp_path / "frames").iterdir())
    assert names[:4] == ["3x3-fine.gif", "3x3-fine.png", "4x4-coarse.gif", "4x4-coarse.png"]


def test_page_shows_every_step(shown):
    """A step, its picture, its description or its verdict would be missing."""
    text = report.page(shown, {})
    assert report.FRAMED not in text  # there is no decoder to draw what would be framed
    pictures = sum(len(walk.moves) + 1 for walk in shown.walks[:-1]) + 2  # coarse: start and end
    assert text.count("<figure>") == pictures + 2  # of the questions and of the drawing
    for walk in shown.walks[:-1]:
        assert ", ".join(walk.moves) in text
        assert all(said in text for said in walk.described)
    assert "reaches the goal" in text and "does not reach the goal" not in text
    assert "player right" in text and "player wrong" not in text
    assert "Measured" not in text


def test_summary_counts(shown):
    """The lines printed would disagree with the page."""
    steps = sum(len(walk.moves) for walk in shown.walks[:-1]) + 1
    text = report.summary(shown)
    assert f"the right cell: {steps} of {steps}" in text
    assert f"rightly: {len(report.ASKED)} of {len(report.ASKED)}" in text
    assert "described as asked" in text


def test_what_the_model_says_is_escaped():
    """A model's words would become part of the page."""
    text = report.page(gather(Mute), {})
    assert "<script" not in text and "&lt;script&gt;&amp;" in text
    assert "player wrong" in text and "player right" not in text


def test_no_moves_and_metrics(tmp_path):
    """A model that makes no move would break the page; numbers beside the weights be left out."""
    metrics = tmp_path / "metrics.json"
    metrics.write_text(json.dumps({"vsp": {"fine": {"mean": 0.93, "ci95": [0.9, 0.95]}}}))
    shown = gather(route=lambda maze: "")
    text = report.write_page(shown, tmp_path, metrics).read_text()
    assert "no moves" in text and "does not reach the goal" in text
    assert "<td>vsp, fine, mean</td><td>0.93</td>" in text
    assert "<td>0.9 to 0.95</td>" in text


def test_few_calls():
    """Each call is a program to compile: the demo would no longer take less than a minute."""
    starts = [start_state(report._maze(level, 0)) for level in report.LEVELS]
    model = FakeModel([*starts, advance(starts[2], shortest_path(starts[2].maze)[0])])
    report.gather(model, 0)
    plans, (name, asked, _), *described = model.calls
    assert plans[:2] == (["fine"] * 4 + ["coarse"], 5) and name == "answer"
    # Of one shape, that of the answers. (The first is the fake's own way to answer.)
    assert {call[:2] for call in described} == {("describe", asked)} and len(described) >= 2
