"""MMDiT-X against the published decoder's outputs on random weights (tests/golden)."""

import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import SD3Transformer2DModel

from latentum_jax.config import MMDiTConfig
from latentum_jax.convert.mmdit import config_from_diffusers, diffusers_table
from latentum_jax.decoder.mmdit import MMDiT, block_groups, expected_shapes, timestep_embedding
from tests.decoders import channel_last, mmdit, run_mmdit
from tests.published import GOLDEN, outputs

WITHIN = {"rtol": 1e-4, "atol": 1e-4}  # values reach 6


def test_velocity_is_the_published_one():
    """Breaks if a modulation, a norm, the attention's order or the patch layout is another's."""
    o = outputs("decoder/mmdit")
    out = run_mmdit("decoder_tiny")(channel_last(o["x"]), o["t"], o["context"])
    np.testing.assert_allclose(out, channel_last(o["out"]), **WITHIN)


def test_latents_of_another_size_are_centred_in_the_position_table():
    """Breaks if rows and columns are mixed up or the table is cut at its corner."""
    o = outputs("decoder/mmdit")
    run = run_mmdit("decoder_tiny")
    out = run(channel_last(o["x_rect"]), o["t"][1:], o["context"][:1])
    np.testing.assert_allclose(out, channel_last(o["out_rect"]), **WITHIN)
    with pytest.raises(ValueError, match="17 x 2 patches, expected at most 16 along a side"):
        run(jnp.zeros((1, 34, 4, 16)), o["t"][:1], o["context"][:1])


@pytest.mark.parametrize("dual", [(), (0,), (0, 1, 2)])
def test_velocity_is_that_of_diffusers(dual):
    """Breaks if a table reads one of diffusers' names wrongly, or another number of blocks that
    attend twice, a table of positions or widths of heads are written into the code."""
    torch.manual_seed(0)
    theirs = SD3Transformer2DModel(
        sample_size=8,
        num_layers=3,
        attention_head_dim=12,
        num_attention_heads=2,
        joint_attention_dim=20,
        caption_projection_dim=24,
        pooled_projection_dim=2048,
        pos_embed_max_size=6,
        dual_attention_layers=dual,
        qk_norm="rms_norm",
    ).eval()
    with torch.no_grad():
        for value in theirs.parameters():
            value.copy_(torch.randn_like(value) * 0.2)
        for value in theirs.time_text_embed.text_embedder.linear_2.parameters():
            value.zero_()  # LatentUM leaves the pooled text out
    config = config_from_diffusers(theirs.config)
    state = {key: value.numpy() for key, value in theirs.state_dict().items()}
    rows = diffusers_table(config)
    params = rows.import_params(state, expected_shapes(config))
    exported = rows.export_params(params)
    assert exported.keys() == state.keys()
    for key, value in exported.items():
        np.testing.assert_array_equal(value, state[key], err_msg=key)
    x, context, t = torch.randn(2, 16, 8, 6), torch.randn(2, 5, 20), torch.tensor([900.0, 12.5])
    with torch.no_grad():
        (expected,) = theirs(x, context, torch.zeros(2, 2048), t, return_dict=False)
    params = jax.tree.map(jnp.asarray, params)
    made = jax.jit(MMDiT(config).apply)(
        {"params": params}, channel_last(x.numpy()), jnp.asarray(t.numpy()), context.numpy()
    )
    np.testing.assert_allclose(made, channel_last(expected.numpy()), **WITHIN)


def test_reference_frames_enter_with_the_latents():
    """Breaks if the channels of reference frames are read in another order."""
    o = outputs("ref_decoder/mmdit")
    run = run_mmdit("ref_decoder_tiny")
    out = run(channel_last(o["x"]), o["t"], o["context"], channel_last(o["ref_vae"]))
    np.testing.assert_allclose(out, channel_last(o["out"]), **WITHIN)


def test_modulation_of_many_timesteps_is_that_of_each():
    """Breaks if precomputing adaLN for all steps of a sampler changes what a step sees."""
    config, params = mmdit("decoder_tiny")
    o = outputs("decoder/mmdit")
    made = jax.jit(lambda t: MMDiT(config).apply({"params": params}, t, method="modulation"))
    both, first = made(jnp.asarray(o["t"])), made(jnp.asarray(o["t"][:1]))
    chex.assert_trees_all_close(jax.tree.map(lambda x: x[:, :1], both), first, atol=1e-5)


def test_timestep_embedding_by_hand():
    """Breaks if cos and sin or the frequencies change places: at t = 2, cos 2 first, sin 2 midway,
    and cos(2 x 10000^(-1/128)) second."""
    made = timestep_embedding(jnp.array([2.0]))[0]
    expected = [np.cos(2.0), np.sin(2.0), np.cos(2.0 * 10000 ** (-1 / 128))]
    np.testing.assert_allclose(made[jnp.array([0, 128, 1])], expected, rtol=1e-5)


def test_full_size_has_the_published_number_of_values():
    """Breaks if a block of the full-size decoder is missing or of another width: 2.464 G values."""
    listed = json.loads((GOLDEN / "full_size_keys.json").read_text())["mmdit_decoder"]
    ours = expected_shapes(MMDiTConfig())
    count = sum(int(np.prod(shape)) for shape in ours.values())
    assert count == sum(int(np.prod(shape)) for shape, _ in listed.values())
    assert round(count / 1e9, 3) == 2.464


@pytest.mark.parametrize(
    ("dual", "runs"),
    [
        (0, [("blocks", 2, False, False), ("last_block", 1, False, True)]),
        (2, [("dual_blocks", 2, True, False), ("last_block", 1, False, True)]),
        (3, [("dual_blocks", 2, True, False), ("last_block", 1, True, True)]),
    ],
)
def test_blocks_are_grouped_by_kind(dual, runs):
    """Breaks if a decoder whose last block, or no block, attends twice loses one."""
    assert block_groups(MMDiTConfig(depth=3, dual_layers=dual)) == runs
