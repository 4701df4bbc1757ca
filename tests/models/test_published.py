"""What happens inside the towers, layer by layer, against the public code.

The other tests compare what comes out; these say in which layer it went wrong.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from latentum_jax.kernels.placement import Placement
from latentum_jax.models.internvit import InternViT, ViTLayer
from latentum_jax.models.mome import MoMELayer, Stream
from latentum_jax.models.vision_head import HeadLayer
from tests import published
from tests.models.twin import branch_major, sequence_order

WITHIN = {"atol": 1e-4, "rtol": 0}


def layer_of(stacked, index):
    """The parameters of one layer of a stack."""
    return {"params": jax.tree.map(lambda x: x[index], stacked)}


def test_layers_of_the_vision_tower():
    """Breaks if the class token or a layer's order of norm, scale and sum is another's."""
    golden, config = published.outputs("vision/out"), published.config().vision
    params = published.params()["vision"]
    pixels = jnp.asarray(golden["pixel_values"].transpose(0, 2, 3, 1))
    x = jax.jit(lambda p, x: InternViT(config).apply({"params": p}, x, method="embed"))(
        params, pixels
    )
    step = jax.jit(ViTLayer(config, jnp.float32).apply)
    for index, name in enumerate(("vit_layer1", "vit_last_hidden")):
        x, _ = step(layer_of(params["layers"], index), x)
        np.testing.assert_allclose(x, golden[name], **WITHIN, err_msg=name)


def test_layers_of_the_language_model():
    """Breaks if branches are mixed within a layer, or the last state is not the normed one."""
    golden, config = published.outputs("language_model/out"), published.config().language
    valid, is_gen = golden["attention_mask"] == 1, golden["vision_token_mask"] == 1
    position = np.broadcast_to(np.arange(valid.shape[1]), valid.shape)
    position, counts = branch_major(position, is_gen), branch_major(valid, is_gen, fill=False)
    stream = Stream(
        {n: Placement.causal(jnp.asarray(position[n]), jnp.asarray(counts[n])) for n in position}
    )
    x = branch_major(golden["inputs_embeds"], is_gen)
    np.testing.assert_array_equal(golden["all_hidden_mixed"][0], golden["inputs_embeds"])
    params, step = published.params()["language"], jax.jit(MoMELayer(config, jnp.float32).apply)
    for index in range(config.num_layers - 1):  # the published last state is the final-normed one
        x, _ = step(layer_of(params["layers"], index), x, stream)
        expected = golden["all_hidden_mixed"][index + 1]
        np.testing.assert_allclose(sequence_order(x, is_gen)[valid], expected[valid], **WITHIN)
    start = branch_major(golden["inputs_embeds"], is_gen)
    hidden, _ = published.run("hidden", start, stream)
    hidden, expected = sequence_order(hidden, is_gen), golden["all_hidden_mixed"][-1]
    np.testing.assert_allclose(hidden[valid], expected[valid], **WITHIN)


def test_first_layer_of_the_vision_head():
    """Breaks if a code is embedded by another table, or the head's first layer is another's."""
    golden, config = published.outputs("ar_head/out"), published.config()
    params = published.params()["head"]
    shown = params["embeddings"][jnp.arange(4), golden["codes"]]
    x = jnp.concatenate([jnp.asarray(golden["base"]), shown], axis=1)
    np.testing.assert_array_equal(x, golden["input"])
    layer = HeadLayer(config.head, config.language.hidden_size, jnp.float32)
    at = Placement.causal(jnp.broadcast_to(jnp.arange(5), (8, 5)))
    x, _ = jax.jit(layer.apply)(layer_of(params["layers"], 0), x, at)
    np.testing.assert_allclose(x, golden["layer0_out"], **WITHIN)


@pytest.mark.parametrize("name", ["rel_code", "abs_code"])
def test_published_numberings_of_the_codes(name):
    """Breaks if codebooks change places: the public code numbers the codes of all of them too."""
    golden, q = published.outputs("quantizer/out"), published.config().quantizer
    codes = published.run("quantize", jnp.asarray(golden["feature"])).codes
    offset = jnp.arange(q.num_codebooks) * q.codebook_size if name == "abs_code" else 0
    np.testing.assert_array_equal((codes + offset).reshape(golden[name].shape), golden[name])


def test_what_the_understanding_branch_reads_of_quantized_features():
    """Breaks if up_proj reads something else than the straight-through z_q."""
    golden = published.outputs("quantizer/out")
    quantized = published.run("quantize", jnp.asarray(golden["feature"]))
    x_vq = published.run("understand_quantized", quantized.z_q)
    np.testing.assert_allclose(x_vq, golden["x_vq"], **WITHIN)
