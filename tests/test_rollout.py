"""Rollouts against the public code, and the latent ones against one step at a time."""

import functools
import json

import jax.numpy as jnp
import numpy as np
import pytest

from latentum_jax.config import ChatConfig
from latentum_jax.data.navigation.words import prompt
from latentum_jax.generate.image import generate
from latentum_jax.generate.prompt import embed_images, embed_prompt, show_codes
from latentum_jax.generate.sampling import GREEDY, Sampling
from latentum_jax.images import load_image
from latentum_jax.models.folder import ModelFolder
from latentum_jax.pixel_decoder import PixelDecoder
from latentum_jax.pretrained import LatentUM
from latentum_jax.rollout import rollout, step_seeds
from latentum_jax.tokenizer import Tokenizer, user_turn
from tests.decoders import pixel_decoder
from tests.published import GOLDEN, config, outputs, params

FRAMES = [GOLDEN / f"world_model/context_{i}.png" for i in range(4)]


@pytest.fixture(scope="module")
def actions():
    """Five: three between the frames, and two to come."""
    return json.loads((GOLDEN / "world_model/text.json").read_text())["actions"]


@pytest.fixture(scope="module")
def model():
    tokenizer = Tokenizer.from_folder(GOLDEN / "tiny")
    return LatentUM(ModelFolder(config(), ChatConfig(), params(), tokenizer))


class Stub:
    """The reference run's pixel decoder, which knows one picture; notes what it is given."""

    def __init__(self):
        self.picture = np.asarray(load_image(GOLDEN / "world_model/stub_decoded.png"))
        self.given = []

    def __call__(self, z_q, *, references, seeds):
        self.given.append((z_q, references, seeds))
        return self.picture[None]


def test_rollout_is_the_published_one(model, actions):
    """Breaks if the window does not slide, frames change places, or the references slide too."""
    golden, stub = outputs("world_model/out"), Stub()
    codes, pictures = rollout(model, [FRAMES], [actions], stub, sampling=GREEDY, seeds=[9])
    np.testing.assert_array_equal(codes[0, :1], golden["codes_step0"])
    np.testing.assert_array_equal(codes[0, 1:], golden["codes_step1"])
    np.testing.assert_array_equal(pictures[0], [stub.picture] * 2)
    (_, first, _), (z_q, second, _) = stub.given
    np.testing.assert_array_equal(z_q, golden["z_q_step1"])
    assert first == second == FRAMES
    assert [seeds for _, _, seeds in stub.given] == step_seeds([9], 2).tolist()


def test_rollout_through_a_reference_decoder(model, actions):
    """Breaks if what a decoder takes and gives is not what a rollout hands on, or if a row goes on
    from another's pictures: the second has its frames in another order."""
    network, decoder_params = pixel_decoder("ref_decoder_tiny")
    decoder = PixelDecoder(network.config, decoder_params)
    decode = functools.partial(decoder.decode, steps=1)
    frames, both = [FRAMES, FRAMES[::-1]], [actions, actions]
    codes, pictures = rollout(model, frames, both, decode, sampling=GREEDY, seeds=[3, 4])
    np.testing.assert_array_equal(codes[0, :1], outputs("world_model/out")["codes_step0"])
    assert pictures.shape == (2, 2, 112, 112, 3) and pictures.dtype == np.uint8
    for row in range(2):
        seed = int(step_seeds([3, 4], 2)[1, row])
        expected = decode(model.z_q(codes[row, 1:]), references=frames[row], seeds=[seed])
        np.testing.assert_array_equal(pictures[row, 1:], expected)
        window = [*frames[row][1:], pictures[row, 0]]
        again = model.predict([window], [actions[1:]], sampling=GREEDY)
        np.testing.assert_array_equal(again, codes[row, 1:])


@pytest.mark.parametrize("cores", [1, 2])
def test_latent_rollout_is_one_step_after_another(model, actions, monkeypatch, cores):
    """Against frames drawn one at a time, each row alone. Breaks if the window slides the wrong way
    in the one program, a drawn frame enters it as anything but visual_projector(z_q), a row reads
    another's frames or seeds, the last action is not told, or two cores, with two rows for each,
    change places or forget that the fourth is none."""
    monkeypatch.setattr("latentum_jax.cores.FEWEST", 1)
    monkeypatch.setattr("latentum_jax.cores.os.cpu_count", lambda: cores)
    frames, asked = (
        [FRAMES, FRAMES[::-1], FRAMES],
        [actions, actions[::-1], actions[:4] + ["go on"]],
    )
    seeds, sampling = [5, 6, 5], Sampling()
    codes, pictures = rollout(model, frames, asked, sampling=sampling, seeds=seeds)
    assert pictures is None and codes.shape == (3, 2, 16, 4)
    numbers = step_seeds(seeds, 2)
    for row in range(3):
        pixels = model.pixels(frames[row], "bilinear")
        window = embed_images(model.model, model.params, pixels, False)
        for step in range(2):
            turn = user_turn(prompt(asked[row][step : step + 4]), model.chat.system)
            tokens = jnp.asarray([model.prompter.tokens(turn, [1] * 4)])
            slots = tokens == model.ids.img_context
            prompts = embed_prompt(model.model, model.params, tokens, slots, window)
            drawn, _ = generate(
                model.model,
                model.params,
                prompts,
                jnp.asarray([tokens.shape[1]]),
                jnp.asarray(numbers[step, row : row + 1]),
                ids=model.ids,
                sampling=sampling,
                guidance=1.0,
            )
            np.testing.assert_array_equal(codes[row, step], drawn[0])
            shown = show_codes(model.model, model.params, drawn)
            window = jnp.concatenate([window[1:], shown])
    assert np.any(codes[0, 0] != codes[1, 0]) and np.any(codes[0, 1] != codes[2, 1])
    np.testing.assert_array_equal(codes[0, 0], codes[2, 0])  # they part at their last action


def test_bad_input_is_refused_in_one_sentence(model):
    """Breaks if frames and actions are paired by chance, or a row reads the next one's frames."""
    left = ["left"] * 4
    for frames, actions, message in [
        ([FRAMES], [left[:3]], "3 actions, expected at least one for each of 4 frames"),
        ([FRAMES], [left, left], "1 rows of frames and 2 of actions"),
        ([FRAMES, FRAMES[:2]], [left, left], r"rows of \[2, 4\] frames and \[4\] actions"),
        ([[]], [[]], r"rows of \[0\] frames"),
        ([FRAMES], [[*left, "Action(1, 2)"]], r"expected Action\(dx, dy, dyaw\)"),
    ]:
        with pytest.raises(ValueError, match=message) as refused:
            rollout(model, frames, actions)
        assert "\n" not in str(refused.value)
