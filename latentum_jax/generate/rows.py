"""Interleaved reasoning (section 3.3), a token at a time, for rows that are at different places.

A row says text through the understanding branch until `<img>`; the generation branch then draws L
visual tokens into the cache; these are overwritten, in the same slots, by `<img>`, the drawn tokens
as visual_projector(z_q) and `</img>` run through the understanding branch (recache); text goes on.

Each step serves those rows of a batch that are where it applies. What is computed for the others is
dropped, so that a row says and draws the same whatever its neighbours do. That would be a waste if
few were served: most rows go first, the others wait for company, though not for long. Rows that
have just begun to speak go before all others: what is said between two images is often a word, and
they are soon back among those that draw.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from latentum_jax.generate.image import draw_token
from latentum_jax.generate.sampling import Sampling, fold, log_prob, sample
from latentum_jax.kernels.placement import Placement
from latentum_jax.models.caches import Caches, SegmentedCache
from latentum_jax.models.latentum import LatentUM, Params, cache_kind
from latentum_jax.models.mome import Stream, empty_caches
from latentum_jax.tokenizer import SpecialIds

TEXT, IMAGE, RECACHE, DONE = 0, 1, 2, 3
BRIEF = 8  # text tokens that a row says before it counts like the others
PATIENCE = 16  # steps that a row waits at most while others go on
RECACHED = 256  # tokens to recache at once: enough that weights are read for many of them


@dataclasses.dataclass(frozen=True)
class Limits:
    """At most `steps` steps, `images` of them with an image, of at most `text` tokens each.

    A step is some text and, where it ends in `<img>` (which counts as a token), the image.
    """

    steps: int
    images: int
    text: int

    def room(self, num_tokens: int) -> int:
        """Cache slots that an answer can fill."""
        return self.steps * self.text + self.images * (num_tokens + 2)

    @property
    def tokens(self) -> int:
        """Text tokens that an answer can have, `<img>` and `</img>` among them."""
        return self.steps * self.text + self.images


def for_each(limits: Limits | tuple[Limits, ...], rows: int) -> tuple[Limits, ...]:
    """The limits of each row, where those of all may be given."""
    return (limits,) * rows if isinstance(limits, Limits) else limits


@dataclasses.dataclass(frozen=True)
class Room:
    """What a row can hold: `slots` of its cache, `tokens` of text, `images` drawn."""

    slots: int
    tokens: int
    images: int

    @classmethod
    def of(cls, width: int, limits: Sequence[Limits], num_tokens: int) -> "Room":
        """Enough for a prompt of `width` tokens and an answer within any of these limits, where an
        image has `num_tokens` visual tokens."""
        return cls(
            width + max(own.room(num_tokens) for own in limits),
            max(own.tokens for own in limits),
            max(own.images for own in limits),
        )


class RowLimits(struct.PyTreeNode):
    """The limits of every row, [B] each."""

    steps: jax.Array
    images: jax.Array
    text: jax.Array

    @classmethod
    def of(cls, limits: Sequence[Limits]) -> "RowLimits":
        """Those of each row."""
        return cls(*map(jnp.asarray, zip(*map(dataclasses.astuple, limits), strict=True)))


class Rows(struct.PyTreeNode):
    """Where every row is."""

    caches: Caches
    keys: jax.Array  # [B] random keys
    limits: RowLimits
    position: jax.Array  # [B] the next free slot, of an image its first
    status: jax.Array  # [B] TEXT, IMAGE, RECACHE or DONE
    logits: jax.Array  # [B vocab] of the next text token
    said: jax.Array  # [B] text tokens since the last image
    tokens: jax.Array  # [B text+] all text tokens, `<img>` and `</img>` among them
    count: jax.Array  # [B] how many of them
    x: jax.Array  # [B 1 D] what the generation branch reads next
    drawn: jax.Array  # [B] visual tokens of the image that is being drawn
    codes: jax.Array  # [B J L C] images drawn
    images: jax.Array  # [B] how many of them
    waited: jax.Array  # [B] steps since the row went on
    token_scores: jax.Array | None = None  # [B text+] of what is said, see `sampling.log_prob`
    code_scores: jax.Array | None = None  # [B J L C] of what is drawn


def start(
    model: LatentUM,
    params: Params,
    prompt: Float[Array, "B T D"],
    lengths: Int[Array, "B"],
    keys: jax.Array,
    limits: RowLimits,
    room: Room,
    scored: bool = False,
) -> Rows:
    """Rows about to speak behind embedded prompts, padded on the right; with `scored` they keep how
    likely each token and code was."""
    b, t, d = prompt.shape
    vision, count = model.config.vision, model.config.quantizer.num_codebooks
    kind = cache_kind(params)
    caches = empty_caches(model.config.language, b, room.slots, model.dtype, kind)
    places = jnp.arange(t)[None]
    where = jnp.where(places < lengths[:, None], places, caches[0].length)
    hidden, caches = understand(model, params, prompt, where, caches, "nothing")
    last = jnp.take_along_axis(hidden, (lengths - 1)[:, None, None], axis=1)[:, 0]
    zero = jnp.zeros(b, jnp.int32)
    drawn = (b, room.images, vision.num_tokens, count)
    return Rows(
        caches=caches,
        keys=keys,
        limits=limits,
        position=lengths.astype(jnp.int32),
        status=zero + TEXT,
        logits=model.bind({"params": params}).text_logits(last),
        said=zero,
        tokens=jnp.zeros((b, room.tokens), jnp.int32),
        count=zero,
        x=jnp.zeros((b, 1, d), model.dtype),
        drawn=zero,
        codes=jnp.zeros(drawn, jnp.int32),
        images=zero,
        waited=zero,
        token_scores=jnp.zeros((b, room.tokens)) if scored else None,
        code_scores=jnp.zeros(drawn) if scored else None,
    )


def step(
    model: LatentUM,
    params: Params,
    rows: Rows,
    *,
    ids: SpecialIds,
    text: Sampling,
    codes: Sampling,
) -> Rows:
    """`turn`; rows whose image is whole are then recached."""
    rows = turn(model, params, rows, ids=ids, text=text, codes=codes)
    if rows.codes.shape[1] == 0:
        return rows
    return settle(functools.partial(recache, model, params, ids=ids), rows)


def settle(change: Callable[[Rows], Rows], rows: Rows) -> Rows:
    """`change` until no row waits with a whole image."""
    return jax.lax.while_loop(lambda rows: jnp.any(rows.status == RECACHE), change, rows)


def turn(
    model: LatentUM,
    params: Params,
    rows: Rows,
    *,
    ids: SpecialIds,
    text: Sampling,
    codes: Sampling,
) -> Rows:
    """A text token for every row that speaks or a visual token for every row that draws, or both,
    see `served`. Rows whose image is whole wait (RECACHE)."""
    speak = functools.partial(say, model, params, ids=ids, sampling=text)
    if rows.codes.shape[1] == 0:
        return speak(rows)
    rows = rows.replace(waited=rows.waited + 1)
    drawing = functools.partial(draw, model, params, sampling=codes)
    say_now, draw_now = served(rows.status, rows.waited, rows.said)
    return when(draw_now, drawing, when(say_now, speak, rows))


def served(
    status: Int[Array, "B"], waited: Int[Array, "B"], said: Int[Array, "B"]
) -> tuple[Bool[Array, ""], Bool[Array, ""]]:
    """Whether those that speak, and those that draw, go on in this step: whichever are more, but
    those that speak where one has `said` little, and the others too where one has waited long."""
    speak, draw = status == TEXT, status == IMAGE
    begun = jnp.any(speak & (said < BRIEF))
    speak_first = begun | (jnp.sum(speak) >= jnp.sum(draw))
    late = waited > PATIENCE
    return (
        jnp.any(speak) & (speak_first | jnp.any(speak & late)),
        jnp.any(draw) & (~speak_first | jnp.any(draw & late)),
    )


def when(wanted: Bool[Array, ""], change: Callable[[Rows], Rows], rows: Rows) -> Rows:
    """`change(rows)` if wanted: a loop of at most one round, which writes the caches in place, as
    the branches of a conditional need not."""
    once = lambda carry: (jnp.zeros((), bool), change(carry[1]))  # noqa: E731
    return jax.lax.while_loop(lambda carry: carry[0], once, (wanted, rows))[1]


def understand(
    model: LatentUM,
    params: Params,
    x: Array,
    position: Array,
    caches: Caches,
    held: Literal["nothing", "some"] = "some",
) -> tuple[Array, Caches]:
    """Tokens [B T D] through the understanding branch, into the caches at `position` [B T],
    which hold `held` (`Stream`)."""
    stream = Stream({"und": Placement.causal(position)}, held=held)
    hidden, caches = model.bind({"params": params}).hidden({"und": x}, stream, caches)
    return hidden["und"], caches


def say(
    model: LatentUM, params: Params, rows: Rows, *, ids: SpecialIds, sampling: Sampling
) -> Rows:
    """One token for the rows that speak. It is the last at `<|im_end|>`, after as many tokens as
    the row may say, and at an `<img>` beyond those that it may draw."""
    bound, slots = model.bind({"params": params}), rows.caches[0].length
    speaking = rows.status == TEXT
    token = sample(fold(rows.keys, rows.position), rows.logits, sampling)
    if rows.token_scores is not None:
        index = jnp.where(speaking, rows.count, rows.tokens.shape[1])
        own = log_prob(rows.logits, token, sampling.temperature)
        put = rows.token_scores.at[jnp.arange(len(token)), index].set(own, mode="drop")
        rows = rows.replace(token_scores=put)
    rows = _append(rows, token, speaking)
    said = rows.said + speaking
    wants = (token == ids.img) & (rows.images < rows.limits.images)
    stray = (token == ids.img) & (rows.limits.images > 0)  # where none may be drawn it is a word
    over = (token == ids.im_end) | stray | (said >= rows.limits.text)
    after = jnp.where(wants, IMAGE, jnp.where(over, DONE, TEXT))
    status = jnp.where(speaking, after, rows.status)
    goes_on, begins = speaking & (status == TEXT), speaking & (status == IMAGE)
    x = bound.embed(token[:, None])
    where = jnp.where(goes_on, rows.position, slots)[:, None]
    hidden, caches = understand(model, params, x, where, rows.caches)
    logits = bound.text_logits(hidden[:, 0])
    return rows.replace(
        caches=caches,
        waited=jnp.where(speaking, 0, rows.waited),
        position=rows.position + goes_on,
        status=status,
        said=said,
        logits=jnp.where(goes_on[:, None], logits, rows.logits),
        x=jnp.where(begins[:, None, None], x, rows.x),
        drawn=jnp.where(begins, 0, rows.drawn),
    )


def draw(model: LatentUM, params: Params, rows: Rows, *, sampling: Sampling) -> Rows:
    """One visual token for the rows that draw."""
    drawing, slots = rows.status == IMAGE, rows.caches[0].length
    at = rows.position + rows.drawn
    where = jnp.where(drawing, at, slots)
    keys = fold(rows.keys, at)
    scored = rows.code_scores is not None
    codes, scores, x, caches = draw_token(
        model, params, rows.caches, rows.x, where, keys, sampling, scored=scored
    )
    image = jnp.where(drawing, rows.images, rows.codes.shape[1])
    place = (jnp.arange(len(at)), image, rows.drawn)
    put = rows.codes.at[place].set(codes, mode="drop")
    if scored:
        rows = rows.replace(code_scores=rows.code_scores.at[place].set(scores, mode="drop"))
    drawn = rows.drawn + drawing
    whole = drawing & (drawn == rows.codes.shape[2])
    return rows.replace(
        caches=caches,
        codes=put,
        drawn=drawn,
        waited=jnp.where(drawing, 0, rows.waited),
        status=jnp.where(whole, RECACHE, rows.status),
        x=jnp.where(drawing[:, None, None], x, rows.x),
    )


def recache(
    model: LatentUM,
    params: Params,
    rows: Rows,
    *,
    ids: SpecialIds,
    seen: Float[Array, "B L D"] | None = None,
) -> Rows:
    """Runs whole images through the understanding branch in place, some rows' at a time: as what
    was drawn is shown, or as the embeddings `seen` where these are given."""
    bound, b, slots = model.bind({"params": params}), len(rows.status), rows.caches[0].length
    group = min(b, max(1, RECACHED // (rows.codes.shape[2] + 2)))
    if isinstance(rows.caches[0], SegmentedCache):
        group = 1  # on a CPU more take longer by as many, though some may not be there
    (picked,) = jnp.nonzero(rows.status == RECACHE, size=group, fill_value=b)
    if group == b:  # then no cache has to be taken out
        picked = jnp.where(rows.status == RECACHE, jnp.arange(b), b)
    own = lambda x: x.at[picked].get(mode="clip")  # noqa: E731
    if seen is None:
        shown = bound.show(own(rows.codes)[jnp.arange(group), own(rows.images)])
    else:
        shown = own(seen).astype(model.dtype)
    frame = bound.embed(jnp.asarray([ids.img, ids.img_end]))
    ends = jnp.broadcast_to(frame[:, None, None], (2, group, 1, frame.shape[-1]))
    x = jnp.concatenate([ends[0], shown, ends[1]], axis=1)
    where = own(rows.position)[:, None] + jnp.arange(x.shape[1])
    where = jnp.where((picked < b)[:, None], where, slots)
    put = lambda x, new: x.at[picked].set(new, mode="drop")  # noqa: E731
    caches = rows.caches if group == b else jax.tree.map(own, rows.caches)
    hidden, caches = understand(model, params, x, where, caches)
    caches = caches if group == b else jax.tree.map(put, rows.caches, caches)
    recached = put(jnp.zeros(b, bool), True)
    logits = put(rows.logits, bound.text_logits(hidden[:, -1]))
    return goes_on(rows.replace(caches=caches, logits=logits), recached, ids=ids)


def goes_on(rows: Rows, where: Bool[Array, "B"], *, ids: SpecialIds) -> Rows:
    """Rows `where` an image was closed speak again, behind its `</img>`."""
    rows = _append(rows, jnp.full(len(where), ids.img_end, jnp.int32), where)
    after = jnp.where(rows.images + 1 < rows.limits.steps, TEXT, DONE)
    return rows.replace(
        position=rows.position + where * (rows.codes.shape[2] + 2),
        status=jnp.where(where, after, rows.status),
        said=jnp.where(where, 0, rows.said),
        images=rows.images + where,
    )


def _append(rows: Rows, token: Array, where: Bool[Array, "B"]) -> Rows:
    """Notes a text token for the rows in `where`."""
    index = jnp.where(where, rows.count, rows.tokens.shape[1])
    put = rows.tokens.at[jnp.arange(token.shape[0]), index].set(token, mode="drop")
    return rows.replace(tokens=put, count=rows.count + where)
