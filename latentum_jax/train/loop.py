"""The one training loop: every stage runs here and differs only in what `Stage` says."""

import functools
import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from latentum_jax.data.faults import Faults
from latentum_jax.devices import peak_flops
from latentum_jax.files import locked, write_text
from latentum_jax.sharding import divide, make_mesh, place_batch, rows_here
from latentum_jax.train.checkpoint import Checkpoints
from latentum_jax.train.data import Feed, Here, open_faults, steps_of
from latentum_jax.train.flops import count_flops
from latentum_jax.train.hosts import Agreement, is_first, joined, on_host, wait_for_all
from latentum_jax.train.monitor import Monitor, metrics_until
from latentum_jax.train.optim import make_optimizer
from latentum_jax.train.recipe import stage_config
from latentum_jax.train.start import Start, start_of
from latentum_jax.train.state import TrainState, make_act, make_step, merge, split, start_state
from latentum_jax.train.stopping import Requests, Stopped

Begin = Callable[[ConfigDict, Faults, Here], Start]
ActFn = Callable[[TrainState, Any], Any]
StepFn = Callable[[TrainState, Any], tuple[TrainState, dict[str, jax.Array]]]


def train(config: ConfigDict, workdir: Path, begin: Begin = start_of) -> Path:
    """Runs a config's stages, one after another; returns the folder of the last one's model.

    `begin` makes what a stage starts with: `start_of`, or what knows of more stages than it.

    A config with `chain` runs each stage in `workdir/STAGE`, starting from the model of the one
    before; another runs in `workdir` itself. What is finished is not run again; what was
    interrupted goes on from its newest checkpoint.
    """
    if not config.chain:
        return train_stage(config, workdir, begin)
    before = config.init_from
    for name in config.chain:
        stage = stage_config(config, name)
        stage.init_from = before
        before = str(train_stage(stage, workdir / name, begin))
    return Path(before)


def train_stage(config: ConfigDict, workdir: Path, begin: Begin = start_of) -> Path:
    """Runs one stage in `workdir` to its last step; returns `workdir/model`.

    `workdir` gets config.json, metrics.jsonl, TensorBoard files, checkpoints/ and, at the end,
    model/ (the averaged weights where the config keeps an average). Of several processes that
    share it (`hosts.connect`) the first writes.

    Raises ValueError for a config that is wrong or where another run is under way in `workdir`,
    FloatingPointError where loss or gradients were not finite in more than `max_skipped` steps,
    OSError where a checkpoint cannot be written, Stopped where SIGTERM or Ctrl-C asked for it.
    """
    config = config.copy_and_resolve_references()
    config.steps = steps_of(config)
    done = workdir / "model"
    if (done / "config.json").is_file() and _finished(workdir) >= config.steps:
        return done
    mesh = make_mesh(config.mesh.to_dict())
    faults = open_faults(config, workdir, jax.process_index())
    start = begin(config, faults, functools.partial(rows_here, mesh))
    check_mesh(config, start.heads, mesh)
    with locked(workdir, wanted=is_first()):
        with jax.set_mesh(mesh):
            optimizer = make_optimizer(config.optimizer, config.steps)
            state = first_state(config, start, optimizer, mesh)
            step_fn, plain = (
                make_step(stage, optimizer, state, **how(config))
                for stage in (start.stage, start.plain)
            )
            run = Run(config, workdir, mesh, functools.partial(count_flops, plain))
            try:
                act = make_act(start.stage, seed=config.seed)
                state = run.fit(state, act, step_fn, start.feed, faults)
            finally:
                run.close()
                start.feed.close()
            trained, extra = on_host((state.ema or state.trainable, state.extra))
        # Outside the mesh: what the first process computes to write, it computes alone.
        if is_first():
            _, frozen = split(start.params, start.stage)
            start.write(done, merge(trained, frozen), extra)
        wait_for_all(str(done))
    return done


def _finished(workdir: Path) -> int:
    lines = metrics_until(workdir / "metrics.jsonl", math.inf)
    return json.loads(lines[-1])["step"] if lines else 0


def first_state(
    config: ConfigDict, start: Start, optimizer: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
    """Step 0 of a run."""
    return start_state(
        start.params,
        start.stage,
        optimizer,
        mesh=mesh,
        axes=start.axes,
        average=config.ema > 0,
        dtype=config.dtype,
    )


def how(config: ConfigDict) -> dict[str, Any]:
    """Options of `make_step`."""
    return {"seed": config.seed, "ema_decay": config.ema, "accumulate": config.accumulate}


def check_mesh(config: ConfigDict, heads: Mapping[str, int], mesh: Mesh) -> None:
    """ValueError where a mesh does not divide the heads, or the rows of a batch or of its parts."""
    divide(mesh, "heads", heads)
    buckets = {f"data.buckets[{i}].rows_a_batch": b for i, b in enumerate(config.data.buckets)}
    rows = {name: bucket["rows_a_batch"] for name, bucket in buckets.items()}
    rows = rows or {"data.rows": config.data.rows}
    for name, count in rows.items():
        if count % config.accumulate:
            raise ValueError(
                f"{name} is {count}, and accumulate {config.accumulate} divides it not"
            )
    divide(mesh, "batch", {name: count // config.accumulate for name, count in rows.items()})


class Run:
    """The side effects of a run: checkpoints, metrics, progress."""

    def __init__(
        self,
        config: ConfigDict,
        workdir: Path,
        mesh: Mesh,
        count: Callable[[TrainState, Any], int],
    ):
        """`count`: the arithmetic of a step, from its state and batch."""
        self.config, self.workdir, self.mesh, self.count = config, workdir, mesh, count
        self.checkpoints = Checkpoints(workdir / "checkpoints", keep=config.keep)
        self.text = config.to_json_best_effort(indent=1)
        self.agreement = Agreement(mesh) if jax.process_count() > 1 else None
        self.monitor: Monitor | None = None
        self.tracing = False

    def fit(
        self, state: TrainState, act: ActFn, step_fn: StepFn, feed: Feed, faults: Faults
    ) -> TrainState:
        """Steps until the last one, from the newest checkpoint if there is one."""
        total, settings = self.config.steps, json.loads(self.text)
        restored = self.checkpoints.restore(state, settings)
        if restored is not None:
            state, data = restored
            feed.set_state(data)
        step = int(state.step)
        if is_first():
            write_text(self.workdir / "config.json", self.text + "\n")
        pending = None
        with Requests() as asked:
            while step < total:
                batch, waited = self._next(feed)
                batch = act(state, batch)
                self._begin(step, state, batch)
                self._trace(step)
                state, metrics = step_fn(state, batch)
                step += 1
                # The metrics of the step before are read while this one computes.
                stop = self._log(pending) if pending is not None else 0
                self.monitor.wait(waited)
                known = {"bad_samples": len(bad)} if (bad := faults.seen()) else {}
                pending = (step, size_of(batch), metrics | known, self._agreed(asked.number))
                stop = stop if self.agreement else asked.number or 0
                if step % self.config.checkpoint_every == 0 or step == total or stop:
                    self._log(pending)
                    pending = None
                    self.checkpoints.save(step, state, joined(feed.get_state()), settings)
                if stop and step < total:
                    raise Stopped(stop, step)
        return state

    def close(self) -> None:
        """Finishes what is being written."""
        if self.tracing:
            jax.profiler.stop_trace()
        if self.monitor is not None:
            self.monitor.close()
        self.checkpoints.close()

    def _next(self, feed: Feed) -> tuple[dict[str, jax.Array], float]:
        """A batch on the devices, and how long it was waited for."""
        began = time.perf_counter()
        batch = next(feed)
        waited = time.perf_counter() - began
        return place_batch(self.mesh, batch), waited

    def _begin(self, step: int, state: TrainState, batch: Any) -> None:
        """Before the first step that is taken here."""
        if self.monitor is None:
            known = peak_flops(jax.devices()[0]) is not None
            flops = self.count(state, batch) if known else None
            self.monitor = Monitor(self.config, self.workdir, step, flops)

    def _trace(self, step: int) -> None:
        """Profiles steps `profile`[0] to `profile`[1] into workdir/profile, where these are set."""
        begin, end = self.config.profile or (-1, -1)
        if self.tracing and step >= end:
            jax.profiler.stop_trace()
            self.tracing = False
        elif begin <= step < end and not self.tracing:
            jax.profiler.start_trace(str(self.workdir / "profile"))
            self.tracing = True

    def _agreed(self, number: int | None) -> Any:
        return 0 if self.agreement is None else self.agreement.ask(number or 0)

    def _log(self, pending: tuple) -> int:
        """Writes a step's metrics; the signal that a process had been sent before it, or 0."""
        step, size, metrics, stop = pending
        self.monitor.log(step, size, metrics)
        return int(stop)


def size_of(batch: Mapping[str, jax.Array]) -> dict[str, int]:
    """Rows, tokens and pictures of a batch, its padding among them."""
    rows = next(iter(batch.values())).shape[0]
    if "tokens" not in batch:
        return {"rows": rows, "images": rows}
    return {"rows": rows, "images": batch["as_codes"].size, "tokens": batch["tokens"].size}
