"""Line and bar charts as SVG."""

from xml.etree import ElementTree

import pytest

from latentum_jax.eval.chart import COLOURS, bar_chart, line_chart


def parts(svg, name):
    return ElementTree.fromstring(svg).findall(f"{{http://www.w3.org/2000/svg}}{name}")


def test_points_lie_where_they_are():
    """Breaks if an axis is turned round or scaled wrongly: the plot is 56 to 464 across and
    316 (low) to 36 up, so the middle of 0 to 10 is at 260 and a quarter of 0 to 1 at 246."""
    svg = line_chart("t", {"a": [(0, 0), (5, 0.25), (10, 1)]}, x_label="x", y_range=(0, 1))
    (line,) = parts(svg, "polyline")
    assert line.get("points") == "56.0,316.0 260.0,246.0 464.0,36.0"


def test_names_are_told_and_escaped():
    """Breaks if a legend lacks a line, or a name can break the document."""
    svg = line_chart("a < b", {"x & y": [(0, 1)], "z": [(1, 2)]}, x_label="step")
    texts = [text.text for text in parts(svg, "text")]
    assert {"a < b", "x & y", "z", "step"} <= set(texts)


def test_a_line_that_is_flat():
    """Breaks if equal values, or one point, divide by nothing."""
    assert "polyline" in line_chart("t", {"a": [(3, 2.0)]}, x_label="x")


@pytest.mark.parametrize("points", [[], [(0, float("nan"))]])
def test_nothing_to_draw(points):
    """Breaks if a chart without points, or with what is no number, is written."""
    with pytest.raises(ValueError, match="needs points, all of them finite"):
        line_chart("t", {"a": points}, x_label="x")


def test_bars_stand_where_they_do():
    """Breaks if a bar hangs or is of another group: the plot is 408 across and 280 high, two groups
    of 204, of which 0.8 are bars: 81.6 each of two. A quarter of 280 is 70, up from 316; a whisker
    of 0.5 around 0.75 ends at the top."""
    bars = {"a": [(0.25, 0.0), (1.0, 0.1)], "b": [(0.75, 0.5), (0.0, 0.0)]}
    svg = bar_chart("t", ["3", "4"], bars, x_label="level", y_range=(0, 1))
    boxes = [box for box in parts(svg, "rect") if box.get("fill") == COLOURS[0]]
    first, second, legend = ([box.get(n) for n in ("x", "y", "width", "height")] for box in boxes)
    assert first == ["76.4", "246.0", "81.6", "70.0"]
    assert second == ["280.4", "36.0", "81.6", "280.0"]
    whiskers = [(x.get("y1"), x.get("y2")) for x in parts(svg, "line") if x.get("x1") == "198.8"]
    assert whiskers == [("246.0", "36.0")]
    assert {"3", "4", "level", "a", "b"} <= {text.text for text in parts(svg, "text")}


def test_bars_below_nothing():
    """Breaks if a loss is drawn as a gain: -1 to 1 is 280 high, 0 at 176, and the bar of -1 hangs
    from there to the bottom."""
    svg = bar_chart("t", ["x"], {"a": [(-1, 0)], "b": [(1, 0)]}, x_label="")
    box = next(box for box in parts(svg, "rect") if box.get("fill") == COLOURS[0])
    assert (box.get("y"), box.get("height")) == ("176.0", "140.0")


def test_bars_that_are_missing():
    """Breaks if groups and bars are paired by chance."""
    with pytest.raises(ValueError, match="a has 1 bars, expected 2"):
        bar_chart("t", ["3", "4"], {"a": [(1, 0)]}, x_label="")
    with pytest.raises(ValueError, match="needs bars, all of them finite"):
        bar_chart("t", ["3"], {"a": [(float("nan"), 0)]}, x_label="")
