"""The objectives: MBAQ's against the public code, the others by hand or against torch."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from latentum_jax.train.losses import (
    code_loss,
    kl_sums,
    loss_and_accuracy,
    map_chunks,
    mcq_loss,
    mean_of,
    over_words,
    reconstruction_loss,
    text_sums,
    weighted_mean,
)
from tests import published


def text_loss(logits, labels, weights):
    """Loss and accuracy of logits that are there already."""
    return loss_and_accuracy(over_words(text_sums, lambda x: x, [logits], labels, weights, 0))


def kl_loss(teacher, student, labels, weights):
    """The same of the divergence."""
    return mean_of(*over_words(kl_sums, lambda x: x, [teacher, student], labels, weights, 0))


def test_mcq_loss_equals_the_public_code():
    """Weights on the wrong term, an average over other axes, the sign of the entropy."""
    golden, q = published.outputs("quantizer/out"), published.config().quantizer
    losses = mcq_loss(
        jnp.asarray(golden["z"]),
        jnp.asarray(golden["indices"]),
        published.params()["quantizer"]["codebook"],
        commitment=q.commitment,
        entropy=q.entropy,
    )
    weighted = {**losses, "entropy": -q.entropy * losses["entropy"]}  # as the reference reports it
    for name, value in weighted.items():
        np.testing.assert_allclose(value, golden[f"loss_{name}"], rtol=1e-5, err_msg=name)


def test_text_loss_equals_torch():
    """Labels and weights stand at their own token: an unshifted loss would reward copying."""
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((2, 5, 7)).astype(np.float32)
    labels = np.array([[-100, 3, 2, -100, 6], [1, -100, -100, 0, -100]])
    weights = rng.uniform(0.1, 2, (2, 5)).astype(np.float32)
    each = torch.nn.functional.cross_entropy(
        torch.tensor(logits[:, :-1].reshape(-1, 7)),
        torch.tensor(labels[:, 1:].reshape(-1)),
        reduction="none",
    )
    counts = (weights * (labels >= 0))[:, 1:].reshape(-1)
    loss, accuracy = text_loss(*map(jnp.asarray, (logits, labels, weights)))
    np.testing.assert_allclose(loss, (each.numpy() * counts).sum() / counts.sum(), rtol=1e-6)
    guesses = logits[:, :-1].argmax(-1)
    counted = labels[:, 1:] >= 0
    np.testing.assert_allclose(accuracy, (guesses == labels[:, 1:])[counted].mean(), rtol=1e-6)


def test_text_loss_by_hand():
    """Uniform logits cost log V; a row without labels must not count, nor divide by zero."""
    labels = jnp.array([[-100, 1, 0], [-100, -100, -100]])
    loss, _ = text_loss(jnp.zeros((2, 3, 4)), labels, jnp.ones((2, 3)))
    assert loss == pytest.approx(np.log(4))
    none, accuracy = text_loss(jnp.zeros((1, 3, 4)), labels[1:], jnp.ones((1, 3)))
    assert (none, accuracy) == (0, 0)


def test_code_loss_by_hand():
    """Mean over a token's codes, then over the tokens that count."""
    logits = np.zeros((3, 2, 4), np.float32)
    logits[0, 0, 1] = np.log(3)  # p = 3/6 for the right code, 1/4 for the other one
    logits[2] = 50  # not counted
    codes = jnp.array([[1, 0], [2, 2], [0, 0]])
    loss, accuracy = code_loss(jnp.asarray(logits), codes, jnp.array([True, True, False]))
    assert loss == pytest.approx((np.log(2) + 3 * np.log(4)) / 4)
    assert accuracy == pytest.approx(2 / 4)


def test_kl_loss_equals_torch():
    """KL(teacher || student), of the next token at answer positions alone."""
    rng = np.random.default_rng(1)
    teacher, student = rng.standard_normal((2, 1, 4, 6)).astype(np.float32)
    labels = np.array([[5, -100, 2, 3]])
    expected = torch.nn.functional.kl_div(
        torch.tensor(student[0, 1:3]).log_softmax(-1),
        torch.tensor(teacher[0, 1:3]).log_softmax(-1),
        reduction="batchmean",
        log_target=True,
    )
    weights = np.array([[9, 9, 1, 1]], np.float32)
    got = kl_loss(*map(jnp.asarray, (teacher, student, labels, weights)))
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    assert kl_loss(*map(jnp.asarray, (teacher, teacher, labels, weights))) == 0
    weights[0, 3] = 0  # leaves the first answer token alone
    alone = kl_loss(*map(jnp.asarray, (teacher, student, labels, weights)))
    first = torch.nn.functional.kl_div(
        torch.tensor(student[0, 1]).log_softmax(-1),
        torch.tensor(teacher[0, 1]).log_softmax(-1),
        reduction="sum",
        log_target=True,
    )
    np.testing.assert_allclose(alone, first, rtol=1e-5)


def test_logits_in_chunks_are_the_same_loss():
    """2 x 64 places in chunks of 24, the last of which is not full. Breaks if a place is lost,
    counted twice or scored against another label, or if what fills the last chunk counts."""
    rng = np.random.default_rng(2)
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)  # noqa: E731
    states, other, table = draw(2, 65, 8), draw(2, 65, 8), draw(8, 4096)
    labels = jnp.asarray(rng.integers(-1, 4096, (2, 65)))
    weights = jnp.asarray(rng.uniform(0, 2, (2, 65)), jnp.float32)

    def value(hidden, table, chunk, sums=text_sums):
        made = over_words(sums, lambda h: h @ table, hidden, labels, weights, chunk)
        return mean_of(*made[:2]), made

    both = jax.value_and_grad(value, (0, 1), has_aux=True)
    for hidden, sums in (([states], text_sums), ([other, states], kl_sums)):
        whole = both(hidden, table, 0, sums)
        chex.assert_trees_all_close(both(hidden, table, 24, sums), whole, rtol=2e-5, atol=1e-6)
    expected = text_loss(states @ table, labels, weights)
    chex.assert_trees_all_close(loss_and_accuracy(value([states], table, 24)[1]), expected)


def test_logits_of_a_batch_are_never_in_memory():
    """Logits [4 512 8192] in fp32 are 67 MB. Breaks if the backward pass keeps those of chunks."""
    states, table = jnp.zeros((4, 513, 16)), jnp.zeros((16, 8192))
    labels = jnp.zeros((4, 513), jnp.int32)
    sizes = {}
    for chunk in (0, 128):

        def loss(states, table, chunk=chunk):
            head = lambda h: h @ table  # noqa: E731
            return mean_of(
                *over_words(text_sums, head, [states], labels, jnp.ones((4, 513)), chunk)[:2]
            )

        made = jax.jit(jax.grad(loss, (0, 1))).lower(states, table).compile()
        sizes[chunk] = made.memory_analysis().temp_size_in_bytes
    assert sizes[0] >= 4 * 512 * 8192 * 4
    assert sizes[128] < sizes[0] / 4


def test_what_is_made_of_tokens_in_chunks():
    """3 x 5 tokens, 6 at once: 2 of every row, the last of which has 1. Breaks if tokens of rows or
    chunks are interchanged, what fills the last chunk is kept, or gradients differ."""
    rng = np.random.default_rng(3)
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)  # noqa: E731
    states, other, table = draw(3, 5, 4), draw(3, 5), draw(4, 2)

    def made(table, chunk):
        return map_chunks(lambda h, x: jnp.tanh(h @ table) + x[..., None], (states, other), chunk)

    weights = draw(3, 5, 2)
    loss = lambda table, chunk: jnp.sum(weights * made(table, chunk))  # noqa: E731
    for chunk in (1, 6, 100):  # 1: less than a token of every row
        chex.assert_trees_all_close(made(table, chunk), made(table, 0), rtol=1e-6, atol=1e-6)
        both = (jax.grad(loss)(table, chunk), jax.grad(loss)(table, 0))
        chex.assert_trees_all_close(*both, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        made(table, 0)[1, 2], np.tanh(states[1, 2] @ table) + other[1, 2], rtol=1e-5, atol=1e-6
    )


def test_reconstruction_loss():
    """Cosine forgets the length of an embedding, MSE does not."""
    target = jnp.array([[[3.0, 0.0], [0.0, 2.0]]])
    assert reconstruction_loss("cosine", target, 2 * target) == pytest.approx(0, abs=1e-6)
    assert reconstruction_loss("cosine", target, -target) == pytest.approx(2, abs=1e-6)
    assert reconstruction_loss("mse", target, 2 * target) == pytest.approx((9 + 4) / 4)


def test_weighted_mean_of_nothing():
    """A batch without a single counted place gives 0, not NaN."""
    assert weighted_mean(jnp.ones(3), jnp.zeros(3, bool)) == 0
