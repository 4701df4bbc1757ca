"""Rollouts: what the policy does with its prompts, as the rows that it then learns from.

One copy of the weights serves both: the parameters that are trained, as they lie on the mesh.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, UInt

from latentum_jax.data.interleaved import Row, RowBuilder, RowShape, stack
from latentum_jax.generate.image import draw, prefill
from latentum_jax.generate.interleave import interleave
from latentum_jax.generate.prompt import embed_images, embed_prompt
from latentum_jax.generate.rows import Limits
from latentum_jax.generate.sampling import Sampling
from latentum_jax.models.latentum import LatentUM, Params
from latentum_jax.sharding import place_batch, rows_here
from latentum_jax.tokenizer import SpecialIds, Tokenizer
from latentum_jax.train.hosts import on_host
from latentum_jax.train.stages.sequence import Batch

SAID = ("tokens", "count", "codes", "images", "token_scores", "code_scores")


def draw_rollouts(
    model: LatentUM,
    params: Params,
    batch: Batch,
    seeds: UInt[Array, "R"],
    *,
    ids: SpecialIds,
    sampling: Sampling,
    group: int,
) -> dict[str, jax.Array]:
    """Pictures of captions: `codes` [R 1 L C] and how likely they were, `sampled` [R M].

    `batch` has rows of captions (`data.interleaved.caption_row`), `group` alike behind one another:
    a prompt goes through the understanding branch once for all of its group. No guidance, as the
    policy is the model's own distribution.
    """
    prompts, lengths = batch["tokens"][::group], jnp.sum(batch["valid"], axis=1)
    settings = {"ids": ids, "guided": False}
    caches, first = prefill(model, params, prompts, lengths[::group], **settings)
    caches, first = _repeated((caches, first), group)
    how = {"sampling": sampling, "guidance": 1.0, "scored": True}
    codes, _, scores, _ = draw(model, params, caches, first, lengths, seeds, **how)
    return {"codes": codes[:, None], "sampled": scores.reshape(len(codes), -1)}


@functools.partial(jax.jit, static_argnums=1)
def _repeated(tree: Any, group: int) -> Any:
    return jax.tree.map(lambda x: jnp.repeat(x, group, axis=0), tree)


def say_and_draw(
    model: LatentUM,
    params: Params,
    batch: Batch,
    seeds: UInt[Array, "R"],
    *,
    ids: SpecialIds,
    limits: Limits,
    sampling: Sampling,
) -> dict[str, np.ndarray]:
    """Interleaved rollouts, on the host: what `SAID` names of `generate.rows.Rows`.

    `batch` has prompts [R T] with the slots of one picture, their lengths `prompt_length` [R] and
    the pictures, `seen` [R 1 P P 3].
    """
    shown = embed_images(model, params, batch["seen"][:, 0], False)
    slots = batch["prompt"] == ids.img_context
    embedded = embed_prompt(model, params, batch["prompt"], slots, shown)
    how = {"ids": ids, "limits": limits, "text": sampling, "codes": sampling, "scored": True}
    rows = interleave(model, params, embedded, batch["prompt_length"], seeds, **how)
    return on_host({name: getattr(rows, name) for name in SAID})


def rollout_row(
    prompt: Sequence[int],
    picture: np.ndarray,
    said: Mapping[str, np.ndarray],
    tokenizer: Tokenizer,
    shape: RowShape,
) -> Row:
    """One interleaved rollout as a row of U and G, with `sampled` [M] in the order of
    `score.policy_scores`.

    What the policy said is a label: words, each `<img>`, the end. The `</img>` behind a picture it
    did not choose; one that it says elsewhere is a word.
    """
    ids = tokenizer.ids
    builder = RowBuilder(tokenizer, shape)
    before, after = _around_slots(prompt, ids)
    builder.encoded(before).image(picture, as_codes=False).encoded(after)
    scores: list[tuple[int, float]] = []  # place of a token, and how likely it was
    drawn, closes = 0, False
    for index in range(int(said["count"])):
        token = int(said["tokens"][index])
        if closes:  # the `</img>` of the picture before, which is there already
            closes = False
            continue
        scores.append((builder.length, float(said["token_scores"][index])))
        if token == ids.img and drawn < int(said["images"]):
            builder.image(said["codes"][drawn], as_codes=True, target=True, learn=True)
            drawn, closes = drawn + 1, True
        else:
            builder.encoded([token], learn=True)
    row = builder.finish()
    text = np.zeros(shape.length, np.float32)
    for place, value in scores:
        text[place] = value
    codes = np.zeros((shape.targets, *said["codes"].shape[1:]), np.float32)
    codes[:drawn] = said["code_scores"][:drawn]
    return {**row, "sampled": np.concatenate([text[1:], codes.reshape(-1)])}


def _around_slots(prompt: Sequence[int], ids: SpecialIds) -> tuple[list[int], list[int]]:
    """What stands before `<img>` and behind `</img>` of the one picture in a prompt."""
    prompt = list(prompt)
    return prompt[: prompt.index(ids.img)], prompt[prompt.index(ids.img_end) + 1 :]


def rollout_rows(
    batch: Batch,
    said: Mapping[str, np.ndarray],
    tokenizer: Tokenizer,
    shape: RowShape,
) -> dict[str, jax.Array]:
    """`rollout_row` of every rollout, on the devices; each process makes those that it holds."""
    mesh = jax.sharding.get_mesh()
    given = on_host({name: batch[name] for name in ("prompt", "prompt_length", "seen")})
    rows = []
    for r in range(*rows_here(mesh, len(given["prompt"])).indices(len(given["prompt"]))):
        prompt = given["prompt"][r, : given["prompt_length"][r]].tolist()
        own = {name: x[r] for name, x in said.items()}
        rows.append(rollout_row(prompt, given["seen"][r, 0], own, tokenizer, shape))
    return place_batch(mesh, stack(rows))


def rollout_seeds(key: jax.Array, count: int) -> UInt[Array, " R"]:
    """A seed a rollout."""
    return jax.random.bits(key, (count,), jnp.uint32)


def texts_of(tokens: Int[np.ndarray, "R T"], valid: np.ndarray, tokenizer: Tokenizer) -> list[str]:
    """Prompts of rows of captions, in words."""
    return [tokenizer.decode(row[own].tolist()) for row, own in zip(tokens, valid, strict=True)]
