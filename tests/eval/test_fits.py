"""A recipe's step compiled for devices that are not here."""

import pytest

from latentum_jax.config import AlignerConfig
from latentum_jax.eval import fits
from latentum_jax.train.recipe import load_config
from tests.devices import compiles
from tests.small import DECODER, SMALL

LARGEST = 300 * 32 * 4  # bytes of the largest parameter, the words' table


def recipe(name, rows, **mesh):
    """The published recipe at the smallest size."""
    config = load_config(name, {})
    config.model.update(SMALL.to_dict())
    config.decoder.update(DECODER.to_dict())
    config.data.rows, config.loss_chunk = rows, min(config.loss_chunk, 256)
    config.data.length, config.data.images = 96, max(config.data.images, 1)
    config.mesh.update(mesh)
    return config


@compiles
@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("mome_pretrain", 16),
        *(
            pytest.param(name, rows, marks=pytest.mark.slow)
            for name, rows in (
                ("mbaq", 16),
                ("sft", 64),
                ("latentumm", 64),
                ("world_model", 32),
                ("pixel_decoder", 16),
            )
        ),
    ],
)
def test_every_recipe_compiles_for_a_mesh(name, rows):
    """Breaks if a stage cannot be spread over devices, or if one of them gathers at once more than
    a layer needs."""
    found = fits.compile_recipe(recipe(name, rows, fsdp=4), "h100", 8)
    assert found["mesh"] == {"data": 2, "fsdp": 4, "tensor": 1, "sequence": 1}
    assert found["total_bytes"] >= found["argument_bytes"] + found["temp_bytes"]
    assert found["collectives"]["all-gather"]["count"] > 0
    assert found["model_flops"] < found["flops"] < 1.5 * found["model_flops"]
    assert name in fits.table({"config": name, **found})


@pytest.mark.slow
@compiles
def test_an_aligner_compiles_for_a_mesh():
    """Breaks if LatentUMM's aligner is taken for a decoder."""
    config = load_config("latentumm_align", {})
    config.aligner.update(AlignerConfig.tiny().to_dict())
    config.mesh.fsdp = 4
    found = fits.compile_recipe(config, "h100", 8)
    assert found["rows"] == 32 and found["model_flops"] == found["flops"] > 0


def test_what_a_mesh_does_not_divide_is_named():
    """Breaks if a run finds out after its model has been read."""
    with pytest.raises(ValueError, match="data.rows is 6, a mesh with data x fsdp 8 needs a mult"):
        fits.compile_recipe(recipe("mome_pretrain", 6), "h100", 8)
    with pytest.raises(
        ValueError, match="vision.num_heads is 2, a mesh with tensor 4 needs a mult"
    ):
        fits.compile_recipe(recipe("mome_pretrain", 8, fsdp=2, tensor=4), "h100", 8)
    with pytest.raises(
        ValueError, match="data -1 x fsdp 3 x tensor 1 x sequence 1 does not divide"
    ):
        fits.compile_recipe(recipe("mome_pretrain", 8, fsdp=3), "h100", 8)
    with pytest.raises(ValueError, match="the recipe is a chain of"):
        fits.compile_recipe(load_config("frozenlake_tiny", {}), "h100", 8)
