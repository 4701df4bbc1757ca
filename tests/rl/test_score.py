"""What a policy is scored by is what it was sampled by: one pass against the samplers' steps."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np

from latentum_jax.generate.image import draw, prefill
from latentum_jax.generate.interleave import interleave
from latentum_jax.generate.prompt import embed_images, embed_prompt
from latentum_jax.rl.score import policy_places, policy_scores, score
from tests.rl import some_rollouts as some


def scores_of(small, params, rows, *, speaks, temperature=some.SAMPLING.temperature, chunk=0):
    how = {"img": small.tokenizer.ids.img, "temperature": temperature, "speaks": speaks}
    return score(small.model, params, rows, chunk=chunk, **how)


def code_shape(rows):
    return (*rows["target_slot"].shape, *rows["codes"].shape[2:])


def test_drawn_codes_score_as_they_were_drawn(small):
    """Prefill and a cache against one pass: breaks by a shifted code, another temperature, a cut to
    the nucleus, rows that are not in their prompts' order."""
    rows = some.pictures()
    found = scores_of(small, small.params, rows, speaks=False)
    assert found.shape == rows["sampled"].shape == (4, 4 * 2)
    np.testing.assert_allclose(found, rows["sampled"], atol=1e-5)
    assert (found < 0).all() and policy_places(rows, code_shape(rows), False).all()
    hotter = scores_of(small, small.params, rows, speaks=False, temperature=1.4)
    assert np.abs(hotter - found).max() > 0.1
    codes = rows["codes"][:, 0]
    assert len(np.unique(np.asarray(codes).reshape(4, -1), axis=0)) == 4  # a seed a rollout


def test_plans_score_as_they_were_said_and_drawn(small):
    """Steps of rows at different places against one pass over U and G: breaks if a picture is read
    or drawn at another place, a word is left out (a said `</img>`), or the end is not scored."""
    said, rows = some.plans()
    found = scores_of(small, some.eager_to_draw(), rows, speaks=True)
    places = np.asarray(policy_places(rows, code_shape(rows), True))
    assert found.shape == places.shape == rows["sampled"].shape
    np.testing.assert_allclose(found[places], rows["sampled"][places], atol=1e-5)
    assert (np.asarray(rows["sampled"])[~places] == 0).all()
    # By hand: what was said but for the `</img>` of its pictures, and 8 codes a picture.
    np.testing.assert_array_equal(
        places.sum(1), said["count"] - said["images"] + 8 * said["images"]
    )


def test_scoring_changes_nothing_that_is_drawn(small):
    """Breaks if keys or caches are used up by scores."""
    rows, ids = some.caption_rows(), small.tokenizer.ids
    lengths = jnp.sum(rows["valid"], axis=1)
    caches, first = prefill(
        small.model, small.params, rows["tokens"], lengths, ids=ids, guided=False
    )
    seeds = jnp.arange(4, dtype=jnp.uint32)
    how = {"sampling": some.SAMPLING, "guidance": 1.0}
    codes, z_q, none, _ = draw(small.model, small.params, caches, first, lengths, seeds, **how)
    assert none is None and z_q.shape == (4, 4, small.model.config.quantizer.embedding_dim)
    np.testing.assert_array_equal(codes, some.pictures()["codes"][:, 0])


def test_scoring_changes_nothing_that_is_said(small):
    """The same of plans, whose rows then hold no scores."""
    prompts, params, ids = some.plan_prompts(), some.eager_to_draw(), small.tokenizer.ids
    shown = embed_images(small.model, params, prompts["seen"][:, 0], False)
    slots = prompts["prompt"] == ids.img_context
    x = embed_prompt(small.model, params, prompts["prompt"], slots, shown)
    how = {"ids": ids, "limits": some.LIMITS, "text": some.SAMPLING, "codes": some.SAMPLING}
    seeds = jnp.arange(8, dtype=jnp.uint32)
    rows = interleave(small.model, params, x, prompts["prompt_length"], seeds, **how)
    assert rows.token_scores is None and rows.code_scores is None
    said, _ = some.plans()
    for name in ("tokens", "count", "codes", "images"):
        np.testing.assert_array_equal(getattr(rows, name), said[name], err_msg=name)


def test_scores_in_chunks(small):
    """Breaks if chunks lose a token or a code, or what is computed again in the backward pass is
    not what was computed: chunks of 3 tokens a row, which divide neither words nor codes."""
    _, rows = some.plans()
    rows = {name: x[:4] for name, x in rows.items()}
    params = some.eager_to_draw()
    places = policy_places(rows, code_shape(rows), True)
    weights = jnp.asarray(np.random.default_rng(0).standard_normal(places.shape), jnp.float32)

    @functools.partial(jax.jit, static_argnames="chunk")
    def both(params, chunk):
        def total(params):
            how = {"img": small.tokenizer.ids.img, "temperature": 0.7, "speaks": True}
            found = policy_scores(small.model, params, rows, chunk=chunk, **how)
            return jnp.sum(found * weights * places), found

        return jax.value_and_grad(total, has_aux=True)(params)

    ((_, whole), wanted), ((_, parts), found) = both(params, 0), both(params, 12)
    np.testing.assert_allclose(parts[places], whole[places], atol=1e-5)
    chex.assert_trees_all_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert all(float(jnp.abs(wanted[name]["lm_head"]).max()) > 0 for name in ("language",))


def test_the_understanding_branch_rests_where_nothing_is_said(small):
    """Breaks if a policy that only draws has gradients through what it read: one that is thrown
    away, and would be computed for nothing."""
    rows = some.pictures()

    def total(params):
        how = {"img": small.tokenizer.ids.img, "temperature": 0.7, "speaks": False}
        return jnp.sum(policy_scores(small.model, params, rows, **how))

    found = jax.jit(jax.grad(total))(small.params)
    size = lambda tree: sum(float(jnp.abs(x).sum()) for x in jax.tree.leaves(tree))  # noqa: E731
    assert size(found["language"]["layers"]["gen"]) > 0 and size(found["head"]) > 0
    assert size(found["language"]["lm_head"]) == 0 and size(found["vision"]) == 0
