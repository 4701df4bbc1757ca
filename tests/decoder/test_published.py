"""The decoders' inner values and every step of their samplers, against the public code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from latentum_jax.decoder.flow import LEVELS, euler_sigmas
from latentum_jax.decoder.mmdit import MMDiT, timestep_embedding
from latentum_jax.decoder.pixel_decoder import to_uint8
from tests.decoders import channel_last, mmdit, run_decoder, run_mmdit
from tests.published import outputs

WITHIN = {"rtol": 1e-4, "atol": 1e-4}  # values reach 6


def test_blocks_are_the_published_ones():
    """Breaks if an embedding or a block goes wrong, and says which: each group is one block."""
    config, params = mmdit("decoder_tiny")
    o = outputs("decoder/mmdit")

    @jax.jit
    def inside(x, t, context):
        bound = MMDiT(config).bind({"params": params})
        m = bound.modulation(t)
        tokens = bound.x_embedder(bound._patches(x)) + bound._positions(7, 7)
        context = bound.embed_context(context)
        made = {"x_embed": tokens, "context_emb": context}
        made["t_emb"] = bound.t_embedder(timestep_embedding(t))
        for index, (group, vectors) in enumerate(zip(bound.groups, m[:-1], strict=True)):
            context, tokens = group((context, tokens), vectors)
            made[f"block{index}_x"], made[f"block{index}_context"] = tokens, context
        return made

    made = inside(channel_last(o["x"]), jnp.asarray(o["t"]), jnp.asarray(o["context"]))
    assert made.pop("block2_context") is not None  # the last block lets it go
    assert set(made) == set(o) - {"x", "t", "context", "out", "x_rect", "out_rect"}
    for name, value in made.items():
        np.testing.assert_allclose(value, o[name], **WITHIN, err_msg=name)


@pytest.mark.parametrize(("file", "steps", "end"), [("decoder", 4, ""), ("decoder", 25, "_25"),
                                                    ("ref_decoder", 4, "")])  # fmt: skip
def test_schedule_is_the_published_one(file, steps, end):
    """Breaks if the sampler's noise levels, or what MMDiT is told of them, differ."""
    o, sigmas = outputs(f"{file}/sample"), euler_sigmas(steps)
    np.testing.assert_allclose(sigmas[:-1] * LEVELS, o[f"timesteps{end}"], rtol=1e-5)
    if f"sigmas{end}" in o:
        np.testing.assert_allclose(sigmas, o[f"sigmas{end}"], atol=1e-6)


@pytest.mark.parametrize(
    ("folder", "guidance", "end"),
    [("decoder", None, ""), ("decoder", 2.5, "_cfg2_5"), ("ref_decoder", None, "")],
)
def test_every_step_is_the_published_one(folder, guidance, end):
    """Breaks if one step goes wrong, and says which: each begins where the published one did."""
    o, run = outputs(f"{folder}/sample"), run_mmdit(f"{folder}_tiny")
    context, sigmas = jnp.asarray(o["context"]), euler_sigmas(4)
    references = [channel_last(o["ref_vae"])] if "ref_vae" in o else []
    x = channel_last(o["noise"])
    for step, expected in enumerate(o[f"latents{end}"]):
        t = jnp.full(len(x), sigmas[step] * LEVELS, jnp.float32)
        v = run(x, t, context, *references)
        if guidance is not None:
            uncond = run(x, t, jnp.zeros_like(context), *references)
            v = uncond + guidance * (v - uncond)
        elif "noise_pred" in o:
            np.testing.assert_allclose(v, channel_last(o["noise_pred"][step]), **WITHIN)
        x = x + (sigmas[step + 1] - sigmas[step]) * v
        np.testing.assert_allclose(x, channel_last(expected), **WITHIN, err_msg=f"step {step}")
        x = channel_last(expected)


def test_picture_that_goes_on_from_frames_is_the_published_one():
    """Breaks if the reference decoder's latents are brought to pixels otherwise."""
    o = outputs("ref_decoder/sample")
    pixels = run_decoder("ref_decoder_tiny", "pixels", channel_last(o["latents"][-1]))
    off = np.asarray(to_uint8(pixels), int) - o["image_uint8"]
    assert np.abs(off).max() <= 1 and np.mean(off != 0) < 1e-3  # cut off beside a whole number
