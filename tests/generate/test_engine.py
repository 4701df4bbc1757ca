"""Continuous batching: requests that take turns get what each would get alone."""

import collections
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from latentum_jax.eval.hlo import Program
from latentum_jax.generate import engine, lane
from latentum_jax.generate.engine import Done, Drawn, Engine, Said, lane_sizes
from latentum_jax.generate.interleave import interleave
from latentum_jax.generate.lane import Lane
from latentum_jax.generate.rows import Limits
from latentum_jax.generate.sampling import Sampling
from latentum_jax.models import caches
from latentum_jax.models.latentum import unstack_layers
from latentum_jax.tokenizer import SpecialIds
from tests.small import SMALL

WIDTH, ROWS = 6, 2
MOST = Limits(steps=3, images=2, text=4)
DRAWN = {"text": Sampling(0.7, 0, 1.0), "codes": Sampling(1.0, 0, 1.0)}


@pytest.fixture(scope="module")
def prompts():
    """Five of different lengths."""
    lengths = (6, 3, 5, 1, 4)
    keys = jax.random.split(jax.random.key(3), len(lengths))
    d = SMALL.language.hidden_size
    return [np.asarray(jax.random.normal(k, (n, d))) for k, n in zip(keys, lengths, strict=True)]


@pytest.fixture(scope="module")
def ids(small, prompts):
    """`<img>` is what these prompts say most, so that most of them draw; none says another."""
    rows = alone(small, prompts, SpecialIds(*[1 << 20] * 6), Limits(1, 0, 4))
    said = collections.Counter(token for tokens, _ in rows for token in tokens)
    names = SpecialIds.__dataclass_fields__
    likely = {"img": said.most_common(1)[0][0], "img_end": 7}
    return SpecialIds(**{name: likely.get(name, 1 << 20) for name in names})


def together(small, prompts, seeds, ids, limits):
    """What each says and draws, of all in one batch."""
    padded = np.zeros((len(prompts), WIDTH, prompts[0].shape[1]), np.float32)
    for row, prompt in zip(padded, prompts, strict=True):
        row[: len(prompt)] = prompt
    rows = interleave(
        small.model,
        small.params,
        jnp.asarray(padded),
        jnp.asarray([len(prompt) for prompt in prompts]),
        jnp.asarray(seeds, jnp.uint32),
        ids=ids,
        limits=limits,
        **DRAWN,
    )
    tokens = [tuple(row[:n].tolist()) for row, n in zip(rows.tokens, rows.count, strict=True)]
    codes = [np.asarray(row[:n]) for row, n in zip(rows.codes, rows.images, strict=True)]
    return list(zip(tokens, codes, strict=True))


def alone(small, prompts, ids, limits):
    """What each says and draws by itself, at seeds 0, 1, ..."""
    return [together(small, [p], [i], ids, limits)[0] for i, p in enumerate(prompts)]


@pytest.fixture(scope="module")
def expected(small, prompts, ids):
    found = alone(small, prompts, ids, MOST)
    assert len({len(codes) for _, codes in found}) > 1  # some draw more than others
    return found


@pytest.fixture
def lanes(monkeypatch):
    """Sets how many rows lanes have: those that requests begin in, and those of the last."""

    def of(begin, last=()):
        monkeypatch.setattr("latentum_jax.cores.os.cpu_count", lambda: 2)
        monkeypatch.setattr(engine, "lane_sizes", lambda rows, is_near: ([*begin], [*last]))

    return of


@pytest.fixture
def server(small, ids, lanes):
    lanes([ROWS])
    params = unstack_layers(small.params)
    return Engine(small.model, params, ids=ids, rows=ROWS, width=WIDTH, limits=[MOST], **DRAWN)


def test_rows_of_one_batch_have_limits_of_their_own(small, ids, prompts, expected):
    """Breaks if plans of two modes in one call stop where another's row does."""
    fewer = Limits(steps=1, images=0, text=2)
    limits = [MOST, fewer, MOST, MOST, fewer]
    rows = together(small, prompts, range(len(prompts)), ids, tuple(limits))
    for own, (tokens, codes), (most, drawn) in zip(limits, rows, expected, strict=True):
        if own == fewer:  # no `<img>` stops what may not draw
            assert len(tokens) == fewer.text and len(codes) == 0
        else:
            assert tokens == most
            np.testing.assert_array_equal(codes, drawn)


def test_requests_get_what_each_gets_alone(server, prompts, expected):
    """Breaks if a row keeps something of the request before, or its neighbours, seed or place in
    the queue leak into it."""
    for seed, prompt in enumerate(prompts):
        assert server.submit(prompt, MOST, seed=seed) == seed
    done = {e.request: e for e in server.events(rounds=3) if isinstance(e, Done)}
    assert sorted(done) == list(range(len(prompts)))
    for number, (tokens, codes) in enumerate(expected):
        assert done[number].tokens == tokens and not done[number].cancelled
        np.testing.assert_array_equal(done[number].codes, codes)


def test_lanes_run_side_by_side(small, ids, prompts, expected, lanes, monkeypatch):
    """Breaks if a lane waits until the others have something to tell: then two would not meet; if
    those that come later change places with others; or if a lane is opened before one is full."""
    lanes([2, 2])
    both, run, shares = threading.Barrier(2, timeout=60), Lane.run, []

    def meeting(self, rounds, leave):
        if len(shares) < 2:
            shares.append(self.under_way)
            both.wait()
        run(self, rounds, leave)

    monkeypatch.setattr(Lane, "run", meeting)
    server = Engine(small.model, small.params, ids=ids, rows=4, width=WIDTH, limits=[MOST], **DRAWN)
    for seed, prompt in enumerate(prompts[:3]):
        server.submit(prompt, MOST, seed=seed)
    events = server.events(rounds=3)
    seen = [next(events)]  # others come while these run
    for seed, prompt in enumerate(prompts[3:], start=3):
        server.submit(prompt, MOST, seed=seed)
    done = {e.request: e for e in [*seen, *events] if isinstance(e, Done)}
    assert sorted(shares) == [1, 2] and sorted(done) == list(range(len(prompts)))
    for number, (tokens, codes) in enumerate(expected):
        assert done[number].tokens == tokens
        np.testing.assert_array_equal(done[number].codes, codes)


def test_lanes_that_have_become_few_join(small, ids, prompts, expected, lanes, monkeypatch):
    """Breaks if rows run empty in two lanes while one has room for all, or if a row loses what it
    has said, drawn or cached on its way to another lane."""
    lanes([2, 2])
    run, turns, moved = Lane.run, [], []

    def watched(self, rounds, leave):
        turns.append(id(self))
        run(self, rounds, leave)

    def moving(rows, others, place, row):
        moved.append(int(others.count[row]))
        return move(rows, others, place, row)

    move = lane.move
    monkeypatch.setattr(Lane, "run", watched)
    monkeypatch.setattr(lane, "move", moving)
    server = Engine(small.model, small.params, ids=ids, rows=4, width=WIDTH, limits=[MOST], **DRAWN)
    long = [i for i, (tokens, _) in enumerate(expected) if len(tokens) > 4][:2]
    for seed in long:  # each with a short one beside it
        server.submit(prompts[seed], MOST, seed=seed)
        server.submit(prompts[0], Limits(1, 0, 1), seed=0)
    done = {e.request: e for e in server.events(rounds=1) if isinstance(e, Done)}
    moved = moved[1:]  # the first call compiles
    assert len(moved) == 1 and moved[0] > 0 and len(set(turns)) == 2
    assert len(set(turns[-3:])) == 1  # which has all of them at the end
    for number, seed in zip((0, 2), long, strict=True):
        assert done[number].tokens == expected[seed][0]
        np.testing.assert_array_equal(done[number].codes, expected[seed][1])


def test_the_last_requests_go_on_in_a_small_lane(small, ids, prompts, expected, lanes, monkeypatch):
    """Breaks if the last request goes on among free rows, if one that comes later is started where
    only the last should go on, or if one is lost or changed where lanes part and join again."""
    lanes([3, 3], [2, 1])
    run, runs = Lane.run, []

    def watched(self, rounds, leave):
        runs.append((len(self.at), self.under_way))
        assert self.begun or len(self.at) == 3
        run(self, rounds, leave)

    monkeypatch.setattr(Lane, "run", watched)
    server = Engine(small.model, small.params, ids=ids, rows=6, width=WIDTH, limits=[MOST], **DRAWN)
    order = sorted(range(len(prompts)), key=lambda i: -len(expected[i][0]))  # the longest first
    events, seen = server.events(rounds=1), []
    server.submit(prompts[order[0]], MOST, seed=order[0])
    while (1, 1) not in runs:
        seen.append(next(events))
    assert runs[0] == (3, 1) and not any(isinstance(event, Done) for event in seen)
    for seed in order[1:]:
        server.submit(prompts[seed], MOST, seed=seed)
    done = {e.request: e for e in [*seen, *events] if isinstance(e, Done)}
    assert (2, 2) in runs and runs[-1] in [(1, 1), (2, 2)]  # two may end in one step
    assert sorted(done) == list(range(len(prompts)))
    for number, seed in enumerate(order):
        assert done[number].tokens == expected[seed][0]
        np.testing.assert_array_equal(done[number].codes, expected[seed][1])


def test_few_requests_each_go_on_alone(small, ids, prompts, expected, lanes, monkeypatch):
    """Breaks if requests for which there are lanes of one row take a step among others, if one that
    comes later starts there, or if one is lost or changed on its way."""
    lanes([4], [1, 1])
    run, runs = Lane.run, []

    def watched(self, rounds, leave):
        runs.append((len(self.at), self.under_way, rounds))
        run(self, rounds, leave)

    monkeypatch.setattr(Lane, "run", watched)
    server = Engine(small.model, small.params, ids=ids, rows=4, width=WIDTH, limits=[MOST], **DRAWN)
    server.submit(prompts[0], MOST, seed=0)
    server.submit(prompts[1], MOST, seed=1)
    events = server.events(rounds=1)
    seen = [next(events)]
    assert runs[0] == (4, 2, 0) and set(runs[1:]) == {(1, 1, 1)}
    for seed, prompt in enumerate(prompts[2:], start=2):
        server.submit(prompt, MOST, seed=seed)
    done = {e.request: e for e in [*seen, *events] if isinstance(e, Done)}
    assert max(runs)[0] == 4 and runs[-1] == (1, 1, 1) and sorted(done) == list(range(len(prompts)))
    for number, (tokens, codes) in enumerate(expected):
        assert done[number].tokens == tokens
        np.testing.assert_array_equal(done[number].codes, codes)


def test_lane_sizes(monkeypatch):
    """Breaks if a core has nothing to do while the other takes all rows, if a few rows of weights
    that are near wait for each other, if those of others are read once for each row, or if a GPU's
    batch is taken apart."""
    monkeypatch.setattr("latentum_jax.cores.os.cpu_count", lambda: 2)
    assert lane_sizes(8, True) == ([1] * 8, [])
    assert lane_sizes(9, True) == ([9], [1] * 8)
    assert lane_sizes(32, True) == ([16, 16], [1] * 8)
    assert lane_sizes(1, False) == ([1], [])
    assert lane_sizes(16, False) == ([16], [4, 1])
    assert lane_sizes(32, False) == ([16, 16], [4, 1])
    monkeypatch.setattr("latentum_jax.cores.jax.default_backend", lambda: "gpu")
    assert lane_sizes(32, True) == ([32], [])


def test_a_fault_in_a_lane_is_told(small, ids, prompts, lanes, monkeypatch):
    """Breaks if the requests of a lane that has failed are waited for without end."""
    lanes([1, 1])
    monkeypatch.setattr(Lane, "run", lambda *a: 1 // 0)
    server = Engine(small.model, small.params, ids=ids, rows=2, width=WIDTH, limits=[MOST])
    server.submit(prompts[0], MOST)
    with pytest.raises(ZeroDivisionError):
        list(server.events())


def test_events_tell_everything_once(server, prompts, expected):
    """Breaks if a caller who follows the events misses a token, or hears one twice."""
    for seed, prompt in enumerate(prompts[:3]):
        server.submit(prompt, MOST, seed=seed)
    said, drawn, ended = collections.defaultdict(tuple), collections.defaultdict(list), set()
    for event in server.events(rounds=3):
        assert event.request not in ended
        if isinstance(event, Said):
            said[event.request] += event.tokens
        elif isinstance(event, Drawn):
            assert len(drawn[event.request, event.image]) == event.first
            drawn[event.request, event.image].extend(event.codes.tolist())
        else:
            ended.add(event.request)
    for number, (tokens, codes) in enumerate(expected[:3]):
        assert said[number] == tokens
        images = [drawn[number, i] for i in range(len(codes))]
        np.testing.assert_array_equal(np.reshape(images, codes.shape), codes)


def test_nothing_is_compiled_for_requests(small, ids, prompts, monkeypatch):
    """Breaks if the first request, a freed row, another length or other limits need a program."""
    traced = []
    step, start = lane.step, lane.start
    monkeypatch.setattr(lane, "step", lambda *a, **k: traced.append("step") or step(*a, **k))
    monkeypatch.setattr(lane, "start", lambda *a, **k: traced.append("start") or start(*a, **k))
    settings = {**DRAWN, "text": Sampling(0.71, 0, 1.0)}  # other than above: programs are new
    server = Engine(
        small.model, small.params, ids=ids, rows=ROWS, width=WIDTH, limits=[MOST], **settings
    )
    before = len(traced)
    for prompt in prompts:
        server.submit(prompt, Limits(2, 1, 3), seed=9)
    assert sum(isinstance(event, Done) for event in server.events(rounds=5)) == len(prompts)
    assert len(traced) == before


@pytest.mark.parametrize(("count", "platform"), [(ROWS, None), (64, None), (64, "cpu")])
def test_no_cache_is_copied(small, ids, count, platform, lanes, monkeypatch):
    """Breaks if a step copies the caches that it should write in place: those of rows that wait
    while others draw, speak or are recached, all of them at once or, of 64, 42."""
    monkeypatch.setattr(caches, "SEGMENT", 8)  # of those that are held for a CPU
    lanes([count])
    params = unstack_layers(small.params, platform=platform)
    server = Engine(small.model, params, ids=ids, rows=count, width=WIDTH, limits=[MOST], **DRAWN)
    (only,) = server._lanes
    lowered = lane.advance.lower(small.model, params, only.rows, 8, 0, ids=ids, **DRAWN)
    compiled = lowered.compile()
    program = Program.parse(compiled.as_text())
    layer = jax.tree.leaves(only.rows.caches)[0].nbytes
    assert len(program.loops()) >= 5  # rounds; words, images and their codes; recaching
    copies = [copy for loop in program.loops() for copy in program.copies(loop, layer)]
    assert [copy for copy in copies if " f32[" in copy] == []  # random bits are u32
    held = sum(x.nbytes for x in jax.tree.leaves(only.rows.caches))
    assert compiled.memory_analysis().alias_size_in_bytes > held


def test_cancelling_one_leaves_the_others_alone(server, prompts, expected):
    """Breaks if a cancelled row goes on, or takes a neighbour with it."""
    for seed, prompt in enumerate(prompts):
        server.submit(prompt, MOST, seed=seed)
    done = {}
    for event in server.events(rounds=2):
        if isinstance(event, Done):
            done[event.request] = event
        elif event.request == 0:  # which ends by that, as does one that waits
            server.cancel(0)
            server.cancel(3)
    assert [done[i].cancelled for i in range(5)] == [True, False, False, True, False]
    assert done[3].tokens == () and len(done[3].codes) == 0
    assert done[0].tokens == expected[0][0][: len(done[0].tokens)]
    for number in (1, 2, 4):
        assert done[number].tokens == expected[number][0]
        np.testing.assert_array_equal(done[number].codes, expected[number][1])


def test_what_has_no_room(server, small, ids, prompts, lanes, monkeypatch):
    """One sentence, that says what would fit."""
    d = SMALL.language.hidden_size
    with pytest.raises(ValueError, match="the prompt has 7 tokens, this engine takes from 1 to 6"):
        server.submit(np.zeros((7, d), np.float32), MOST)
    with pytest.raises(ValueError, match="needs a row of 36 slots, those of this engine have 30"):
        server.submit(prompts[0], Limits(3, 3, 4))
    with pytest.raises(ValueError, match="needs a row of 18 tokens, those of this engine have 14"):
        server.submit(prompts[0], Limits(1, 0, 18))
    with pytest.raises(ValueError, match=r"request 5 is not among those under way, \[\]"):
        server.cancel(5)
    # 6 + 3 x 4 + 2 x (4 + 2) = 30 slots; of 2 layers, 2 heads of 8, keys and values in fp32:
    # 7680 bytes a row.
    lanes([3])
    monkeypatch.setattr(engine, "_free_memory", lambda device: 20_000)
    with pytest.raises(ValueError, match=r"3 rows of 30 tokens need .* 2 rows would fit"):
        Engine(small.model, small.params, ids=ids, rows=3, width=WIDTH, limits=[MOST])
