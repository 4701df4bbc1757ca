"""What the judge finds likely, against a question asked alone through `answer`'s own prompt."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax

from latentum_jax import judge
from latentum_jax.generate.prompt import embed_prompt
from latentum_jax.kernels.placement import Placement
from latentum_jax.models.mome import Stream
from latentum_jax.pretrained import LatentUM
from tests.models_on_disk import CONTEXT, random_model


@pytest.fixture(scope="module")
def model():
    return LatentUM(random_model())


def pictures(count):
    return list(np.random.default_rng(0).integers(0, 256, (count, 28, 28, 3), dtype=np.uint8))


def alone(model, small, shown, question):
    """p of every token behind the turn of `answer`, from one pass over it with no cache."""
    tokens = jnp.asarray([model.prompter.tokens(model.prompter.question(question))])
    is_slot = tokens == model.ids.img_context
    x = embed_prompt(small.model, small.params, tokens, is_slot, shown[None])
    at = Placement.causal(jnp.arange(tokens.shape[1])[None])
    hidden, _ = small.run("hidden", {"und": x}, Stream({"und": at}))
    return softmax(np.asarray(small.run("text_logits", hidden["und"]))[0, -1])


@pytest.mark.parametrize("features", ["continuous", "quantized"])
def test_as_the_model_would_answer(model, small, features):
    """A benchmark's p would be those of another prompt, picture or kind of features."""
    shown = model.look(pictures(2), features)
    questions = (("up?", "Is it left or right?"), ("down?",))
    following = (5, 17, 40)
    probes = [[judge.Probe(text, (), following) for text in asked] for asked in questions]
    found = judge.probabilities(model, shown, probes)
    assert [len(asked) for asked in found] == [2, 1]
    for picture, asked, ps in zip(shown, questions, found, strict=True):
        for question, p in zip(asked, ps, strict=True):
            expected = alone(model, small, picture, question)[list(following)]
            np.testing.assert_allclose(p, expected, rtol=2e-5)


def test_letters_choose_as_greedy_decoding_among_them(model):
    """The letter of a choice would not be the likeliest first token among the letters."""
    shown = model.look(pictures(1))
    whole = judge.Probe("up?", (), tuple(range(300)))
    letters = judge.Probe.between("up?", "ABC", model.tokenizer)
    [[p]], [[of_letters]] = (judge.probabilities(model, shown, [[x]]) for x in (whole, letters))
    assert p.sum() == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(of_letters, p[list(letters.following)], rtol=1e-5)


def test_a_question_that_is_too_long(model):
    """Positions outside of what the model knows would be answered from."""
    probe = judge.Probe("up " * CONTEXT, (), (1,))
    with pytest.raises(ValueError, match="a question about a picture has .* the context has 512"):
        judge.probabilities(model, model.look(pictures(1)), [[probe]])
