"""`convert`: what was published comes back bit by bit, and nothing is left where it fails."""

import errno
import json
import os
import shutil
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler
from safetensors.numpy import load_file, save_file
from transformers import AutoTokenizer

from latentum_jax.convert.command import Options, convert
from latentum_jax.convert.published import open_model
from latentum_jax.models import stored
from latentum_jax.models.folder import ModelFolder, open_folder, read_folder, write_folder
from latentum_jax.pixel_decoder import PixelDecoder
from latentum_jax.pretrained import LatentUM, find_model
from tests import published
from tests.models_on_disk import write_random_model
from tests.published import GOLDEN

FILE = "model.safetensors"
LM_HEAD = "internvl.language_model.lm_head.weight"


@pytest.fixture
def folder(tmp_path):
    """A copy of the published model that a test may change."""
    return shutil.copytree(GOLDEN / "tiny", tmp_path / "tiny", copy_function=shutil.copyfile)


def assert_same(a, b):
    """Two files of tensors hold the same, bit by bit."""
    one, other = load_file(str(a)), load_file(str(b))
    assert sorted(one) == sorted(other)
    for key, value in one.items():
        assert value.dtype == other[key].dtype, key
        np.testing.assert_array_equal(value.view(np.uint8), other[key].view(np.uint8), key)


def change_weights(folder, change):
    save_file(change(load_file(str(folder / FILE))), str(folder / FILE))


def edit_config(folder, **changes):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_published_to_ours_and_back(folder, tmp_path, dtype):
    """Breaks if a tensor (code usage too), a dtype, the config or a tokenizer file is lost."""
    kind = {"bfloat16": ml_dtypes.bfloat16}.get(dtype, dtype)
    usage = np.random.default_rng(0).random(16).astype(kind)
    change_weights(folder, lambda s: {k: x.astype(kind) for k, x in s.items()})
    key = "quantizer.quantizer.quantizers.2.ema_usage"
    change_weights(folder, lambda s: s | {key: usage})
    (folder / "merges.txt").write_text("a b\n")
    convert(folder, tmp_path / "ours")
    assert not list((tmp_path / "ours").glob("model*"))
    convert(tmp_path / "ours", tmp_path / "again")
    assert_same(folder / FILE, tmp_path / "again" / FILE)
    for file in folder.iterdir():
        if file.name != FILE and file.suffix != ".json":
            assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes(), file.name
    for name in ("config", "tokenizer", "tokenizer_config", "generation_config"):
        one, other = (
            json.loads((f / f"{name}.json").read_text()) for f in (folder, tmp_path / "again")
        )
        assert one == other, name


def test_tied_embeddings(folder, tmp_path):
    """Breaks if a model without lm_head gets one, or does not convert."""
    change_weights(folder, lambda s: {k: x for k, x in s.items() if k != LM_HEAD})
    values = json.loads((folder / "config.json").read_text())
    values["internvl_config"]["llm_config"]["tie_word_embeddings"] = True
    edit_config(folder, internvl_config=values["internvl_config"])
    convert(folder, tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "again")
    assert_same(folder / FILE, tmp_path / "again" / FILE)
    assert json.loads((tmp_path / "again/config.json").read_text()) == values


def test_of_two_dtypes(folder, tmp_path):
    """Breaks if --dtype rounds the quantizer, whose codes would then be others."""
    convert(folder, tmp_path / "ours", dtype="bfloat16")
    for path, x in stored.open_checkpoint(tmp_path / "ours/params").items():
        expected = np.float32 if path.startswith("quantizer/") else ml_dtypes.bfloat16
        assert x.dtype == expected, path
    convert(tmp_path / "ours", tmp_path / "mixed")
    convert(tmp_path / "mixed", tmp_path / "again")
    for path, x in stored.open_checkpoint(tmp_path / "again/params").items():
        np.testing.assert_array_equal(x, stored.open_checkpoint(tmp_path / "ours/params")[path])
    with pytest.raises(ValueError, match="dtype is 'int8', expected one of"):
        convert(folder, tmp_path / "other", dtype="int8")
    assert not (tmp_path / "other").exists()


def test_ours_to_ours(tmp_path):
    """Breaks if a trained model cannot be spread over devices, or changes on the way there."""
    small = write_random_model(tmp_path / "small")
    convert(small, tmp_path / "large", to="ours")
    one, other = read_folder(small), read_folder(tmp_path / "large")
    assert (one.config, one.chat) == (other.config, other.chat)
    for path, x in open_folder(tmp_path / "large").params["head"]["layers"]["proj"].items():
        np.testing.assert_array_equal(x[1], one.params["head"]["layers"]["proj"][path][1])
    assert find_model(tmp_path / "large") == tmp_path / "large"


SHARDED = """
import sys
import jax, numpy as np, orbax.checkpoint as ocp
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import NamedSharding, PartitionSpec
from latentum_jax.models.folder import open_folder, read_folder

mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(jax.sharding.AxisType.Auto,))
lazy = flatten_dict(open_folder(sys.argv[1]).params, sep="/")
whole = flatten_dict(read_folder(sys.argv[1]).params, sep="/")

def sharding(x):
    axes = ["fsdp" if size % 8 == 0 else None for size in x.shape]
    last = max((i for i, axis in enumerate(axes) if axis), default=None)
    spec = (axis if i == last else None for i, axis in enumerate(axes))
    return NamedSharding(mesh, PartitionSpec(*spec))

target = {p: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding(x)) for p, x in lazy.items()}
nested = unflatten_dict(target, sep="/")
restored = ocp.StandardCheckpointer().restore(sys.argv[1] + "/params", nested)
by_orbax = flatten_dict(restored, sep="/")
assert any(len(x.sharding.device_set) == 8 and not x.is_fully_replicated for x in by_orbax.values())
for path, x in lazy.items():
    for made in (x.onto(sharding(x)), by_orbax[path]):
        assert made.sharding == sharding(x) and made.dtype == x.dtype, path
        np.testing.assert_array_equal(np.asarray(made), whole[path], path)
print("equal", len(whole))
"""


def test_a_mesh_restores_it(tmp_path):
    """Breaks if what we write is no orbax checkpoint, or a device reads another's part."""
    convert(GOLDEN / "tiny", tmp_path / "ours")
    env = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    command = [sys.executable, "-c", SHARDED, str(tmp_path / "ours")]
    run = subprocess.run(command, capture_output=True, text=True, env=env)
    assert run.stdout.startswith("equal "), run.stderr[-2000:]


@pytest.mark.parametrize("name", ["decoder_tiny", "ref_decoder_tiny"])
def test_decoder_to_ours_and_back(name, tmp_path):
    """Breaks if a tensor of MMDiT or of the VAE is lost, or diffusers cannot read the VAE."""
    convert(GOLDEN / name, tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "again")
    assert_same(GOLDEN / name / FILE, tmp_path / "again" / FILE)
    file = "vae/diffusion_pytorch_model.safetensors"
    assert_same(GOLDEN / "sd35_tiny" / file, tmp_path / "again/sd3_5" / file)
    values, written = (
        json.loads((f / "config.json").read_text()) for f in (GOLDEN / name, tmp_path / "again")
    )
    values.pop("mmdit")  # which the fixtures have besides
    assert written == values | {"sd3_5_path": "sd3_5"}
    theirs = AutoencoderKL.from_pretrained(tmp_path / "again/sd3_5", subfolder="vae")
    assert theirs.config.scaling_factor == 1.5305 and theirs.config.shift_factor == 0.0609
    schedule = FlowMatchEulerDiscreteScheduler.from_pretrained(
        tmp_path / "again/sd3_5", subfolder="scheduler"
    )
    assert schedule.config.shift == 3.0
    assert PixelDecoder.from_pretrained(tmp_path / "again").config.image_size == 112


def test_a_model_in_memory_is_published(tmp_path):
    """Breaks if save_pretrained writes other weights than were loaded, or loses what goes along."""
    model = LatentUM.from_pretrained(GOLDEN / "tiny")
    model.save_pretrained(tmp_path / "published", layout="published")
    assert_same(GOLDEN / "tiny" / FILE, tmp_path / "published" / FILE)
    model.save_pretrained(tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "again")
    assert_same(GOLDEN / "tiny" / FILE, tmp_path / "again" / FILE)


def test_a_decoder_in_memory_is_published(tmp_path):
    """Breaks if PixelDecoder.save_pretrained and from_pretrained do not fit each other."""
    decoder = PixelDecoder.from_pretrained(GOLDEN / "decoder_tiny")
    decoder.save_pretrained(tmp_path / "ours", dtype="bfloat16")
    decoder.save_pretrained(tmp_path / "published", layout="published", dtype="bfloat16")
    assert_same(GOLDEN / "decoder_tiny" / FILE, tmp_path / "published" / FILE)
    for name in ("ours", "published"):
        assert PixelDecoder.from_pretrained(tmp_path / name).config == decoder.config


def test_a_model_trained_here_is_published(tmp_path):
    """Breaks if a model that was never published lacks what AutoTokenizer or the module reads."""
    small = open_folder(write_random_model(tmp_path / "small"))
    theirs = open_model(GOLDEN / "tiny")
    write_folder(
        tmp_path / "ours", ModelFolder(theirs.config, small.chat, theirs.params, small.tokenizer)
    )
    convert(tmp_path / "ours", tmp_path / "published")
    state = load_file(str(tmp_path / "published" / FILE))
    assert {k: x.shape for k, x in state.items()} == {
        k: x.shape for k, x in published.state_dict().items()
    }
    usage = state["quantizer.quantizer.quantizers.0.ema_usage"]
    np.testing.assert_array_equal(usage, np.full(16, 1 / 16, np.float32))
    tokens = AutoTokenizer.from_pretrained(tmp_path / "published")
    assert tuple(tokens("move up<img>")["input_ids"]) == small.tokenizer.encode("move up<img>")
    assert tokens.eos_token == "<|im_end|>"


def refused(source, target, message, **how):
    """It is refused in one sentence and leaves nothing."""
    before = sorted(target.parent.iterdir())
    with pytest.raises((ValueError, OSError), match=message) as error:
        convert(source, target, **how)
    assert "\n" not in str(error.value)
    assert sorted(target.parent.iterdir()) == before


def test_what_the_published_layout_cannot_say(tmp_path):
    """Breaks if a model that the published code would run as another one is exported."""
    refused(find_model("frozenlake-tiny"), tmp_path / "x", r"vision\.canvas is 384, which the publ")
    write_random_model(tmp_path / "small")
    refused(
        tmp_path / "small", tmp_path / "x", r"quantizer\.mlp_ratio is 1, .* it would be 4 there"
    )


def test_targets_and_options(folder, tmp_path):
    """Breaks if a folder of the user's is overwritten, or an option is quietly of no effect."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full/work.txt").write_text("mine")
    refused(folder, tmp_path / "full", "full is there already")
    refused(tmp_path / "full", tmp_path / "x", "it has no config.json")
    refused(folder, tmp_path / "x", "with SD3.5 alone", options=Options(references=1))
    edit_config(folder, mixture_mode="moe")
    refused(folder, tmp_path / "x", "mixture_mode is 'moe', expected 'mot'")
    (folder / "config.json").write_text('{"model_type": "llama"}')
    refused(folder, tmp_path / "x", "is neither a LatentUM nor a decoder")
    assert (tmp_path / "full/work.txt").read_text() == "mine"


KEY = "internvl.language_model.model.norm.weight"
LAYER = "internvl.language_model.model.layers.1.input_layernorm.weight"


@pytest.mark.parametrize(
    ("key", "kind", "message"),
    [
        (KEY, "float64", f"{KEY} is float64, expected one of float32, bfloat16, float16"),
        (KEY, "int8", f"{KEY} is int8, expected"),
        (LAYER, "float16", f"{LAYER} is float16, expected float32 as .*layers.0.input_layernorm"),
    ],
)
def test_dtypes_that_are_no_weights(folder, tmp_path, key, kind, message):
    """Breaks if a quantized checkpoint, or a layer of another dtype, is converted as it is."""
    change_weights(folder, lambda s: s | {key: s[key].astype(kind)})
    refused(folder, tmp_path / "x", message)


@pytest.mark.parametrize("to", ["ours", "published"])
def test_a_full_disk(folder, tmp_path, to, monkeypatch):
    """Breaks if half a checkpoint is left where a whole one is looked for."""
    read, left = stored.Lazy.__getitem__, [60]

    def fail(self, index):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return read(self, index)

    monkeypatch.setattr(stored.Lazy, "__getitem__", fail)
    refused(folder, tmp_path / "x", "No space left on device", to=to)


KILLED = """
import os, sys
from latentum_jax.convert.command import convert
from latentum_jax.models import stored

read, left = stored.Lazy.__getitem__, [60]

def die(self, index):
    left[0] -= 1
    return read(self, index) if left[0] else os._exit(9)

stored.Lazy.__getitem__ = die
convert(*sys.argv[1:3], to=sys.argv[3])
"""


@pytest.mark.parametrize("to", ["ours", "published"])
def test_killed_and_started_again(folder, tmp_path, to):
    """Breaks if what a killed run left is taken for a checkpoint, piles up, or stops the next."""
    target = tmp_path / "x"
    for _ in range(2):
        run = subprocess.run([sys.executable, "-c", KILLED, folder, target, to])
        assert run.returncode == 9
        assert sorted(p.name for p in tmp_path.iterdir()) == [".x.unfinished", "tiny"]
    convert(folder, target, to=to)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tiny", "x"]
    if to == "ours":
        convert(target, tmp_path / "again")
    assert_same(folder / FILE, (target if to == "published" else tmp_path / "again") / FILE)


@pytest.mark.parametrize("break_it", ["manifest.ocdbt", "_METADATA", "d"])
def test_a_broken_checkpoint_of_ours(tmp_path, break_it):
    """Breaks if a checkpoint that was copied in part is read as zeros."""
    convert(GOLDEN / "tiny", tmp_path / "ours")
    part = tmp_path / "ours/params" / break_it
    shutil.rmtree(part) if part.is_dir() else part.unlink()
    with pytest.raises(ValueError, match="vision/class_embedding|is no orbax checkpoint") as error:
        read_folder(tmp_path / "ours")
    assert "\n" not in str(error.value)
    save_file({}, str(tmp_path / "ours" / FILE))
    with pytest.raises(ValueError, match="has both model.safetensors and params/"):
        read_folder(tmp_path / "ours")


class Trap:
    """Unpickled, it would run a command."""

    def __reduce__(self):
        return os.system, ("touch sprung",)


def test_pickles_are_read_on_request(folder, tmp_path, monkeypatch):
    """Breaks if a pickle is opened unasked, runs what it holds, or loses a tensor."""
    monkeypatch.chdir(tmp_path)
    state = {k: torch.from_numpy(x) for k, x in published.state_dict().items()}
    (folder / FILE).unlink()
    torch.save(state, folder / "pytorch_model.bin")
    refused(folder, tmp_path / "x", "pytorch_model.bin, a pickle, which is read on request alone")
    asked = Options(allow_pickle=True)
    convert(folder, tmp_path / "ours", options=asked)
    convert(tmp_path / "ours", tmp_path / "again")
    assert_same(GOLDEN / "tiny" / FILE, tmp_path / "again" / FILE)
    half = {k: x.to(torch.bfloat16) for k, x in state.items()}
    torch.save(half, folder / "pytorch_model.bin")
    params = open_model(folder, allow_pickle=True).params
    norm = params["language"]["norm"]["scale"][...]
    assert norm.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(norm.astype(np.float32), half[KEY].float().numpy())
    torch.save(state | {"more": Trap()}, folder / "pytorch_model.bin")
    refused(folder, tmp_path / "x", "is no file of weights alone", options=asked)
    (folder / "pytorch_model.bin").write_bytes(b"PK half")
    refused(folder, tmp_path / "x", "is no file of weights alone", options=asked)
    assert not (tmp_path / "sprung").exists()
