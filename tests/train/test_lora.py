"""Low-rank factors: their gradients against torch, what they change, what is written of them."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import linen as nn
from flax.traverse_util import flatten_dict

from latentum_jax.decoder import folder as decoder_folder
from latentum_jax.decoder.pixel_decoder import init_decoder_params
from latentum_jax.models.folder import model_axes, read_folder
from latentum_jax.models.latentum import LatentUM
from latentum_jax.models.layers import dense
from latentum_jax.models.stored import Lazy
from latentum_jax.sharding import make_mesh
from latentum_jax.train import start as begin
from latentum_jax.train.data import every_row
from latentum_jax.train.loop import train_stage
from latentum_jax.train.lora import factor_axes, merged, targets_of, with_lora
from latentum_jax.train.stages.stage import Stage
from latentum_jax.train.start import start_of
from latentum_jax.train.state import gradients, make_step, merge, start_state
from tests.models_on_disk import write_random_model
from tests.small import DECODER, SMALL
from tests.train.small_recipes import config_of, metrics_of, watched

# Of every stage some kernels, and what is above all of them.
TARGETS = {
    "vlm": (r"und/(q_proj|mlp/\w+)/", "language/layers/und/"),
    "mbaq": (r"_proj/fc\d/kernel", "quantizer/"),
    "mome": ("gen/[qv]_proj/", "language/layers/gen/"),
    "pixel_decoder": (r"context_(modulation|attn/\w+|embedder)/kernel", "decoder/mmdit/"),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(write_random_model(tmp_path_factory.mktemp("start") / "model"))


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    """Of which nothing is zero, as much of a new one is: nothing would learn before that."""
    path, rng = tmp_path_factory.mktemp("decoder") / "decoder", np.random.default_rng(0)
    params = init_decoder_params(DECODER, jax.random.key(0))
    near = lambda x: x + 0.1 * rng.standard_normal(x.shape).astype(np.float32)  # noqa: E731
    decoder_folder.write_decoder_folder(
        path, decoder_folder.DecoderFolder(DECODER, jax.tree.map(near, params)), dtype="float32"
    )
    return str(path)


def lora_config(stage, model, targets, rank=2, **changes):
    config = config_of(stage, model)
    config.update(changes)
    config.steps, config.checkpoint_every = 4, 2
    config.lora.update({"rank": rank, "alpha": 6.0, "targets": targets})
    if config.data.buckets:
        config.data.buckets = ({**config.data.buckets[0], "rows_a_batch": 2},)
    return config


def started(config):
    """What a config's run starts with, its state, and a batch."""
    start = start_of(config, begin.Faults(None, 0), every_row)
    options = {"mesh": make_mesh({}, jax.devices()[:1]), "axes": start.axes}
    state = start_state(start.params, start.stage, optax.adam(0.05), average=False, **options)
    return start, state, jax.tree.map(jnp.asarray, next(start.feed))


@pytest.mark.parametrize("stacked", [False, True])
def test_gradients_are_those_of_torch(stacked):
    """y = x (W + 6/2 A B) + c with B not 0; torch differentiates the sum written out. Breaks if the
    scale is left out or comes twice, or W and the bias learn."""
    rng = np.random.default_rng(0)
    layers = (3,) if stacked else ()
    w, a, b = (
        rng.standard_normal((*layers, *s)).astype(np.float32) for s in ((5, 4), (5, 2), (2, 4))
    )
    c, x, g = (rng.standard_normal(s).astype(np.float32) for s in ((*layers, 4), (7, 5), (7, 4)))
    layer = dense(4, ("embed", "mlp"), bias=True, dtype=jnp.float32)

    def loss(params, extra, batch, key):
        own = params["layer"]
        one = lambda p: layer.apply({"params": p}, batch["x"])  # noqa: E731
        y = jax.vmap(one)(own).sum(0) if stacked else one(own)
        return {"only": jnp.sum(y * batch["g"])}, ({}, ())

    axes = {"layer/kernel": ("layers",) * stacked + ("embed", "mlp")}
    stage = Stage(trainable="layer", loss=loss)
    stage = with_lora(stage, targets_of(stage, axes, "kernel"), rank=2, alpha=6.0, seed=0)
    params = {"layer": {"kernel": w, "bias": c}}
    options = {"mesh": make_mesh({}, jax.devices()[:1]), "axes": axes}
    state = start_state(params, stage, optax.sgd(0.1), average=False, **options)
    assert set(state.trainable) == {"layer/lora_a", "layer/lora_b"}
    state = state.replace(trainable={"layer/lora_a": jnp.array(a), "layer/lora_b": jnp.array(b)})
    batch = {"x": jnp.asarray(x), "g": jnp.asarray(g)}
    value, _, _, grads = gradients(stage, state, batch, jax.random.key(0), 1)

    ours = [torch.tensor(value, requires_grad=True) for value in (a, b)]
    whole = torch.tensor(w) + 3.0 * ours[0] @ ours[1]
    y = torch.tensor(x) @ whole + torch.tensor(c)[..., None, :]
    expected = (y * torch.tensor(g)).sum()
    expected.backward()
    np.testing.assert_allclose(float(value), expected.item(), rtol=1e-5)
    for name, theirs in zip(("lora_a", "lora_b"), ours, strict=True):
        np.testing.assert_allclose(grads[f"layer/{name}"], theirs.grad, rtol=1e-4, atol=1e-4)
    made = stage.finish(merge(state.trainable, state.frozen))["layer"]
    assert set(made) == {"kernel", "bias"}
    np.testing.assert_allclose(made["kernel"], whole.detach(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "stage",
    [
        pytest.param(stage, marks=[pytest.mark.slow] * (stage in ("mome", "pixel_decoder")))
        for stage in TARGETS
    ],
)
def test_only_the_targets_change(stage, model, decoder):
    """The first loss is that of the stage without factors. After a few steps, of what is to be
    written only the targets differ from the start, and the stage's loss on it is that of what was
    trained. Breaks if B does not begin at 0, something else learns, a factor is of no effect, or
    the merge is of another scale than the training."""
    pattern, above = TARGETS[stage]
    given = {"init_from": decoder} if stage == "pixel_decoder" else {}
    plain, before, batch = started(lora_config(stage, model, pattern, rank=0, **given))
    start, state, _ = started(lora_config(stage, model, pattern, **given))
    key = jax.random.key(1)
    loss = lambda stage, params: sum(  # noqa: E731
        jax.jit(stage.loss)(params, stage.extra, batch, key)[0].values()
    )
    first = loss(plain.stage, merge(before.trainable, before.frozen))
    assert float(loss(start.stage, merge(state.trainable, state.frozen))) == float(first)

    step = make_step(start.stage, optax.adam(0.05), state, seed=0, ema_decay=0.0)
    for _ in range(3):
        state, metrics = step(state, batch)
        assert not metrics["skipped"]
    assert all(bool(jnp.any(x != 0)) for x in state.trainable.values())
    finished = start.stage.finish(merge(state.trainable, state.frozen))
    after = jax.tree.map(jnp.asarray, jax.tree.map(np.asarray, finished))
    a, b = (flatten_dict(x, sep="/") for x in (plain.stage.start(plain.params), after))
    chex.assert_trees_all_equal_shapes(jax.tree.map(np.asarray, a), b)
    moved = {path for path in a if not np.array_equal(a[path], b[path])}
    targets = targets_of(plain.stage, plain.axes, pattern)
    assert moved == set(targets) and all(path.startswith(above) for path in moved)
    trained = loss(start.stage, merge(state.trainable, state.frozen))
    assert abs(float(trained) - float(first)) > 1e-3
    np.testing.assert_allclose(loss(plain.stage, after), trained, rtol=1e-5)


class Killed(Exception):
    pass


def test_a_killed_run_goes_on_and_writes_a_plain_model(model, tmp_path, monkeypatch):
    """Breaks if factors are not checkpointed, begin anew, or are left in the folder."""
    config = lora_config("mome", model, TARGETS["mome"][0])
    whole = train_stage(config, tmp_path / "whole")

    def dies(index, batch):
        if index == 3:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(begin, "open_feed", watched(dies))
        with pytest.raises(Killed):
            train_stage(config, tmp_path / "broken")
    assert not (tmp_path / "broken/model").exists()
    again = train_stage(config, tmp_path / "broken")
    losses = [[line["loss"] for line in metrics_of(tmp_path / n)] for n in ("whole", "broken")]
    assert losses[0] == losses[1]
    made, theirs, first = (
        flatten_dict(read_folder(p).params, sep="/") for p in (again, whole, model)
    )
    chex.assert_trees_all_equal(made, theirs)
    assert made.keys() == first.keys()


def test_factors_are_for_linear_maps_alone():
    """Every kernel that may be a target is one to whose product its module adds that of factors:
    a change of B changes what the module gives. Breaks if a module reads a kernel by itself."""
    seen = set()

    def listen(call, args, kwargs, context):
        if context.method_name == "__call__" and type(context.module).__name__ in (
            "Dense",
            "AdaLN",
        ):
            seen.add("/".join(context.module.path) + "/kernel")
        return call(*args, **kwargs)

    sides = SMALL.vision.image_size
    with nn.intercept_methods(listen):
        jax.eval_shape(LatentUM(SMALL).init, jax.random.key(0), jnp.zeros((1, sides, sides, 3)))
        decoder_folder.decoder_axes(DECODER)
    axes = model_axes(SMALL) | decoder_folder.decoder_axes(DECODER)
    flat = {path for path, own in axes.items() if path.endswith("/kernel")}
    linear = {p for p in flat if len([x for x in axes[p] if x != "layers"]) == 2}
    assert linear == seen & flat and len(linear) > 30


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"targets": "gen/x_proj"}, "'gen/x_proj' matches nothing that the stage trains"),
        ({"targets": "und/q_proj"}, "'und/q_proj' matches nothing that the stage trains"),
        ({"targets": "gen/q_"}, "matches language/layers/gen/q_norm/scale, which is no kernel"),
        ({"targets": ""}, "which is no kernel of a linear map"),
        ({"rank": -1}, "lora has rank -1 and alpha 6.0, expected both above 0"),
        ({"alpha": 0.0}, "lora has rank 2 and alpha 0.0, expected both above 0"),
    ],
)
def test_what_cannot_be_adapted_is_named(changes, said, model, tmp_path):
    """Breaks if a run trains nothing of what was asked for, or a norm or what the stage freezes."""
    config = lora_config("mome", model, "gen/q_proj")
    config.lora.update(changes)
    with pytest.raises(ValueError, match=said):
        train_stage(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_convolutions_are_no_linear_maps(model, tmp_path):
    """Breaks if factors are laid beside a kernel that no product is added to."""
    with pytest.raises(ValueError, match="matches decoder/vae/.*/kernel, which is no kernel of a"):
        train_stage(lora_config("vae", model, "conv_in/kernel"), tmp_path / "run")


def test_factors_lie_as_their_kernels_do():
    """in over `fsdp`, out over `tensor`, the rank whole. Breaks if a factor is on every device as a
    whole, or split where its kernel is not."""
    axes = {"a/kernel": ("layers", "embed", "mlp"), "b/kernel": ("heads", "embed")}
    assert factor_axes(axes, list(axes)) == {
        "a/lora_a": ("layers", "embed", None),
        "a/lora_b": ("layers", None, "mlp"),
        "b/lora_a": ("heads", None),
        "b/lora_b": (None, "embed"),
    }


def test_layers_are_merged_one_at_a_time():
    """Of a stack that is read layer by layer. Breaks if a large model is made whole in memory."""
    rng = np.random.default_rng(0)
    w, a, b = (rng.standard_normal((3, *s)).astype(np.float32) for s in ((4, 5), (4, 2), (2, 5)))
    asked = []

    def read(index):
        asked.append(index)
        return w[index]

    made = merged(Lazy(w.shape, w.dtype, read, stacked=True), a, b, 0.5)
    expected = w + 0.5 * np.einsum("lir,lro->lio", a, b)
    for index, value in made.parts():
        np.testing.assert_allclose(value, expected[index], rtol=1e-6)
    assert asked == [0, 1, 2]
    np.testing.assert_allclose(made[1:, :2], expected[1:, :2], rtol=1e-6)
