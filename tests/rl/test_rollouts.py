"""Rollouts as rows to learn from: what is a label, what was drawn, and what U and G read."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from latentum_jax.data.interleaved import RowBuilder, RowShape, stack
from latentum_jax.images import normalise
from latentum_jax.rl.rollouts import (
    draw_rollouts,
    rollout_row,
    rollout_seeds,
    texts_of,
)
from latentum_jax.train.stages.sequence import dual_sequence
from tests.rl import some_rollouts as some
from tests.small import SMALL

L, C = SMALL.vision.num_tokens, SMALL.quantizer.num_codebooks


def a_rollout(small, tokens, images, width=14):
    """`tokens` said, with scores -1, -2, ... and codes that are all different."""
    rng = np.random.default_rng(0)
    side = SMALL.vision.image_size
    picture = rng.integers(0, 256, (side, side, 3), np.uint8)
    said = {
        "tokens": np.pad(np.int32(tokens), (0, width - len(tokens))),
        "count": np.int32(len(tokens)),
        "images": np.int32(images),
        "codes": rng.integers(0, 8, (2, L, C)).astype(np.int32),
        "token_scores": -np.arange(1, width + 1, dtype=np.float32),
        "code_scores": -rng.uniform(1, 2, (2, L, C)).astype(np.float32),
    }
    prompt = small.tokenizer.encode(f"up<img>{'<IMG_CONTEXT>' * L}</img>down")
    shape = RowShape(50, 3, 2, SMALL.vision, 1, C)
    return said, rollout_row(prompt, picture, said, small.tokenizer, shape), prompt, picture


def test_a_plan_as_a_row(small):
    """By hand, where `</img>` is said once as a word and stands once behind a picture: R <img>
    (picture) </img> </img> <img> (picture) </img> <|im_end|>. Breaks if what was not chosen is
    learnt, what was chosen is not, or a score is at another token than its own."""
    ids, (r,) = small.tokenizer.ids, small.tokenizer.encode("R")
    tokens = [r, ids.img, ids.img_end, ids.img_end, ids.img, ids.img_end, ids.im_end]
    said, row, prompt, picture = a_rollout(small, tokens, 2)
    slots, p = [ids.img_context] * L, len(prompt)
    answer = [r, ids.img, *slots, ids.img_end, ids.img_end, ids.img, *slots, ids.img_end]
    answer += [ids.im_end]
    whole = [*prompt, *answer]
    assert row["tokens"][: len(whole)].tolist() == whole and row["valid"].sum() == len(whole)
    learnt = np.flatnonzero(row["labels"] >= 0)
    places = [p, p + 1, p + 3 + L, p + 4 + L, p + 6 + 2 * L]
    assert learnt.tolist() == places
    assert row["labels"][learnt].tolist() == [r, ids.img, ids.img_end, ids.img, ids.im_end]
    # Scores are those of tokens 0, 1, 3, 4 and 6 of what was said, one place further to the left.
    text, codes = np.split(row["sampled"], [49])
    assert text[learnt - 1].tolist() == [-1, -2, -4, -5, -7] and np.count_nonzero(text) == 5
    np.testing.assert_array_equal(codes, said["code_scores"].reshape(-1))
    assert row["target_valid"].tolist() == [True, True]
    assert row["target_slot"].tolist() == [1, 2]
    assert row["target_position"].tolist() == [p + 1, p + 4 + L]
    np.testing.assert_array_equal(row["pixels"][0], picture)
    np.testing.assert_array_equal(row["codes"][1:], said["codes"])
    assert row["pixels"].shape[0] == 1 and not row["codes"][0].any()
    assert row["as_codes"].tolist() == [False, True, True]


@pytest.mark.parametrize(
    "tokens, images, learnt",
    [
        (["R", "img", "img_end", "D", "img"], 1, ["R", "img", "D", "img"]),  # a stray <img>
        (["R", "D", "L"], 0, ["R", "D", "L"]),  # stopped at its limit, nothing drawn
        (["im_end"], 0, ["im_end"]),
        (["img", "img_end"], 1, ["img"]),  # ended by the last picture that it may draw
        (["img_end", "im_end"], 0, ["img_end", "im_end"]),
    ],
)
def test_how_a_plan_may_end(small, tokens, images, learnt):
    """Breaks if an `<img>` that draws nothing takes a picture, or a plan without one has a G block
    that counts."""
    ids = small.tokenizer.ids
    number = lambda name: getattr(ids, name, None) or small.tokenizer.encode(name)[0]  # noqa: E731
    said, row, prompt, _ = a_rollout(small, [number(name) for name in tokens], images)
    assert row["labels"][row["labels"] >= 0].tolist() == [number(name) for name in learnt]
    assert row["valid"].sum() == len(prompt) + len(tokens) + images * L
    assert row["target_valid"].tolist() == [i < images for i in range(2)]
    np.testing.assert_array_equal(row["codes"][1 : 1 + images], said["codes"][:images])
    assert not row["codes"][1 + images :].any()  # what a row's buffer holds is not what it drew
    assert (row["sampled"][49 + images * L * C :] == 0).all()


def test_rows_of_a_batch_are_its_plans(small):
    """The model's own plans: every kind of end is among them. Breaks if rows are interchanged, or
    labels are not what was said."""
    said, rows = some.plans()
    ids, drawn = small.tokenizer.ids, 0
    ends = set()
    for r in range(len(said["count"])):
        tokens = said["tokens"][r, : said["count"][r]].tolist()
        ends.add((tokens[-1] == ids.im_end, tokens[-1] == ids.img, bool(said["images"][r])))
        words, closes = [], 0
        for token in tokens:
            if token == ids.img_end and closes:
                closes = 0
                continue
            words.append(token)
            closes = token == ids.img and words.count(ids.img) <= said["images"][r]
        own = np.asarray(rows["labels"][r])
        assert own[own >= 0].tolist() == words
        count = int(said["images"][r])
        assert int(rows["target_valid"][r].sum()) == count
        np.testing.assert_array_equal(rows["codes"][r, 1 : 1 + count], said["codes"][r, :count])
        drawn += count
    assert ends >= {(True, False, True), (False, True, True), (False, False, False)} and drawn > 4
    assert (said["tokens"] == ids.img_end).sum() > drawn  # one was said as a word


def mixed(small, first, second, given):
    """A row "up" picture "down" picture, of which the second is drawn; of pixels or codes each."""
    builder = RowBuilder(small.tokenizer, RowShape(24, 2, 1, SMALL.vision, given, C))
    builder.text("up").image(first, as_codes=first.ndim == 2).text("down")
    builder.image(second, as_codes=True, target=True, learn=True)
    return jax.tree.map(jnp.asarray, stack([builder.finish()]))


def test_pixels_and_codes_in_one_row(small):
    """Pixels first, then codes: the hidden states are those of a row of pixels alone, whose second
    picture the model encodes itself, and not those of codes alone, which show less of the first."""
    rng = np.random.default_rng(0)
    side = SMALL.vision.image_size
    first, second = rng.integers(0, 256, (2, side, side, 3), np.uint8)
    seen = normalise(jnp.asarray(np.stack([first, second])))
    codes = np.asarray(small.run("quantize", small.run("encode_image", seen)).codes)
    rows = {
        "mixed": mixed(small, first, codes[1], 1),
        "pixels": mixed(small, first, second, None),
        "codes": mixed(small, codes[0], codes[1], None),
    }
    assert rows["mixed"]["pixels"].shape[1] == 1 and rows["mixed"]["codes"].shape[1] == 2
    run = jax.jit(
        lambda p, row: dual_sequence(
            small.model, p, row, jax.random.key(0), img=small.tokenizer.ids.img
        )
    )
    found = {name: run(small.params, row) for name, row in rows.items()}
    for branch in ("und", "gen"):
        ours, theirs = found["mixed"][0][branch], found["pixels"][0][branch]
        np.testing.assert_allclose(ours, theirs, atol=2e-5)
        assert np.abs(found["codes"][0][branch] - theirs).max() > 1e-2
    for name in rows:
        np.testing.assert_array_equal(found[name][1][0, 0], codes[1])


def test_pixels_come_first(small):
    """Breaks if pictures of the wrong kind are read as the other."""
    side = SMALL.vision.image_size
    pixels, codes = np.zeros((side, side, 3), np.uint8), np.zeros((L, C), np.int32)
    for pictures in ((codes, codes), (pixels, pixels), (codes, pixels)):
        with pytest.raises(ValueError, match="expected 1 pictures as pixels, then codes alone"):
            mixed(small, *pictures, 1)


def test_a_group_is_drawn_without_compiling_again(small, caplog):
    """Breaks if every step makes a program anew: at full size that is minutes a step."""
    some.pictures()
    rows, seeds = some.caption_rows(), jnp.arange(4, 8, dtype=jnp.uint32)
    how = {"sampling": some.SAMPLING, "group": some.GROUP, "ids": small.tokenizer.ids}
    draw_rollouts(small.model, small.params, rows, seeds - 4, **how)
    with jax.log_compiles():
        draw_rollouts(small.model, small.params, rows, seeds, **how)
    assert not [line.message for line in caplog.records if "Compiling" in line.message]


def test_a_prompt_s_rollouts_differ_and_are_repeatable(small):
    """Breaks if a group draws one picture, or seeds do not follow from the key alone."""
    seeds = rollout_seeds(jax.random.key(3), 6)
    assert len(set(seeds.tolist())) == 6 and seeds.dtype == jnp.uint32
    assert seeds.tolist() == rollout_seeds(jax.random.key(3), 6).tolist()
    assert seeds.tolist() != rollout_seeds(jax.random.key(4), 6).tolist()
    rows = some.caption_rows()
    texts = texts_of(np.asarray(rows["tokens"]), np.asarray(rows["valid"]), small.tokenizer)
    assert texts == ["up", "up", "move down left", "move down left"]
