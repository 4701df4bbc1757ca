"""MBAQ against the quantizers of its ablations: what answering from quantized features costs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from latentum_jax.eval import questions
from latentum_jax.files import write_json, write_text
from latentum_jax.pretrained import LatentUM


def compare(
    checkpoints: Sequence[str], levels: Sequence[int], num: int, seed: int, out: str | Path
) -> dict[str, Any]:
    """Asks each model the same questions about the same held-out states.

    The models are one VLM with differently trained quantizers, so "continuous" is the same for
    all. Writes `out`/results.json and `out`/table.md; returns what is in the first.
    """
    models = {name: LatentUM.from_pretrained(name) for name in checkpoints}
    found = {}
    for index, (name, model) in enumerate(models.items()):
        folder = Path(out) / f"{index}-{Path(name).name}"
        found[name] = questions.evaluate(model, levels, num, seed, folder, checkpoint=name)
    results = {
        "levels": list(levels),
        "num": num,
        "seed": seed,
        "checkpoints": {name: result["mean"] for name, result in found.items()},
    }
    write_json(Path(out) / "results.json", results)
    write_text(Path(out) / "table.md", table(results))
    return results


def table(results: dict[str, Any]) -> str:
    """The comparison as a Markdown table."""
    lines = ["| quantizer | continuous | quantized | lost |", "|---|---|---|---|"]
    for name, mean in results["checkpoints"].items():
        lost = mean["continuous"] - mean["quantized"]
        lines.append(
            f"| {Path(name).name} | {mean['continuous']:.1%} | {mean['quantized']:.1%} "
            f"| {100 * lost:.1f} points |"
        )
    return "\n".join(lines) + "\n"
