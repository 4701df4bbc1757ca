"""Does the self-reward teach the truth? GRPO on the tiny model, watched by an independent reader.

    python launch/grpo_frozenlake.py RUN

The bundled model learns to draw mazes from captions for a while (`frozenlake_captions`), then by
its own answers (`frozenlake_grpo`). Of every checkpoint, captions of held-out mazes are drawn as in
training; the model says what it thinks of these pictures (its self-reward), and
`latentum_jax/eval/reader.py`, which is none of the model's, whether they show what was asked for.
Writes RUN/curves.json, docs/grpo.svg and docs/grpo.md; run again, it goes on where it stopped.
"""

import argparse
import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
from flax.traverse_util import flatten_dict, unflatten_dict
from tqdm import tqdm

from latentum_jax.convert.published import open_model
from latentum_jax.data.faults import Faults
from latentum_jax.data.frozenlake.frames import State
from latentum_jax.data.frozenlake.mazes import sample_maze
from latentum_jax.data.frozenlake.questions import caption
from latentum_jax.data.frozenlake.stream import random_state
from latentum_jax.eval.chart import line_chart
from latentum_jax.eval.reader import Reader
from latentum_jax.files import BUNDLED, write_json, write_text
from latentum_jax.judge import QuestionShape
from latentum_jax.pretrained import LatentUM
from latentum_jax.rl.grpo import sampling_of
from latentum_jax.rl.maze import maze_questions
from latentum_jax.rl.self_reward import question_batch, self_reward
from latentum_jax.rl.start import start_of
from latentum_jax.train.recipe import load_config

EVERY, PICTURES = 50, 400
DOCS = Path(__file__).resolve().parents[1] / "docs"


def main() -> int:
    """Trains, measures every checkpoint, writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("--start", type=Path, help="a model that draws captions already")
    args, rest = parser.parse_known_args()
    start = args.start
    if start is None:
        bundled = f"--config.init_from={BUNDLED / 'frozenlake-tiny'}"
        train("frozenlake_captions", args.run / "captions", bundled)
        start = args.run / "captions" / "model"
    settings = {"init_from": str(start), "keep": "1000"}
    settings["checkpoint_every"] = str(EVERY)
    settings |= dict(one.removeprefix("--config.").split("=", 1) for one in rest)
    train("frozenlake_grpo", args.run / "grpo", *(f"--config.{k}={v}" for k, v in settings.items()))
    config = load_config("frozenlake_grpo", settings)
    write(args.run, measure(args.run, start, config), config.data.rows)
    return 0


def train(config: str, workdir: Path, *overrides: str) -> None:
    """`latentum train`, which goes on where it stopped."""
    command = ["latentum", "train", "--config", config, "--workdir", str(workdir), *overrides]
    subprocess.run(command, check=True)


def measure(run: Path, start: Path, config: Any) -> list[dict[str, float]]:
    """What is true of the pictures of every checkpoint, and what the model thinks of them."""
    file = run / "curves.json"
    stage = start_of(config, Faults(None, 0)).stage
    done = {row["step"]: row for row in json.loads(file.read_text())} if file.is_file() else {}
    folder = open_model(start)
    first = LatentUM(folder)
    reader = Reader.of(first)
    rng = np.random.default_rng(7)
    levels = config.data.levels
    mazes = [sample_maze(rng, levels[i % len(levels)], split="test") for i in range(PICTURES)]
    states = [random_state(rng, maze) for maze in mazes]
    manager = ocp.CheckpointManager((run / "grpo" / "checkpoints").resolve())
    for step in tqdm([0, *sorted(manager.all_steps())], desc="checkpoints", unit="step"):
        if step not in done:
            model = first if step == 0 else LatentUM(at_step(folder, stage, manager, step))
            done[step] = {"step": step, **judged(model, reader, states, config)}
            write_json(file, [done[step] for step in sorted(done)])
    return [done[step] for step in sorted(done)]


def at_step(folder: Any, stage: Any, manager: ocp.CheckpointManager, step: int) -> Any:
    """The model of a checkpoint, as it would be written."""
    args = ocp.args.Composite(state=ocp.args.StandardRestore())
    trained = manager.restore(step, args=args)["state"]["trainable"]
    whole = unflatten_dict({**flatten_dict(folder.params, sep="/"), **trained}, sep="/")
    return dataclasses.replace(folder, params=stage.finish(whole))


def judged(model: LatentUM, reader: Reader, states: list[State], config: Any) -> dict[str, float]:
    """Shares of cells that are right, the self-reward and p(correct) of its questions."""
    captions = [caption(state) for state in states]
    codes = model.generate(captions, guidance=1.0, sampling=sampling_of(config))
    asked = [maze_questions(text, most=config.grpo.ask.cells) for text in captions]
    ask, vision, system = config.grpo.ask, model.config.vision, model.chat.system
    room = QuestionShape(ask.length, ask.questions, ask.options)
    batch = question_batch(asked, model.tokenizer, room, vision=vision, system=system)
    own = {}
    for name, temperature in (("self_reward", ask.temperature), ("undivided", 1.0)):
        how = {"temperature": temperature}
        own[name] = float(np.mean(self_reward(model.model, model.params, batch, codes, **how)[0]))
    return {**own, **reader.correct(codes, states)}


def write(run: Path, curves: list[dict[str, float]], rows: int) -> None:
    """The chart and the page."""
    names = {
        "self_reward": "self-reward",
        "undivided": "the same, tau 1",
        "cells": "cells right",
        "player": "player right",
        "goal": "goal right",
        "hole": "holes right",
        "mazes": "whole mazes right",
    }
    series = {text: [(row["step"], row[name]) for row in curves] for name, text in names.items()}
    title = "GRPO by self-reflection: what it is rewarded by, and what is true"
    write_text(DOCS / "grpo.svg", line_chart(title, series, x_label="step", y_range=(0, 1)))
    steps = [json.loads(line) for line in (run / "grpo" / "metrics.jsonl").open()]
    taken = [step for step in steps if step["step"] <= curves[-1]["step"]]
    minutes = sum(rows / step["rate"] for step in taken) / 60
    page = [
        "# GRPO by self-reflection, watched by a reader that is none of the model's",
        "",
        "`python launch/grpo_frozenlake.py RUN`: the bundled model learnt to draw mazes from",
        "captions for a while (`frozenlake_captions`), then from its own answers",
        f"(`frozenlake_grpo`, {len(taken)} steps of {rows} rollouts, {minutes:.0f} minutes).",
        f"{PICTURES} captions of held-out mazes are drawn as in training; right is what counts of",
        "codes say (`latentum_jax/eval/reader.py`: on the simulator's own held-out pictures it is",
        "right in every cell).",
        "",
        "![Reward and truth over the steps](grpo.svg)",
        "",
        f"| step | {' | '.join(names.values())} |",
        "|---" * (len(names) + 1) + "|",
        *(
            f"| {row['step']} | {' | '.join(f'{row[name]:.3f}' for name in names)} |"
            for row in curves
        ),
    ]
    write_text(DOCS / "grpo.md", "\n".join(page) + "\n")


if __name__ == "__main__":
    sys.exit(main())
