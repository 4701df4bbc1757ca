"""The one training loop: every stage runs here and differs only in what `Stage` says."""

import dataclasses
import json
import math
import shutil
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict
from tensorboardX import SummaryWriter
from tqdm import tqdm

from latentum_jax.config import ChatConfig, LatentUMConfig
from latentum_jax.convert.published import read_model
from latentum_jax.data.frozenlake.stream import corpus
from latentum_jax.data.loader import batches
from latentum_jax.models.folder import ModelFolder, write_folder
from latentum_jax.models.latentum import LatentUM, init_params
from latentum_jax.tokenizer import Tokenizer
from latentum_jax.train.checkpoint import Checkpoints
from latentum_jax.train.data import make_batches
from latentum_jax.train.optim import make_optimizer, make_schedule
from latentum_jax.train.recipe import stage_config
from latentum_jax.train.stages import STAGES
from latentum_jax.train.state import TrainState, make_step, start_state


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


def starting_model(config: ConfigDict) -> ModelFolder:
    """The model that a stage starts from: a folder, or nothing but a seed.

    Raises ValueError where the folder's model is of other sizes than the config's. `mbaq` makes
    the quantizer, and may ask for another than the folder's.
    """
    model = LatentUMConfig.from_dict(config.model.to_dict())
    if config.init_from:
        folder = read_model(config.init_from, model)
        given, asked = (flatten_dict(m.to_dict(), sep=".") for m in (folder.config, model))
        odd = [key for key in asked if asked[key] != given[key]]
        if config.stage == "mbaq" and all(key.startswith("quantizer.") for key in odd):
            return requantized(folder, model, config.seed)
        if odd:
            raise ValueError(
                f"model.{odd[0]} is {given[odd[0]]} in {config.init_from}, "
                f"{asked[odd[0]]} in the config"
            )
        return folder
    if config.tokenizer == "frozenlake":
        tokenizer = Tokenizer.train(corpus(), model.language.vocab_size)
    else:
        tokenizer = Tokenizer.from_folder(config.tokenizer)
    if len(tokenizer) > model.language.vocab_size:
        raise ValueError(
            f"the tokenizer has {len(tokenizer)} tokens, the model {model.language.vocab_size}"
        )
    params = init_params(model, jax.random.key(config.seed))
    return ModelFolder(model, ChatConfig(**config.chat.to_dict()), params, tokenizer)


def requantized(folder: ModelFolder, model: LatentUMConfig, seed: int) -> ModelFolder:
    """The folder's model with the quantizer of `model`: what its codes shape starts anew."""
    if folder.config == model:
        return folder
    kept, fresh = (
        flatten_dict(p, sep="/") for p in (folder.params, init_params(model, jax.random.key(seed)))
    )
    fits = {name: x for name, x in kept.items() if name in fresh and x.shape == fresh[name].shape}
    params = unflatten_dict({**jax.tree.map(np.asarray, fresh), **fits}, sep="/")
    return dataclasses.replace(folder, config=model, params=params)


def train_stage(config: ConfigDict, workdir: Path) -> Path:
    """Runs one stage in `workdir` to its last step; returns `workdir/model`.

    `workdir` gets config.json, metrics.jsonl, TensorBoard files, checkpoints/ and, at the end,
    model/ (the averaged weights where the config keeps an average).

    Raises ValueError for a config that is wrong, FloatingPointError where the loss is not finite.
    """
    done = workdir / "model"
    if config.stage not in STAGES:
        raise ValueError(f"stage is {config.stage!r}, expected one of {tuple(STAGES)}")
    if (done / "config.json").is_file() and _finished(workdir) >= config.steps:
        return done
    start = starting_model(config)
    model = LatentUM(start.config)
    stage = STAGES[config.stage](model, config, start.tokenizer.ids)
    make = make_batches(config, start.config, start.chat, start.tokenizer)
    optimizer = make_optimizer(config.optimizer, config.steps)
    state = start_state(start.params, stage, optimizer, average=config.ema > 0)
    run = Run(config, workdir)
    try:
        step_fn = make_step(stage, optimizer, seed=config.seed, ema_decay=config.ema)
        state = run.fit(state, step_fn, make)
    finally:
        run.close()
    params = jax.tree.map(np.asarray, state.params(averaged=True))
    write_folder(done, ModelFolder(start.config, start.chat, params, start.tokenizer))
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
        with bar:
            while step < total:
                batch = next(iterator)
                state, metrics = step_fn(state, batch)
                step += 1
                # The metrics of the step before are read while this one computes.
                if pending is not None:
                    began = self._log(*pending, began, bar)
                pending = (step, len(batch["tokens"]), metrics)
                if step % config.checkpoint_every == 0 or step == total:
                    began = self._log(*pending, began, bar)
                    pending = None
                    self.checkpoints.save(step, state, iterator.get_state())
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
        part = path.with_suffix(".part")
        part.write_text("".join(line + "\n" for line in kept))
        shutil.move(part, path)
        self.metrics = path.open("a", buffering=1)
        self.board = SummaryWriter(str(self.workdir / "tensorboard"), purge_step=step)

    def _log(self, step: int, rows: int, metrics: Any, began: float, bar: Any) -> float:
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        now = time.perf_counter()
        if not math.isfinite(values["loss"]):
            raise FloatingPointError(f"the loss of step {step} is {values['loss']}")
        rate = rows / (now - began)
        line = {"step": step, **values, "rate": rate, "learning_rate": float(self.schedule(step))}
        self.metrics.write(json.dumps({k: _short(v) for k, v in line.items()}) + "\n")
        for name, value in values.items():
            self.board.add_scalar(name, value, step)
        bar.set_postfix(loss=f"{values['loss']:.3f}", rate=f"{rate:.0f}/s", refresh=False)
        bar.update(1)
        return now


def _short(value: float | int) -> float | int:
    return value if isinstance(value, int) else float(f"{value:.7g}")
