"""The model's imagined states as pictures: drawn by its pixel decoder, beside the simulator's.

Nothing here is needed to think: pictures are for people, and for the decoder's own figures.
"""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from latentum_jax.data.frozenlake.frames import State, advance, draw, read_state
from latentum_jax.data.frozenlake.mazes import unique_mazes
from latentum_jax.data.frozenlake.questions import ask, parse_map
from latentum_jax.data.frozenlake.stream import random_state
from latentum_jax.eval.batches import padded_batches
from latentum_jax.eval.vsp import Mode, read_moves
from latentum_jax.files import whole, write_json
from latentum_jax.images import load_image, unlaid
from latentum_jax.pixel_decoder import PixelDecoder
from latentum_jax.pretrained import LatentUM, Plan

# Of the tiny decoder: more steps are no better read and noisier, more guidance distorts.
STEPS, GUIDANCE = 4, 1.5
BATCH = 32
PAUSE = 700  # milliseconds a picture of a GIF stands
GAP = 8  # pixels between two pictures
PLAYER, GOAL, HOLE = "P", "G", "H"


def decode_frames(
    model: LatentUM,
    decoder: PixelDecoder,
    codes: np.ndarray,
    sizes: Sequence[tuple[int, int]],
    *,
    seed: int = 0,
) -> list[np.ndarray]:
    """Pictures uint8 [height width 3] of latent images [B L C].

    `sizes` are (width, height) of the pictures that the model was shown: what it imagines lies as
    these did when they were seen.
    """
    pictures: list[np.ndarray] = []
    for batch, real in padded_batches(list(codes), max(1, min(BATCH, len(codes)))):
        seeds = [(seed + len(pictures) + i) % 2**32 for i in range(len(batch))]
        z_q = model.z_q(np.stack(batch))
        drawn = decoder.decode(z_q, steps=STEPS, guidance=GUIDANCE, seeds=seeds)
        pictures += list(drawn[:real])
    vision = model.config.vision
    return [unlaid(p, size, vision) for p, size in zip(pictures, sizes, strict=True)]


def strip(rows: Sequence[Sequence[np.ndarray]]) -> Image.Image:
    """Rows of equal pictures on one white sheet; a row may end early."""
    height, width = rows[0][0].shape[:2]
    across = max(map(len, rows))
    shape = (len(rows) * (height + GAP) - GAP, across * (width + GAP) - GAP, 3)
    sheet = np.full(shape, 255, np.uint8)
    for i, row in enumerate(rows):
        for j, picture in enumerate(row):
            y, x = i * (height + GAP), j * (width + GAP)
            sheet[y : y + height, x : x + width] = picture
    return Image.fromarray(sheet)


def write_frames(path: Path, walked: Sequence[np.ndarray], imagined: Sequence[np.ndarray]) -> None:
    """Writes `path`.png, all pictures on one sheet, and `path`.gif, one after another.

    `walked` are the simulator's (none where the picture was not of a maze), `imagined` the model's.
    """
    rows = [row for row in (walked, imagined) if len(row)]
    if not rows:
        return
    with whole(path.with_suffix(".png")) as unfinished:
        strip(rows).save(unfinished, format="PNG", compress_level=3)  # a third of the time
    # Where one row ends early its last picture stays, so that both end together.
    count = max(map(len, rows))
    sheets = [strip([[row[min(i, len(row) - 1)] for row in rows]]) for i in range(count)]
    # Sooner done than what a GIF's writer would choose, and nearer to these pictures.
    sheets = [sheet.quantize(method=Image.Quantize.FASTOCTREE) for sheet in sheets]
    with whole(path.with_suffix(".gif")) as unfinished:
        sheets[0].save(
            unfinished,
            format="GIF",
            save_all=True,
            append_images=sheets[1:],
            duration=PAUSE,
            loop=0,
        )


def write_pictures(out: Path, pictures: np.ndarray) -> None:
    """Writes pictures uint8 [B height width 3] as `out`/0000.png, `out`/0001.png, ..."""
    for i, picture in enumerate(pictures):
        with whole(out / f"{i:04}.png") as unfinished:
            Image.fromarray(picture).save(unfinished, format="PNG")


def write_plans(
    model: LatentUM,
    decoder: PixelDecoder,
    images: Sequence[Path],
    plans: Sequence[Plan],
    mode: Mode,
    out: Path,
    *,
    seed: int = 0,
) -> list[Path]:
    """`write_frames` for each plan, under its picture's name; returns the sheets.

    The simulator's row is there where the picture is one of a maze, as the simulator draws it.
    """
    pictures = [np.asarray(load_image(image)) for image in images]
    sizes = [
        picture.shape[1::-1]
        for picture, plan in zip(pictures, plans, strict=True)
        for _ in plan.codes
    ]
    codes = np.concatenate([plan.codes for plan in plans])
    imagined = iter(decode_frames(model, decoder, codes, sizes, seed=seed))
    written = []
    for i, (image, picture, plan) in enumerate(zip(images, pictures, plans, strict=True)):
        state, walked = read_state(picture), []
        if state is not None:
            for move in read_moves(plan, mode):
                state = advance(state, move)
                walked.append(draw(state))
        path = out / f"{i:03}-{image.stem}"
        shown = walked if mode == "fine" else walked[-1:]
        write_frames(path, shown, list(itertools.islice(imagined, len(plan.codes))))
        written.append(path.with_suffix(".png"))
    return written


def evaluate(
    model: LatentUM,
    decoder: PixelDecoder,
    levels: Sequence[int],
    num: int,
    seed: int,
    out: Path,
    *,
    checkpoint: str,
) -> dict[str, Any]:
    """Decodes the codes of `num` moments of held-out walks a level, and reads the pictures.

    The `und` branch is asked for the map of each decoded picture and, beside it, of the simulator's
    own. Writes and returns `out`/results.json.
    """
    found = {}
    for level in tqdm(levels, desc="frames", unit="level"):
        rng = np.random.default_rng((seed, level))
        shown = [random_state(rng, maze) for maze in unique_mazes(seed, level, num, "test")]
        found[str(level)] = _judge(model, decoder, shown, seed)
    cells = np.mean([values["cells"] for values in found.values()])
    psnr = np.mean([values["psnr"] for values in found.values()])
    results = {
        "checkpoint": checkpoint,
        "steps": STEPS,
        "guidance": GUIDANCE,
        "levels": found,
        "mean": {"cells": round(float(cells), 4), "psnr": round(float(psnr), 2)},
    }
    write_json(Path(out) / "results.json", results)
    return results


def table(results: dict[str, Any]) -> str:
    """The results as a Markdown table."""
    names = ("cells", "player", "holes", "goal", "simulator")
    lines = [
        f"| level | pictures | {' | '.join(names)} | PSNR |",
        "|---" * (len(names) + 3) + "|",
    ]
    for level, values in results["levels"].items():
        shares = " | ".join(f"{100 * values[name]:.1f}%" for name in names)
        lines.append(f"| {level} | {values['n']} | {shares} | {values['psnr']:.1f} dB |")
    mean = results["mean"]
    lines.append(f"\nmean: {100 * mean['cells']:.1f}% of cells, {mean['psnr']:.1f} dB")
    return "\n".join(lines)


def psnr(made: np.ndarray, true: np.ndarray) -> float:
    """Peak signal-to-noise ratio of 8-bit pictures, in dB; at most 100, which equal ones have."""
    error = np.mean((made.astype(np.float64) - true.astype(np.float64)) ** 2) / 255**2
    return float(-10 * np.log10(max(error, 1e-10)))


def _judge(
    model: LatentUM, decoder: PixelDecoder, shown: Sequence[State], seed: int
) -> dict[str, Any]:
    true = [draw(state) for state in shown]
    codes = np.stack(_each(true, lambda batch: model.encode(batch)[1]))
    sizes = [picture.shape[1::-1] for picture in true]
    made = decode_frames(model, decoder, codes, sizes, seed=seed)
    turns = [ask("map", state, np.random.default_rng(0)) for state in shown]
    maps = [np.array(parse_map(turn.answer)) for turn in turns]
    ask_map = lambda batch: model.answer(batch, turns[0].question)  # noqa: E731
    read, ceiling = (
        [_agreement(text, m) for text, m in zip(_each(pictures, ask_map), maps, strict=True)]
        for pictures in (made, true)
    )
    right, kinds = np.stack(read), np.stack(maps)
    share = lambda kind: round(float(right[kinds == kind].mean()), 4)  # noqa: E731
    return {
        "n": len(shown),
        "cells": round(float(right.mean()), 4),
        "player": share(PLAYER),
        "holes": share(HOLE),
        "goal": share(GOAL),
        "simulator": round(float(np.mean(ceiling)), 4),
        "psnr": round(float(np.mean([psnr(m, t) for m, t in zip(made, true, strict=True)])), 2),
    }


def _each(items: Sequence[Any], run: Callable[[list[Any]], Sequence[Any]]) -> list[Any]:
    """What `run` gives for each item, a batch at a time."""
    batches = padded_batches(items, min(BATCH, len(items)))
    return [result for batch, real in batches for result in list(run(batch))[:real]]


def _agreement(text: str, true: np.ndarray) -> np.ndarray:
    """Which cells of the map were read rightly; none where the answer is no map of this size."""
    read = parse_map(text)
    if read is None or len(read) != len(true):
        return np.zeros(true.shape, bool)
    return np.array(read) == true
