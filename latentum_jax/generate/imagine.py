"""The world model's fully latent recurrence, which appendix D leaves to future work.

What is drawn goes back into the window of context as visual_projector(z_q), as generated images do
wherever the model reasons in them (section 3.3). No pixel is drawn in between, so that all steps of
all rows are one program.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt

from latentum_jax.generate.image import draw, prefill
from latentum_jax.generate.prompt import embed_prompt
from latentum_jax.generate.sampling import Sampling
from latentum_jax.kept import program
from latentum_jax.models.latentum import LatentUM, Params
from latentum_jax.tokenizer import SpecialIds


@program(static=("model", "ids", "sampling"))
def imagine(
    model: LatentUM,
    params: Params,
    frames: Float[Array, "M J L D"],
    own: Int[Array, "B"],
    tokens: Int[Array, "W B T"],
    lengths: Int[Array, "W B"],
    seeds: UInt[Array, "W B"],
    *,
    ids: SpecialIds,
    sampling: Sampling,
) -> Int[Array, "W B L C"]:
    """The codes of W frames of every row, one after another, each from the J frames before it.

    `frames` are embedded windows that rows begin with, row b with window `own[b]`; `tokens[w]` is
    what is asked of the rows at step w, with J x L slots in each.
    """
    window = frames[own]

    def step(window: Array, asked: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        tokens, lengths, seeds = asked
        shown = window.reshape(-1, *window.shape[2:])
        prompt = embed_prompt(model, params, tokens, tokens == ids.img_context, shown)
        caches, first = prefill(model, params, prompt, lengths, ids=ids, guided=False)
        codes, _, _, _ = draw(
            model, params, caches, first, lengths, seeds, sampling=sampling, guidance=1.0
        )
        new = model.bind({"params": params}).show(codes)
        return jnp.concatenate([window[:, 1:], new[:, None].astype(window.dtype)], axis=1), codes

    return jax.lax.scan(step, window, (tokens, lengths, seeds))[1]
