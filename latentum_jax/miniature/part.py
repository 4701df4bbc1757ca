"""A part of the miniature: one comparison, measured seed by seed, and what is told of it."""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from latentum_jax.eval.runs import model_settings, run_in
from latentum_jax.miniature.spread import Values, spread
from latentum_jax.pixel_decoder import PixelDecoder
from latentum_jax.pretrained import LatentUM, find_model


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How much each part measures; each names those that it reads.

    levels, mazes: held-out mazes, so many a level. steps: of training a quantizer. states: held-out
    ones that are asked about, of each kind of question. walks, horizon: through rooms of the small
    world, and how many frames are imagined of each. episodes, candidates, ahead: of planning
    towards pictures, paths tried for each and their steps. decode_steps: of the pixel decoder of
    the small world.
    """

    levels: tuple[int, ...] = (3, 4, 5, 6)
    mazes: int = 40
    steps: int = 300
    states: int = 200
    walks: int = 24
    horizon: int = 16
    episodes: int = 20
    candidates: int = 40
    ahead: int = 8
    decode_steps: int = 4


@dataclasses.dataclass(frozen=True)
class Given:
    """What a part is measured with; `folder` keeps what it writes on the way."""

    checkpoint: str
    sizes: Sizes
    folder: Path

    @functools.cached_property
    def model(self) -> LatentUM:
        """The model, opened when it is first wanted."""
        return LatentUM.from_pretrained(self.checkpoint)

    @functools.cached_property
    def decoder(self) -> PixelDecoder:
        """Its pixel decoder."""
        return PixelDecoder.from_pretrained(self.checkpoint)


@dataclasses.dataclass(frozen=True)
class Section:
    """What a report says of a part: Markdown, and charts as SVG by name."""

    text: str
    charts: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Part:
    """A comparison.

    world: whether it is of the small world's model instead of the mazes'. sizes: names of those in
    `Sizes` that its values depend on. measure: the values of a seed. tell: of the values of all
    seeds, and of their `spread`.
    """

    name: str
    title: str
    world: bool
    sizes: tuple[str, ...]
    measure: Callable[[Given, int], Values]
    tell: Callable[[Sequence[Values], Mapping[str, Any]], Section]


def measure(part: Part, checkpoint: str, sizes: Sizes, seeds: Sequence[int], out: Path) -> None:
    """Measures what is not measured yet; `out` becomes a folder of a run (`eval.runs`), whose items
    are seeds. Its results are of all that it holds.

    Raises ValueError where there is no such model, or `out` is of another one or of other sizes.
    """
    read = {name: getattr(sizes, name) for name in part.sizes}
    model = model_settings(checkpoint, find_model(checkpoint), None)
    given = Given(checkpoint, sizes, out)
    with run_in(out, {"part": part.name, **model, "sizes": read}) as run:
        for seed in seeds:
            if str(seed) in run.done:
                continue
            began = time.perf_counter()
            values = part.measure(given, seed)
            took = time.perf_counter() - began
            device = jax.devices()[0].device_kind
            told = {"seconds": round(took, 1), "device": device}
            run.add([{"key": str(seed), "values": values, **told}])
        done = {key: run.done[key] for key in sorted(run.done, key=int)}
        values = [item["values"] for item in done.values()]
        results = {
            "seeds": {key: item["values"] for key, item in done.items()},
            "spread": spread(values),
            "seconds": round(sum(item["seconds"] for item in done.values()), 1),
            "devices": sorted({item["device"] for item in done.values()}),
        }
        run.finish(results, part.tell(values, results["spread"]).text)
