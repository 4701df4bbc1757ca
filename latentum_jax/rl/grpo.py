"""`grpo`: the policy learns from its own rollouts by their rewards (section 3.3, B.1).

Text tokens and visual codes are one discrete policy. A batch is acted on first: rollouts are drawn,
rewarded and scored; then it is learnt from, `epochs` times, by the one training loop.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from latentum_jax.kernels.sampling import Sampling
from latentum_jax.models.latentum import LatentUM, Params, matching
from latentum_jax.rl.objective import (
    advantages,
    clipped_surrogate,
    importance_weights,
    kl_estimate,
    over_rollouts,
)
from latentum_jax.rl.rewards import weighted_sum
from latentum_jax.rl.score import policy_places, policy_scores, score
from latentum_jax.tokenizer import SpecialIds
from latentum_jax.train.lora import without_factors
from latentum_jax.train.losses import weighted_mean
from latentum_jax.train.stages.sequence import Batch
from latentum_jax.train.stages.stage import Act, Stage, unchanged

REFERENCE = "reference"  # where the policy as it was first is kept, frozen
TOLD = "told/"  # of a rollout, to be told as metrics
TASKS = ("draw", "plan")
# (params, batch, key) -> rows with `sampled`; (params, those rows, the batch) -> rewards by name
Roll = Callable[[Params, Batch, jax.Array], dict[str, jax.Array]]
Judge = Callable[[Params, Batch, Batch], dict[str, jax.Array]]


def grpo_stage(
    model: LatentUM, config: ConfigDict, ids: SpecialIds, act: Act | None = None
) -> Stage:
    """PPO's clipped surrogate over group-normalised advantages, and KL to the policy as it was.

    Trains what `grpo.trainable` finds: the generation branch as published, both branches for
    interleaved rollouts. With grpo.beta 0 there is no reference.

    Raises ValueError for numbers out of range.
    """
    g = config.grpo
    check(config)
    how = scoring(config, ids)
    keeps = g.beta > 0 and not config.lora.rank  # beside factors the weights stay as they were

    def loss(params: Params, extra: dict, batch: Batch, key: jax.Array) -> tuple:
        scores = policy_scores(model, without_reference(params), batch, **how)
        codes = (len(scores), *batch["target_slot"].shape[1:], *batch["codes"].shape[2:])
        valid = policy_places(batch, codes, how["speaks"])
        old = batch.get("old", jax.lax.stop_gradient(scores))
        sampled, a = batch["sampled"], batch["advantage"]
        weights = importance_weights(old, sampled, g.truncate)
        gain = weights * clipped_surrogate(scores, old, a, g.clip)
        terms = {"policy": -over_rollouts(gain, valid)}
        far = jnp.abs(jnp.exp(scores - old) - 1) > g.clip
        metrics = {name.removeprefix(TOLD): x.mean() for name, x in batch.items() if TOLD in name}
        metrics["clipped"] = weighted_mean(far, valid)
        metrics["sampler_gap"] = weighted_mean(jnp.abs(old - sampled), valid)
        metrics["nats"] = -weighted_mean(old, valid)  # of a token or code: how sure the policy is
        if g.beta:
            kl = over_rollouts(kl_estimate(scores, batch["reference"]), valid)
            terms["kl"], metrics["kl"] = g.beta * kl, kl
        return terms, (metrics, ())

    return Stage(
        trainable=rf"^(?!{REFERENCE}/)(?=.*(?:{g.trainable}))",
        loss=loss,
        start=functools.partial(with_reference, trainable=g.trainable) if keeps else unchanged,
        finish=without_reference,
        act=act,
        epochs=g.epochs,
    )


def check(config: ConfigDict) -> None:
    """ValueError where a number of `config.grpo` is out of range."""
    g = config.grpo
    if g.task not in TASKS:
        raise ValueError(f"grpo.task is {g.task!r}, expected one of {TASKS}")
    for name, most in (("temperature", None), ("clip", 1.0), ("truncate", None), ("epochs", None)):
        if not 0 < g[name] or (most is not None and g[name] >= most):
            span = "above 0" if most is None else f"above 0 and below {most}"
            raise ValueError(f"grpo.{name} is {g[name]}, expected a number {span}")
    if g.rewards.self and not g.ask.temperature > 0:
        raise ValueError(f"grpo.ask.temperature is {g.ask.temperature}, expected a number above 0")
    if g.beta < 0:
        raise ValueError(f"grpo.beta is {g.beta}, expected 0 or more")


def scoring(config: ConfigDict, ids: SpecialIds) -> dict[str, Any]:
    """How `policy_scores` is to score, as keywords."""
    g = config.grpo
    speaks = g.task == "plan"
    settings = {"temperature": g.temperature, "speaks": speaks, "chunk": config.loss_chunk}
    return {"img": ids.img, **settings}


def sampling_of(config: ConfigDict) -> Sampling:
    """How rollouts are drawn."""
    return Sampling(config.grpo.temperature, config.grpo.top_k, config.grpo.top_p)


def make_act(model: LatentUM, config: ConfigDict, ids: SpecialIds, roll: Roll, judge: Judge) -> Act:
    """Draws rollouts, rewards them, and says how likely they were before anything is learnt.

    Rows get `sampled`, `advantage`, `old` where a batch is learnt from more than once, `reference`
    where beta is not 0, and what is told of them: reward, each of its parts, whether all of the
    group's are equal.
    """
    g = config.grpo
    scored = functools.partial(score, model, **scoring(config, ids))

    def act(params: Params, batch: Batch, key: jax.Array) -> Batch:
        policy = without_reference(params)
        rows = roll(policy, batch, key)
        parts = judge(policy, rows, batch)
        reward = weighted_sum(parts, g.rewards.to_dict())
        gained, equal = advantages(reward, g.group)
        told = {"reward": reward, "equal_groups": jnp.repeat(equal, g.group)}
        told |= {f"{name}_reward": part for name, part in parts.items()}
        made = {**rows, "advantage": gained, **{TOLD + name: x for name, x in told.items()}}
        if g.epochs > 1:
            made["old"] = scored(policy, rows)
        if g.beta:
            made["reference"] = scored(as_it_was(params), rows)
        return made

    return act


def with_reference(params: Params, *, trainable: str) -> Params:
    """Keeps what trains as it is now under `REFERENCE`, frozen and in its dtype: of what does not
    train there is one copy for both."""
    flat = flatten_dict(params, sep="/")
    kept = {path: flat[path] for path in matching(params, trainable)}
    return {**params, REFERENCE: unflatten_dict(kept, sep="/")}


def without_reference(params: Params) -> Params:
    """The policy alone."""
    return {name: part for name, part in params.items() if name != REFERENCE}


def as_it_was(params: Params) -> Params:
    """The policy before anything was learnt: with what was kept, or without the factors that are
    learnt beside what stays as it is."""
    if REFERENCE not in params:
        return without_factors(params)
    flat = flatten_dict(without_reference(params), sep="/")
    kept = flatten_dict(params[REFERENCE], sep="/")
    return unflatten_dict({**flat, **kept}, sep="/")
