"""Over seeds: mean, spread, and what they say about a claim of the paper."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

Values = Mapping[str, Any]  # numbers by name, or again such a mapping

# Half the width of a 95% interval in standard errors (Student), by degrees of freedom from 1.
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


def spread(seeds: Sequence[Values]) -> dict[str, Any]:
    """The values of several seeds as one: in the place of each number its "mean" and "sd", the
    standard deviation over seeds (0 of one).

    Raises ValueError where seeds name different values.
    """
    first = seeds[0]
    if any(values.keys() != first.keys() for values in seeds):
        raise ValueError(f"seeds have {[sorted(v) for v in seeds]}, expected the same of each")
    return {name: _over([values[name] for values in seeds]) for name in first}


def _over(values: Sequence[Any]) -> dict[str, Any]:
    return spread(values) if isinstance(values[0], Mapping) else mean_and_sd(values)


def mean_and_sd(numbers: Sequence[float]) -> dict[str, float]:
    """Mean, and standard deviation with n - 1."""
    mean = sum(numbers) / len(numbers)
    squares = sum((x - mean) ** 2 for x in numbers)
    return {"mean": mean, "sd": math.sqrt(squares / max(1, len(numbers) - 1))}


def cell(found: Mapping[str, float], digits: int = 1, scale: float = 1.0) -> str:
    """A number of `spread` in a table, "97.5 ± 1.4"."""
    return f"{scale * found['mean']:.{digits}f} ± {scale * found['sd']:.{digits}f}"


def percent(found: Mapping[str, float]) -> str:
    """A share of `spread` in a table, in percent."""
    return cell(found, 1, 100.0)


def verdict(claim: str, gains: Sequence[float], unit: str, digits: int = 1) -> str:
    """One sentence on whether what the paper says holds here.

    Args:
      claim: what it says, "fine beats coarse".
      gains: of each seed, by how much it holds there: above 0 where it does.
      unit: of the gains, "points".
    """
    told, sign = _told(gains, unit, digits), decided(gains)
    if sign > 0:
        return f"As the paper says, {claim}: {told}."
    if sign < 0:
        return f"**This contradicts the paper**, which says that {claim}: {told}."
    return f"The paper says that {claim}; {_undecided(gains)}: {told}."


def finding(claim: str, gains: Sequence[float], unit: str, digits: int = 1) -> str:
    """The same of what the paper does not say."""
    told, sign = _told(gains, unit, digits), decided(gains)
    if sign:
        return f"It is {'so' if sign > 0 else '**not** so'} that {claim}: {told}."
    return f"Whether {claim}, {_undecided(gains)}: {told}."


def decided(gains: Sequence[float]) -> int:
    """1 or -1, the sign of the mean, where it is farther from 0 than half of its 95% interval over
    seeds; else 0, as for one seed, of which there is no interval."""
    mean = mean_and_sd(gains)["mean"]
    return 0 if abs(mean) <= half_interval(gains) else int(math.copysign(1, mean))


def half_interval(gains: Sequence[float]) -> float:
    """Half the width of the 95% interval of the mean; infinite for one seed."""
    if len(gains) == 1:
        return math.inf
    factor = STUDENT[min(len(gains) - 1, len(STUDENT)) - 1]
    return factor * mean_and_sd(gains)["sd"] / math.sqrt(len(gains))


def _told(gains: Sequence[float], unit: str, digits: int) -> str:
    told = f"{mean_and_sd(gains)['mean']:+.{digits}f} {unit}"
    if len(gains) == 1:
        return told
    return f"{told} ± {half_interval(gains):.{digits}f} (95% over {len(gains)} seeds)"


def _undecided(gains: Sequence[float]) -> str:
    if len(gains) == 1:
        return "one seed cannot tell"
    if not any(gains):
        return "here there is no difference"
    if mean_and_sd(gains)["mean"] < 0:
        return "the mean here goes the other way, within what seeds differ by"
    return "seeds differ by too much to tell here"
