"""The one training loop: every stage runs here and differs only in what `Stage` says."""

import json
import math
import shutil
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from tensorboardX import SummaryWriter
from tqdm import tqdm

from latentum_jax.data.loader import batches
from latentum_jax.train.checkpoint import Checkpoints
from latentum_jax.train.optim import make_optimizer, make_schedule
from latentum_jax.train.recipe import stage_config
from latentum_jax.train.start import start_of
from latentum_jax.train.state import TrainState, make_step, start_state
from latentum_jax.train.stopping import Requests, Stopped


def train(config: ConfigDict, workdir: Path) -> Path:
    """Runs a config's stages, one after another; returns the folder of the last one's model.

    A config with `chain` runs each stage in `workdir/STAGE`, starting from the model of the one
    before; another runs in `workdir` itself. What is finished is not run again; what was
    interrupted goes on from its newest checkpoint.
    """
    if not config.chain:
        return train_stage(config, workdir)
    before = config.init_from
    for name in config.chain:
        stage = stage_config(config, name)
        stage.init_from = before
        before = str(train_stage(stage, workdir / name))
    return Path(before)


def train_stage(config: ConfigDict, workdir: Path) -> Path:
    """Runs one stage in `workdir` to its last step; returns `workdir/model`.

    `workdir` gets config.json, metrics.jsonl, TensorBoard files, checkpoints/ and, at the end,
    model/ (the averaged weights where the config keeps an average).

    Raises ValueError for a config that is wrong, FloatingPointError where loss or gradients were
    not finite in more than `max_skipped` steps, Stopped where SIGTERM or Ctrl-C asked for it.
    """
    done = workdir / "model"
    if (done / "config.json").is_file() and _finished(workdir) >= config.steps:
        return done
    start = start_of(config)
    optimizer = make_optimizer(config.optimizer, config.steps)
    state = start_state(start.params, start.stage, optimizer, average=config.ema > 0)
    run = Run(config, workdir)
    try:
        step_fn = make_step(start.stage, optimizer, seed=config.seed, ema_decay=config.ema)
        state = run.fit(state, step_fn, start.make)
    finally:
        run.close()
    params, extra = jax.tree.map(np.asarray, (state.params(averaged=True), state.extra))
    start.write(done, params, extra)
    return done


def _finished(workdir: Path) -> int:
    lines = _metrics_until(workdir / "metrics.jsonl", math.inf)
    return json.loads(lines[-1])["step"] if lines else 0


def _metrics_until(path: Path, step: float | int) -> list[str]:
    """Lines of metrics.jsonl up to a step; a last line cut short by a kill is dropped."""
    kept = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except json.JSONDecodeError:
            break
    return kept


class Run:
    """The side effects of a run: checkpoints, metrics, progress."""

    def __init__(self, config: ConfigDict, workdir: Path):
        self.config, self.workdir = config, workdir
        self.checkpoints = Checkpoints(workdir / "checkpoints", keep=config.keep)
        self.schedule = make_schedule(config.optimizer, config.steps)
        self.skipped = 0
        self.metrics: Any = None
        self.board: Any = None

    def fit(self, state: TrainState, step_fn: Any, make: Any) -> TrainState:
        """Steps until the last one, from the newest checkpoint if there is one."""
        iterator = batches(make)
        restored = self.checkpoints.restore(state)
        if restored is not None:
            state, data = restored
            iterator.set_state(data)
        step = int(state.step)
        text = self.config.to_json_best_effort(indent=1)
        (self.workdir / "config.json").write_text(text + "\n")
        self._open_logs(step)
        total, config = self.config.steps, self.config
        bar = tqdm(total=total, initial=step, desc=config.stage, unit="step", mininterval=1.0)
        began, pending = time.perf_counter(), None
        with bar, Requests() as asked:
            while step < total:
                batch = next(iterator)
                state, metrics = step_fn(state, batch)
                step += 1
                # The metrics of the step before are read while this one computes.
                if pending is not None:
                    began = self._log(*pending, began, bar)
                pending = (step, len(batch["pixels"]), metrics)
                due = step % config.checkpoint_every == 0 or step == total
                if due or asked.number is not None:
                    began = self._log(*pending, began, bar)
                    pending = None
                    self.checkpoints.save(step, state, iterator.get_state())
                if asked.number is not None and step < total:
                    raise Stopped(asked.number, step)
        return state

    def close(self) -> None:
        """Finishes what is being written."""
        self.checkpoints.close()
        if self.metrics is not None:
            self.metrics.close()
            self.board.close()

    def _open_logs(self, step: int) -> None:
        path = self.workdir / "metrics.jsonl"
        kept = _metrics_until(path, step)
        self.skipped = sum("skipped" in json.loads(line) for line in kept)
        part = path.with_suffix(".part")
        part.write_text("".join(line + "\n" for line in kept))
        shutil.move(part, path)
        self.metrics = path.open("a", buffering=1)
        self.board = SummaryWriter(str(self.workdir / "tensorboard"), purge_step=step)

    def _log(self, step: int, rows: int, metrics: Any, began: float, bar: Any) -> float:
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        now = time.perf_counter()
        skipped = {"skipped": 1} if values.pop("skipped") else {}
        self.skipped += len(skipped)
        rate = rows / (now - began)
        line = {"step": step, **values, **skipped, "rate": rate}
        line["learning_rate"] = float(self.schedule(step))
        self.metrics.write(json.dumps({k: _short(v) for k, v in line.items()}) + "\n")
        for name, value in values.items():
            self.board.add_scalar(name, value, step)
        bar.set_postfix(loss=f"{values['loss']:.3f}", rate=f"{rate:.0f}/s", refresh=False)
        bar.update(1)
        if self.skipped > self.config.max_skipped:
            raise FloatingPointError(
                f"the loss of step {step} is {values['loss']}, its gradient's norm "
                f"{values['grad_norm']}: {self.skipped} steps were skipped for such, "
                f"max_skipped is {self.config.max_skipped}"
            )
        return now


def _short(value: float | int) -> float | int | None:
    """What JSON can say of a number."""
    if isinstance(value, int):
        return value
    return float(f"{value:.7g}") if math.isfinite(value) else None
