"""The two-branch language model against the public code, its slow twin, and its own cache."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from latentum_jax.kernels.placement import Placement, visible
from latentum_jax.models.mome import UND_BLIND, Stream, empty_caches
from tests import published
from tests.models.twin import branch_major, sequence_order, twin
from tests.small import SMALL


def placements(position, valid, is_gen):
    """Plain causal placements of tokens in sequence order, split by branch."""
    position, valid = branch_major(position, is_gen), branch_major(valid, is_gen, fill=False)
    return {
        name: Placement.causal(jnp.asarray(position[name]), jnp.asarray(valid[name]))
        for name in position
    }


@pytest.fixture(scope="module")
def golden():
    values = published.outputs("language_model/out")
    values["valid"] = values["attention_mask"] == 1
    return values


def test_mixed_branches_equal_the_public_code(golden):
    """Wrong routing, norms, rotary angles or masks: everything the layers do meets here."""
    is_gen, valid = golden["vision_token_mask"] == 1, golden["valid"]
    position = np.broadcast_to(np.arange(is_gen.shape[1]), is_gen.shape)
    x = branch_major(golden["inputs_embeds"], is_gen)
    hidden, _ = published.run("hidden", x, Stream(placements(position, valid, is_gen)))
    hidden = sequence_order(hidden, is_gen)
    np.testing.assert_allclose(hidden[valid], golden["hidden_mixed"][valid], atol=1e-4)
    logits = published.run("text_logits", jnp.asarray(hidden))
    np.testing.assert_allclose(logits[valid], golden["logits_mixed"][valid], atol=1e-4)


@pytest.mark.parametrize(
    "branch, name",
    [("und", "logits_text"), ("und", "logits_no_mask"), ("gen", "logits_vision")],
)
def test_one_branch_alone(golden, branch, name):
    """A branch that is absent must leave no trace in the other."""
    x = published.run("embed", jnp.asarray(golden["input_ids"]))
    np.testing.assert_array_equal(x, golden["inputs_embeds"])
    position = jnp.broadcast_to(jnp.arange(x.shape[1]), x.shape[:2])
    at = Placement.causal(position, jnp.asarray(golden["valid"]))
    hidden, _ = published.run("hidden", {branch: x}, Stream({branch: at}))
    logits = published.run("text_logits", hidden[branch])
    valid = golden["valid"]
    np.testing.assert_allclose(logits[valid], golden[name][valid], atol=1e-4)


def random_rows(seed, shape):
    """Embeddings, branches and how many tokens of each row count."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((*shape, SMALL.language.hidden_size)).astype(np.float32)
    is_gen = rng.random(shape) < 0.4
    valid = np.arange(shape[1]) < np.array([shape[1], shape[1] - 3])[:, None]
    return x, is_gen, valid


def test_twin(small):
    """Branch-major order is an economy: in sequence order, with a dense mask, nothing changes."""
    x, is_gen, valid = random_rows(0, (2, 13))
    position = np.broadcast_to(np.arange(13), is_gen.shape)
    stream = Stream(placements(position, valid, is_gen))
    hidden, _ = small.run("hidden", branch_major(x, is_gen), stream)
    at = Placement.causal(jnp.asarray(position), jnp.asarray(valid))
    expected = twin(
        small.params["language"], SMALL.language, x, is_gen, position, np.asarray(visible(at, at))
    )
    assert np.abs(sequence_order(hidden, is_gen) - expected)[valid].max() < 1e-5


def test_twin_of_a_dual_sequence(small):
    """UND_BLIND leaves out tiles of attention; the mask alone must say the same."""
    x, _, _ = random_rows(1, (2, 12))
    und = Placement.causal(jnp.broadcast_to(jnp.arange(7), (2, 7)))
    block, start = jnp.array([1, 1, 1, 2, 2]), jnp.array([[2, 2, 2, 5, 5], [1, 1, 1, 3, 3]])
    gen = Placement(
        start + jnp.array([0, 1, 2, 0, 1]),
        jnp.broadcast_to(block, (2, 5)),
        start - 1,
        jnp.array([[True] * 5, [True] * 3 + [False] * 2]),
        jnp.zeros((2, 5), int),
    )
    both = {"und": x[:, :7], "gen": x[:, 7:]}
    hidden, _ = small.run("hidden", both, Stream({"und": und, "gen": gen}, UND_BLIND))
    at = Placement.join([und, gen])
    is_gen = np.broadcast_to(np.arange(12) >= 7, (2, 12))
    expected = twin(
        small.params["language"],
        SMALL.language,
        x,
        is_gen,
        np.asarray(at.position),
        np.asarray(visible(at, at)),
    )
    valid = np.asarray(at.valid)
    got = np.concatenate([hidden["und"], hidden["gen"]], axis=1)
    assert np.abs(got - expected)[valid].max() < 1e-5


def test_cached_decoding_equals_the_full_forward(small):
    """A key written to another slot or rotated by another position shows at the next token."""
    rng = np.random.default_rng(2)
    x = rng.standard_normal((2, 9, SMALL.language.hidden_size)).astype(np.float32)
    is_gen = np.broadcast_to(np.array([0, 0, 1, 1, 0, 0, 1, 0, 1], bool), (2, 9))
    position = np.broadcast_to(np.arange(9), (2, 9))
    stream = Stream(placements(position, np.ones_like(is_gen), is_gen))
    expected, _ = small.run("hidden", branch_major(x, is_gen), stream)
    expected = sequence_order(expected, is_gen)

    @jax.jit
    def step(tokens, at, cache):
        return small.model.apply(
            {"params": small.params}, tokens, Stream(at), cache, method="hidden"
        )

    cache = empty_caches(SMALL.language, 2, 12, jnp.float32)  # three slots are never filled
    for t in range(9):
        name = "gen" if is_gen[0, t] else "und"
        at = Placement.causal(jnp.full((2, 1), t))
        hidden, cache = step({name: x[:, t : t + 1]}, {name: at}, cache)
        assert np.abs(hidden[name][:, 0] - expected[:, t]).max() < 1e-5, t
