"""What a run says of itself: metrics.jsonl, TensorBoard, wandb if wanted, and a progress bar.

A line of metrics.jsonl is a step: `loss` and the stage's metrics, `rate` (rows a second), `tokens`
and `images` a second, `data_wait` (share of the time that the step waited for its batch), `mfu` (of
the arithmetic that the devices could do in bf16, where that is known), `memory` (peak bytes of a
device, where it tells), `skipped` 1 for a step that was not finite, `spike` 1 for a loss far above
those before it.
"""

import collections
import json
import math
import shutil
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict
from tensorboardX import SummaryWriter
from tqdm import tqdm

from latentum_jax.devices import peak_flops
from latentum_jax.train.hosts import is_first
from latentum_jax.train.optim import make_schedule

WINDOW, FAR = 64, 6.0  # a spike lies so many deviations above the median of so many losses


class Monitor:
    """Writes as process 0; elsewhere it only counts."""

    def __init__(self, config: ConfigDict, workdir: Path, step: int, flops: float | None):
        """`flops`: of a step, for `mfu`. What was written of steps after `step` is dropped."""
        self.config = config
        self.schedule = make_schedule(config.optimizer, config.steps)
        peak = peak_flops(jax.devices()[0])
        self.ideal = flops / (peak * jax.device_count()) if flops and peak else None
        kept = metrics_until(workdir / "metrics.jsonl", step)
        lines = [json.loads(line) for line in kept]
        self.skipped = sum("skipped" in line for line in lines)
        losses = [line["loss"] for line in lines if line["loss"] is not None]
        self.losses = collections.deque(losses[-WINDOW:], WINDOW)
        self.began, self.waited = time.perf_counter(), 0.0
        self.bar = tqdm(
            total=config.steps,
            initial=step,
            desc=config.stage,
            unit="step",
            mininterval=1.0,
            disable=not is_first(),
        )
        self.file: Any = None
        if is_first():
            self._open(workdir, kept, step)

    def _open(self, workdir: Path, kept: list[str], step: int) -> None:
        path = workdir / "metrics.jsonl"
        part = path.with_suffix(".part")
        part.write_text("".join(line + "\n" for line in kept))
        shutil.move(part, path)
        self.file = path.open("a", buffering=1)
        self.board = SummaryWriter(str(workdir / "tensorboard"), purge_step=step)
        self.wandb = _wandb(self.config, workdir) if self.config.wandb else None

    def wait(self, seconds: float) -> None:
        """The step under way has waited so long for its batch."""
        self.waited += seconds

    def log(self, step: int, size: dict[str, int], metrics: Any) -> None:
        """A step that is done: its metrics are waited for. `size`: rows, tokens and images.

        Raises FloatingPointError where more steps than `max_skipped` were not finite.
        """
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        now = time.perf_counter()
        seconds, self.began = now - self.began, now
        marks = self._marks(values)
        line = {"step": step, **values, **marks}
        line |= {"rate": size["rows"] / seconds}
        line |= {name: size[name] / seconds for name in ("tokens", "images") if name in size}
        line["data_wait"], self.waited = min(1.0, self.waited / seconds), 0.0
        if self.ideal is not None:
            line["mfu"] = self.ideal / seconds
        held = (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
        if held is not None:
            line["memory"] = held
        line["learning_rate"] = float(self.schedule(step))
        self._write(step, line)
        if self.skipped > self.config.max_skipped:
            raise FloatingPointError(
                f"the loss of step {step} is {values['loss']}, its gradient's norm "
                f"{values['grad_norm']}: {self.skipped} steps were skipped for such, "
                f"max_skipped is {self.config.max_skipped}"
            )

    def _marks(self, values: dict[str, float]) -> dict[str, int]:
        """What is out of the ordinary; takes `skipped` out of the values."""
        if values.pop("skipped"):
            self.skipped += 1
            return {"skipped": 1}
        before, loss = list(self.losses), values["loss"]
        self.losses.append(loss)
        if len(before) < WINDOW:
            return {}
        middle = statistics.median(before)
        spread = statistics.median(abs(x - middle) for x in before) * 1.4826
        return {"spike": 1} if loss - middle > FAR * max(spread, 1e-3 * abs(middle)) else {}

    def _write(self, step: int, line: Mapping[str, float | int]) -> None:
        self.bar.set_postfix(
            loss=f"{line['loss']:.3f}" if "loss" in line else "",
            rate=f"{line['rate']:.0f}/s",
            refresh=False,
        )
        self.bar.update(1)
        if self.file is None:
            return
        self.file.write(json.dumps({k: _short(v) for k, v in line.items()}) + "\n")
        for name, value in line.items():
            if name != "step":
                self.board.add_scalar(name, value, step)
        if self.wandb is not None:
            self.wandb.log(line, step=step)

    def close(self) -> None:
        """Finishes what is being written."""
        self.bar.close()
        if self.file is not None:
            self.file.close()
            self.board.close()
            if self.wandb is not None:
                self.wandb.finish()


def metrics_until(path: Path, step: float | int) -> list[str]:
    """Lines of metrics.jsonl up to a step; a last line cut short by a kill is dropped."""
    kept = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except json.JSONDecodeError:
            break
    return kept


def report(path: Path) -> str:
    """What a run's metrics.jsonl says of its steps' times and its loss, in a few lines."""
    lines = [json.loads(line) for line in metrics_until(path, math.inf)]
    if not lines:
        return "no step is on record"
    seconds = sorted(1 / line["rate"] for line in lines[1:] if line["rate"]) or [math.nan]
    median, slow = statistics.median(seconds), seconds[int(0.99 * (len(seconds) - 1))]
    spikes = [line["step"] for line in lines if "spike" in line]
    skipped = [line["step"] for line in lines if "skipped" in line]
    waits = statistics.mean(line.get("data_wait", 0.0) for line in lines)
    named = lambda steps: ", ".join(map(str, steps[:10])) + " ..." * (len(steps) > 10)  # noqa: E731
    return "\n".join(
        [
            f"{len(lines)} steps, the last {lines[-1]['step']}, loss {lines[-1]['loss']}",
            f"seconds a row: median {median:.3g}, 99th of 100 {slow:.3g} ({slow / median:.1f} x)",
            f"waited for data {waits:.1%} of the time",
            f"loss spikes: {len(spikes)}" + (f", at {named(spikes)}" if spikes else ""),
            f"skipped, not finite: {len(skipped)}" + (f", at {named(skipped)}" if skipped else ""),
        ]
    )


def _wandb(config: ConfigDict, workdir: Path) -> Any:
    try:
        import wandb
    except ModuleNotFoundError as error:
        raise ValueError(
            f"wandb is {config.wandb!r}, and not installed: pip install wandb"
        ) from error
    settings = config.to_dict()
    return wandb.init(project=config.wandb, dir=str(workdir), config=settings, resume="allow")


def _short(value: float | int) -> float | int | None:
    """What JSON can say of a number."""
    if isinstance(value, int):
        return value
    return float(f"{value:.7g}") if math.isfinite(value) else None
