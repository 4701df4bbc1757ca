"""Accuracy of answers, with a model that knows them."""

import json

from latentum_jax.data.frozenlake.questions import KINDS
from latentum_jax.eval import questions
from tests.fake_model import FakeModel


class HalfBlind(FakeModel):
    """Right through continuous features and codes, wrong through quantized ones."""

    def answer(self, images, texts, **options):
        right = super().answer(images, texts, **options)
        return right if options["features"] == "continuous" else ["no idea"] * len(right)


def test_accuracy_by_kind_and_way(tmp_path, monkeypatch):
    """A way of looking would be scored with another one's answers, or a kind be left out."""
    monkeypatch.setattr(questions, "BATCH", 2)  # the last batch is padded
    model = HalfBlind(questions.held_out_states((3, 4), 3, seed=0))
    results = questions.evaluate(model, (3, 4), 3, 0, tmp_path / "out", checkpoint="fake")
    expected = {"continuous": 1.0, "quantized": 0.0, "codes": 1.0}
    assert results["kinds"] == {kind: expected for kind in KINDS}
    assert results["mean"] == expected
    assert json.loads((tmp_path / "out/results.json").read_text()) == results
    assert "describe" in questions.table(results)


def test_held_out_states_take_turns():
    """One level would dominate where the number of states does not divide evenly."""
    found = [state.maze.level for state in questions.held_out_states((3, 5), 5, seed=0)]
    assert found == [3, 5, 3, 5, 3]
