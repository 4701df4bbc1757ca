"""Configs by name and by path, with overrides."""

import pytest

from latentum_jax.train.loop import stage_config
from latentum_jax.train.recipe import known_configs, load_config

NAME = "frozenlake_tiny"


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("steps", "7", 7),
        ("ema", "0", 0.0),
        ("optimizer.learning_rate", "1e-4", 1e-4),
        ("data.levels", "(3, 4)", (3, 4)),
        ("data.levels", "[3]", (3,)),
        ("init_from", "runs/vlm/model", "runs/vlm/model"),
        ("init_from", "12", "12"),
        ("init_from", "'a b'", "a b"),
        ("links.sft.steps", "5", 5),
        ("links.sft.data.harder", "0.5", 0.5),
    ],
)
def test_overrides(key, text, value):
    """A value would arrive as another type than the recipe's, or not at all."""
    found = load_config(NAME, {key: text})
    for part in key.split("."):
        found = found[part]
    assert found == value and type(found) is type(value)


def test_an_override_holds_for_every_link_and_one_of_a_link_for_it_alone():
    """A link's own value would silently win over the one asked for."""
    rate = load_config(NAME, {"optimizer.learning_rate": "0.5"})
    assert {stage_config(rate, name).optimizer.learning_rate for name in rate.chain} == {0.5}
    one = load_config(NAME, {"links.mome.optimizer.clip": "3"})
    assert stage_config(one, "mome").optimizer.clip == 3.0
    assert stage_config(one, "sft").optimizer.clip == 1.0


@pytest.mark.parametrize(
    ("key", "text", "words"),
    [
        ("modle.x", "1", "no config key 'modle.x': the config has accumulate"),
        ("optimizer.rate", "1", "no config key 'optimizer.rate': optimizer has b1, b2"),
        ("steps.more", "1", "no config key 'steps.more': steps has the value 0"),
        ("links.vml.steps", "1", "no config key 'links.vml.steps': links has"),
        ("steps", "many", "config key 'steps' is 0, of type int, got 'many'"),
        ("steps", "1.5", "of type int, got '1.5'"),
        ("steps", "True", "of type int, got 'True'"),
        ("ema", "nan", "of type float, got 'nan'"),
        ("chain", "vlm", "of type tuple, got 'vlm'"),
        ("optimizer", "{}", "config key 'optimizer' is a section"),
    ],
)
def test_bad_overrides(key, text, words):
    """A mistyped key or value would be trained with, or the message not say which it was."""
    with pytest.raises(ValueError) as caught:
        load_config(NAME, {key: text})
    assert words in str(caught.value)


def test_by_name():
    """A bundled recipe would not be found by its name, or an unknown one not be refused."""
    assert NAME in known_configs() and "base" not in known_configs()
    with pytest.raises(ValueError, match=f"no config 'nope'.*{NAME}"):
        load_config("nope", {})


def test_by_path(tmp_path):
    """A user's own recipe would not be read, or a broken one end in a traceback."""
    path = tmp_path / "mine.py"
    path.write_text("from ml_collections import ConfigDict\n\n\n")
    with pytest.raises(ValueError, match="no function get_config"):
        load_config(str(path), {})
    with path.open("a") as file:
        file.write("def get_config():\n    return ConfigDict({'steps': 3})\n")
    assert load_config(str(path), {"steps": "4"}).to_dict() == {"steps": 4}
    path.write_text("def get_config(:\n")
    with pytest.raises(ValueError, match="mine.py cannot be read as a config: SyntaxError"):
        load_config(str(path), {})
    path.write_text("def get_config():\n    return {}\n")
    with pytest.raises(ValueError, match="not a ConfigDict"):
        load_config(str(path), {})
    with pytest.raises(ValueError, match="there is no config file"):
        load_config(str(tmp_path / "other.py"), {})
