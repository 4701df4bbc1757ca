"""What a policy does with a batch of prompts, and what that is worth, as the config says."""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from latentum_jax.config import ChatConfig
from latentum_jax.data.frozenlake.samples import read_steps
from latentum_jax.data.interleaved import RowShape
from latentum_jax.generate.rows import Limits
from latentum_jax.models.latentum import LatentUM, Params
from latentum_jax.pixel_decoder import PixelDecoder
from latentum_jax.prompter import Prompter
from latentum_jax.rl.feed import ASK, maze_of
from latentum_jax.rl.grpo import Judge, Roll, sampling_of
from latentum_jax.rl.rewards import (
    Rewards,
    checked,
    load_pixel_reward,
    maze_rewards,
    pixel_rewards,
)
from latentum_jax.rl.rollouts import (
    draw_rollouts,
    rollout_rows,
    rollout_seeds,
    say_and_draw,
    texts_of,
)
from latentum_jax.rl.self_reward import self_reward
from latentum_jax.sharding import place_batch, rows_here
from latentum_jax.tokenizer import Tokenizer
from latentum_jax.train.hosts import on_host
from latentum_jax.train.stages.sequence import Batch

One = Callable[[Params, Batch, Batch], Rewards]  # of the rollouts that this process holds
FOR = {"draw": ("self", "pixel"), "plan": ("maze",)}  # what a task may be rewarded by


def rolling(config: ConfigDict, model: LatentUM, chat: ChatConfig, tokenizer: Tokenizer) -> Roll:
    """Pictures of captions, or mazes solved move by move."""
    g, ids, sampling = config.grpo, tokenizer.ids, sampling_of(config)

    def drawn(params: Params, batch: Batch, key: jax.Array) -> dict[str, jax.Array]:
        rows = {name: x for name, x in batch.items() if not name.startswith(ASK)}
        seeds = rollout_seeds(key, len(rows["tokens"]))
        how = {"ids": ids, "sampling": sampling, "group": g.group}
        return rows | draw_rollouts(model, params, rows, seeds, **how)

    if g.task == "draw":
        return drawn
    _, limits = Prompter(model.config, chat, tokenizer).planning("fine", None, g.steps, None)
    shape = plan_shape(config, model, limits)

    def planned(params: Params, batch: Batch, key: jax.Array) -> dict[str, jax.Array]:
        seeds = rollout_seeds(key, len(batch["prompt"]))
        how = {"ids": ids, "limits": limits, "sampling": sampling}
        said = say_and_draw(model, params, batch, seeds, **how)
        return rollout_rows(batch, said, tokenizer, shape)

    return planned


def plan_shape(config: ConfigDict, model: LatentUM, limits: Limits) -> RowShape:
    """Rows that hold the longest prompt and the longest plan."""
    vision, images = model.config.vision, limits.images
    length = config.data.length + limits.room(vision.num_tokens) + images
    codebooks = model.config.quantizer.num_codebooks
    return RowShape(length, 1 + images, images, vision, given=1, codebooks=codebooks)


def judging(config: ConfigDict, model: LatentUM, tokenizer: Tokenizer) -> Judge:
    """The rewards whose weight in `grpo.rewards` is not 0, each checked, on the devices.

    Raises ValueError where there are none, one is not for the task, or it cannot be opened.
    """
    g = config.grpo
    wanted = [name for name, weight in g.rewards.items() if weight]
    if not wanted or set(wanted) - set(FOR[g.task]):
        raise ValueError(
            f"grpo.rewards has weights for {wanted}, the task {g.task!r} is rewarded by "
            f"{' and '.join(FOR[g.task])}"
        )
    makers = {"self": _by_itself, "pixel": _by_pixels, "maze": _by_rules}
    judges: Mapping[str, One] = {name: makers[name](config, model, tokenizer) for name in wanted}

    def judge(params: Params, rows: Batch, batch: Batch) -> dict[str, jax.Array]:
        found = {name: one(params, rows, batch) for name, one in judges.items()}
        return place_batch(jax.sharding.get_mesh(), found)

    return judge


def _own(x: jax.Array) -> np.ndarray:
    """The rows that this process holds, on the host."""
    whole = on_host(x)
    return whole[rows_here(jax.sharding.get_mesh(), len(whole))]


def _by_itself(config: ConfigDict, model: LatentUM, tokenizer: Tokenizer) -> One:
    how = {"temperature": config.grpo.ask.temperature}
    program = jax.jit(functools.partial(self_reward, model, **how))

    def reward(params: Params, rows: Batch, batch: Batch) -> Rewards:
        asked = {name.removeprefix(ASK): x for name, x in batch.items() if name.startswith(ASK)}
        values = _own(program(params, asked, rows["codes"][:, 0])[0])
        return checked("self", values, len(values))

    return reward


def _by_pixels(config: ConfigDict, model: LatentUM, tokenizer: Tokenizer) -> One:
    g = config.grpo.pixel
    function = load_pixel_reward(g.function)
    if not (g.decoder and Path(g.decoder).is_dir()):
        raise ValueError(f"grpo.pixel.decoder is {g.decoder!r}, expected a decoder's folder")
    decoder = PixelDecoder.from_pretrained(g.decoder)
    z_q = jax.jit(lambda p, codes: model.apply({"params": p}, codes, method="look_up"))

    def reward(params: Params, rows: Batch, batch: Batch) -> Rewards:
        prompts = texts_of(_own(rows["tokens"]), _own(rows["valid"]), tokenizer)
        images = decoder.decode(_own(z_q(params, rows["codes"][:, 0])), steps=g.steps)
        return pixel_rewards(function, prompts, images)

    return reward


def _by_rules(config: ConfigDict, model: LatentUM, tokenizer: Tokenizer) -> One:
    def reward(params: Params, rows: Batch, batch: Batch) -> Rewards:
        mazes = [maze_of(letters) for letters in _own(batch["maze"])]
        said = [row[row >= 0].tolist() for row in _own(rows["labels"])]
        return maze_rewards(mazes, [moves_of(own, tokenizer) for own in said])

    return reward


def moves_of(said: Sequence[int], tokenizer: Tokenizer) -> str:
    """The moves of a fine plan, of all that was said (an `<img>` behind each step, no `</img>`), as
    an evaluation reads them."""
    ids = tokenizer.ids
    text = tokenizer.decode([i for i in said if i != ids.im_end], keep_special=True)
    return read_steps([step.strip() for step in text.split("<img>")])
