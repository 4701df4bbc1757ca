"""Rollouts of the world model (appendix D): frame after frame from a few frames and actions.

Either the published recurrence, in which every predicted frame is decoded, and seen again in the
window of context as a picture of 8 bits; or the fully latent one, in which its codes are.
"""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, UInt8

from latentum_jax.cores import side_by_side
from latentum_jax.data.navigation.words import Action, prompt
from latentum_jax.generate.imagine import imagine
from latentum_jax.generate.prompt import embed_images
from latentum_jax.generate.sampling import SAMPLED, Sampling, row_seeds
from latentum_jax.images import ImageLike
from latentum_jax.pretrained import LatentUM
from latentum_jax.tokenizer import user_turn

Decode = Callable[..., np.ndarray]
Rows = Sequence[Sequence[ImageLike]]
Actions = Sequence[Sequence[Action | str]]


def rollout(
    model: LatentUM,
    frames: Rows,
    actions: Actions,
    decode: Decode | None = None,
    *,
    sampling: Sampling = SAMPLED,
    seeds: Sequence[int] | None = None,
) -> tuple[Int[np.ndarray, "B W L C"], UInt8[np.ndarray, "B W P P 3"] | None]:
    """Codes of the frames to come, and their pictures where the recurrence goes through pixels.

    Args:
      frames: of each row the J observed ones, oldest first; rows that are given the same list are
        encoded once.
      actions: of each row the J - 1 between its frames, then one for each of W steps.
      decode: `PixelDecoder.decode` of a decoder that takes J references, which stay those of
        `frames` to the end, as published. None leaves pixels out: all steps of all rows are then
        one program, which a CPU's cores run side by side, each for its share of the rows.
      sampling: of the codes.
      seeds: of each row one, 0, 1, ... by default; `step_seeds` makes those of its steps.

    Raises:
      ValueError: rows of different sizes, fewer actions than frames, or what `LatentUM.predict`,
        the context or `decode` refuse.
    """
    count, steps = _sizes(frames, actions)
    numbers = step_seeds(row_seeds(seeds, len(frames)).tolist(), steps)
    if decode is not None:
        return _through_pixels(model, frames, actions, decode, count, sampling, numbers)
    return _latent(model, frames, actions, count, sampling, numbers), None


def latent_features(model: LatentUM, codes: Int[np.ndarray, "*b L C"]) -> Float[np.ndarray, "..."]:
    """up_proj(z_q) of codes [... L D]: where latent images and seen ones are compared."""
    bound = model.model.bind({"params": model.params})
    return np.asarray(bound.understand_quantized(bound.look_up(jnp.asarray(codes))))


def step_seeds(seeds: Sequence[int], steps: int) -> np.ndarray:
    """A seed for every step of every row [W B], which depends on the row's own alone."""
    rows = [np.random.SeedSequence(seed).generate_state(steps, np.uint32) for seed in seeds]
    return np.stack(rows, axis=1)


def _sizes(frames: Rows, actions: Actions) -> tuple[int, int]:
    """Frames of a row, and steps to take."""
    if len(frames) != len(actions):
        raise ValueError(f"{len(frames)} rows of frames and {len(actions)} of actions")
    counts, told = {len(row) for row in frames}, {len(row) for row in actions}
    if len(counts) != 1 or len(told) != 1 or 0 in counts:
        raise ValueError(
            f"rows of {sorted(counts)} frames and {sorted(told)} actions, expected as many in each"
        )
    (count,), (given,) = counts, told
    if given < count:
        raise ValueError(f"{given} actions, expected at least one for each of {count} frames")
    return count, given - count + 1


def _windows(frames: Rows) -> tuple[list[Sequence[ImageLike]], list[int]]:
    """The lists of frames that are not the same, and which of them each row has."""
    places: dict[tuple[int, ...], int] = {}
    own = [places.setdefault(tuple(map(id, row)), len(places)) for row in frames]
    return [frames[own.index(i)] for i in range(len(places))], own


def _latent(
    model: LatentUM,
    frames: Rows,
    actions: Actions,
    count: int,
    sampling: Sampling,
    seeds: np.ndarray,
) -> np.ndarray:
    windows, own = _windows(frames)
    pixels = model.pixels([frame for row in windows for frame in row], "bilinear")
    shown = embed_images(model.model, model.params, pixels, False)
    system, rows, steps = model.chat.system, len(frames), len(seeds)
    asked = [
        model.prompter.tokens(user_turn(prompt(row[step : step + count]), system), [1] * count)
        for step in range(steps)
        for row in actions
    ]
    # Actions take about as many words each time, and what is padded is computed at every step.
    tokens, lengths = model.prompter.pad(asked, model.config.vision.num_tokens, to=8)
    shown = shown.reshape(len(windows), count, *shown.shape[1:])
    tokens, lengths = tokens.reshape(steps, rows, -1), lengths.reshape(steps, rows)

    def imagined(group: np.ndarray) -> np.ndarray:
        own_rows = jnp.asarray(own)[group]
        asked = tokens[:, group], lengths[:, group], jnp.asarray(seeds[:, group])
        codes = imagine(
            model.model, model.params, shown, own_rows, *asked, ids=model.ids, sampling=sampling
        )
        return np.asarray(codes).swapaxes(0, 1)

    return side_by_side(imagined, np.arange(rows))


def _through_pixels(
    model: LatentUM,
    frames: Rows,
    actions: Actions,
    decode: Decode,
    count: int,
    sampling: Sampling,
    seeds: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    windows, own = _windows(frames)
    seen, drawn = [list(row) for row in frames], []
    for step, numbers in enumerate(seeds.tolist()):
        part = slice(step, step + count)
        asked = [row[part] for row in seen], [row[part] for row in actions]
        codes = model.predict(*asked, sampling=sampling, seeds=numbers)
        drawn.append(codes)
        z_q = model.z_q(codes)
        for i, window in enumerate(windows):
            rows = [row for row, which in enumerate(own) if which == i]
            own_seeds = [numbers[row] for row in rows]
            pictures = decode(z_q[np.asarray(rows)], references=window, seeds=own_seeds)
            for row, picture in zip(rows, pictures, strict=True):
                seen[row].append(picture)
    return np.stack(drawn, axis=1), np.stack([np.stack(row[count:]) for row in seen])
