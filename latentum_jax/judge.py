"""What the understanding branch says first to questions about a picture, and how likely that is.

A picture shares its row with all its questions (`data.interleaved`), so that it is read once, and
lm_head is applied where answers begin alone. Self-rewards (section 3.3), Soft-TIFA and multiple
choice are made of this.
"""

import dataclasses
import functools
import os
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from latentum_jax.config import VisionConfig
from latentum_jax.data.interleaved import Row, RowBuilder, RowShape, stack
from latentum_jax.models.latentum import LatentUM, Params
from latentum_jax.pretrained import LatentUM as Pretrained
from latentum_jax.tokenizer import Tokenizer, user_turn
from latentum_jax.train.stages.sequence import Batch, apply
from latentum_jax.train.stages.vlm import answer_hidden

LENGTH_STEP = 32  # rows that need not fit a size are padded to a multiple of this

# What of a row the questions need; there is nothing to learn in it and nothing to draw.
_OF_A_ROW = ("tokens", "position", "block", "context", "base", "valid", "image_index")


class Probe(NamedTuple):
    """A question as it is asked, the tokens that all its answers begin with, and those that may
    follow."""

    text: str
    begin: tuple[int, ...]
    following: tuple[int, ...]

    @classmethod
    def between(
        cls, text: str, options: Sequence[str], tokenizer: Tokenizer, prefix: str = ""
    ) -> "Probe":
        """Of answers `prefix` + option, encoded whole as a model was trained to say them: in
        "row 2" the space may belong to either word.

        Raises ValueError where two options go on with the same token.
        """
        answers = [tokenizer.encode(prefix + option) for option in options]
        common = tuple(os.path.commonprefix(answers))
        following = tuple(ids[len(common)] for ids in answers if len(ids) > len(common))
        if len(set(following)) < max(2, len(options)):
            raise ValueError(
                f"the options {list(options)} of {text!r} do not differ in the token "
                f"that follows {tokenizer.decode(common)!r}"
            )
        return cls(text, common, following)


@dataclasses.dataclass(frozen=True)
class QuestionShape:
    """What a batch is padded to: T tokens a row, Q questions a picture, O options a question."""

    length: int
    questions: int
    options: int

    @classmethod
    def holding(
        cls,
        probes: Sequence[Sequence[Probe]],
        tokenizer: Tokenizer,
        vision: VisionConfig,
        system: str,
    ) -> "QuestionShape":
        """The least that all of these fit into, rows of a multiple of `LENGTH_STEP` tokens."""
        longest = max(_ask(asked, tokenizer, vision, system)[0].length for asked in probes)
        return cls(
            -(-longest // LENGTH_STEP) * LENGTH_STEP,
            max(len(asked) for asked in probes),
            max(len(probe.following) for asked in probes for probe in asked),
        )


def probe_batch(
    probes: Sequence[Sequence[Probe]],
    tokenizer: Tokenizer,
    shape: QuestionShape,
    *,
    vision: VisionConfig,
    system: str,
) -> dict[str, np.ndarray]:
    """The questions of R pictures, for `first_logits`.

    Rows as in `data.interleaved`, [R T]; answer_at int32 [R Q], the token after which the answer's
    option is said; option_ids int32 [R Q O], what it then begins with; option_valid bool [R Q O];
    asked bool [R Q]. A question that pads has one option.

    Raises ValueError where a picture has no questions or they do not fit.
    """
    return stack([_row(asked, tokenizer, shape, vision, system) for asked in probes])


def first_logits(
    model: LatentUM, params: Params, batch: Batch, shown: Float[Array, "R L D"]
) -> Float[Array, "R Q vocab"]:
    """Logits of what follows `answer_at`, of questions about pictures embedded as `shown`."""
    hidden = answer_hidden(model, params, batch, shown[:, None])
    before = jnp.take_along_axis(hidden, batch["answer_at"][..., None], axis=1)
    return apply(model, params, "text_logits", before)


@functools.partial(jax.jit, static_argnums=0)
def first_probabilities(
    model: LatentUM, params: Params, batch: Batch, shown: Float[Array, "R L D"]
) -> Float[Array, "R Q O"]:
    """p of each option's token among all tokens, fp32; 0 where options pad."""
    logits = first_logits(model, params, batch, shown).astype(jnp.float32)
    options = jnp.take_along_axis(jax.nn.softmax(logits, axis=-1), batch["option_ids"], axis=-1)
    return jnp.where(batch["option_valid"], options, 0)


def probabilities(
    model: Pretrained, shown: jax.Array, probes: Sequence[Sequence[Probe]]
) -> list[list[Float[np.ndarray, " O"]]]:
    """p of the tokens that may follow, for each question about each of the pictures `shown`
    [R L D].

    Raises ValueError where a question is longer than the context.
    """
    given = (model.tokenizer, model.config.vision, model.chat.system)
    shape = QuestionShape.holding(probes, *given)
    batch = probe_batch(probes, given[0], shape, vision=given[1], system=given[2])
    most = model.config.language.max_positions
    if (last := int(batch["position"].max()) + 1) > most:
        raise ValueError(f"a question about a picture has {last} tokens, the context has {most}")
    found = np.asarray(first_probabilities(model.model, model.params, batch, shown))
    return [
        [p[number, : len(probe.following)] for number, probe in enumerate(asked)]
        for p, asked in zip(found, probes, strict=True)
    ]


def _ask(
    probes: Sequence[Probe],
    tokenizer: Tokenizer,
    vision: VisionConfig,
    system: str,
    length: int = 0,
) -> tuple[RowBuilder, list[int]]:
    """A picture and its questions, and where their answers begin."""
    if not probes:
        raise ValueError("a picture has no questions, nothing can be told of it")
    builder = RowBuilder(tokenizer, RowShape(length, 1, 0, vision))
    head, tail = user_turn("\0", system).split("\0")
    no_picture = np.zeros((vision.num_tokens, 1), np.int32)  # what it shows comes later
    builder.text(head).image(no_picture, as_codes=True).text("\n")
    places = []
    for probe in probes:
        builder.question().text(probe.text + tail).encoded(probe.begin)
        places.append(builder.length - 1)
    return builder, places


def _row(
    probes: Sequence[Probe],
    tokenizer: Tokenizer,
    shape: QuestionShape,
    vision: VisionConfig,
    system: str,
) -> Row:
    builder, places = _ask(probes, tokenizer, vision, system, shape.length)
    options = [probe.following for probe in probes]
    for given, most, what in (
        (len(probes), shape.questions, "questions"),
        (max(map(len, options)), shape.options, "options of a question"),
        (builder.length, shape.length, "tokens"),
    ):
        if given > most:
            raise ValueError(f"a picture has {given} {what}, at most {most} fit")
    count = len(probes)
    row = {
        "answer_at": np.zeros(shape.questions, np.int32),
        "option_ids": np.zeros((shape.questions, shape.options), np.int32),
        "option_valid": np.zeros((shape.questions, shape.options), bool),
        "asked": np.arange(shape.questions) < count,
    }
    row["answer_at"][:count] = places
    row["option_valid"][count:, 0] = True
    for number, ids in enumerate(options):
        row["option_ids"][number, : len(ids)] = ids
        row["option_valid"][number, : len(ids)] = True
    built = builder.finish()
    return {**{name: built[name] for name in _OF_A_ROW}, **row}
