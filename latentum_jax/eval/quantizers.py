"""MBAQ against the quantizers of its ablations: what answering from quantized features costs."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from latentum_jax.config import QuantizerConfig
from latentum_jax.data.frozenlake import questions
from latentum_jax.data.frozenlake.frames import draw
from latentum_jax.data.interleaved import Row, RowShape, question_row, stack
from latentum_jax.eval.batches import padded_batches
from latentum_jax.eval.questions import held_out_states
from latentum_jax.files import write_json, write_text
from latentum_jax.images import see
from latentum_jax.models import latentum as net
from latentum_jax.pretrained import LatentUM
from latentum_jax.train.losses import divergence
from latentum_jax.train.stages.mbaq import quantized_pictures
from latentum_jax.train.stages.sequence import Batch, Pictures, read_pictures, shown_pictures
from latentum_jax.train.stages.vlm import answer_logits

BATCH = 50
LENGTH_STEP = 32  # rows are padded to a multiple of this, so that few programs are compiled


def compare(
    checkpoints: Sequence[str], levels: Sequence[int], num: int, seed: int, out: str | Path
) -> dict[str, Any]:
    """Asks each model the same questions about the same `num` held-out states a kind.

    The models are one VLM with differently trained quantizers. An answer is right where every
    token of it is the model's first choice behind those before: to the letter what greedy decoding
    would say, in one pass. Writes `out`/results.json and `out`/table.md; returns what is in the
    first: of each model the shares of right answers, `lost` and `less_than_first` (what the first
    model's quantized features have more) with the half width of their 95% interval over states,
    and `kl`, how far its answers lie from those of continuous features, in nats a token.

    Raises ValueError where the models differ in more than their quantizers.
    """
    models = [LatentUM.from_pretrained(name) for name in checkpoints]
    for name, model in zip(checkpoints, models, strict=True):
        _check_same_vlm(checkpoints[0], models[0], name, model)
    states = held_out_states(levels, num, seed)
    pictures = [see(draw(s), models[0].config.vision, resample="bicubic") for s in states]
    kinds = []
    for index, kind in enumerate(tqdm(questions.KINDS, desc="quantizers", unit="kind")):
        rng = np.random.default_rng([seed, index])
        turns = [questions.ask(kind, state, rng) for state in states]
        kinds.append(answers(models, question_rows(models[0], pictures, turns)))
    found = list(zip(*kinds, strict=True))
    results = {
        "levels": list(levels),
        "num": num,
        "seed": seed,
        "checkpoints": {
            name: _summary(model.config.quantizer, answered, found[0])
            for name, model, answered in zip(checkpoints, models, found, strict=True)
        },
    }
    write_json(Path(out) / "results.json", results)
    write_text(Path(out) / "table.md", table(results))
    return results


def question_rows(
    model: LatentUM, pictures: Sequence[np.ndarray], turns: Sequence[questions.Question]
) -> list[Row]:
    """One row for each picture with its question, no longer than the longest needs."""
    encode, vision, system = model.tokenizer.encode, model.config.vision, model.chat.system

    def row(pixels: np.ndarray, turn: questions.Question, length: int) -> Row:
        shape = RowShape(length, 1, 0, vision)
        pair = (turn.question, turn.answer)
        return question_row(pixels, [pair], model.tokenizer, shape, system=system)

    wordless = row(pictures[0], questions.Question("", "", ""), vision.num_tokens + LENGTH_STEP)
    longest = max(len(encode(turn.question)) + len(encode(turn.answer)) for turn in turns)
    length = int(wordless["valid"].sum()) + longest
    length = -(-length // LENGTH_STEP) * LENGTH_STEP
    return [row(*pair, length) for pair in zip(pictures, turns, strict=True)]


def answers(models: Sequence[LatentUM], rows: Sequence[Row]) -> list[dict[str, np.ndarray]]:
    """For each model, of every row: whether its answer is right from "continuous" and from
    "quantized" features, 1.0 or 0.0, and "kl" summed over the "tokens" of the answer.

    The models share all but their quantizers, so continuous features are read by the first alone.
    """
    made: list[list[dict]] = [[] for _ in models]
    for batch, _ in padded_batches(rows, min(BATCH, len(rows))):
        row = stack(batch)
        pictures, teacher = _from_continuous(models[0].model, models[0].params, row)
        for model, parts in zip(models, made, strict=True):
            judged = _from_quantized(model.model, model.params, row, pictures, teacher)
            parts.append(jax.device_get(judged))
    join = lambda parts, name: np.concatenate([part[name] for part in parts])[: len(rows)]  # noqa: E731
    return [{name: join(parts, name) for name in parts[0]} for parts in made]


def table(results: dict[str, Any]) -> str:
    """The comparison as a Markdown table, differences in points with 95% intervals."""
    first = Path(next(iter(results["checkpoints"]))).name
    lines = [
        f"| quantizer | codes | continuous | quantized | lost | less than {first} | KL |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, found in results["checkpoints"].items():
        lost, less = (
            f"{100 * found[key]['mean']:.1f} ± {100 * found[key]['ci95']:.1f}"
            for key in ("lost", "less_than_first")
        )
        lines.append(
            f"| {Path(name).name} | {found['codes']} | {found['continuous']:.1%} "
            f"| {found['quantized']:.1%} | {lost} | {less} | {found['kl']:.4f} |"
        )
    return "\n".join(lines) + "\n"


def _check_same_vlm(first: str, a: LatentUM, other: str, b: LatentUM) -> None:
    for part in ("vision", "mlp1", "language"):
        ours, theirs = (jax.tree.leaves(model.params[part]) for model in (a, b))
        same = len(ours) == len(theirs) and all(map(np.array_equal, ours, theirs))
        if not same:
            raise ValueError(
                f"{first} and {other} differ in {part}, expected one model with two quantizers"
            )


@functools.partial(jax.jit, static_argnums=0)
def _from_continuous(
    model: net.LatentUM, params: net.Params, batch: Batch
) -> tuple[Pictures, jax.Array]:
    pictures = read_pictures(model, params, batch, quantize=False)
    shown = shown_pictures(model, params, batch, pictures, None)
    return pictures, answer_logits(model, params, batch, shown)[:, :-1]


@functools.partial(jax.jit, static_argnums=0)
def _from_quantized(
    model: net.LatentUM, params: net.Params, batch: Batch, pictures: Pictures, teacher: jax.Array
) -> dict[str, jax.Array]:
    _, shown = quantized_pictures(model, params, pictures)
    student = answer_logits(model, params, batch, shown)[:, :-1]
    labels = batch["labels"][:, 1:]
    counts = labels >= 0

    def right(logits: jax.Array) -> jax.Array:
        return jnp.all((jnp.argmax(logits, -1) == labels) | ~counts, axis=1).astype(jnp.float32)

    return {
        "continuous": right(teacher),
        "quantized": right(student),
        "kl": jnp.sum(divergence(teacher, student) * counts, axis=1),
        "tokens": jnp.sum(counts, axis=1),
    }


def _summary(
    config: QuantizerConfig, answered: Sequence[dict[str, np.ndarray]], first: Sequence[dict]
) -> dict[str, Any]:
    """What the table says of one model; kinds count alike, states are what varies."""
    share = lambda kinds, way: np.mean([kind[way] for kind in kinds], axis=0)  # noqa: E731
    continuous, quantized = (share(answered, way) for way in ("continuous", "quantized"))
    return {
        "codes": f"{config.num_codebooks} x {config.codebook_size}",
        "continuous": float(continuous.mean()),
        "quantized": float(quantized.mean()),
        "lost": _interval(continuous - quantized),
        "less_than_first": _interval(share(first, "quantized") - quantized),
        "kl": float(np.mean([kind["kl"].sum() / kind["tokens"].sum() for kind in answered])),
        "kinds": {
            kind: {way: float(found[way].mean()) for way in ("continuous", "quantized")}
            for kind, found in zip(questions.KINDS, answered, strict=True)
        },
    }


def _interval(differences: np.ndarray) -> dict[str, float]:
    error = differences.std(ddof=1) / np.sqrt(len(differences)) if len(differences) > 1 else 0.0
    return {"mean": float(differences.mean()), "ci95": float(1.96 * error)}
