"""Interleaved reasoning of a whole batch as one program: from prompts to the last row's end.

Answering and describing are the same program with no image allowed.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt

from latentum_jax.generate.rows import DONE, Limits, Room, RowLimits, Rows, for_each, start, step
from latentum_jax.generate.sampling import Sampling, row_keys
from latentum_jax.kept import program
from latentum_jax.models.latentum import LatentUM, Params
from latentum_jax.tokenizer import SpecialIds


@program(static=("model", "ids", "limits", "text", "codes", "scored"))
def interleave(
    model: LatentUM,
    params: Params,
    prompt: Float[Array, "B T D"],
    lengths: Int[Array, "B"],
    seeds: UInt[Array, "B"],
    *,
    ids: SpecialIds,
    limits: Limits | tuple[Limits, ...],
    text: Sampling,
    codes: Sampling,
    scored: bool = False,
) -> Rows:
    """Goes on from embedded prompts, padded on the right, until every row is done.

    `limits` are those of all rows, or of each. A row ends at `<|im_end|>`, after `limits.steps`
    steps, after `limits.text` tokens without an `<img>`, or at an `<img>` beyond `limits.images`.
    With `scored` rows keep how likely each token and code was.
    """
    b, t, _ = prompt.shape
    each = for_each(limits, b)
    room = Room.of(t, each, model.config.vision.num_tokens)
    keys, own = row_keys(seeds), RowLimits.of(each)
    rows = start(model, params, prompt, lengths, keys, own, room, scored)
    go_on = lambda rows: step(model, params, rows, ids=ids, text=text, codes=codes)  # noqa: E731
    return jax.lax.while_loop(lambda rows: jnp.any(rows.status != DONE), go_on, rows)
