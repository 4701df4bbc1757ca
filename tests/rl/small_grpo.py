"""The recipe of GRPO for the very small model, all that the published recipe trains."""

from latentum_jax.configs.frozenlake_grpo import get_config
from tests.models_on_disk import random_model


def config_of(**changes):
    """4 rows, 2 rollouts a prompt; a byte of text is about a token to the very small model."""
    config = get_config()
    config.model.update(random_model().config.to_dict())
    config.grpo.group, config.lora.rank = 2, 0
    config.grpo.ask.update({"length": 700, "questions": 8, "options": 12, "cells": 2})
    config.data.update({"rows": 4, "length": 224, "max_bad": 2})
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return config
