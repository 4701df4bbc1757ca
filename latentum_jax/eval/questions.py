"""How many questions about held-out mazes a model answers rightly, by the features it looks at."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from latentum_jax.data.frozenlake import questions
from latentum_jax.data.frozenlake.frames import State, draw
from latentum_jax.data.frozenlake.mazes import unique_mazes
from latentum_jax.data.frozenlake.stream import random_state
from latentum_jax.eval.batches import padded_batches
from latentum_jax.files import write_json
from latentum_jax.pretrained import LatentUM

BATCH = 40
LONGEST_ANSWER = 160  # tokens: a map of level 8, or a caption with many holes
WAYS = ("continuous", "quantized", "codes")


def evaluate(
    model: LatentUM,
    levels: Sequence[int],
    num: int,
    seed: int,
    out: str | Path,
    *,
    checkpoint: str,
) -> dict[str, Any]:
    """Asks about `num` held-out states a kind; writes `out`/results.json, which it returns.

    Under "kinds" and "mean" are the shares of answers that are right to the letter: seen through
    "continuous" and "quantized" features of the picture, and through its "codes" alone.
    """
    states = held_out_states(levels, num, seed)
    kinds = {}
    with tqdm(total=len(questions.KINDS), desc="questions", unit="kind") as bar:
        for index, kind in enumerate(questions.KINDS):
            rng = np.random.default_rng([seed, index])
            asked = [(state, questions.ask(kind, state, rng)) for state in states]
            kinds[kind] = accuracy(model, asked)
            bar.update()
    mean = {way: float(np.mean([kind[way] for kind in kinds.values()])) for way in WAYS}
    results = {
        "checkpoint": checkpoint,
        "levels": list(levels),
        "num": num,
        "seed": seed,
        "kinds": kinds,
        "mean": mean,
    }
    write_json(Path(out) / "results.json", results)
    return results


def held_out_states(levels: Sequence[int], num: int, seed: int) -> list[State]:
    """`num` moments of walks through held-out mazes, the levels taking turns."""
    rng = np.random.default_rng(seed)
    a_level = -(-num // len(levels))
    mazes = [unique_mazes(seed, level, a_level, "test") for level in levels]
    turns = [group[i] for i in range(a_level) for group in mazes]
    return [random_state(rng, maze) for maze in turns[:num]]


def accuracy(
    model: LatentUM, asked: Sequence[tuple[State, questions.Question]]
) -> dict[str, float]:
    """The share of right answers in each of `WAYS`."""
    right = dict.fromkeys(WAYS, 0)
    for batch, real in padded_batches(asked, min(BATCH, len(asked))):
        for way, answers in _answers(model, batch).items():
            pairs = list(zip(answers, batch, strict=True))[:real]
            right[way] += sum(answer == turn.answer for answer, (_, turn) in pairs)
    return {way: count / len(asked) for way, count in right.items()}


def table(results: dict[str, Any]) -> str:
    """The results as text."""
    rows = [*results["kinds"].items(), ("mean", results["mean"])]
    lines = [f"{'':12}" + "".join(f"{way:>12}" for way in WAYS)]
    lines += [f"{name:12}" + "".join(f"{row[way]:>12.1%}" for way in WAYS) for name, row in rows]
    return "\n".join(lines)


def _answers(
    model: LatentUM, batch: Sequence[tuple[State, questions.Question]]
) -> dict[str, list[str]]:
    pictures = [draw(state) for state, _ in batch]
    texts = [turn.question for _, turn in batch]
    most = LONGEST_ANSWER
    codes = model.encode(pictures)[1]
    return {
        "continuous": model.answer(pictures, texts, features="continuous", max_new_tokens=most),
        "quantized": model.answer(pictures, texts, features="quantized", max_new_tokens=most),
        "codes": model.describe(codes, texts, max_new_tokens=most),
    }
