"""Generation on the published model at a tiny size: codes, tokens and texts exactly."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from latentum_jax.config import ChatConfig
from latentum_jax.data.frozenlake.samples import PROMPT
from latentum_jax.generate.image import generate
from latentum_jax.generate.sampling import GREEDY, Sampling
from latentum_jax.models.folder import ModelFolder
from latentum_jax.pretrained import LatentUM
from latentum_jax.tokenizer import Tokenizer
from tests.published import GOLDEN, config, outputs, params


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.from_folder(GOLDEN / "tiny")


@pytest.fixture(scope="module")
def model(tokenizer):
    return LatentUM(ModelFolder(config(), ChatConfig(), params(), tokenizer))


@pytest.fixture(scope="module")
def planner(tokenizer):
    """The published planner run replaced two rows of lm_head so that images are asked for."""
    golden = outputs("planner/out")
    changed = jax.tree.map(lambda x: x, params())
    head = changed["language"]["lm_head"]
    head = head.at[:, golden["lm_head_row_ids"]].set(golden["lm_head_rows"].T)
    changed["language"] = {**changed["language"], "lm_head": head}
    return LatentUM(ModelFolder(config(), ChatConfig(), changed, tokenizer))


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_text_to_image_codes(model, guidance):
    """Breaks if the cache, guidance, the vision head or the padding rule differs from the code."""
    prompts = json.loads((GOLDEN / "generate_latents/prompts.json").read_text())
    codes = model.generate(prompts, guidance=guidance, sampling=GREEDY)
    golden = outputs("generate_latents/out")
    for row in range(2):
        # The published batch pads on the left and ours on the right: each row alone must agree.
        np.testing.assert_array_equal(codes[row], golden[f"codes_single_cfg{guidance:.0f}"][row])


def test_guidance_of_one_runs_no_second_row(model):
    """Breaks if guidance 1 pays for an unconditional twin: the cache must have B rows, not 2B."""
    ids, tokens = model.ids, jnp.zeros((2, 8), jnp.int32)
    rest = {"ids": ids, "sampling": GREEDY}
    args = (model.model, model.params, tokens, jnp.asarray([8, 8]), jnp.zeros(2, jnp.uint32))
    text = {g: generate.lower(*args, guidance=g, **rest).as_text() for g in (1.0, 3.0)}
    language = config().language
    cache = f"{language.num_layers}x{{}}x24x{language.num_kv_heads}x{language.head_dim}xf32"
    assert cache.format(2) in text[1.0] and cache.format(4) not in text[1.0]
    assert cache.format(4) in text[3.0]


def test_answer(model):
    """Breaks if preprocessing, the chat template, mlp1 or text decoding differs from the code."""
    expected = json.loads((GOLDEN / "answer/text.json").read_text())
    said = model.answer(GOLDEN / "answer/img.png", expected["question"], max_new_tokens=16)
    assert said == [expected["answer"].strip()]


@pytest.mark.parametrize(
    ("limits", "tokens"),
    [
        ({"max_steps": 6, "max_text": 8}, "all_tokens"),
        ({"max_steps": 1, "max_text": 8}, "all_tokens_max_steps1"),
        ({"max_steps": 6, "max_text": 2}, "all_tokens_max_text2"),
    ],
)
def test_planner(planner, tokenizer, limits, tokens):
    """Breaks if recaching, the order of phases or a way of stopping differs from the code."""
    golden = outputs("planner/out")
    (plan,) = planner.plan(GOLDEN / "planner/img.png", prompt=PROMPT, **limits)
    expected = golden[tokens].tolist()
    finished = expected[-1] == tokenizer.ids.im_end
    spoken = expected[:-1] if finished else expected
    assert plan.finished == finished
    assert plan.text == tokenizer.decode(spoken, keep_special=True)
    drawn = expected.count(tokenizer.ids.img)
    np.testing.assert_array_equal(plan.codes, golden["codes"][:drawn])


def test_plans_do_not_depend_on_batch_mates(planner):
    """Breaks if a waiting row is written to, or a row's seed or length leaks into another."""
    images = [GOLDEN / f"training/{i}.png" for i in range(5)] + [GOLDEN / "planner/img.png"]
    settings = {"max_steps": 3, "max_text": 6, "prompt": PROMPT}
    drawn = dict(settings, text=Sampling(), codes=Sampling())
    together = planner.plan(images, seeds=[9, 8, 7, 6, 5, 4], **drawn)
    assert len({plan.text for plan in together}) > 1
    assert any(len(plan.codes) for plan in together)
    for i, image in enumerate(images):
        (alone,) = planner.plan([image], seeds=[9 - i], **drawn)
        assert alone.text == together[i].text
        np.testing.assert_array_equal(alone.codes, together[i].codes)
