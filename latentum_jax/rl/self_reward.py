"""The self-reward R = prod p(correct) over the questions of a prompt (section 3.3, appendix B.1).

The understanding branch is asked about the codes that the generation branch drew, as
visual_projector shows them: no pixels, no decoder, no other model. A picture shares its row with
all its questions (`data.interleaved`), so that it is read once, and lm_head is applied where
answers begin alone.
"""

import dataclasses
import os
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from latentum_jax.config import VisionConfig
from latentum_jax.data.interleaved import Row, RowBuilder, RowShape, stack
from latentum_jax.models.latentum import LatentUM, Params
from latentum_jax.rl.questions import Question
from latentum_jax.tokenizer import Tokenizer, user_turn
from latentum_jax.train.stages.sequence import Batch, apply
from latentum_jax.train.stages.vlm import answer_hidden

# What of a row the questions need; there is nothing to learn in it and nothing to draw.
_OF_A_ROW = ("tokens", "position", "block", "context", "base", "valid", "image_index")


@dataclasses.dataclass(frozen=True)
class QuestionShape:
    """What a batch is padded to: T tokens a row, Q questions a picture, O options a question."""

    length: int
    questions: int
    options: int

    @classmethod
    def holding(
        cls,
        questions: Sequence[Sequence[Question]],
        tokenizer: Tokenizer,
        vision: VisionConfig,
        system: str,
    ) -> "QuestionShape":
        """The least that all of these fit into."""
        builders = [_ask(asked, tokenizer, vision, system)[0] for asked in questions]
        return cls(
            max(builder.length for builder in builders),
            max(len(asked) for asked in questions),
            max(len(question.options) for asked in questions for question in asked),
        )


def question_batch(
    questions: Sequence[Sequence[Question]],
    tokenizer: Tokenizer,
    shape: QuestionShape,
    *,
    vision: VisionConfig,
    system: str,
) -> dict[str, np.ndarray]:
    """The questions of R pictures, for `self_reward`.

    Rows as in `data.interleaved`, [R T]; answer_at int32 [R Q], the token after which the answer's
    option is said; option_ids int32 [R Q O], what it then begins with; option_valid bool [R Q O];
    correct int32 [R Q]; asked bool [R Q]. A question that pads has one option, which is right.

    Raises ValueError where a picture has no questions, they do not fit, or options of one begin
    with the same token.
    """
    return stack([_row(asked, tokenizer, shape, vision, system) for asked in questions])


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
    shown = apply(model, params, "show", codes)[:, None]
    hidden = answer_hidden(model, params, batch, shown)
    before = jnp.take_along_axis(hidden, batch["answer_at"][..., None], axis=1)
    logits = apply(model, params, "text_logits", before)
    options = jnp.take_along_axis(logits, batch["option_ids"], axis=-1) / temperature
    p = jax.nn.softmax(jnp.where(batch["option_valid"], options, -jnp.inf), axis=-1)
    p_correct = jnp.take_along_axis(p, batch["correct"][..., None], axis=-1)[..., 0]
    return jnp.prod(p_correct, axis=-1), p_correct


def answer_tokens(question: Question, tokenizer: Tokenizer) -> tuple[tuple[int, ...], list[int]]:
    """What all answers of a question begin with, and the token that follows of each option.

    An answer is encoded whole, as a model was trained to say it: in "row 2" the space may belong to
    either word.

    Raises ValueError where two options go on with the same token.
    """
    answers = [tokenizer.encode(question.prefix + option) for option in question.options]
    common = tuple(os.path.commonprefix(answers))
    following = [ids[len(common)] for ids in answers if len(ids) > len(common)]
    if len(set(following)) < max(2, len(question.options)):
        raise ValueError(
            f"the options {list(question.options)} of {question.text!r} do not differ in the token "
            f"that follows {tokenizer.decode(common)!r}"
        )
    return common, following


def _ask(
    questions: Sequence[Question],
    tokenizer: Tokenizer,
    vision: VisionConfig,
    system: str,
    length: int | None = None,
) -> tuple[RowBuilder, list[int], list[list[int]]]:
    """A picture and its questions, where their answers begin, and what each option begins with."""
    if not questions:
        raise ValueError("a picture has no questions, its reward would be 1 whatever it shows")
    builder = RowBuilder(tokenizer, RowShape(length or 0, 1, 0, vision))
    head, tail = user_turn("\0", system).split("\0")
    no_picture = np.zeros((vision.num_tokens, 1), np.int32)  # the codes come later
    builder.text(head).image(no_picture, as_codes=True).text("\n")
    places, options = [], []
    for question in questions:
        begin, following = answer_tokens(question, tokenizer)
        builder.question().text(question.text + tail).encoded(begin)
        places.append(builder.length - 1)
        options.append(following)
    return builder, places, options


def _row(
    questions: Sequence[Question],
    tokenizer: Tokenizer,
    shape: QuestionShape,
    vision: VisionConfig,
    system: str,
) -> Row:
    builder, places, options = _ask(questions, tokenizer, vision, system, shape.length)
    for given, most, what in (
        (len(questions), shape.questions, "questions"),
        (max(map(len, options)), shape.options, "options of a question"),
        (builder.length, shape.length, "tokens"),
    ):
        if given > most:
            raise ValueError(f"a picture has {given} {what}, at most {most} fit")
    count = len(questions)
    row = {
        "answer_at": np.zeros(shape.questions, np.int32),
        "option_ids": np.zeros((shape.questions, shape.options), np.int32),
        "option_valid": np.zeros((shape.questions, shape.options), bool),
        "correct": np.zeros(shape.questions, np.int32),
        "asked": np.arange(shape.questions) < count,
    }
    row["answer_at"][:count] = places
    row["correct"][:count] = [question.correct for question in questions]
    row["option_valid"][count:, 0] = True
    for number, ids in enumerate(options):
        row["option_ids"][number, : len(ids)] = ids
        row["option_valid"][number, : len(ids)] = True
    built = builder.finish()
    return {**{name: built[name] for name in _OF_A_ROW}, **row}
