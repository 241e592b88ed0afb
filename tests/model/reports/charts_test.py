"""Where charts put their points, and which figures stand beside their axes."""

import pytest

from model.reports import charts
from model.reports.charts import BOTTOM, LEFT, RIGHT, TOP, Chart


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([0.0, 1.0], (0, 0.2, 0.4, 0.6, 0.8, 1)),
        ([3, 17], (0, 5, 10, 15, 20)),
        ([41.2, 57.9], (40, 45, 50, 55, 60)),
        ([-0.3, 0.4], (-0.4, -0.2, 0, 0.2, 0.4)),
        ([7, 7], (6.5, 6.75, 7, 7.25, 7.5)),
        ([], (0, 0.2, 0.4, 0.6, 0.8, 1)),
    ],
)
def test_ticks_are_round_and_hold_all_values(values, ticks):
    axis = charts.linear("", values)
    assert axis.low <= min(values, default=0) and axis.high >= max(values, default=1)
    if values != [7, 7]:
        assert axis.ticks == ticks
    assert axis.low == axis.ticks[0] and axis.high == axis.ticks[-1]


def test_an_axis_may_be_told_where_to_end():
    axis = charts.linear("", [3], 0.5, 99.5)
    assert (axis.low, axis.high, axis.ticks) == (0.5, 99.5, (20, 40, 60, 80))


def test_a_logarithmic_axis_has_equal_ratios():
    axis = charts.logarithmic("", [1, 10, 100])
    assert axis.share(10) == pytest.approx(0.5) and axis.ticks[0] == 1
    assert charts.logarithmic("", [5]).share(5) == pytest.approx(0.5)


def test_points_lie_between_the_corners():
    chart = Chart("t", "", charts.linear("", [0, 10]), charts.linear("", [0, 1]))
    chart.add_line(9, [(0, 0), (10, 1)], "<b>")
    chart.add_dot(2, 5, 0.5, "half", 4)
    assert chart.lines[0] == (f"{LEFT},{BOTTOM} {RIGHT},{TOP}", 1, "<b>", False)
    assert chart.dots[0] == ((LEFT + RIGHT) / 2, (TOP + BOTTOM) / 2, 4, 2, "half")
    assert chart.x_ticks[0] == (LEFT, "0") and chart.x_ticks[-1] == (RIGHT, "10")
    assert chart.y_ticks[0] == (BOTTOM, "0") and chart.y_ticks[-1] == (TOP, "1")
