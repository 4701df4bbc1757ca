"""The self-reward against each question asked alone, and what its batches refuse."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax

from latentum_jax import pretrained
from latentum_jax.config import ChatConfig
from latentum_jax.data.frozenlake.frames import advance, draw, start_state
from latentum_jax.data.frozenlake.mazes import Maze
from latentum_jax.data.frozenlake.questions import caption
from latentum_jax.generate.prompt import embed_prompt, show_codes
from latentum_jax.kernels.placement import Placement
from latentum_jax.models.latentum import LatentUM, stack_layers
from latentum_jax.models.mome import Stream
from latentum_jax.prompter import Prompter
from latentum_jax.rl.maze import maze_questions
from latentum_jax.rl.questions import Question, decompose
from latentum_jax.rl.self_reward import QuestionShape, probe_of, question_batch, self_reward
from tests.small import SMALL

SYSTEM = "Look."
QUESTIONS = (
    (
        Question("colour", "up or down?", ("up", "down"), 1),
        Question("where", "left?", ("1", "2", "3"), 0, "move "),
        Question("existence", "Done? A. yes B. no", ("A", "B"), 0),
    ),
    (Question("where", "right?", ("1", "2", "3", "4"), 2, "right 2 "),),
)


def holding(questions, tokenizer, vision, system):
    probes = [[probe_of(question, tokenizer) for question in asked] for asked in questions]
    return QuestionShape.holding(probes, tokenizer, vision, system)


def batch_of(small, questions=QUESTIONS, shape=None):
    shape = shape or holding(questions, small.tokenizer, SMALL.vision, SYSTEM)
    return question_batch(questions, small.tokenizer, shape, vision=SMALL.vision, system=SYSTEM)


def some_codes(rows=2):
    c = SMALL.quantizer
    shape = (rows, SMALL.vision.num_tokens, c.num_codebooks)
    return jnp.asarray(np.random.default_rng(0).integers(0, c.codebook_size, shape), jnp.int32)


def rewarded(small, batch, codes, temperature=1.0):
    run = functools.partial(self_reward, small.model, temperature=temperature)
    return jax.tree.map(np.asarray, jax.jit(run)(small.params, batch, codes))


def asked_alone(small, question, codes):
    """Logits of the options behind the turn that `describe` asks and the prefix."""
    prompter = Prompter(SMALL, ChatConfig(SYSTEM), small.tokenizer)
    encode = small.tokenizer.encode
    turn = prompter.tokens(prompter.question(question.text))
    answers = [encode(question.prefix + option) for option in question.options]
    # What is said before the options part: found by hand for the byte-level words of the test.
    begin = encode(question.prefix + "1")[:-1] if question.prefix else ()
    tokens = jnp.asarray([[*turn, *begin]])
    is_slot = tokens == small.tokenizer.ids.img_context
    shown = show_codes(small.model, small.params, codes[None])
    x = embed_prompt(small.model, small.params, tokens, is_slot, shown)
    at = Placement.causal(jnp.arange(tokens.shape[1])[None])
    hidden, _ = small.run("hidden", {"und": x}, Stream({"und": at}))
    logits = np.asarray(small.run("text_logits", hidden["und"]))[0, -1]
    return logits[[ids[len(begin)] for ids in answers]]


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_packed_questions_are_as_if_alone(small, temperature):
    """A question that sees another one or its answer, or stands elsewhere, gives another reward.

    Padding counts as 1, so the second row's reward is its one p.
    """
    codes = some_codes()
    reward, p_correct = rewarded(small, batch_of(small), codes, temperature)
    alone = np.ones((2, 3))
    for row, questions in enumerate(QUESTIONS):
        for number, question in enumerate(questions):
            logits = asked_alone(small, question, codes[row])
            alone[row, number] = softmax(logits / temperature)[question.correct]
    assert (alone[0] < 0.99).all()
    np.testing.assert_allclose(p_correct, alone, rtol=2e-5)
    np.testing.assert_allclose(reward, alone.prod(axis=1), rtol=5e-5)


def test_padding_changes_nothing(small):
    """Sizes that hold every prompt of a run are larger than most prompts need."""
    wide = batch_of(small, shape=QuestionShape(200, 5, 7))
    reward, p_correct = rewarded(small, batch_of(small), some_codes())
    padded, p_padded = rewarded(small, wide, some_codes())
    np.testing.assert_allclose(padded, reward, rtol=1e-5)
    np.testing.assert_allclose(p_padded[:, :3], p_correct, rtol=1e-5)
    assert (p_padded[~wide["asked"]] == 1).all()
    assert wide["asked"].tolist() == [[True] * 3 + [False] * 2, [True] + [False] * 4]


def test_the_picture_is_what_counts(small):
    """Breaks if the codes do not reach their slots, or those of another row do."""
    batch, codes = batch_of(small, [QUESTIONS[0]] * 2), some_codes()
    reward, _ = rewarded(small, batch, codes)
    swapped, _ = rewarded(small, batch, codes[::-1])
    assert reward[0] != pytest.approx(reward[1], rel=1e-3)
    np.testing.assert_allclose(swapped, reward[::-1], rtol=1e-5)


def test_in_bfloat16(small):
    """Training computes in bf16: by its 8 bits of mantissa, p moves by a few hundredths at most."""
    batch, codes = batch_of(small), some_codes()
    _, expected = rewarded(small, batch, codes)
    model = LatentUM(SMALL, jnp.bfloat16)
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), small.params)
    run = jax.jit(functools.partial(self_reward, model, temperature=1.0))
    reward, p_correct = run(params, batch, codes)
    assert reward.dtype == p_correct.dtype == jnp.float32
    np.testing.assert_allclose(p_correct, expected, atol=0.05)


def test_lm_head_sees_answers_alone(small):
    """Over all tokens of a row the logits would be the largest array of the program."""
    batch = batch_of(small)
    run = functools.partial(self_reward, small.model, temperature=1.0)
    program = str(jax.make_jaxpr(run)(small.params, batch, some_codes()))
    rows, length = batch["tokens"].shape
    assert f"[2,3,{SMALL.language.vocab_size}]" in program
    assert f"[{rows},{length},{SMALL.language.vocab_size}]" not in program


def test_lower_temperature_is_surer(small):
    """By hand: of two options p / (1 - p) = exp(difference / temperature), at 0.5 its square."""
    batch, codes = batch_of(small, [QUESTIONS[0]]), some_codes(1)
    one = rewarded(small, batch, codes, 1.0)[1][0, 0]
    half = rewarded(small, batch, codes, 0.5)[1][0, 0]
    assert half / (1 - half) == pytest.approx((one / (1 - one)) ** 2, rel=1e-4)
    with pytest.raises(ValueError, match="temperature of a self-reward is above 0, got 0.0"):
        rewarded(small, batch, codes, 0.0)


@pytest.mark.parametrize(
    "questions, shape, message",
    [
        ([()], QuestionShape(90, 3, 3), "a picture has no questions"),
        (QUESTIONS, QuestionShape(20, 3, 4), r"a picture has \d+ tokens, at most 20 fit"),
        (QUESTIONS, QuestionShape(200, 2, 4), "a picture has 3 questions, at most 2 fit"),
        (QUESTIONS, QuestionShape(200, 3, 3), "a picture has 4 options of a question, at most 3"),
    ],
)
def test_what_does_not_fit(small, questions, shape, message):
    """Cut silently, a reward would leave out what is hardest to draw."""
    with pytest.raises(ValueError, match=message):
        batch_of(small, questions, shape)


@pytest.mark.parametrize("options", [("1", "10"), ("yes", "yes"), ("A",), ("ax", "ay", "b", "bz")])
def test_options_that_begin_alike(small, options):
    """Their p would be the same whatever is right."""
    question = Question("count", "how many?", options, 0)
    with pytest.raises(ValueError, match=r"of 'how many\?' do not differ in the token"):
        probe_of(question, small.tokenizer)


STATE = advance(start_state(Maze(("SHF", "FHF", "FFG"))), "D")  # player (2, 1), goal (3, 3)
ELSEWHERE = advance(start_state(Maze(("FGH", "HFF", "SFF"))), "R")  # (3, 2), goal (1, 2)


@pytest.fixture(scope="module")
def bundled():
    return pretrained.LatentUM.from_pretrained("frozenlake-tiny")


def test_answers_of_the_bundled_model(bundled):
    """By the table of its tokenizer " 2" is one token: what follows "row" must be that."""
    _, _, player_row, player_column, *_ = maze_questions(caption(STATE))
    encode = bundled.tokenizer.encode
    assert encode("row 2 column 3") == encode("row") + encode(" 2") + encode(" column") + encode(
        " 3"
    )
    _, begin, following = probe_of(player_column, bundled.tokenizer)
    assert begin == encode("row 2 column")
    assert following == tuple(encode(f" {n}")[0] for n in (1, 2, 3))
    assert probe_of(player_row, bundled.tokenizer).begin == encode("row")
    letters = probe_of(decompose("a photo of a bench")[0], bundled.tokenizer)
    assert letters[1:] == ((), (encode("A")[0], encode("B")[0]))


def test_the_bundled_model_knows_what_it_sees(bundled):
    """Its codes of two mazes, each asked about by its own caption and by the other's."""
    codes = jnp.asarray(bundled.encode([draw(STATE), draw(ELSEWHERE)] * 2)[1])
    captions = [caption(state) for state in (STATE, ELSEWHERE, ELSEWHERE, STATE)]
    questions = [maze_questions(text) for text in captions]
    sizes = (bundled.tokenizer, bundled.config.vision, bundled.chat.system)
    shape = holding(questions, *sizes)
    batch = question_batch(questions, sizes[0], shape, vision=sizes[1], system=sizes[2])
    run = jax.jit(functools.partial(self_reward, bundled.model, temperature=1.0))
    reward, p_correct = run(stack_layers(bundled.params), batch, codes)
    assert (reward[:2] > 0.3).all() and (reward[2:] < 1e-6).all()
    # By hand: the captions differ in the rows and columns of player and goal, not in the size.
    assert (p_correct[:, 0] > 0.9).all() and (p_correct[2:, 2:6] < 0.1).all()
