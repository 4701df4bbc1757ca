"""Mean and spread over seeds, and what is said of them, by hand."""

import pytest

from latentum_jax.miniature.spread import cell, decided, finding, half_interval, spread, verdict


def test_spread_by_hand():
    """Breaks if the spread is of a population, or names are mixed up: 1, 2 and 6 have mean 3 and
    squares (4 + 1 + 9) / 2 = 7."""
    seeds = [{"a": {"b": x, "c": 0.5}, "d": -x} for x in (1.0, 2.0, 6.0)]
    found = spread(seeds)
    assert found["a"]["b"] == pytest.approx({"mean": 3.0, "sd": 7**0.5})
    assert found["a"]["c"] == {"mean": 0.5, "sd": 0.0} and found["d"]["mean"] == -3.0
    assert spread(seeds[:1])["d"] == {"mean": -1.0, "sd": 0.0}
    assert cell(found["a"]["b"], 2, 10.0) == "30.00 ± 26.46"
    with pytest.raises(ValueError, match=r"seeds have \[\['a'\], \['b'\]\]"):
        spread([{"a": 1.0}, {"b": 1.0}])


def test_interval_by_hand():
    """Breaks if the interval is a normal's, which of three seeds is half as wide: 1, 2 and 3 have
    standard deviation 1, and Student's 97.5% point with 2 degrees of freedom is 4.303."""
    assert half_interval([1.0, 2.0, 3.0]) == pytest.approx(4.303 / 3**0.5)
    assert decided([1.0, 2.0, 3.0]) == 0 and decided([11.0, 12.0, 13.0]) == 1
    assert decided([-11.0, -12.0, -13.0]) == -1
    assert decided([5.0]) == decided([0.0, 0.0, 0.0]) == 0


@pytest.mark.parametrize(
    ("gains", "words"),
    [
        (
            [11.0, 12.0, 13.0],
            "As the paper says, a beats b: +12.0 points ± 2.5 (95% over 3 seeds).",
        ),
        (
            [-11.0, -12.0, -13.0],
            "**This contradicts the paper**, which says that a beats b: -12.0 points",
        ),
        ([-1.0, 0.0, -2.0], "a beats b; the mean here goes the other way, within what seeds"),
        ([1.0, 0.0, 2.0], "a beats b; seeds differ by too much to tell here: +1.0 points"),
        ([0.0, 0.0], "The paper says that a beats b; here there is no difference: +0.0"),
        ([7.0], "The paper says that a beats b; one seed cannot tell: +7.0 points."),
    ],
)
def test_what_is_said_of_a_claim(gains, words):
    """Breaks if a contradiction is passed over, or claimed of what seeds differ by."""
    assert words in verdict("a beats b", gains, "points")


def test_what_is_said_of_a_finding():
    """Breaks if the paper is said to say what it does not."""
    assert finding("a beats b", [3.0, 3.0], "m").startswith("It is so that a beats b: +3.0 m")
    assert "is **not** so that a" in finding("a beats b", [-3.0, -3.0], "m")
    assert finding("a beats b", [3.0], "m").startswith("Whether a beats b, one seed cannot tell")
