"""The self-reward R = prod p(correct) over the questions of a prompt (section 3.3, appendix B.1).

The understanding branch is asked about the codes that the generation branch drew, as
visual_projector shows them: no pixels, no decoder, no other model (see `judge`).
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from latentum_jax.config import VisionConfig
from latentum_jax.judge import Probe, QuestionShape, first_logits, probe_batch
from latentum_jax.models.latentum import LatentUM, Params
from latentum_jax.rl.questions import Question
from latentum_jax.tokenizer import Tokenizer
from latentum_jax.train.stages.sequence import Batch, apply


def question_batch(
    questions: Sequence[Sequence[Question]],
    tokenizer: Tokenizer,
    shape: QuestionShape,
    *,
    vision: VisionConfig,
    system: str,
) -> dict[str, np.ndarray]:
    """The questions of R pictures, for `self_reward`: `probe_batch` and correct int32 [R Q], the
    option that is right. A question that pads has one option, which is right.

    Raises ValueError where a picture has no questions, they do not fit, or options of one begin
    with the same token.
    """
    probes = [[probe_of(question, tokenizer) for question in asked] for asked in questions]
    batch = probe_batch(probes, tokenizer, shape, vision=vision, system=system)
    correct = np.zeros(batch["asked"].shape, np.int32)
    for row, asked in zip(correct, questions, strict=True):
        row[: len(asked)] = [question.correct for question in asked]
    return {**batch, "correct": correct}


def self_reward(
    model: LatentUM,
    params: Params,
    batch: Batch,
    codes: Int[Array, "R L C"],
    *,
    temperature: float,
) -> tuple[Float[Array, " R"], Float[Array, "R Q"]]:
    """R of every picture, and p(correct) of its questions, 1 where they pad; fp32.

    p is the softmax over a question's options of their first tokens' logits / `temperature`.

    Raises ValueError unless the temperature is above 0.
    """
    if not temperature > 0:
        raise ValueError(f"the temperature of a self-reward is above 0, got {temperature}")
    logits = first_logits(model, params, batch, apply(model, params, "show", codes))
    options = jnp.take_along_axis(logits, batch["option_ids"], axis=-1) / temperature
    p = jax.nn.softmax(jnp.where(batch["option_valid"], options, -jnp.inf), axis=-1)
    p_correct = jnp.take_along_axis(p, batch["correct"][..., None], axis=-1)[..., 0]
    return jnp.prod(p_correct, axis=-1), p_correct


def probe_of(question: Question, tokenizer: Tokenizer) -> Probe:
    """What all answers of a question begin with, and the token that follows of each option.

    Raises ValueError where two options go on with the same token.
    """
    return Probe.between(question.text, question.options, tokenizer, question.prefix)
