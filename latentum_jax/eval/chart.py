"""Line and bar charts as SVG, for reports kept in a repository: text, small, sharp at any size."""

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

Number = int | float
Points = Sequence[tuple[Number, Number]]
WIDTH, HEIGHT = 640, 360
LEFT, RIGHT, TOP, BOTTOM = 56, 176, 36, 44
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b", "#e377c2", "#555555")


def line_chart(
    title: str,
    series: Mapping[str, Points],
    *,
    x_label: str,
    y_range: tuple[Number, Number] | None = None,
) -> str:
    """Named lines through points (x, y) as an SVG document, with axes and a legend.

    Raises ValueError where there are no points, or one is not finite.
    """
    every = np.array([point for points in series.values() for point in points], float)
    if not every.size or not np.isfinite(every).all():
        raise ValueError(f"a chart of {sorted(series)} needs points, all of them finite")
    x_low, x_high = _span(every[:, 0].min(), every[:, 0].max())
    y_low, y_high = y_range or _span(every[:, 1].min(), every[:, 1].max())

    def place(x: Number, y: Number) -> tuple[float, float]:
        across = (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)
        up = (y - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)
        return round(LEFT + across, 1), round(HEIGHT - BOTTOM - up, 1)

    parts = _frame(title, x_label, (y_low, y_high))
    for x in _ticks(x_low, x_high):
        across, height = place(x, y_low)
        parts.append(_line(across, height, across, height + 4, "#333333"))
        parts.append(_text(across, height + 18, f"{x:g}", anchor="middle"))
    for number, (name, points) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        path = " ".join(f"{x},{y}" for x, y in (place(*point) for point in points))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        height = TOP + 14 + 20 * number
        parts.append(_line(WIDTH - RIGHT + 12, height, WIDTH - RIGHT + 36, height, colour, 2))
        parts.append(_text(WIDTH - RIGHT + 42, height + 4, name))
    return "\n".join([*parts, "</svg>", ""])


def bar_chart(
    title: str,
    groups: Sequence[str],
    series: Mapping[str, Sequence[tuple[Number, Number]]],
    *,
    x_label: str,
    y_range: tuple[Number, Number] | None = None,
) -> str:
    """A bar (height, spread) of each series over each group as an SVG document; the spread is drawn
    as a whisker to both sides, within `y_range`.

    Raises ValueError where there are no bars, one for each group, or one is not finite.
    """
    every = np.array([bar for bars in series.values() for bar in bars], float)
    if not every.size or not np.isfinite(every).all():
        raise ValueError(f"a chart of {sorted(series)} needs bars, all of them finite")
    if odd := [name for name, bars in series.items() if len(bars) != len(groups)]:
        raise ValueError(f"{odd[0]} has {len(series[odd[0]])} bars, expected {len(groups)}")
    top, below = every.sum(1).max(), (every[:, 0] - every[:, 1]).min()
    low, high = y_range or _span(min(0.0, below), max(0.0, top))
    up = lambda y: round(HEIGHT - BOTTOM - (y - low) / (high - low) * (HEIGHT - TOP - BOTTOM), 1)  # noqa: E731
    group = (WIDTH - LEFT - RIGHT) / len(groups)
    wide = 0.8 * group / len(series)
    parts = _frame(title, x_label, (low, high))
    for place, name in enumerate(groups):
        across = round(LEFT + (place + 0.5) * group, 1)
        parts.append(_text(across, HEIGHT - BOTTOM + 18, name, anchor="middle"))
    for number, (name, bars) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        for place, (y, spread) in enumerate(bars):
            left = round(LEFT + (place + 0.1) * group + number * wide, 1)
            parts.append(_box(left, up(max(y, 0)), wide, abs(up(y) - up(0)), colour))
            middle = round(left + wide / 2, 1)
            ends = [up(min(max(end, low), high)) for end in (y - spread, y + spread)]
            parts.append(_line(middle, ends[0], middle, ends[1], "#333333"))
        height = TOP + 14 + 20 * number
        parts.append(_box(WIDTH - RIGHT + 12, height - 6, 24, 12, colour))
        parts.append(_text(WIDTH - RIGHT + 42, height + 4, name))
    return "\n".join([*parts, "</svg>", ""])


def _frame(title: str, x_label: str, y_range: tuple[Number, Number]) -> list[str]:
    """An SVG document's beginning: title, label, and lines across at round heights."""
    low, high = y_range
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        _text(LEFT, 22, title, size=14),
        _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, x_label, anchor="middle"),
    ]
    for y in _ticks(low, high):
        up = (y - low) / (high - low) * (HEIGHT - TOP - BOTTOM)
        height = round(HEIGHT - BOTTOM - up, 1)
        parts.append(_line(LEFT, height, WIDTH - RIGHT, height, "#dddddd"))
        parts.append(_text(LEFT - 6, height + 4, f"{y:g}", anchor="end"))
    return parts


def _span(low: Number, high: Number) -> tuple[float, float]:
    """A range that is not empty."""
    return (float(low), float(high)) if high > low else (float(low) - 0.5, float(low) + 0.5)


def _ticks(low: Number, high: Number, most: int = 6) -> list[float]:
    """Round numbers within a range."""
    rough = (high - low) / most
    size = 10.0 ** np.floor(np.log10(rough))
    step = next(size * m for m in (1, 2, 5, 10) if size * m >= rough)
    first = np.ceil(low / step - 1e-9)
    return [
        float(round(n * step, 10)) + 0.0 for n in np.arange(first, np.floor(high / step + 1e-9) + 1)
    ]


def _box(x: Number, y: Number, width: Number, height: Number, colour: str) -> str:
    size = f'width="{round(width, 1)}" height="{round(height, 1)}"'
    return f'<rect x="{x}" y="{y}" {size} fill="{colour}"/>'


def _line(x: Number, y: Number, to_x: Number, to_y: Number, colour: str, width: int = 1) -> str:
    ends = f'x1="{x}" y1="{y}" x2="{to_x}" y2="{to_y}"'
    return f'<line {ends} stroke="{colour}" stroke-width="{width}"/>'


def _text(x: Number, y: Number, text: str, *, anchor: str = "start", size: int = 12) -> str:
    where = f'x="{x}" y="{y}" text-anchor="{anchor}" font-size="{size}"'
    return f"<text {where}>{escape(text)}</text>"
