"""What a GRPO step holds, compiled for devices that are not here."""

import pytest

from latentum_jax.models.folder import expected_shapes
from latentum_jax.rl import fits
from latentum_jax.train.recipe import load_config
from tests.devices import compiles
from tests.small import SMALL

ROWS = 16


def recipe():
    """The published recipe at the smallest size, its rollouts spread over the devices."""
    config = load_config("grpo", {})
    config.model.update(SMALL.to_dict())
    config.data.update({"rows": ROWS, "length": 32})
    config.grpo.group, config.accumulate, config.loss_chunk = 2, 2, 64
    config.mesh.update({"tensor": 2, "data": 4})
    return config


@pytest.fixture(scope="module")
def compiled():
    return fits.compile_grpo(recipe(), "h100", 8)


@pytest.mark.slow
@compiles
def test_one_policy_one_reference_and_no_third_copy(compiled):
    """Breaks if the update is given anything but the state and its rows, or the state holds more
    of the policy than itself in fp32, two moments of Adam, and the reference in bf16."""
    held, update = compiled["held"], compiled["programs"]["update"]
    assert held["reference"] * 2 == held["policy"]
    assert 0 <= held["optimizer"] - 2 * held["policy"] <= 64  # and Adam's counters
    places = SMALL.vision.num_tokens * SMALL.quantizer.num_codebooks
    a_row = 4 * (2 * places + 4) + 4 * 10 * 32 + 4 * places  # scores, tokens' arrays, codes
    assert update["argument_bytes"] <= sum(held.values()) + ROWS // 4 * a_row + 1024


@pytest.mark.slow
@compiles
def test_what_does_not_train_is_held_once(compiled):
    """Breaks if the reference has weights of its own that the policy does not train."""
    frozen = 0
    for path, shape in expected_shapes(SMALL).items():
        trains = path.startswith(("language/layers/gen/", "visual_projector/", "head/"))
        size = 1
        for n in shape:
            size *= n
        if not trains:
            frozen += size * (4 if path.startswith("quantizer/") else 2)
    assert compiled["held"]["frozen"] <= frozen
    assert compiled["held"]["frozen"] > frozen / 2  # over two devices at most


@pytest.mark.slow
@compiles
def test_the_table_names_every_program(compiled):
    """Breaks if a program of a step is not told of."""
    text = fits.table({"config": "grpo", **compiled})
    for name in ("prefill", "draw", "score", "update", "policy", "reference"):
        assert name in text


def test_rollouts_of_plans_are_refused():
    """Breaks if a recipe whose rollouts have no fixed shape is compiled as if it drew."""
    config = recipe()
    config.grpo.task = "plan"
    with pytest.raises(ValueError, match="grpo.task is 'plan', rollouts are compiled for 'draw'"):
        fits.compile_grpo(config, "h100", 8)
