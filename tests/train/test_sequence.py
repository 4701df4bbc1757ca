"""The dual sequence: against the public code, and against decoding step by step."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from latentum_jax.config import ChatConfig, VisionConfig
from latentum_jax.convert.latentum import TABLE
from latentum_jax.data.interleaved import (
    InterleavedLines,
    RowBuilder,
    RowShape,
    interleaved_row,
    stack,
)
from latentum_jax.images import normalise
from latentum_jax.kernels.placement import Placement, visible
from latentum_jax.models.latentum import LatentUM
from latentum_jax.models.mome import Stream, empty_caches
from latentum_jax.tokenizer import Tokenizer
from latentum_jax.train.losses import code_loss, loss_and_accuracy, over_words, text_sums
from latentum_jax.train.stages.sequence import (
    dual_sequence,
    generation_inputs,
    generation_placement,
    random_codes,
    read_pictures,
    shown_pictures,
    understanding_inputs,
    understanding_placement,
)
from tests import published
from tests.published import GOLDEN
from tests.small import SMALL, make_small

KEY = jax.random.key(0)


def published_batch():
    """Our rows of the reference's training sample: right-padded, where it pads left."""
    samples = InterleavedLines(GOLDEN / "training/sample.jsonl")
    tokenizer = Tokenizer.from_folder(GOLDEN / "tiny")
    length = int(published.outputs("training/batch")["max_seq_length"])
    shape = RowShape(length=length, images=3, targets=2, vision=VisionConfig(image_size=112))
    draw = {"system": ChatConfig().system, "draw": lambda path: path}
    return stack([interleaved_row(sample, tokenizer, shape, **draw) for sample in samples])


@pytest.fixture(scope="module")
def batch():
    return published_batch()


@pytest.fixture(scope="module")
def ran(batch):
    """Hidden states, target codes and text logits of one joint pass, inclusive cut."""
    model = LatentUM(published.config())

    @jax.jit
    def run(params, batch):
        img = Tokenizer.from_folder(GOLDEN / "tiny").ids.img
        hidden, codes = dual_sequence(model, params, batch, KEY, img=img, cut="inclusive")
        variables = {"params": params}
        flat = codes.reshape(-1, codes.shape[-1])
        drawn = model.apply(
            variables, hidden["gen"].reshape(len(flat), -1), flat, method="code_logits"
        )
        logits = model.apply(variables, hidden["und"], method="text_logits")
        return hidden, codes, logits, drawn.reshape(*codes.shape, -1)

    return run(published.params(), jax.tree.map(jnp.asarray, batch))


def unpadded(values, mask):
    """The rows of the reference without their left padding."""
    return [row[keep == 1] for row, keep in zip(values, mask, strict=True)]


def test_rows_equal_the_public_collator(batch):
    """Template, system message, labels and the places of the G blocks; pixels to the bit."""
    golden = published.outputs("training/batch")
    mask = golden["attention_mask"]
    for ours, theirs in (("tokens", "input_ids"), ("labels", "labels")):
        for row, valid, expected in zip(
            batch[ours], batch["valid"], unpadded(golden[theirs], mask), strict=True
        ):
            np.testing.assert_array_equal(row[valid], expected, err_msg=ours)
    padding = mask.shape[1] - mask.sum(1, keepdims=True)
    places = golden["delim_positions"] - padding
    valid = batch["target_valid"]
    np.testing.assert_array_equal(valid.sum(1), golden["num_tgt_images"])
    np.testing.assert_array_equal(batch["target_position"][valid], places[valid])
    pixels = batch["pixels"].transpose(0, 1, 4, 2, 3) / np.float32(255)  # normalised later on
    np.testing.assert_allclose(pixels[:, 0], golden["pixel_values_src"], atol=1e-6)
    np.testing.assert_allclose(pixels[:, 1:][valid], golden["pixel_values_tgt"][valid], atol=1e-6)


def test_inputs_equal_the_public_code(batch):
    """Pictures in other slots, a G block that begins elsewhere or sees other tokens of U."""
    golden, lang = published.outputs("training/vision"), published.outputs("training/lang")
    mask = published.outputs("training/batch")["attention_mask"]
    model, img = LatentUM(published.config()), Tokenizer.from_folder(GOLDEN / "tiny").ids.img
    valid, length = batch["target_valid"], mask.shape[1]

    @jax.jit
    def inputs(params, batch):
        pictures = read_pictures(model, params, batch, quantize=True)
        shown = shown_pictures(model, params, batch, pictures, pictures.codes)
        und = understanding_inputs(model, params, batch, shown)
        return und, *generation_inputs(model, params, batch, pictures.codes, img, KEY, 0.0)

    und, gen, codes = inputs(published.params(), jax.tree.map(jnp.asarray, batch))
    np.testing.assert_array_equal(codes[valid], lang["code_tgt"].reshape(codes.shape)[valid])
    for expected in (lang["input_embeds"], golden["full_emb"][:, :length]):
        for row, keep, theirs in zip(und, batch["valid"], unpadded(expected, mask), strict=True):
            np.testing.assert_allclose(row[keep], theirs, atol=1e-4)
    theirs = golden["full_emb"][:, length:].reshape(2, 2, 17, -1)[:, :, :16]
    np.testing.assert_allclose(gen.reshape(theirs.shape)[valid], theirs[valid], atol=1e-4)
    blocks = golden["vision_token_mask"][:, length:].reshape(2, 2, 17) == 1
    assert not golden["vision_token_mask"][:, :length].any()
    np.testing.assert_array_equal(blocks, np.broadcast_to(valid[..., None], blocks.shape))


def test_visibility_equals_the_public_code(batch):
    """Who sees whom in the training sample: the places of ours without, of theirs with padding."""
    golden = published.outputs("training/vision")
    collated = published.outputs("training/batch")
    mask, valid = collated["attention_mask"], batch["target_valid"]
    padding = mask.shape[1] - mask.sum(1)
    at = jax.tree.map(jnp.asarray, batch)
    gen = generation_placement(at, 16, "inclusive")
    after = np.asarray(gen.context).reshape(2, 2, 16)[..., 0] + 1 + padding[:, None]
    np.testing.assert_array_equal(after[valid], collated["ctx_start_positions"][valid])
    both = Placement.join([understanding_placement(at), gen])
    sees, counts = np.asarray(visible(both, both)), np.asarray(both.valid)
    for row in range(2):
        blocks = np.zeros((2, 17), bool)
        blocks[:, :16] = valid[row][:, None]  # theirs hold the last visual token too
        theirs = np.concatenate([mask[row] == 1, blocks.reshape(-1)])
        expected = golden["attn_mask_4d_is_zero"][row, 0][theirs][:, theirs]
        np.testing.assert_array_equal(sees[row][counts[row]][:, counts[row]], expected)
        places = golden["position_ids"][row][theirs] - padding[row]
        np.testing.assert_array_equal(both.position[row][counts[row]], places)


def assert_gradients(grads, golden, file):
    """The gradients that the reference kept, and the norm over all that it trains."""
    theirs = TABLE.export_params(grads)
    for name, expected in golden.items():
        if name.startswith("grad__"):
            got = theirs[name.removeprefix("grad__")]
            np.testing.assert_allclose(got, expected, atol=1e-5, rtol=1e-3, err_msg=name)
    trained = json.loads((GOLDEN / f"training/{file}.json").read_text())
    total = np.sqrt(sum(np.sum(np.square(theirs[name], dtype=np.float64)) for name in trained))
    np.testing.assert_allclose(total, golden["grad_norm"], rtol=1e-5)


def text_loss(logits, labels, weights):
    """Of logits that are there already."""
    sums = over_words(text_sums, lambda x: x, [logits], labels, weights, 0)
    return loss_and_accuracy(sums)[0]


def test_gradients_of_the_language_step_equal_the_public_code(batch):
    """What the loss does not show: words trained that are not the assistant's."""
    model = LatentUM(published.config())
    img = Tokenizer.from_folder(GOLDEN / "tiny").ids.img

    @jax.jit
    def gradients(params, batch):
        def loss(params):
            hidden, _ = dual_sequence(model, params, batch, KEY, img=img)
            logits = model.apply({"params": params}, hidden["und"], method="text_logits")
            return text_loss(logits, batch["labels"], batch["weights"])

        return jax.grad(loss)(params)

    grads = gradients(published.params(), jax.tree.map(jnp.asarray, batch))
    assert_gradients(grads, published.outputs("training/lang"), "trainable_lang")


def test_language_step_equals_the_public_code(batch, ran):
    """U alone: targets shown as visual_projector(z_q), the loss on the assistant's words."""
    golden = published.outputs("training/lang")
    _, _, logits, _ = ran
    mask = published.outputs("training/batch")["attention_mask"]
    for row, valid, expected in zip(
        logits, batch["valid"], unpadded(golden["logits"], mask), strict=True
    ):
        np.testing.assert_allclose(row[valid], expected, atol=1e-4)
    loss = text_loss(logits, *(jnp.asarray(batch[name]) for name in ("labels", "weights")))
    np.testing.assert_allclose(loss, golden["loss"], rtol=1e-5)


def test_vision_step_equals_the_public_code(batch, ran):
    """U and G in one pass. A published block has 1 + L tokens, the last of which nothing reads."""
    golden = published.outputs("training/vision")
    mask = published.outputs("training/batch")["attention_mask"]
    hidden, codes, _, drawn = ran
    valid = batch["target_valid"]
    np.testing.assert_array_equal(codes[valid], golden["code_tgt"][valid])
    length = mask.shape[1]
    for row, keep, expected in zip(
        hidden["und"], batch["valid"], unpadded(golden["all_hidden"][:, :length], mask), strict=True
    ):
        np.testing.assert_allclose(row[keep], expected, atol=1e-4)
    theirs = golden["all_hidden"][:, length:].reshape(2, 2, 17, -1)[:, :, :16]
    ours = hidden["gen"].reshape(theirs.shape)
    np.testing.assert_allclose(ours[valid], theirs[valid], atol=1e-4)
    # The reference averages over slots (first targets, second targets), ours over pictures.
    slots = [
        code_loss(drawn[:, slot], codes[:, slot], jnp.asarray(valid[:, slot, None].repeat(16, 1)))
        for slot in range(2)
    ]
    losses = np.array([loss for loss, _ in slots])
    np.testing.assert_allclose(losses, golden["per_image_loss"], rtol=1e-5)
    np.testing.assert_allclose(losses.mean(), golden["loss"], rtol=1e-5)


def test_gradients_of_the_vision_step_equal_the_public_code(batch):
    """What the loss does not show: a stop-gradient too many or too few."""
    model = LatentUM(published.config())
    img = Tokenizer.from_folder(GOLDEN / "tiny").ids.img

    @jax.jit
    def gradients(params, batch):
        def loss(params):
            hidden, codes = dual_sequence(model, params, batch, KEY, img=img, cut="inclusive")
            flat = codes.reshape(-1, codes.shape[-1])
            drawn = model.apply(
                {"params": params},
                hidden["gen"].reshape(len(flat), -1),
                flat,
                method="code_logits",
            ).reshape(*codes.shape, -1)
            mask = jnp.broadcast_to(batch["target_valid"][..., None], codes.shape[:3])
            return sum(code_loss(drawn[:, s], codes[:, s], mask[:, s])[0] for s in range(2)) / 2

        return jax.grad(loss)(params)

    grads = gradients(published.params(), jax.tree.map(jnp.asarray, batch))
    assert_gradients(grads, published.outputs("training/vision"), "trainable_vision")


def small_batch(small):
    """A prompt with a picture, then two drawn pictures between words."""
    rng = np.random.default_rng(0)
    picture = lambda: {"type": "image", "image": rng.integers(0, 256, (28, 28, 3), np.uint8)}  # noqa: E731,E501
    words = lambda text: {"type": "text", "text": text}  # noqa: E731
    sample = {
        "messages": [
            {"content": [words("move "), picture()]},
            {"content": [words("R"), picture(), words("left"), picture(), words("Done!")]},
        ]
    }
    shape = RowShape(length=96, images=3, targets=2, vision=SMALL.vision)
    row = interleaved_row(sample, small.tokenizer, shape, system="", draw=lambda pixels: pixels)
    return stack([row])


def joint(small, batch, cut):
    run = jax.jit(
        lambda params, batch: dual_sequence(
            small.model, params, batch, KEY, img=small.tokenizer.ids.img, cut=cut
        )
    )
    return run(small.params, jax.tree.map(jnp.asarray, batch))


class Decoder:
    """Inference, a call at a time, on a cache of one row."""

    def __init__(self, small, length):
        self.small = small
        self.cache = empty_caches(SMALL.language, 1, length, jnp.float32)
        self.programs = {}

    def __call__(self, branch, x, start):
        """Runs x [T D] through a branch at start, start + 1, ...; its hidden states."""
        if branch not in self.programs:
            self.programs[branch] = jax.jit(
                lambda params, x, at, cache: self.small.model.apply(
                    {"params": params}, {branch: x}, Stream({branch: at}), cache, method="hidden"
                )
            )
        at = Placement.causal(start + jnp.arange(len(x))[None])
        run = self.programs[branch]
        hidden, self.cache = run(self.small.params, x[None], at, self.cache)
        return np.asarray(hidden[branch][0])


def decode(small, batch, codes):
    """Hidden states of U [T D] and G [G L D] as interleaved generation computes them."""
    tokens = batch["tokens"][0][batch["valid"][0]]
    starts = batch["target_position"][0].tolist()
    length = SMALL.vision.num_tokens
    words = small.run("embed", jnp.asarray(tokens[None]))[0]
    features = small.run("encode_image", normalise(jnp.asarray(batch["pixels"][0, :1])))
    read = small.run("understand", features)[0]
    shown = small.run("show", codes[0])
    first = int(np.argmax(batch["image_index"][0] == 0))
    x = words.at[first : first + length].set(read)
    step, und, gen, at = Decoder(small, len(tokens)), [], [], 0
    while at < len(tokens):
        if at not in starts:
            und.append(step("und", x[at : at + 1], at))
            at += 1
            continue
        picture = shown[starts.index(at)]
        # Drawn by the generation branch: `<img>`, then every visual token but the last.
        drawing = jnp.concatenate([x[at : at + 1], picture[:-1]])
        gen.append([step("gen", drawing[i : i + 1], at + i)[0] for i in range(length)])
        # Recached by the understanding branch, over the same slots, with `</img>` behind.
        end = at + length + 1
        recached = jnp.concatenate([x[at : at + 1], picture, x[end : end + 1]])
        und.append(step("und", recached, at))
        at = end + 1
    return np.concatenate(und), np.array(gen)


def test_joint_training_equals_inference(small):
    """Section 3.3's claim: one pass over U and G computes what decoding step by step does.

    With the published inclusive cut it does not: a G block also sees U's own `<img>`.
    """
    batch = small_batch(small)
    hidden, codes = joint(small, batch, "exclusive")
    und, gen = decode(small, batch, codes)
    valid = batch["valid"][0]
    np.testing.assert_allclose(hidden["und"][0][valid], und, atol=1e-5)
    trained = np.asarray(hidden["gen"][0]).reshape(gen.shape)
    np.testing.assert_allclose(trained, gen, atol=1e-5)
    inclusive, _ = joint(small, batch, "inclusive")
    np.testing.assert_allclose(inclusive["und"], hidden["und"], atol=1e-5)
    assert np.abs(np.asarray(inclusive["gen"][0]).reshape(gen.shape) - gen).max() > 1e-2


def test_unknown_cut():
    """A typo in a recipe is named."""
    batch = {"target_position": jnp.zeros((1, 1), int), "target_valid": jnp.ones((1, 1), bool)}
    with pytest.raises(ValueError, match="cut is 'excluded'"):
        generation_placement(batch, 4, "excluded")


def test_code_noise():
    """About the stated share of codes changes, within range; none at 0."""
    codes = jnp.full((4, 3, 16, 4), 5)
    assert random_codes(KEY, codes, 8, 0.0) is codes
    noisy = random_codes(KEY, codes, 8, 0.5)
    assert 0 <= noisy.min() and noisy.max() < 8
    assert jnp.mean(noisy != codes) == pytest.approx(0.5 * 7 / 8, abs=0.06)


def test_futures_of_one_past_do_not_see_each_other():
    """A row of three questions with a picture each against three rows of one. Breaks if a G block
    sees another's question or picture, misses its own question, or stands elsewhere."""
    model, small = LatentUM(SMALL), make_small()
    rng = np.random.default_rng(0)
    picture = lambda: rng.integers(0, 256, (28, 28, 3), dtype=np.uint8)  # noqa: E731
    past, futures = picture(), [("left", picture()), ("right up", picture()), ("Done!", picture())]

    def row(some):
        builder = RowBuilder(small.tokenizer, RowShape(48, 4, 3, SMALL.vision))
        builder.text("move ").image(past, as_codes=False)
        for words, target in some:
            builder.question().text(words).drawn(target)
        return builder.finish()

    @jax.jit
    def drawn(params, batch):
        hidden, _ = dual_sequence(model, params, batch, KEY, img=small.tokenizer.ids.img)
        return hidden["gen"].reshape(len(batch["tokens"]), 3, SMALL.vision.num_tokens, -1)

    together = drawn(small.params, stack([row(futures)]))[0]
    alone = drawn(small.params, stack([row([future]) for future in futures]))[:, 0]
    np.testing.assert_allclose(together, alone, atol=2e-5)
    other = [("down", futures[0][1]), *futures[1:]]
    changed = np.abs(drawn(small.params, stack([row(other)]))[0] - together).max(axis=(1, 2))
    assert changed[0] > 1e-3 and changed[1:].max() < 2e-5
