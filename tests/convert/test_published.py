"""Published folders: read whole, refused where something is off."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from latentum_jax.config import LatentUMConfig
from latentum_jax.convert.latentum import config_from_published
from latentum_jax.convert.published import open_published
from latentum_jax.convert.weights import open_weights, shapes_of
from latentum_jax.pretrained import LatentUM
from tests import published
from tests.published import GOLDEN, outputs

FILE = "model.safetensors"


@pytest.fixture
def folder(tmp_path):
    """A copy that a test may break."""
    return shutil.copytree(GOLDEN / "tiny", tmp_path / "tiny", copy_function=shutil.copyfile)


def edit_config(folder, **changes):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def shard(folder, *, without=""):
    """The same weights in two files with an index."""
    state = load_file(str(folder / FILE))
    keys = sorted(state)
    named = {key: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, key in enumerate(keys)}
    for name in set(named.values()):
        part = {key: state[key] for key in keys if named[key] == name and key != without}
        save_file(part, str(folder / name))
    (folder / FILE).unlink()
    index = json.dumps({"metadata": {}, "weight_map": named})
    (folder / "model.safetensors.index.json").write_text(index)
    return keys


def test_answers_are_the_published_ones():
    """Breaks if a published folder is read as another model, or spoken to with another template."""
    model = LatentUM.from_pretrained(GOLDEN / "tiny")
    text = json.loads((GOLDEN / "answer/text.json").read_text())
    said = model.answer(GOLDEN / "answer/img.png", text["question"], max_new_tokens=16)
    assert said == [model.tokenizer.decode(outputs("answer/out")["output_ids"][0].tolist())]


def test_shards_are_one_checkpoint(folder):
    """Breaks if sharded weights lose a tensor or mix two up."""
    shard(folder)
    state = published.state_dict()
    weights = open_weights(folder)
    assert shapes_of(weights) == {key: value.shape for key, value in state.items()}
    for key in weights:
        np.testing.assert_array_equal(weights[key], state[key])
    assert open_published(folder).config == published.config()


def test_sizes_are_read_from_the_weights_where_the_config_is_silent():
    """Breaks if a published checkpoint, whose internvl_config is empty, needs more than itself."""
    listed = json.loads((GOLDEN / "full_size_keys.json").read_text())["latentum_base"]
    shapes = {key: tuple(shape) for key, (shape, _) in listed.items()}
    values = json.loads((GOLDEN / "tiny/config.json").read_text()) | {"internvl_config": {}}
    values["quantizer"] |= {"num_codebooks": 8, "num_embeddings": 2048, "embedding_dim": 256}
    values["quantizer"]["llm_hidden_size"] = 2560
    values["head"] = {
        "num_codebooks": 8,
        "num_embeddings": 2048,
        "hidden_size": 2560,
        "num_layers": 3,
        "num_heads": 32,
        "mlp_ratio": 4.0,
    }
    assert config_from_published(values, None, shapes) == LatentUMConfig()


def test_the_base_model_beside_the_checkpoint_is_read(folder):
    """Breaks if what the checkpoint's config leaves out is guessed though its base lies beside."""
    base = json.loads((folder / "config.json").read_text())["internvl_config"]
    base["llm_config"]["rope_theta"] = 5e5
    (folder.parent / "InternVL3_5-4B").mkdir()
    (folder.parent / "InternVL3_5-4B/config.json").write_text(json.dumps(base))
    edit_config(folder, internvl_config={})
    assert open_published(folder).config.language.rope_theta == 5e5


def pointer(folder):
    (folder / FILE).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")


def cut(folder):
    data = (folder / FILE).read_bytes()
    (folder / FILE).write_bytes(data[: len(data) // 2])


def lost_shard(folder):
    shard(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()


def twice(folder):
    keys = shard(folder)
    state = load_file(str(folder / "model-00001-of-00002.safetensors"))
    extra = load_file(str(folder / "model-00002-of-00002.safetensors")) | {keys[0]: state[keys[0]]}
    save_file(extra, str(folder / "model-00002-of-00002.safetensors"))


def quantizer(folder):
    values = json.loads((folder / "config.json").read_text())["quantizer"]
    edit_config(folder, quantizer=values | {"type": "conv"})


def head(folder):
    values = json.loads((folder / "config.json").read_text())["head"]
    edit_config(folder, head=values | {"num_layers": 5})


@pytest.mark.parametrize(
    ("breaks", "message"),
    [
        (lambda f: (f / FILE).unlink(), "has neither model.safetensors nor model.safetensors.ind"),
        (pointer, "is a git-LFS pointer, not weights"),
        (cut, "is damaged or cut short"),
        (lost_shard, "model-00002-of-00002.safetensors is missing: .* half downloaded"),
        (lambda f: shard(f, without="internvl.ar_head.norm.weight"), "ar_head.norm.weight is in"),
        (twice, "is twice in"),
        (lambda f: edit_config(f, mixture_mode="moe"), "mixture_mode is 'moe', expected 'mot'"),
        (quantizer, "quantizer.type is 'conv', expected 'MLP'"),
        (head, r"lacks internvl\.ar_head\.layers\.2"),
        (lambda f: (f / "config.json").write_text("{"), "config.json is no JSON"),
        (lambda f: (f / "config.json").write_text("[]"), "holds list, expected an object"),
        (lambda f: (f / "tokenizer.json").unlink(), "no tokenizer.json"),
    ],
)
def test_broken_folders_are_refused_in_one_sentence(folder, breaks, message):
    """Breaks if a user sees a traceback, or weights that are not those of the config."""
    breaks(folder)
    with pytest.raises(ValueError, match=message) as refused:
        open_published(folder)
    assert "\n" not in str(refused.value)
