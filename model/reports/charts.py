"""Charts as coordinates of an SVG: lines and dots over two axes. `parts.chart` draws them, `style.css` colours them."""

import math
from collections.abc import Sequence
from typing import NamedTuple

WIDTH, HEIGHT = 400, 270
LEFT, RIGHT, TOP, BOTTOM = 46, 388, 24, 228
COLORS = 8
# As few ticks as leave room for their figures.
_MOST_TICKS = 6


class Axis(NamedTuple):
    """One axis of a chart.

    Attributes:
        title: what it measures, with its unit.
        low: value at its beginning.
        high: value at its end.
        ticks: values that are written beside it.
        is_log: whether equal distances are equal ratios.
    """

    title: str
    low: float
    high: float
    ticks: tuple[float, ...]
    is_log: bool = False

    def share(self, value: float) -> float:
        """Returns where a value lies, from 0 at the beginning to 1 at the end."""
        low, high, value = (
            (map(math.log, (self.low, self.high, value))) if self.is_log else (self.low, self.high, value)
        )
        return (value - low) / (high - low)

    def label(self, value: float) -> str:
        """Returns a tick's value as it is written."""
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def linear(title: str, values: Sequence[float], low: float | None = None, high: float | None = None) -> Axis:
    """Returns an axis that holds all values, and begins and ends at a tick unless it is told where."""
    least = min(values, default=0.0) if low is None else low
    most = max(values, default=1.0) if high is None else high
    if most <= least:
        least, most = least - 0.5, most + 0.5
    step = _step((most - least) / (_MOST_TICKS - 1))
    first = math.floor(least / step + 1e-9) if low is None else math.ceil(least / step - 1e-9)
    last = math.ceil(most / step - 1e-9) if high is None else math.floor(most / step + 1e-9)
    ticks = tuple(float(f"{step * number:.10g}") for number in range(first, last + 1))
    return Axis(title, ticks[0] if low is None else low, ticks[-1] if high is None else high, ticks)


def _step(least: float) -> float:
    """Returns the smallest of 1, 2 and 5 times a power of ten that is at least `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    return next((unit * power for unit in (1, 2, 5) if unit * power >= least * (1 - 1e-9)), 10 * power)


def logarithmic(title: str, values: Sequence[float]) -> Axis:
    """Returns an axis over values above 0, in equal ratios."""
    least, most = min(values, default=1.0), max(values, default=10.0)
    if most <= least:
        least, most = least / 2, most * 2
    powers = range(math.floor(math.log10(least)), math.ceil(math.log10(most)) + 1)
    ticks = [unit * 10.0**power for power in powers for unit in (1, 2, 5)]
    inside = [tick for tick in ticks if least <= tick <= most]
    while len(inside) > _MOST_TICKS:
        inside = inside[::2]
    return Axis(title, least, most, tuple(inside), is_log=True)


class Line(NamedTuple):
    """A line of a chart: points `x,y ..`, a colour from 0, its name, and whether it is a mere reference."""

    points: str
    color: int
    name: str
    is_reference: bool


class Dot(NamedTuple):
    """A dot of a chart: its place, radius and colour, and what it stands for."""

    x: float
    y: float
    radius: float
    color: int
    name: str


class Bar(NamedTuple):
    """A bar of a chart: its upper left corner, size and colour, and what it stands for."""

    x: float
    y: float
    width: float
    height: float
    color: int
    name: str


class Chart:
    """Bars, lines and dots over two axes.

    Attributes:
        title: above it.
        about: what it shows, a sentence for those who cannot see it.
        x: the axis below.
        y: the axis at the left.
        bars: below all others.
        lines: in the order that they are drawn.
        dots: above the lines.
    """

    width, height, left, right, top, bottom = WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM

    def __init__(self, title: str, about: str, x: Axis, y: Axis) -> None:
        """Draws nothing yet."""
        self.title, self.about, self.x, self.y = title, about, x, y
        self.bars: list[Bar] = []
        self.lines: list[Line] = []
        self.dots: list[Dot] = []

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Returns the coordinates of a point, rounded."""
        right, up = self.x.share(x), self.y.share(y)
        return round(LEFT + (RIGHT - LEFT) * right, 1), round(BOTTOM - (BOTTOM - TOP) * up, 1)

    @property
    def x_ticks(self) -> list[tuple[float, str]]:
        """Where the figures of the axis below stand, and the figures."""
        return [(self.at(tick, self.y.low)[0], self.x.label(tick)) for tick in self.x.ticks]

    @property
    def y_ticks(self) -> list[tuple[float, str]]:
        """The same for the axis at the left."""
        return [(self.at(self.x.low, tick)[1], self.y.label(tick)) for tick in self.y.ticks]

    def add_line(
        self, color: int, points: Sequence[tuple[float, float]], name: str = "", is_reference: bool = False
    ) -> None:
        """Adds a line through points."""
        path = " ".join(f"{x:g},{y:g}" for x, y in (self.at(*point) for point in points))
        self.lines.append(Line(path, color % COLORS, name, is_reference))

    def add_dot(self, color: int, x: float, y: float, name: str, radius: float = 3.0) -> None:
        """Adds a dot."""
        self.dots.append(Dot(*self.at(x, y), round(radius, 1), color % COLORS, name))

    def add_bar(self, color: int, begin: float, end: float, y: float, name: str) -> None:
        """Adds a bar from the lower axis to `y`, between two places on it."""
        (left, top), (right, bottom) = self.at(begin, y), self.at(end, self.y.low)
        width, height = max(right - left - 1, 1), bottom - top
        self.bars.append(Bar(left, top, round(width, 1), round(height, 1), color % COLORS, name))
