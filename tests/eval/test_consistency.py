"""Consistency by models that draw what they are told, or another's; and by hand."""

import json

import numpy as np
import pytest

from latentum_jax.data.frozenlake.frames import start_state
from latentum_jax.data.frozenlake.mazes import unique_mazes
from latentum_jax.data.frozenlake.questions import caption
from latentum_jax.eval import consistency
from latentum_jax.eval.runs import interval
from latentum_jax.generate.sampling import GREEDY
from tests.fake_model import FakeModel

STATES = [start_state(maze) for maze in unique_mazes(0, 4, 3, "test")]
CAPTIONS = [caption(state) for state in STATES]


class Drawer(FakeModel):
    """Draws, for each caption, that which stands `off` places behind it."""

    def __init__(self, off):
        super().__init__(STATES)
        self.off = off

    def generate(self, prompts, **options):
        assert len(options["seeds"]) == len(prompts)
        places = [(CAPTIONS.index(prompt) + self.off) % 3 for prompt in prompts]
        return np.concatenate([super(Drawer, self).generate(CAPTIONS[i]) for i in places])


@pytest.fixture
def latents(monkeypatch):
    """A latent of a caption, and of the image of its state, is its place among three."""
    place = lambda model, code: CAPTIONS.index(caption(model.shows[int(code)]))  # noqa: E731
    texts = lambda _, captions: np.eye(3)[[CAPTIONS.index(text) for text in captions]]  # noqa: E731
    images = lambda model, codes: np.eye(3)[[place(model, c) for c in codes.flat]]  # noqa: E731
    monkeypatch.setattr(consistency, "text_latents", texts)
    monkeypatch.setattr(consistency, "image_latents", images)
    monkeypatch.setattr(consistency, "BATCH", 2)  # the last batch is padded


def measure(off, out):
    options = {"checkpoint": "fake", "sampling": GREEDY, "guidance": 1.0}
    return consistency.evaluate(Drawer(off), CAPTIONS, out, **options)


def test_a_model_that_draws_what_it_is_told(latents, tmp_path):
    """All measures at their best. Breaks if captions and images of a batch get out of step."""
    found = measure(0, tmp_path / "out")
    ones = ("cosine", "nearest", "described")
    assert [found[name]["mean"] for name in ones] == [1, 1, 1] and found["others"] == 0
    assert {name: own["mean"] for name, own in found["round_trip"].items()} == dict.fromkeys(
        ("parsed", *consistency.FIELDS, "exact"), 1
    )
    assert found["told"] == [[text, text] for text in CAPTIONS]
    assert json.loads((tmp_path / "out/results.json").read_text()) == found
    row = (tmp_path / "out/table.md").read_text().splitlines()[2]
    assert row.startswith("| fake | 1.000 ± 0.000 | 0.000 | 100.0% | 1.000 | 100.0% ")


def test_a_model_that_draws_anothers(latents, tmp_path):
    """Each image is one other caption's: 3 ones among the 6 pairs that are no pair."""
    found = measure(1, tmp_path / "out")
    assert found["cosine"]["mean"] == found["nearest"]["mean"] == 0 and found["others"] == 0.5
    assert found["round_trip"]["parsed"]["mean"] == found["round_trip"]["level"]["mean"] == 1
    assert found["round_trip"]["exact"]["mean"] == 0


def test_fields_by_hand():
    """Of two captions one comes back with another player, the other as no caption at all."""
    meant = ["a 3x3 maze, player at row 1 column 1, goal at row 3 column 3, no holes"] * 2
    told = [meant[0].replace("row 1 column 1", "row 1 column 2"), "a maze"]
    found = {name: own["mean"] for name, own in consistency.round_trip(meant, told).items()}
    assert found == {
        "parsed": 0.5, "level": 0.5, "player": 0, "goal": 0.5, "holes": 0.5, "exact": 0
    }  # fmt: skip


def test_interval_by_hand():
    """0, 1, 1, 0: deviation 0.57735, / sqrt 4 x 1.96 = 0.56580."""
    found = interval(np.array([0, 1, 1, 0]))
    assert found["mean"] == 0.5 and found["ci95"] == pytest.approx(0.5658, abs=1e-4)


def test_captions(tmp_path):
    """A caption that comes twice would be its own rival for the nearest image."""
    found = consistency.held_out_captions((3, 4), 30, 0)
    assert len(found) == len(set(found)) <= 30
    file = tmp_path / "captions.txt"
    file.write_text("a cube\n\n  a ball\n")
    assert consistency.read_captions(file) == ["a cube", "a ball"]
    file.write_text(" \n")
    with pytest.raises(ValueError, match="there are no captions in it"):
        consistency.read_captions(file)
    with pytest.raises(ValueError, match="1 captions, expected at least two"):
        options = {"checkpoint": "fake", "sampling": GREEDY, "guidance": 1.0}
        consistency.evaluate(Drawer(0), CAPTIONS[:1], tmp_path, **options)
