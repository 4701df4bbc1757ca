"""What a run says of itself."""

import json
import math

import pytest

from latentum_jax import cli
from latentum_jax.configs.base import base
from latentum_jax.train import monitor
from latentum_jax.train.monitor import Monitor, report
from tests.small import SMALL

SIZE = {"rows": 4, "tokens": 40, "images": 4}


@pytest.fixture
def config():
    made = base(SMALL)
    made.steps, made.stage, made.max_skipped = 100, "mbaq", 1
    return made


def metrics(loss, skipped=0.0):
    return {"loss": loss, "grad_norm": 1.0, "skipped": skipped}


def lines_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_rates_follow_from_the_time_of_a_step(config, tmp_path, monkeypatch):
    """4 rows of 10 tokens in 2 s, half a second of which was waiting; 1e12 operations of 4e12 a
    second that the devices could do would take 0.25 s: an eighth of the 2."""
    clock = iter([10.0, 12.0])
    monkeypatch.setattr(monitor.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(monitor, "peak_flops", lambda device: 4e12)
    made = Monitor(config, tmp_path, 0, flops=1e12)
    made.wait(0.5)
    made.log(1, SIZE, metrics(3.0))
    made.close()
    (line,) = lines_of(tmp_path)
    said = {name: line[name] for name in ("rate", "tokens", "images", "data_wait", "mfu")}
    assert said == {"rate": 2.0, "tokens": 20.0, "images": 2.0, "data_wait": 0.25, "mfu": 0.125}


def test_a_loss_far_above_the_others_is_marked(config, tmp_path):
    """Losses of 1 and 1.1 in turns, then 1.2 and 5. Breaks if a spike goes unseen, or noise is
    one; or if a run that goes on has forgotten what is usual."""
    made = Monitor(config, tmp_path, 0, None)
    for step in range(1, 65):
        made.log(step, SIZE, metrics(1.0 + 0.1 * (step % 2)))
    made.close()
    again = Monitor(config, tmp_path, 64, None)
    for step, loss in ((65, 1.2), (66, 5.0), (67, 1.0)):
        again.log(step, SIZE, metrics(loss))
    again.close()
    assert [line["step"] for line in lines_of(tmp_path) if "spike" in line] == [66]
    assert "loss spikes: 1, at 66" in report(tmp_path / "metrics.jsonl")


def test_steps_that_were_not_finite_are_counted_over_restarts(config, tmp_path):
    """Breaks if a run that is started again may skip as many steps anew."""
    made = Monitor(config, tmp_path, 0, None)
    made.log(1, SIZE, metrics(1.0))
    made.log(2, SIZE, metrics(math.nan, 1.0))
    made.close()
    again = Monitor(config, tmp_path, 2, None)
    with pytest.raises(FloatingPointError, match="2 steps were skipped for such, max_skipped is 1"):
        again.log(3, SIZE, metrics(math.inf, 1.0))
    again.close()
    assert [line.get("skipped") for line in lines_of(tmp_path)] == [None, 1, 1]
    assert "skipped, not finite: 2, at 2, 3" in report(tmp_path / "metrics.jsonl")


def test_what_came_after_the_checkpoint_is_dropped(config, tmp_path):
    """Breaks if steps that are taken again stand twice in metrics.jsonl."""
    made = Monitor(config, tmp_path, 0, None)
    for step in (1, 2, 3):
        made.log(step, SIZE, metrics(1.0))
    made.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')  # cut short by a kill
    Monitor(config, tmp_path, 2, None).close()
    assert [line["step"] for line in lines_of(tmp_path)] == [1, 2]


def test_the_report_of_a_folder(config, tmp_path, capsys):
    """Breaks if `latentum report` is of something else than a run, or of an empty one fails."""
    assert cli.main(["report", str(tmp_path)]) == 2
    assert "is no workdir of a run" in capsys.readouterr().err
    made = Monitor(config, tmp_path, 0, None)
    assert cli.main(["report", str(tmp_path)]) == 0
    for step in (1, 2, 3):
        made.log(step, SIZE, metrics(2.5))
    made.close()
    assert cli.main(["report", str(tmp_path)]) == 0
    assert "3 steps, the last 3, loss 2.5" in capsys.readouterr().out
