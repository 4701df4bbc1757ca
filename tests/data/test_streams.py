"""Streams of samples: every one once an epoch, the same whoever makes them, exact when resumed."""

import threading
import time
from concurrent.futures import CancelledError

import numpy as np
import pytest

from latentum_jax.data.faults import BadSample, Faults
from latentum_jax.data.interleaved import RowShape, caption_row_later
from latentum_jax.data.streams import Order, Streams
from tests.small import SMALL

ROWS, COUNT = 4, 10


def sample(number):
    """A row that says its number."""
    return {"number": np.asarray(number)}


def streams(make=sample, here=slice(0, ROWS), faults=None, **options):
    faults = Faults(None, 3) if faults is None else faults
    return Streams(make, COUNT, seed=0, rows=ROWS, here=here, faults=faults, **options)


def take(feed, count):
    return np.stack([next(feed)["number"] for _ in range(count)])


def test_every_sample_comes_once_an_epoch_in_another_order():
    """Breaks if samples are missed or come twice, or if all epochs are alike."""
    seen = take(streams(threads=3), 5).reshape(2, COUNT)  # 5 batches of 4 are 2 epochs of 10
    assert all(sorted(epoch) == list(range(COUNT)) for epoch in seen.tolist())
    assert seen[0].tolist() != seen[1].tolist()


def test_processes_make_what_one_would():
    """Breaks if a row depends on who makes it."""
    whole = take(streams(), 4)
    parts = [take(streams(here=slice(i, i + 2)), 4) for i in (0, 2)]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)


def test_they_go_on_where_they_were():
    """Breaks if batches that were made ahead are lost, or come again."""
    feed = streams()
    take(feed, 3)
    state, later = feed.get_state(), take(feed, 3)
    again = streams()
    again.set_state(state)
    np.testing.assert_array_equal(take(again, 3), later)
    with pytest.raises(ValueError, match="read already"):
        again.set_state(state)


def broken_seven(number):
    if number == 7:
        raise BadSample("shard.tar, 7", "no image")
    return sample(number)


def test_a_broken_sample_is_passed_over_and_counted_once(tmp_path):
    """Breaks if it ends the run, vanishes unseen, or shifts what other rows read."""
    faults = Faults(tmp_path / "bad.jsonl", 1)
    seen = take(streams(broken_seven, faults=faults), 10)
    assert 7 not in seen and len(faults.seen()) == 1
    whole = take(streams(), 10)
    place = np.argwhere(whole == 7)[0]
    np.testing.assert_array_equal(seen[: place[0]], whole[: place[0]])
    others = [row for row in range(ROWS) if not (whole[:, row] == 7).any()]
    np.testing.assert_array_equal(seen[:, others], whole[:, others])
    assert "shard.tar, 7" in (tmp_path / "bad.jsonl").read_text()


def test_too_many_broken_samples_end_it():
    """Breaks if a run goes on with data that it was not meant to have."""

    def broken(number):
        raise BadSample(f"sample {number}", "no image")

    feed = streams(broken)
    for _ in range(2):
        with pytest.raises(ValueError, match="broken samples, expected at most 3"):
            next(feed)


def test_rows_are_filled_until_the_next_does_not_fit():
    """Samples of 3, 1, 2 tokens and so on in rows of 6. Breaks if a sample is dropped where it did
    not fit, or the order is another."""
    shape = RowShape(6, 0, 0, SMALL.vision)

    def sized(number):
        count = 1 + number % 3
        valid = np.arange(6) < count
        zero = np.zeros(6, np.int32)
        row = {name: zero for name in ("labels", "weights", "position", "block", "context", "base")}
        row |= {"tokens": np.full(6, number), "valid": valid, "image_index": zero - 1}
        row |= {"pixels": np.zeros((0, 1)), "as_codes": np.zeros(0, bool)}
        names = ("target_slot", "target_position", "target_base", "target_block")
        return row | {"target_valid": np.zeros(0, bool)} | {n: np.zeros(0, int) for n in names}

    feed = Streams(
        sized, COUNT, seed=0, rows=1, here=slice(0, 1), faults=Faults(None, 0), shape=shape
    )
    said = []
    for _ in range(8):
        row = next(feed)
        tokens, base = row["tokens"][0][row["valid"][0]], row["base"][0][row["valid"][0]]
        said += [int(tokens[base == i][0]) for i in range(base.max() + 1)]
        assert len(tokens) >= 4  # another of at most 3 would fit
    order = [feed.order[i] for i in range(len(said))]
    assert said == order and feed.get_state() == {"read": [len(said)]}


def test_arrays_are_written_over_once_nobody_holds_them():
    """Breaks if a batch that is still held changes, also if but a part of it is, or if every batch
    takes new memory, which the system zeroes page by page."""
    expected = take(streams(), 12).tolist()
    feed = streams()
    held = [next(feed)["number"][1:] for _ in range(6)]
    used = set()
    for values in expected[6:]:
        batch = next(feed)
        assert batch["number"].tolist() == values
        used.add(batch.pop("number").ctypes.data)
    assert [x.tolist() for x in held] == [values[1:] for values in expected[:6]]
    assert len(used) < 6


def test_rows_of_another_shape_make_no_batch():
    """Breaks if a row is stretched to the others' shape."""
    feed = streams(lambda number: {"number": np.zeros(1 + number % 2)})
    with pytest.raises(ValueError, match="rows whose number are .* do not make a batch"):
        next(feed)


def test_rows_of_other_names_make_no_batch():
    """Breaks if what a row lacks is that of an earlier batch."""
    feed = streams(lambda number: {f"number{number % 2}": np.zeros(1)})
    with pytest.raises(ValueError, match="rows of .* do not make a batch"):
        next(feed)


def test_who_waits_is_told_that_they_were_closed(monkeypatch):
    """Breaks if a thread waits for ever for a lot that stood in line and nobody makes any more."""
    monkeypatch.setattr("latentum_jax.data.streams.LOT", 1)
    begun, go_on = threading.Event(), threading.Event()

    def slow(number):
        begun.set()
        go_on.wait(10)
        return sample(number)

    feed, told = streams(slow), []

    def wait():
        try:
            while True:
                next(feed)
        except (CancelledError, RuntimeError) as error:
            told.append(error)

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    assert begun.wait(10)
    while len(feed._made) <= feed.ahead:  # then all lots of the first batch stand in line
        time.sleep(0.01)
    feed.close()
    go_on.set()
    waiting.join(10)
    assert told


def test_pictures_may_be_broken_after_their_text():
    """A row is made in two steps. Breaks if a sample whose second step fails is not replaced by the
    next of its own stream, or is not counted."""
    faults = Faults(None, 3)

    def later(number):
        return lambda: broken_seven(number)

    feed, plain = streams(later, faults=faults), streams(broken_seven)
    np.testing.assert_array_equal(take(feed, 6), take(plain, 6))
    assert faults.seen() == {"shard.tar, 7"} and feed.get_state() == plain.get_state()


def test_words_of_many_rows_are_made_at_once(small):
    """Breaks if a lot's words or pictures reach other rows, those of an earlier batch stay in its
    arrays, or those of a sample whose picture is broken do."""
    shape, given = RowShape(12, 1, 1, SMALL.vision), []

    def later(number):
        def see(out):
            broken_seven(number)
            if out is None:
                return np.full((28, 28, 3), number, np.uint8)
            out[:] = number
            given.append(number)
            return out

        return caption_row_later("up " * (number + 1), see, small.tokenizer, shape)

    faults = Faults(None, 3)
    feed, plain = streams(later, faults=faults), streams(lambda number: later(number)())
    for _ in range(6):
        one, other = next(feed), next(plain)
        assert one.keys() == other.keys()
        for name, value in other.items():
            np.testing.assert_array_equal(one[name], value, err_msg=name)
    assert faults.seen() == {"shard.tar, 7"} and feed.get_state() == plain.get_state()
    assert given, "no picture was written to its place"


@pytest.mark.parametrize("count", [10, 70_000])
def test_an_epochs_order_is_a_permutation(count):
    """Of few samples and of many. Breaks if a sample is missed, or epochs or seeds are alike."""
    order = Order(count, 1)
    first = [order[i] for i in range(count)]
    assert sorted(first) == list(range(count)) != first
    assert (
        [order[count + i] for i in range(10)]
        != first[:10]
        != [Order(count, 2)[i] for i in range(10)]
    )


def test_closed_streams_let_their_threads_go():
    """Breaks if a run that ends leaves threads that read on."""
    before = threading.active_count()
    feed = streams()
    next(feed)
    feed.close()
    for _ in range(50):
        if threading.active_count() <= before:
            return
        threading.Event().wait(0.1)
    raise AssertionError("threads are left")
