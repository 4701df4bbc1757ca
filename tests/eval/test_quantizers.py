"""The comparison of quantizers: its table, and what it asks of its models."""

import json

from latentum_jax.eval import quantizers
from tests.models_on_disk import write_random_model


def test_table_by_hand():
    """Breaks if the loss is taken the wrong way round or not in points: 0.9 - 0.885 = 1.5."""
    results = {"checkpoints": {"run/mbaq": {"continuous": 0.9, "quantized": 0.885, "codes": 0.0}}}
    assert "| mbaq | 90.0% | 88.5% | 1.5 points |" in quantizers.table(results)


def test_every_model_answers_the_same_questions(tmp_path, monkeypatch):
    """Breaks if a model is asked about other states than its rivals, or a file is missing."""
    for name in ("kl", "mse"):
        write_random_model(tmp_path / name)
    monkeypatch.setattr(quantizers.questions.questions, "KINDS", ("size",))
    monkeypatch.setattr(quantizers.questions, "LONGEST_ANSWER", 4)
    paths = [str(tmp_path / name) for name in ("kl", "mse")]
    results = quantizers.compare(paths, (3, 4), 2, 0, tmp_path / "out")
    kl, mse = (results["checkpoints"][path] for path in paths)
    assert kl == mse  # the same random weights: any difference comes from the questions
    assert json.loads((tmp_path / "out/results.json").read_text()) == results
    assert (tmp_path / "out/table.md").read_text() == quantizers.table(results)
