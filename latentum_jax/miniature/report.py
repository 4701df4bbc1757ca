"""Which parts there are, running them, and the report of all that a folder holds."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from latentum_jax.files import write_text
from latentum_jax.miniature.mazes import FINE_COARSE, PIXELS, RECACHE
from latentum_jax.miniature.part import Part, Section, Sizes, measure
from latentum_jax.miniature.quantizers import QUANTIZERS
from latentum_jax.miniature.world import CEM_PART, WORLD

PARTS = (FINE_COARSE, PIXELS, RECACHE, QUANTIZERS, WORLD, CEM_PART)
PAGE = "miniature.md"  # beside it a folder of its charts, `miniature`


def run(
    parts: str | None, models: Mapping[str, str], sizes: Sizes, seeds: Sequence[int], out: Path
) -> Path:
    """Measures `parts` ("pixels,world", None for all) in `out`/PART; the path of the report of all
    parts that are there. What is finished is not measured again.

    models: those of "mazes" and of the small "world". Raises ValueError as `measure`, or where
    there is no such part.
    """
    for part in parts_of(parts):
        checkpoint = models["world" if part.world else "mazes"]
        measure(part, checkpoint, sizes, seeds, out / part.name)
        write_report(out)
    return out / PAGE


def parts_of(names: str | None) -> list[Part]:
    """The parts of these names, in their order of the report."""
    known = [part.name for part in PARTS]
    wanted = known if names is None else [name.strip() for name in names.split(",")]
    if odd := [name for name in wanted if name not in known]:
        raise ValueError(f"there is no part {odd[0]!r}, expected some of {', '.join(known)}")
    return [part for part in PARTS if part.name in wanted]


def write_report(out: Path) -> None:
    """Writes `out`/miniature.md and its charts, `out`/miniature/PART.svg."""
    told = []
    for part in PARTS:
        file = out / part.name / "results.json"
        if not file.is_file():
            continue
        results = json.loads(file.read_text("utf-8"))
        section = part.tell(list(results["seeds"].values()), results["spread"])
        for name, chart in section.charts.items():
            write_text(out / "miniature" / f"{part.name}{name}.svg", chart)
        told.append(_section(part, section, results))
    write_text(out / PAGE, "\n".join([HEAD, *told]))


def _section(part: Part, section: Section, results: Mapping[str, Any]) -> str:
    sizes = ", ".join(f"{name} {_words(value)}" for name, value in results["sizes"].items())
    seeds = ", ".join(results["seeds"])
    lines = [
        f"## {part.title}",
        "",
        section.text,
        *(f"![{part.title}](miniature/{part.name}{name}.svg)\n" for name in section.charts),
        f"`{part.name}` of `{results['checkpoint']}`: {sizes}; seeds {seeds}; "
        f"{results['seconds'] / 60:.1f} minutes on {', '.join(results['devices'])}.",
        "",
    ]
    return "\n".join(lines)


def _words(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


HEAD = """# The paper in miniature

`latentum miniature --out DIR`: the paper's comparisons at a tiny size, on models of a few million
parameters that run on a laptop. Each is measured with several seeds, which choose the mazes, walks
or initial weights; a figure is the mean over seeds ± their standard deviation. Claims are judged by
the difference within each seed, and its 95% interval over seeds. Seconds are those of the machine
that made this page, compilation left out.
"""
