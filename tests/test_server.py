"""Requests of several kinds through one engine get what each call of the model gives alone."""

import collections

import numpy as np
import pytest

from latentum_jax.data.frozenlake.frames import draw, start_state
from latentum_jax.data.frozenlake.mazes import unique_mazes
from latentum_jax.pretrained import LatentUM
from latentum_jax.server import Drawn, Finished, Server, Words

QUESTION = "Where is the player?"
STEPS = 3


@pytest.fixture(scope="module")
def model():
    return LatentUM.from_pretrained("frozenlake-tiny")


@pytest.fixture(scope="module")
def server(model):
    return Server(model, rows=2, max_steps=STEPS, max_new_tokens=16)


@pytest.fixture(scope="module")
def pictures():
    return [draw(start_state(maze)) for maze in unique_mazes(5, 3, 3, "test")]


def test_what_events_tell(model, server, pictures):
    """Three plans and a question share two rows. Breaks if a request gets another's words, or if
    the events of one do not add up to what it came to."""
    numbers = [server.plan(pictures[0]), server.ask(pictures[1], QUESTION)]
    numbers += [server.plan(pictures[1], max_steps=2), server.plan(pictures[2], seed=7)]
    words, images, results = collections.defaultdict(str), collections.defaultdict(list), {}
    for event in server.events():
        match event:
            case Words(request, text):
                words[request] += text
            case Drawn(request, _, _, codes):
                images[request].extend(codes.tolist())
            case Finished(request, result, cancelled):
                assert not cancelled
                results[request] = result
    assert sorted(results) == numbers == [0, 1, 2, 3]
    assert results[1] == words[1].strip() == model.answer(pictures[1], QUESTION)[0]
    for request, picture, steps in ((0, 0, STEPS), (2, 1, 2), (3, 2, STEPS)):
        (alone,) = model.plan(pictures[picture], max_steps=steps)
        found = results[request]
        assert found.text == alone.text == words[request]
        assert found.steps == alone.steps and found.finished == alone.finished
        np.testing.assert_array_equal(found.codes, alone.codes)
        np.testing.assert_array_equal(np.reshape(images[request], alone.codes.shape), alone.codes)


def test_a_request_may_come_while_others_run_and_be_cancelled(server, pictures):
    """Breaks if what comes later is lost, or a cancelled plan is told as a whole one."""
    first = server.plan(pictures[0])
    seen, later = [], None
    for event in server.events():
        if later is None:
            later = server.ask(pictures[1], QUESTION)
            server.cancel(first)
        if isinstance(event, Finished):
            seen.append((event.request, event.cancelled))
    assert sorted(seen) == [(first, True), (later, False)]


def test_bad_requests(model, server, pictures):
    """One sentence, and nothing queued."""
    for message, ask in {
        "the question is empty": lambda: server.ask(pictures[0], " "),
        "this engine takes from 1 to": lambda: server.ask(pictures[0], "where " * 200),
        "needs a row of": lambda: server.plan(pictures[0], max_steps=STEPS + 9),
        "is not among those under way": lambda: server.cancel(99),
        "the context has 1024": lambda: Server(model, max_steps=99),
    }.items():
        with pytest.raises(ValueError, match=message):
            ask()
    assert list(server.events()) == []
