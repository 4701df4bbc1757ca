"""Generation on the published model at a tiny size: codes, tokens and texts exactly."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from latentum_jax import pretrained
from latentum_jax.config import ChatConfig
from latentum_jax.data.frozenlake.samples import PROMPT
from latentum_jax.generate import image as drawing
from latentum_jax.generate.image import sample_codes
from latentum_jax.generate.sampling import GREEDY, Sampling, row_keys
from latentum_jax.images import normalise
from latentum_jax.kernels.placement import Placement
from latentum_jax.models.folder import ModelFolder
from latentum_jax.models.latentum import LatentUM as Network
from latentum_jax.models.mome import UND_BLIND, Stream
from latentum_jax.pretrained import LatentUM
from latentum_jax.tokenizer import Tokenizer
from tests.published import GOLDEN, config, outputs, params, run

WITHIN = {"atol": 1e-4, "rtol": 0}


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


@pytest.fixture
def calls(monkeypatch):
    """The arguments and the outcome of the last call of each program behind `LatentUM`."""
    noted = {}
    for name in ("embed_images", "embed_prompt", "interleave", "generate"):
        program = getattr(pretrained, name)

        def note(*args, name=name, program=program, **settings):
            noted[name] = args, program(*args, **settings)
            return noted[name][1]

        monkeypatch.setattr(pretrained, name, note)
    return noted


def assert_read(calls, golden, tokens):
    """The pixels and the tokens that reached the model are the published ones."""
    (_, _, pixels, _), _ = calls["embed_images"]
    expected = golden["pixel_values"].transpose(0, 2, 3, 1)
    np.testing.assert_allclose(normalise(np.asarray(pixels)), expected, atol=1e-6)
    (_, _, ids, _, _), _ = calls["embed_prompt"]
    np.testing.assert_array_equal(ids[:, : golden[tokens].shape[1]], golden[tokens])


def spoken(calls):
    """The only row's text tokens, `<img>` and `</img>` among them."""
    _, rows = calls["interleave"]
    return rows.tokens[0, : int(rows.count[0])].tolist()


def in_one_pass(model, calls, said, codes):
    """Hidden states of the prompt and all that followed it, U [T D], and of the images, G [J L D].

    The dual sequence with the exclusive cut: what decoding computes step by step, without a cache.
    """
    (_, _, prompt, lengths, _), _ = calls["interleave"]
    img, length, at = model.ids.img, model.config.vision.num_tokens, int(lengths[0])
    shown = run("show", jnp.asarray(codes))
    und, starts = [prompt[0, :at]], []
    for token, embedded in zip(said, run("embed", jnp.asarray(said)), strict=True):
        und.append(embedded[None])
        at += 1
        if token == img:
            und.append(shown[len(starts)])
            starts.append(at - 1)
            at += length
    count = len(starts)
    boi = jnp.tile(run("embed", jnp.asarray([[img]])), (count, 1, 1))
    gen = jnp.concatenate([boi, shown[:, :-1]], axis=1).reshape(1, count * length, -1)
    start = jnp.repeat(jnp.asarray(starts), length)[None]
    block = 1 + jnp.repeat(jnp.arange(count), length)[None]
    place = start + jnp.tile(jnp.arange(length), count)[None]
    stream = {
        "und": Placement.causal(jnp.arange(at)[None]),
        "gen": Placement(place, block, start - 1, jnp.ones_like(start, bool), 0 * start),
    }
    x = {"und": jnp.concatenate(und)[None], "gen": gen}
    hidden, _ = run("hidden", x, Stream(stream, UND_BLIND))
    return np.asarray(hidden["und"][0]), np.asarray(hidden["gen"]).reshape(count, length, -1)


@pytest.mark.parametrize("guidance", [1, 3])
def test_codes_of_one_token(guidance):
    """Breaks if guided logits are combined otherwise, or the twins see different codes."""
    golden = outputs("ar_head/out")
    rows = 8 if guidance == 1 else 4  # the second half is unconditional
    hidden, keys = jnp.asarray(golden["base"][:, 0]), row_keys(jnp.zeros(rows, jnp.uint32))
    codes, _ = sample_codes(Network(config()), params(), hidden, keys, GREEDY, float(guidance))
    np.testing.assert_array_equal(codes, golden[f"greedy_cfg{guidance}"])


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_text_to_image_codes(model, guidance, calls):
    """Breaks if the cache, guidance, the vision head or the padding rule differs from the code."""
    prompts = json.loads((GOLDEN / "generate_latents/prompts.json").read_text())
    codes = model.generate(prompts, guidance=guidance, sampling=GREEDY)
    golden = outputs("generate_latents/out")
    # The published batch pads on the left and ours on the right, where `<img>` is not yet.
    (_, _, tokens, lengths, _), _ = calls["generate"]
    for row, length in enumerate(lengths.tolist()):
        expected = golden["input_ids"][row][golden["attention_mask"][row] == 1]
        assert [*tokens[row, :length].tolist(), model.ids.img] == expected.tolist()
    for name in ("codes", "codes_single"):
        np.testing.assert_array_equal(codes, golden[f"{name}_cfg{guidance:.0f}"])


def test_more_images_of_one_prompt(model):
    """Breaks if asking for a prompt twice is another thing than asking for two images of it."""
    prompt = json.loads((GOLDEN / "generate_latents/prompts.json").read_text())[1]
    codes = model.generate([prompt, prompt], guidance=3.0, sampling=GREEDY)
    np.testing.assert_array_equal(codes, outputs("generate_latents/out")["codes_n2_cfg3"])


@pytest.mark.parametrize("guidance", [1, 3])
def test_logits_of_every_code(guidance):
    """Breaks if a key is cached or a position counted so that only the likeliest code survives:
    the published codes are shown, and all that the model would have said is compared."""
    golden = outputs("generate_latents/out")
    codes, mask = jnp.asarray(golden[f"codes_cfg{guidance}"]), golden["attention_mask"] == 1
    tokens, length = golden["input_ids"], codes.shape[1]
    shown = run("show", codes)[:, :-1]

    def hidden(tokens):
        """Of `<img>` and the visual tokens behind a prompt padded on the left, as published."""
        x = run("embed", jnp.asarray(tokens))
        places = jnp.broadcast_to(jnp.arange(tokens.shape[1] + length - 1), (2, mask.shape[1] + 15))
        text = Placement.causal(places[:, : mask.shape[1] - 1], jnp.asarray(mask[:, :-1]))
        stream = Stream({"und": text, "gen": Placement.causal(places[:, mask.shape[1] - 1 :])})
        branches = {"und": x[:, :-1], "gen": jnp.concatenate([x[:, -1:], shown], axis=1)}
        return run("hidden", branches, stream)[0]["gen"]

    def logits(tokens):
        flat = hidden(tokens).reshape(-1, config().language.hidden_size)
        return np.asarray(run("code_logits", flat, codes.reshape(len(flat), -1)))

    made = logits(tokens)
    if guidance > 1:
        pads = np.where(np.arange(mask.shape[1]) < mask.shape[1] - 1, 858, tokens)
        uncond = logits(pads)
        made = uncond + guidance * (made - uncond)
    expected = golden[f"logits_cfg{guidance}"]
    np.testing.assert_allclose(made.reshape(expected.shape), expected, **WITHIN)


def test_guidance_of_one_runs_no_second_row(model, monkeypatch):
    """Breaks if guidance 1 pays for an unconditional twin: the cache must have B rows, not 2B."""
    rows = []
    draw = drawing.draw
    monkeypatch.setattr(
        drawing, "draw", lambda *a, **k: rows.append(len(jax.tree.leaves(a[2])[0])) or draw(*a, **k)
    )
    for guidance in (1.0, 3.0):
        model.generate(["a", "b"], guidance=guidance, sampling=GREEDY)
    assert rows == [2, 4]


def test_answer(model, calls):
    """Breaks if preprocessing, the chat template, mlp1 or text decoding differs from the code."""
    expected, golden = json.loads((GOLDEN / "answer/text.json").read_text()), outputs("answer/out")
    said = model.answer(GOLDEN / "answer/img.png", expected["question"], max_new_tokens=16)
    assert said == [expected["answer"].strip()]
    assert_read(calls, golden, "input_ids")
    assert spoken(calls) == golden["output_ids"][0].tolist()
    _, rows = calls["interleave"]
    np.testing.assert_allclose(rows.logits, golden["logits"][:, -1], **WITHIN)
    (_, _, prompt, lengths, _), _ = calls["interleave"]
    x = jnp.concatenate(
        [prompt[:, : int(lengths[0])], run("embed", golden["output_ids"][:, :-1])], 1
    )
    at = Placement.causal(jnp.arange(x.shape[1])[None])
    hidden, _ = run("hidden", {"und": x}, Stream({"und": at}))
    logits = run("text_logits", hidden["und"][:, -16:])
    np.testing.assert_allclose(logits, golden["logits"], **WITHIN)


@pytest.mark.parametrize(
    ("limits", "tokens"),
    [
        ({"max_steps": 6, "max_text": 8}, "all_tokens"),
        ({"max_steps": 1, "max_text": 8}, "all_tokens_max_steps1"),
        ({"max_steps": 6, "max_text": 2}, "all_tokens_max_text2"),
    ],
)
def test_planner(planner, tokenizer, limits, tokens, calls):
    """Breaks if recaching, the order of phases or a way of stopping differs from the code."""
    golden = outputs("planner/out")
    (plan,) = planner.plan(GOLDEN / "planner/img.png", prompt=PROMPT, **limits)
    expected = golden[tokens].tolist()
    assert_read(calls, golden, "prompt_input_ids")
    assert spoken(calls) == expected
    finished = expected[-1] == tokenizer.ids.im_end
    told = expected[:-1] if finished else expected
    assert plan.finished == finished
    assert plan.text == tokenizer.decode(told, keep_special=True)
    drawn = expected.count(tokenizer.ids.img)
    np.testing.assert_array_equal(plan.codes, golden["codes"][:drawn])


def test_states_of_the_planner(planner, calls):
    """Breaks if a word or a visual token is predicted from another state than the published one:
    recached images, and the generation branch, which must not see U's own `<img>`."""
    golden = outputs("planner/out")
    (plan,) = planner.plan(GOLDEN / "planner/img.png", prompt=PROMPT, max_steps=6, max_text=8)
    said, before = spoken(calls), golden["prompt_input_ids"].shape[1] - 1
    und, gen = in_one_pass(planner, calls, said[:-1], plan.codes)
    read = []  # where each text token was predicted: `</img>` was not
    for token in said:
        if token != planner.ids.img_end:
            read.append(before)
        before += 17 if token == planner.ids.img else 1
    np.testing.assert_allclose(und[read], golden["text_hidden"], **WITHIN)
    np.testing.assert_allclose(gen, golden["base_hidden"], **WITHIN)
    _, rows = calls["interleave"]
    head = np.asarray(planner.params["language"]["lm_head"])
    np.testing.assert_allclose(rows.logits[0], golden["text_hidden"][-1] @ head, **WITHIN)


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
