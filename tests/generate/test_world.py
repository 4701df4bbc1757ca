"""The world model against the public code: its words, codes and rollout; then bad input."""

import json

import numpy as np
import pytest

from latentum_jax.config import ChatConfig
from latentum_jax.data.navigation.words import Action, action_text, prompt
from latentum_jax.generate.sampling import Sampling
from latentum_jax.images import preprocess
from latentum_jax.models.folder import ModelFolder
from latentum_jax.pretrained import LatentUM
from latentum_jax.tokenizer import Tokenizer, user_turn
from tests.published import GOLDEN, config, outputs, params

FRAMES = [GOLDEN / f"world_model/context_{i}.png" for i in range(4)]


@pytest.fixture(scope="module")
def text():
    return json.loads((GOLDEN / "world_model/text.json").read_text())


@pytest.fixture(scope="module")
def model():
    tokenizer = Tokenizer.from_folder(GOLDEN / "tiny")
    return LatentUM(ModelFolder(config(), ChatConfig(), params(), tokenizer))


def test_words_are_the_published_ones(text):
    """Breaks if an action is rounded or a line of the prompt is worded otherwise."""
    assert [action_text(action) for action in text["actions"]] == text["normalized"]
    slots = f"<img>{'<IMG_CONTEXT>' * 16}</img>"
    for step in range(2):
        asked = user_turn(prompt(text["actions"][step : step + 4]), ChatConfig().system)
        assert asked.replace("<image>", slots) == text[f"prompt_step{step}"]


def test_tokens_and_pixels_are_the_published_ones(model, text):
    """Breaks if frames are squeezed by another filter or their slots are laid out otherwise."""
    golden = outputs("world_model/out")
    for step in range(2):
        asked = user_turn(prompt(text["actions"][step : step + 4]), model.chat.system)
        expected = golden[f"input_ids_step{step}"][0].tolist()
        assert list(model.prompter.tokens(asked, [1] * 4)) == expected
    pixels = np.stack([preprocess(frame, 112) for frame in FRAMES]).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(pixels, golden["pixel_values_step0"], atol=1e-6)


def test_rows_do_not_depend_on_batch_mates(model, text):
    """Breaks if a row reads another row's frames: rows of different lengths, each drawn alone."""
    frames = [FRAMES, FRAMES[:1], FRAMES[2:]]
    actions = [text["actions"][:4], ["go on"], [Action(1, 0, 0), "Action(0.5, 0, 90)"]]
    together = model.predict(frames, actions, sampling=Sampling(), seeds=[5, 6, 7])
    for row in range(3):
        alone = model.predict([frames[row]], [actions[row]], sampling=Sampling(), seeds=[5 + row])
        np.testing.assert_array_equal(alone[0], together[row])
    guided = model.predict(frames, actions, sampling=Sampling(), seeds=[5, 6, 7], guidance=3.0)
    assert np.any(guided != together)


@pytest.mark.parametrize(
    ("action", "told"),
    [
        ("Action(dyaw=-7.0, dx=+.5, dy=1e-3)", ("0.50", "0.00", "-7")),
        (" Action( 2 , -0.0 , 0.125 ) ", ("2", "0", "0.12")),
        (Action(3, 0.0, 1.239), ("3", "0", "1.24")),
    ],
)
def test_numbers_by_hand(action, told):
    """Breaks if names are read as places, or a whole number keeps its decimals."""
    x, y, yaw = told
    assert action_text(action) == (
        f"move {x} meters along the X-axis and {y} meters along the Y-axis, rotating by {yaw} "
        "degrees"
    )


@pytest.mark.parametrize(
    "action", ["Action(1, 2)", "Action(1, 2, 3", "Action(dx=1, dx=2, dyaw=3)", "Action(1, x, 3)"]
)
def test_an_action_that_is_none_is_refused(action):
    """Breaks if a mistyped action reaches the model as free text."""
    with pytest.raises(ValueError, match=r"expected Action\(dx, dy, dyaw\)"):
        action_text(action)


def test_bad_input_is_refused_in_one_sentence(model):
    """Breaks if frames and actions are paired by chance, or a row reads the next one's frames."""
    for call, message in [
        (lambda: Action(0, 0, float("nan")), "expected finite numbers"),
        (lambda: action_text(" "), "the action is empty"),
        (lambda: model.predict([FRAMES], [["left"]]), r"rows of \[4\] frames and \[1\] actions"),
        (lambda: model.predict([[]], [[]]), "no images"),
        (lambda: model.predict([FRAMES, []], [["left"] * 4, []]), "no actions"),
        (lambda: model.predict([FRAMES[:1]], [["to <image>"]]), "is in 2 places of the prompt"),
    ]:
        with pytest.raises(ValueError, match=message) as refused:
            call()
        assert "\n" not in str(refused.value)
