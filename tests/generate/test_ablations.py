"""What is put in the place of recaching, against recaching itself and against one whole pass."""

import collections
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from latentum_jax.generate import rows as own
from latentum_jax.generate.ablations import interleave_kept, interleave_seen, look
from latentum_jax.generate.interleave import interleave
from latentum_jax.generate.prompt import show_codes
from latentum_jax.generate.rows import Limits
from latentum_jax.generate.sampling import Sampling
from latentum_jax.kernels.placement import Placement
from latentum_jax.models.mome import Stream
from latentum_jax.tokenizer import SpecialIds
from tests.small import SMALL

LENGTHS = (6, 3, 5, 1, 4)
NONE = 1 << 20  # an id that nothing says


IDS = SpecialIds(**{n: NONE for n in SpecialIds.__dataclass_fields__} | {"img": 5, "img_end": 7})

SETTINGS = {
    "ids": IDS,
    "limits": Limits(steps=3, images=2, text=4),
    "text": Sampling(0.7, 0, 1.0),
    "codes": Sampling(1.0, 0, 1.0),
}


@pytest.fixture(scope="module")
def small(small):
    """It says `<img>` about every other time, and a word that is its opposite."""
    language = small.params["language"]
    said = language["lm_head"][:, IDS.img] * 10
    head = jnp.zeros_like(language["lm_head"]).at[:, IDS.img].set(said).at[:, 9].set(-said)
    language = {**language, "lm_head": head}
    return dataclasses.replace(small, params={**small.params, "language": language})


@pytest.fixture(scope="module")
def given(small):
    """The arguments of a program: prompts of different lengths."""
    d = SMALL.language.hidden_size
    prompt = jax.random.normal(jax.random.key(3), (len(LENGTHS), max(LENGTHS), d))
    seeds = jnp.arange(len(LENGTHS), dtype=jnp.uint32)
    return small.model, small.params, prompt, jnp.asarray(LENGTHS), seeds


def outcome(rows):
    """Tokens and images of every row, and what it would say next."""
    rows = jax.device_get(rows.replace(caches=None, keys=None))
    tokens = [row[:n].tolist() for row, n in zip(rows.tokens, rows.count, strict=True)]
    codes = [row[:n] for row, n in zip(rows.codes, rows.images, strict=True)]
    return tokens, codes, rows.logits


@pytest.fixture(scope="module")
def recached(given):
    tokens, codes, logits = outcome(interleave(*given, **SETTINGS))
    assert len({len(images) for images in codes}) > 1  # some draw more than others
    return tokens, codes, logits


@pytest.mark.parametrize("at_once", [own.RECACHED, 12])
def test_seeing_what_recaching_shows_is_recaching(given, recached, at_once, monkeypatch):
    """Breaks if a row reads another's picture, reads it somewhere else, or goes on before it has:
    with the embeddings that recaching would show, nothing may differ. 12 tokens are two images."""
    monkeypatch.setattr(own, "RECACHED", at_once)
    look.clear_cache()
    asked = collections.Counter()

    def see(codes, rows):
        asked.update(rows.tolist())
        return np.asarray(show_codes(*given[:2], jnp.asarray(codes)))

    tokens, codes, logits = outcome(interleave_seen(*given, see=see, **SETTINGS))
    assert tokens == recached[0]
    jax.tree.map(np.testing.assert_array_equal, codes, recached[1])
    np.testing.assert_allclose(logits, recached[2], atol=1e-5)
    assert [asked[row] for row in range(len(codes))] == [len(images) for images in codes]


def test_another_sight_is_read(given, recached):
    """Breaks if what is seen is not what follows depends on: after the first image, of which
    nothing had been seen yet, rows go on otherwise."""
    look.clear_cache()
    shape = (SMALL.vision.num_tokens, SMALL.language.hidden_size)
    blank = lambda codes, rows: np.zeros((len(rows), *shape), np.float32)  # noqa: E731
    _, codes, logits = outcome(interleave_seen(*given, see=blank, **SETTINGS))
    drew = [row for row, images in enumerate(codes) if len(images)]
    assert len(drew) > 1
    for row in drew:
        np.testing.assert_array_equal(codes[row][0], recached[1][row][0])
        assert np.abs(logits[row] - recached[2][row]).max() > 1e-2


def test_kept_images_against_one_whole_pass(small, given, recached):
    """Breaks if the generation branch's entries are overwritten, the last visual token is missing
    or `</img>` stands elsewhere: all rows are run again with no cache, at once, in the branches
    that they should have gone through, to what each would say next. Recaching comes to something
    else where an image was drawn.
    """
    tokens, codes, logits = outcome(interleave_kept(*given, **SETTINGS))
    assert sum(map(len, codes)) >= 4
    prompts = [x[:n] for x, n in zip(given[2], LENGTHS, strict=True)]
    rows = [in_branches(small, *row) for row in zip(prompts, tokens, codes, strict=True)]
    x, at, blank = {}, {}, jnp.zeros(SMALL.language.hidden_size)
    for branch, name in enumerate(("und", "gen")):
        parts = [row[branch] for row in rows]
        most = max(map(len, parts))
        filled = [[x for _, x in part] + [blank] * (most - len(part)) for part in parts]
        x[name] = jnp.stack([jnp.stack(row) for row in filled])
        places = jnp.asarray([[i for i, _ in p] + [0] * (most - len(p)) for p in parts])
        valid = jnp.asarray([[i < len(p) for i in range(most)] for p in parts])
        at[name] = Placement.causal(places, valid)
    hidden = small.run("hidden", x, Stream(at))[0]["und"]
    last = jnp.asarray([len(und) - 1 for und, _ in rows])
    expected = small.run("text_logits", hidden[jnp.arange(len(rows)), last])
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    drew = np.array([len(images) > 0 for images in codes])
    assert np.all(np.abs(recached[2] - logits).max(axis=1)[drew] > 1e-2)


def in_branches(small, prompt, tokens, codes):
    """A row's tokens (place, embedding) of both branches; a last word, which was not read, and an
    `<img>` that was one too many are left out."""
    embedded = small.run("embed", jnp.asarray(tokens))
    shown = small.run("show", jnp.asarray(codes)) if len(codes) else []
    und, gen = list(enumerate(prompt)), []
    place, images = len(prompt), iter(shown)
    for index, (token, x) in enumerate(zip(tokens, embedded, strict=True)):
        image = next(images, None) if token == IDS.img else None
        if image is not None:
            gen += [(place + i, x) for i, x in enumerate([x, *image])]
            place += 1 + len(image)
        elif index + 1 < len(tokens) or token == IDS.img_end:
            und.append((place, x))
            place += 1
    return und, gen
