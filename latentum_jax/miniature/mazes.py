"""Parts about mazes: fine against coarse plans, and what becomes of an image that was imagined."""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from latentum_jax.data.frozenlake.frames import draw, start_state
from latentum_jax.data.frozenlake.mazes import Maze
from latentum_jax.eval import vsp
from latentum_jax.eval.batches import padded_batches
from latentum_jax.eval.chart import bar_chart
from latentum_jax.eval.frames import decode_frames
from latentum_jax.eval.imagined import score_images
from latentum_jax.eval.runs import markdown
from latentum_jax.generate.ablations import See, interleave_kept, interleave_seen
from latentum_jax.generate.prompt import embed_images
from latentum_jax.miniature.part import Given, Part, Section
from latentum_jax.miniature.spread import Values, cell, percent, verdict
from latentum_jax.pixel_decoder import PixelDecoder
from latentum_jax.pretrained import Interleaving, LatentUM

BATCH = 20
SEEN_AT_ONCE = 5  # pictures to decode and see: rows that are done cost little, one shape compiles
EASY = 3  # the level at which coarse plans do as well in the paper
Way = Callable[[Sequence[np.ndarray]], Interleaving | None]  # how to plan for these pictures


def fine_and_coarse(given: Given, seed: int) -> Values:
    """Shares of held-out mazes solved in both ways."""
    mazes = vsp.held_out(given.sizes.levels, given.sizes.mazes, seed)
    solve = functools.partial(vsp.solve, given.model, mazes)
    return {mode: {"success": successes(solve(mode))} for mode in ("fine", "coarse")}


def latent_and_pixels(given: Given, seed: int) -> Values:
    """Imagined states recached, and decoded, seen and read as pictures."""
    seen = functools.partial(through_pixels, given.model, given.decoder)
    return compare(given, seed, {"latent": lambda pictures: None, "pixels": seen})


def recached_and_kept(given: Given, seed: int) -> Values:
    """With recaching, and with the generation branch's own entries left in the cache."""
    ways = {"recached": lambda pictures: None, "kept": lambda pictures: interleave_kept}
    return compare(given, seed, ways)


def compare(given: Given, seed: int, ways: Mapping[str, Way]) -> Values:
    """Fine plans in several ways: shares solved, seconds a maze, imagined states that are right."""
    mazes, found = vsp.held_out(given.sizes.levels, given.sizes.mazes, seed), {}
    for name, way in ways.items():
        attempts, seconds = solve(given.model, mazes, way)
        walks = [(attempt.maze, attempt.moves, attempt.plan.codes) for attempt in attempts]
        imagined = score_images(given.model, walks)
        found[name] = {
            "success": successes(attempts),
            "seconds": seconds / len(mazes),
            "imagined": imagined["nearest_frame"],
        }
    return found


def solve(model: LatentUM, mazes: Sequence[Maze], way: Way) -> tuple[list[vsp.Attempt], float]:
    """Fine plans, and the seconds they took: programs are compiled before, by planning for the
    first batch once more."""
    limit = vsp.step_limit(model, mazes)
    batches = list(padded_batches(mazes, min(BATCH, len(mazes))))

    def plan(batch: Sequence[Maze]) -> list[vsp.Attempt]:
        pictures = [draw(start_state(maze)) for maze in batch]
        plans = model.plan(pictures, max_steps=limit, by=way(pictures))
        moves = [vsp.read_moves(plan, "fine") for plan in plans]
        return [vsp.Attempt(*one) for one in zip(batch, plans, moves, strict=True)]

    plan(batches[0][0])
    began = time.perf_counter()
    attempts = [attempt for batch, real in batches for attempt in plan(batch)[:real]]
    return attempts, time.perf_counter() - began


def through_pixels(
    model: LatentUM, decoder: PixelDecoder, pictures: Sequence[np.ndarray]
) -> Interleaving:
    """The program in which what is imagined about `pictures` is seen as the decoder draws it."""
    sizes = [picture.shape[1::-1] for picture in pictures]
    return functools.partial(interleave_seen, see=sight(model, decoder, sizes))


def sight(model: LatentUM, decoder: PixelDecoder, sizes: Sequence[tuple[int, int]]) -> See:
    """Looks at the pictures of what was drawn, which lie as those of `sizes` that were shown."""

    def see(codes: np.ndarray, rows: np.ndarray) -> np.ndarray:
        seen: list[np.ndarray] = []
        for batch, real in padded_batches(list(range(len(rows))), SEEN_AT_ONCE):
            shown = [sizes[rows[i]] for i in batch]
            pictures = decode_frames(model, decoder, codes[np.asarray(batch)], shown)
            pixels = model.pixels(pictures, "bilinear")
            seen += list(np.asarray(embed_images(model.model, model.params, pixels, False))[:real])
        return np.stack(seen)

    return see


def successes(attempts: Sequence[vsp.Attempt]) -> dict[str, float]:
    """The share solved by level, and the unweighted "mean" over levels."""
    levels = vsp.by_level([a.maze.level for a in attempts], [a.success for a in attempts])
    shares = {level: found["success"] for level, found in levels.items()}
    return {**shares, "mean": sum(shares.values()) / len(shares)}


def tell_fine_and_coarse(seeds: Sequence[Values], spread: Mapping[str, Any]) -> Section:
    """Whether steps beat one plan where mazes are larger."""
    levels = [level for level in seeds[0]["fine"]["success"] if level != "mean"]
    large = [level for level in levels if int(level) > EASY] or levels
    above = lambda values, mode: sum(values[mode]["success"][level] for level in large) / len(large)  # noqa: E731
    gains = [100 * (above(values, "fine") - above(values, "coarse")) for values in seeds]
    claim = f"planning move by move beats planning at once (levels {', '.join(large)})"
    text = [
        "Held-out mazes are solved move by move, each state imagined (fine), or in one go",
        "(coarse), section 4.3. In the paper levels 3 to 6 give 1.00, 1.00, 1.00 and 0.97 fine,",
        "1.00, 0.85, 0.83 and 0.71 coarse.",
        "",
        verdict(claim, gains, "points"),
        "",
        _success_table(spread, ()),
    ]
    return Section("\n".join(text), {"": _success_chart("Mazes solved", spread)})


def tell_latent_and_pixels(seeds: Sequence[Values], spread: Mapping[str, Any]) -> Section:
    """Whether imagination is better left latent."""
    success = [_gain(values, "latent", "pixels", "success", "mean") for values in seeds]
    right = [_gain(values, "latent", "pixels", "imagined") for values in seeds]
    saved = [v["pixels"]["seconds"] - v["latent"]["seconds"] for v in seeds]
    text = [
        "What the model imagines after a move goes back into its context either as it is (latent,",
        "section 3.3), or decoded to a picture, seen by the vision encoder and read as any picture",
        "is (pixels). Weights, prompts and mazes are the same. These weights were trained with",
        "latent images behind the first picture, so that pixels are out of their training there.",
        "",
        verdict("latent images beat pictures of them in mazes solved", success, "points"),
        verdict("what is imagined from latent images is more often right", right, "points"),
        verdict("latent images save time", saved, "seconds a maze", 3),
        "",
        _success_table(spread, ("imagined", "seconds")),
    ]
    return Section("\n".join(text), {"": _success_chart("Mazes solved", spread)})


def tell_recached_and_kept(seeds: Sequence[Values], spread: Mapping[str, Any]) -> Section:
    """Whether reading one's own image anew helps."""
    success = [_gain(values, "recached", "kept", "success", "mean") for values in seeds]
    right = [_gain(values, "recached", "kept", "imagined") for values in seeds]
    text = [
        "An image that was drawn is run through the understanding branch before text goes on",
        "(recached, section 3.3), or the cache keeps what the generation branch wrote while it",
        "drew (kept). Weights are the same and were trained for recaching, so that keeping is out",
        "of their training: this is what leaving it out costs, not what training without it would.",
        "",
        verdict("recaching helps in mazes solved", success, "points"),
        verdict("recaching helps what is imagined to be right", right, "points"),
        "",
        _success_table(spread, ("imagined", "seconds")),
    ]
    return Section("\n".join(text), {"": _success_chart("Mazes solved", spread)})


def _gain(values: Values, better: str, worse: str, *path: str) -> float:
    """In points, what one way has more than another."""
    at = lambda way: functools.reduce(lambda found, name: found[name], path, values[way])  # noqa: E731
    return 100 * (at(better) - at(worse))


HEADS = {"imagined": "imagined right, %", "seconds": "seconds a maze"}


def _success_table(spread: Mapping[str, Any], more: Sequence[str]) -> str:
    """Solved by level in percent, and `more` columns."""
    levels = list(next(iter(spread.values()))["success"])
    rows = []
    for way, found in spread.items():
        cells = [percent(found["success"][level]) for level in levels]
        cells += [cell(found[n], 3) if n == "seconds" else percent(found[n]) for n in more]
        rows.append((way, *cells))
    heads = [f"level {level}" if level.isdigit() else level for level in levels]
    return markdown(("solved, %", *heads, *(HEADS[name] for name in more)), rows)


def _success_chart(title: str, spread: Mapping[str, Any]) -> str:
    levels = list(next(iter(spread.values()))["success"])
    bars = {
        way: [(found["success"][level]["mean"], found["success"][level]["sd"]) for level in levels]
        for way, found in spread.items()
    }
    return bar_chart(title, levels, bars, x_label="level", y_range=(0, 1))


SIZES = ("levels", "mazes")
FINE_COARSE = Part(
    "fine_coarse",
    "Fine and coarse plans",
    False,
    SIZES,
    fine_and_coarse,
    tell_fine_and_coarse,
)
PIXELS = Part(
    "pixels",
    "Latent and pixel-mediated reasoning",
    False,
    SIZES,
    latent_and_pixels,
    tell_latent_and_pixels,
)
RECACHE = Part(
    "recache",
    "Recaching",
    False,
    SIZES,
    recached_and_kept,
    tell_recached_and_kept,
)
