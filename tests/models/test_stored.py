"""Arrays that are read when they are indexed, in both files that we write."""

import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest
import safetensors.torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from latentum_jax.models import stored
from latentum_jax.models.stored import Lazy

RNG = np.random.default_rng(0)
VALUES = {
    "a/kernel": RNG.standard_normal((3, 4, 5)).astype(np.float32),
    "a/scale": RNG.standard_normal(7).astype(ml_dtypes.bfloat16),
    "b": np.zeros((2, 3), np.float16),
    "c": RNG.standard_normal(2).astype(np.float32),
}
ARRAYS = {path: Lazy.of(value) for path, value in VALUES.items()}


def same(found):
    assert sorted(found) == sorted(VALUES)
    for path, value in VALUES.items():
        assert (found[path].shape, found[path].dtype) == (value.shape, value.dtype)
        np.testing.assert_array_equal(np.asarray(found[path]), value, path)


def test_safetensors_reads_what_we_write(tmp_path):
    """Breaks if an offset, a name of a dtype or the padding of the header is wrong."""
    stored.write_safetensors(tmp_path / "x.safetensors", ARRAYS, {"format": "pt"})
    same(load_file(str(tmp_path / "x.safetensors")))
    with safe_open(str(tmp_path / "x.safetensors"), "np") as opened:
        assert opened.metadata() == {"format": "pt"}
    same(stored.open_safetensors(tmp_path / "x.safetensors"))
    torch_reads = safetensors.torch.load_file(tmp_path / "x.safetensors")
    np.testing.assert_array_equal(torch_reads["c"], VALUES["c"])


def test_orbax_reads_what_we_write(tmp_path):
    """Breaks if our metadata are not orbax's, or zeros look like a chunk that was lost."""
    stored.write_checkpoint(tmp_path / "x", ARRAYS)
    same(stored.open_checkpoint(tmp_path / "x"))
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    target = {
        path: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here) for path, x in VALUES.items()
    }
    target = {
        "a": {k: target[f"a/{k}"] for k in ("kernel", "scale")},
        **{k: target[k] for k in "bc"},
    }
    made = ocp.StandardCheckpointer().restore(tmp_path / "x", target)
    same(
        {
            "a/kernel": made["a"]["kernel"],
            "a/scale": made["a"]["scale"],
            "b": made["b"],
            "c": made["c"],
        }
    )


def test_we_read_what_orbax_writes(tmp_path):
    """Breaks if a checkpoint that somebody saved through orbax itself is not read."""
    tree = {"a": {k: jnp.asarray(VALUES[f"a/{k}"]) for k in ("kernel", "scale")}}
    tree |= {k: jnp.asarray(VALUES[k]) for k in "bc"}
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "x", tree)
    same(stored.open_checkpoint(tmp_path / "x"))


@pytest.mark.parametrize("kind", ["safetensors", "checkpoint"])
def test_parts(tmp_path, kind):
    """Breaks if a layer, a slice or a conversion reads another part than it says."""
    getattr(stored, f"write_{kind}")(tmp_path / "x", ARRAYS)
    kernel = getattr(stored, f"open_{kind}")(tmp_path / "x")["a/kernel"]
    value = VALUES["a/kernel"]
    np.testing.assert_array_equal(kernel[1], value[1])
    np.testing.assert_array_equal(kernel[1:3], value[1:3])
    index = (slice(None, None), slice(2, 4), slice(0, 5))
    np.testing.assert_array_equal(kernel[index], value[index])
    half = kernel.astype(np.float16)
    assert (half.dtype, half[...].dtype) == (np.float16, np.float16)
    together = np.empty(kernel.shape, kernel.dtype)
    for index, part in kernel.parts():
        together[index] = part
    np.testing.assert_array_equal(together, value)


def test_large_arrays_are_cut(tmp_path, monkeypatch):
    """Breaks if a table of hundreds of megabytes is one chunk, which a device reads whole."""
    monkeypatch.setattr(stored, "CHUNK", 200)
    table = RNG.standard_normal((37, 11)).astype(np.float32)
    layers = Lazy.of(VALUES["a/kernel"])
    layers = Lazy(layers.shape, layers.dtype, layers.read, stacked=True)
    stored.write_checkpoint(tmp_path / "x", {"table": Lazy.of(table), "layers": layers})
    found = stored.open_checkpoint(tmp_path / "x")
    np.testing.assert_array_equal(found["table"][...], table)
    assert not found["table"].stacked and found["layers"].stacked
    assert [index for index, _ in found["layers"].parts()] == [0, 1, 2]


def test_what_is_no_tensor_file(tmp_path):
    """Breaks if the user sees what Rust or C++ has to say about a header."""
    file = tmp_path / "x.safetensors"
    with pytest.raises(ValueError, match="is missing: the checkpoint is half downloaded"):
        stored.open_safetensors(file)
    save_file({"a": np.zeros(9, np.float32)}, str(file))
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(ValueError, match="is damaged or cut short"):
        stored.open_safetensors(file)
    (tmp_path / "_METADATA").write_text(json.dumps({"tree_metadata": []}))
    with pytest.raises(ValueError, match="is no orbax checkpoint"):
        stored.open_checkpoint(tmp_path)
