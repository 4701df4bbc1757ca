"""Does a model read what it has drawn as what it was told to draw? (LatentUMM)

Each caption is drawn, and the codes are read back by the understanding branch, with no pixels in
between: as a representation, whose cosine to the caption's own is the consistency, and in words,
caption -> image -> caption.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from latentum_jax.data.frozenlake.questions import caption, parse_caption
from latentum_jax.embed import image_latents, text_latents
from latentum_jax.eval.batches import padded_batches
from latentum_jax.eval.questions import held_out_states
from latentum_jax.eval.runs import interval
from latentum_jax.files import write_json, write_text
from latentum_jax.generate.sampling import Sampling
from latentum_jax.pretrained import LatentUM

BATCH = 40
LONGEST_CAPTION = 160  # tokens
QUESTION = "Describe the maze."
FIELDS = ("level", "player", "goal", "holes")


def evaluate(
    model: LatentUM,
    captions: Sequence[str],
    out: str | Path,
    *,
    checkpoint: str,
    question: str = QUESTION,
    sampling: Sampling,
    guidance: float,
    seed: int = 0,
) -> dict[str, Any]:
    """Draws each caption once; writes `out`/results.json, which it returns, and `out`/table.md.

    "cosine" is that of a caption's representation and its image's, "others" the mean of those of
    the images of all other captions, "nearest" the share of captions to which no other image is
    nearer; "described" is the cosine of the caption's representation and that of the words that
    the model has for its image (0 where it has none). Where captions are those of mazes,
    "round_trip" has the shares of images described by a caption that can be read ("parsed"), with
    the right value of each field, and of all of them ("exact"). Means come with the half width of
    their 95% interval, "ci95".

    Raises ValueError where there are fewer than two captions.
    """
    if len(captions) < 2:
        raise ValueError(f"{len(captions)} captions, expected at least two to compare")
    codes, told = draw_and_tell(model, captions, question, sampling, guidance, seed)
    text, image = text_latents(model, captions), image_latents(model, codes)
    near = cosines(text, image)
    own = np.diagonal(near)
    spoke = np.array([bool(words.strip()) for words in told])  # who says nothing has no latent
    said = [words if words.strip() else question for words in told]
    described = np.where(spoke, np.diagonal(cosines(text, text_latents(model, said))), 0.0)
    results: dict[str, Any] = {
        "checkpoint": checkpoint,
        "captions": len(captions),
        "seed": seed,
        "guidance": guidance,
        "temperature": sampling.temperature,
        "cosine": interval(own),
        "others": float((near.sum() - own.sum()) / (near.size - len(own))),
        "nearest": interval(np.all(near <= own[:, None], axis=1)),
        "described": interval(described),
    }
    if all(parse_caption(text) for text in captions):
        results["round_trip"] = round_trip(captions, told)
    results["told"] = [list(pair) for pair in zip(captions, told, strict=True)]
    write_json(Path(out) / "results.json", results)
    write_text(Path(out) / "table.md", table([results]))
    return results


def held_out_captions(levels: Sequence[int], num: int, seed: int) -> list[str]:
    """Captions of `num` moments of walks through held-out mazes, each once."""
    return list(dict.fromkeys(caption(state) for state in held_out_states(levels, num, seed)))


def read_captions(file: Path) -> list[str]:
    """A caption a line, blank ones left out. Raises ValueError where there are none."""
    try:
        lines = [line.strip() for line in file.read_text("utf-8").splitlines()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is no text in UTF-8: {error}") from error
    if not any(lines):
        raise ValueError(f"{file}: there are no captions in it")
    return [line for line in lines if line]


def draw_and_tell(
    model: LatentUM,
    captions: Sequence[str],
    question: str,
    sampling: Sampling,
    guidance: float,
    seed: int,
) -> tuple[np.ndarray, list[str]]:
    """Codes [N L C] of an image for each caption, and what the model says of each."""
    codes, told = [], []
    places = list(enumerate(captions))
    with tqdm(total=len(captions), desc="consistency", unit="caption") as bar:
        for batch, real in padded_batches(places, min(BATCH, len(captions))):
            seeds = [(seed + place) % 2**32 for place, _ in batch]
            options = {"guidance": guidance, "sampling": sampling, "seeds": seeds}
            drawn = model.generate([text for _, text in batch], **options)
            words = model.describe(drawn, question, max_new_tokens=LONGEST_CAPTION)
            codes.append(drawn[:real])
            told += words[:real]
            bar.update(real)
    return np.concatenate(codes), told


def cosines(a: Float[np.ndarray, "N D"], b: Float[np.ndarray, "M D"]) -> Float[np.ndarray, "N M"]:
    """Of each pair."""
    a, b = (x.astype(np.float64) for x in (a, b))
    return (a / np.linalg.norm(a, axis=1)[:, None]) @ (b / np.linalg.norm(b, axis=1)[:, None]).T


def round_trip(captions: Sequence[str], told: Sequence[str]) -> dict[str, dict[str, float]]:
    """Shares of the fields of captions that came back rightly; see `evaluate`."""
    meant, read = [parse_caption(text) for text in captions], [parse_caption(t) for t in told]
    pairs = list(zip(meant, read, strict=True))
    right = {name: [b is not None and a[name] == b[name] for a, b in pairs] for name in FIELDS}
    found = {"parsed": [b is not None for b in read], **right, "exact": [a == b for a, b in pairs]}
    return {name: interval(np.asarray(hits)) for name, hits in found.items()}


def table(results: Sequence[dict[str, Any]]) -> str:
    """A row a model, as Markdown."""
    with_trip = all("round_trip" in found for found in results)
    trip = ("parsed", *FIELDS, "exact") if with_trip else ()
    names = ("model", "cosine", "of others", "nearest is its own", "described", *trip)
    lines = [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
    for found in results:
        cells = [
            Path(found["checkpoint"]).name,
            f"{found['cosine']['mean']:.3f} ± {found['cosine']['ci95']:.3f}",
            f"{found['others']:.3f}",
            f"{found['nearest']['mean']:.1%}",
            f"{found['described']['mean']:.3f}",
            *(f"{found['round_trip'][name]['mean']:.1%}" for name in trip),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
