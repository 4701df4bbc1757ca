"""Line charts as SVG."""

from xml.etree import ElementTree

import pytest

from latentum_jax.eval.chart import line_chart


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
