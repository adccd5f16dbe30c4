"""Charts as SVG, small enough that their text can be read in a narrow window."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a6d00", "#56b4e9", "#4d4d4d", "#7b3fa0")
"""Of Okabe and Ito, for readers who do not see all colours alike; yellow is darkened for white paper."""
_DASHES = ("", "6 3", "2 2", "8 3 2 3")
_INK, _SOFT, _LINE = "#1a1d21", "#5c6570", "#e3e6ea"

Mark = Literal["circle", "square", "triangle", "diamond", "cross", "plus", "star", "ring"]
MARKS: tuple[Mark, ...] = ("circle", "square", "triangle", "diamond", "cross", "plus", "star", "ring")


@dataclass(frozen=True)
class Series:
    """A line, or a group of points.

    Attributes:
      name: in the legend.
      x, y: of the same length; points that are not finite are left out.
      errors: half widths of the bars at the points in (x, y); none by default.
      colour: place in `COLOURS`.
      dash: place among the kinds of dashes, 0 for a full line.
      mark: form of the points of a scatter chart.
      labels: text beside each point of a scatter chart; none by default.
      hints: what each point says when the pointer rests on it.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    errors: Sequence[tuple[float, float]] = ()
    colour: int = 0
    dash: int = 0
    mark: Mark = "circle"
    labels: Sequence[str] = ()
    hints: Sequence[str] = ()

    @property
    def points(self) -> list[tuple[int, float, float]]:
        """Place, x and y of the finite points."""
        return [(i, x, y) for i, (x, y) in enumerate(zip(self.x, self.y)) if math.isfinite(x) and math.isfinite(y)]


def line_chart(
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
    x_ticks: Sequence[tuple[float, str]] = (),
    level: float | None = None,
    diagonal: bool = False,
    marks: bool = False,
) -> Markup:
    """Lines over common axes.

    Args:
      series: one line each.
      x_label, y_label: names of the axes, with their units.
      x_range, y_range: ends of the axes; those of the data by default.
      x_ticks: places on the x axis and what to write there; round numbers by default.
      level: draws a horizontal line there.
      diagonal: draws the line y = x.
      marks: draws the points, too.
    """
    frame = _Frame(series, x_range, y_range, 340, 220, x_label, y_label, [level] if level is not None else [])
    parts = [frame.axes(x_ticks)]
    if level is not None:
        parts.append(frame.rule(frame.left, frame.y(level), frame.right, frame.y(level)))
    if diagonal:
        low, high = max(frame.x_low, frame.y_low), min(frame.x_high, frame.y_high)
        parts.append(frame.rule(frame.x(low), frame.y(low), frame.x(high), frame.y(high)))
    for s in series:
        way = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for _, x, y in s.points)
        parts.append(
            Markup('<polyline fill="none" stroke="{}" stroke-width="1.6" stroke-dasharray="{}" points="{}"/>').format(
                _colour(s), _DASHES[s.dash % len(_DASHES)], way
            )
        )
        parts += [frame.error_bars(s, i, x, y) for i, x, y in s.points if s.errors]
        if marks or len(s.points) == 1:
            parts += [_hinted(s, i, _mark(s.mark, frame.x(x), frame.y(y), 2.6, _colour(s))) for i, x, y in s.points]
    return frame.svg(parts)


def scatter_chart(
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    front: Sequence[tuple[float, float]] = (),
) -> Markup:
    """Points with bars of their spread; `front` are the points that a line joins, in its order."""
    frame = _Frame(series, None, None, 460, 360, x_label, y_label)
    parts = [frame.axes()]
    if front:
        way = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in front)
        line = '<polyline fill="none" stroke="{}" stroke-width="1" stroke-dasharray="4 3" points="{}"/>'
        parts.append(Markup(line).format(_SOFT, way))
    parts += [frame.error_bars(s, i, x, y) for s in series for i, x, y in s.points if s.errors]
    placed: list[tuple[float, float]] = []
    for s in series:
        for i, x, y in s.points:
            parts.append(_hinted(s, i, _mark(s.mark, frame.x(x), frame.y(y), 4.5, _colour(s))))
            if s.labels and s.labels[i]:
                parts.append(_label(s.labels[i], frame.x(x), frame.y(y), frame, placed))
    return frame.svg(parts)


def interval_strip(
    low: float, middle: float, high: float, reach: float, *, colour: str = _INK, margin: float | None = None
) -> Markup:
    """A difference with its interval on a line from -reach to +reach with a mark at 0, for a cell of a table.

    Args:
      low, middle, high: the interval and the point in it.
      reach: where the line ends; intervals that go on beyond it end in an arrow.
      colour: of the interval.
      margin: a second mark, such as how much worse is accepted.
    """

    def place(value: float) -> float:
        return 100 + 96 * max(-1.0, min(1.0, value / reach)) if reach > 0 else 100.0

    parts = [Markup('<line x1="100" y1="0" x2="100" y2="20" stroke="{}" stroke-width="1.5"/>').format(_SOFT)]
    if margin is not None and abs(margin) <= reach:
        mark = '<line x1="{0:.1f}" y1="3" x2="{0:.1f}" y2="17" stroke="{1}" stroke-dasharray="2 2"/>'
        parts.append(Markup(mark).format(place(margin), _SOFT))
    if all(map(math.isfinite, (low, middle, high))):
        bar = '<line x1="{:.1f}" y1="10" x2="{:.1f}" y2="10" stroke="{}" stroke-width="2.5"/>'
        parts.append(Markup(bar).format(place(low), place(high), colour))
        for value in (low, high):
            if abs(value) > reach > 0:
                tip = place(value)
                arrow = '<polygon points="{:.1f},10 {:.1f},5 {:.1f},15" fill="{}"/>'
                base = tip - 6 * (1 if value > 0 else -1)
                parts.append(Markup(arrow).format(tip, base, base, colour))
        parts.append(Markup('<circle cx="{:.1f}" cy="10" r="4.5" fill="{}"/>').format(place(middle), colour))
    said = f"{middle:+.4g}, interval {low:+.4g} to {high:+.4g}"
    return Markup(
        '<svg class="strip" viewBox="0 0 200 20" preserveAspectRatio="none" role="img" aria-label="{}">{}</svg>'
    ).format(said, Markup("").join(parts))


@dataclass(frozen=True)
class Bar:
    """A bar of a chart, or a part of a bar.

    Attributes:
      name: what it stands for.
      size: its height, or its share of the bar in [0, 1].
      colour: such as '#0072b2'.
      value: text above it.
      hint: what it says when the pointer rests on it.
    """

    name: str
    size: float
    colour: str = COLOURS[0]
    value: str = ""
    hint: str = ""


def bar_chart(bars: Sequence[Bar], *, label: str, mark: tuple[float, str] | None = None) -> Markup:
    """Bars beside each other, their names slanted below them.

    Args:
      bars: from left to right; the highest one fills the chart.
      label: what the chart shows.
      mark: where to draw a vertical line, in bars from the left, and what to write beside it.
    """
    width, left, right, top, bottom = 420.0, 14.0, 414.0, 34.0, 170.0
    step = (right - left) / max(len(bars), 1)
    most = max((bar.size for bar in bars), default=0.0) or 1.0
    parts = [
        Markup('<line x1="{}" y1="{}" x2="{}" y2="{}" stroke="{}"/>').format(left, bottom, right, bottom, _SOFT),
    ]
    for i, bar in enumerate(bars):
        x, height = left + i * step, (bottom - top) * bar.size / most
        rect = '<rect x="{:.2f}" y="{:.2f}" width="{:.2f}" height="{:.2f}" fill="{}"><title>{}</title></rect>'
        drawn = Markup(rect).format(x + 0.1 * step, bottom - height, 0.8 * step, height, bar.colour, bar.hint)
        value = '<text x="{:.1f}" y="{:.1f}" text-anchor="middle" font-size="9" fill="{}">{}</text>'
        name = '<text transform="translate({:.1f} {}) rotate(-40)" text-anchor="end" font-size="11" fill="{}">{}</text>'
        parts += [drawn, Markup(name).format(x + 0.65 * step, bottom + 13, _INK, bar.name)]
        if bar.value:
            parts.append(Markup(value).format(x + step / 2, bottom - height - 3, _SOFT, bar.value))
    if mark is not None:
        x = left + mark[0] * step
        side, anchor = (4, "start") if x < width / 2 else (-4, "end")
        line = (
            '<line x1="{0:.2f}" y1="4" x2="{0:.2f}" y2="{1}" stroke="{2}" stroke-width="1.5" stroke-dasharray="5 3"/>'
        )
        text = '<text x="{:.1f}" y="14" text-anchor="{}" font-size="11" fill="{}">{}</text>'
        parts += [Markup(line).format(x, bottom + 4, COLOURS[1]), Markup(text).format(x + side, anchor, _INK, mark[1])]
    return Markup('<svg viewBox="0 0 {:g} 226" role="img" aria-label="{}">{}</svg>').format(
        width, label, Markup("").join(parts)
    )


def stacked_bar(parts: Iterable[Bar], *, label: str) -> Markup:
    """Shares of a whole, or of the longest of several bars, one after the other, for a cell of a table."""
    drawn, x = [], 0.0
    for part in parts:
        # What is there can be seen, however small it is.
        width = max(200 * part.size, 1.0) if part.size else 0.0
        rect = '<rect x="{:.2f}" y="2" width="{:.2f}" height="16" fill="{}"><title>{}</title></rect>'
        drawn.append(Markup(rect).format(x, width, part.colour, part.hint))
        x += 200 * part.size
    return Markup(
        '<svg class="strip" viewBox="0 0 200 20" preserveAspectRatio="none" role="img" aria-label="{}">{}</svg>'
    ).format(label, Markup("").join(drawn))


def swatches(colours: Mapping[str, str]) -> Markup:
    """Names of what colours stand for."""
    entry = (
        '<li><svg viewBox="0 0 32 16" aria-hidden="true"><rect width="16" height="16" x="8" fill="{}"/></svg>{}</li>'
    )
    entries = Markup("").join(Markup(entry).format(colour, name) for name, colour in colours.items())
    return Markup('<ul class="legend">{}</ul>').format(entries)


def legend(series: Iterable[Series], *, marks: bool = False) -> Markup:
    """Names of series with their lines, or with their marks."""
    entries = []
    for s in series:
        if marks:
            drawn = _mark(s.mark, 16, 8, 4.5, _colour(s))
        else:
            line = '<line x1="0" y1="8" x2="32" y2="8" stroke="{}" stroke-width="2.5" stroke-dasharray="{}"/>'
            drawn = Markup(line).format(_colour(s), _DASHES[s.dash % len(_DASHES)])
        entry = '<li><svg viewBox="0 0 32 16" aria-hidden="true">{}</svg>{}</li>'
        entries.append(Markup(entry).format(drawn, s.name))
    return Markup('<ul class="legend">{}</ul>').format(Markup("").join(entries))


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers in [low, high], multiples of 1, 2 or 5 times a power of ten, at most about `most`."""
    if not high > low:
        return [low]
    step = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(step * f for f in (1, 2, 5, 10, 20) if (high - low) / (step * f) <= most)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


class _Frame:
    """Axes, and the places of values on them."""

    def __init__(
        self,
        series: Sequence[Series],
        x_range: tuple[float, float] | None,
        y_range: tuple[float, float] | None,
        width: int,
        height: int,
        x_label: str,
        y_label: str,
        more_y: Sequence[float] = (),
    ):
        spread = [(s, i, x, y) for s in series for i, x, y in s.points]
        xs = [x + side * (s.errors[i][0] if s.errors else 0) for s, i, x, _ in spread for side in (-1, 1)]
        ys = [y + side * (s.errors[i][1] if s.errors else 0) for s, i, _, y in spread for side in (-1, 1)]
        self.x_low, self.x_high = x_range or _extent(xs)
        self.y_low, self.y_high = y_range or _extent([*ys, *more_y])
        self._width, self._height = width, height
        self._y_ticks = ticks(self.y_low, self.y_high)
        widest = max(len(_number(value, self._y_ticks)) for value in self._y_ticks)
        self.left, self.right, self.top, self.bottom = 26.0 + 6.5 * widest, width - 10.0, 10.0, height - 38.0
        self._labels = (x_label, y_label)

    def x(self, value: float) -> float:
        share = (value - self.x_low) / (self.x_high - self.x_low)
        return self.left + (self.right - self.left) * min(max(share, -0.02), 1.02)

    def y(self, value: float) -> float:
        share = (value - self.y_low) / (self.y_high - self.y_low)
        return self.bottom - (self.bottom - self.top) * min(max(share, -0.02), 1.02)

    def axes(self, named: Sequence[tuple[float, str]] = ()) -> Markup:
        parts = []
        line = '<line x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}" stroke="{}"/>'
        text = '<text x="{:.1f}" y="{:.1f}" text-anchor="{}" font-size="11" fill="{}">{}</text>'
        round_numbers = ticks(self.x_low, self.x_high)
        for value in self._y_ticks:
            parts.append(Markup(line).format(self.left, self.y(value), self.right, self.y(value), _LINE))
            number = _number(value, self._y_ticks)
            parts.append(Markup(text).format(self.left - 5, self.y(value) + 4, "end", _SOFT, number))
        for value, said in named or [(v, _number(v, round_numbers)) for v in round_numbers]:
            if self.x_low <= value <= self.x_high:
                parts.append(Markup(line).format(self.x(value), self.bottom, self.x(value), self.bottom + 4, _SOFT))
                parts.append(Markup(text).format(self.x(value), self.bottom + 16, "middle", _SOFT, said))
        parts.append(Markup(line).format(self.left, self.bottom, self.right, self.bottom, _SOFT))
        middle = (self.left + self.right) / 2
        parts.append(Markup(text).format(middle, self._height - 5, "middle", _INK, self._labels[0]))
        turned = (
            '<text transform="translate(11 {:.1f}) rotate(-90)" text-anchor="middle" font-size="11" fill="{}">{}</text>'
        )
        parts.append(Markup(turned).format((self.top + self.bottom) / 2, _INK, self._labels[1]))
        return Markup("").join(parts)

    def rule(self, x1: float, y1: float, x2: float, y2: float) -> Markup:
        line = '<line x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}" stroke="{}" stroke-dasharray="3 3"/>'
        return Markup(line).format(x1, y1, x2, y2, _SOFT)

    def error_bars(self, s: Series, i: int, x: float, y: float) -> Markup:
        dx, dy = s.errors[i]
        line = '<line x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}" stroke="{}" stroke-opacity=".55"/>'
        across = Markup(line).format(self.x(x - dx), self.y(y), self.x(x + dx), self.y(y), _colour(s))
        along = Markup(line).format(self.x(x), self.y(y - dy), self.x(x), self.y(y + dy), _colour(s))
        return across * bool(dx) + along * bool(dy)

    def svg(self, parts: Iterable[Markup]) -> Markup:
        return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{} over {}">{}</svg>').format(
            self._width, self._height, self._labels[1], self._labels[0], Markup("").join(parts)
        )


def _colour(s: Series) -> str:
    return COLOURS[s.colour % len(COLOURS)]


def _extent(values: Sequence[float]) -> tuple[float, float]:
    """The ends of an axis with some room beside the values."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    room = 0.06 * (high - low) or 0.5 * abs(high) or 0.5
    return low - room, high + room


def _number(value: float, among: Sequence[float]) -> str:
    """A tick's value with the decimals that tell it from its neighbours."""
    step = among[1] - among[0] if len(among) > 1 else abs(value)
    if max(map(abs, among)) >= 100_000:
        return f"{value:.3g}"
    decimals = max(0, -math.floor(math.log10(step) + 1e-9)) if step > 0 else 0
    return f"{value + 0.0:,.{min(decimals, 6)}f}"


def _mark(mark: Mark, x: float, y: float, r: float, colour: str) -> Markup:
    def polygon(*corners: tuple[float, float]) -> Markup:
        points = " ".join(f"{x + dx * r:.1f},{y + dy * r:.1f}" for dx, dy in corners)
        return Markup('<polygon points="{}" fill="{}"/>').format(points, colour)

    if mark == "circle":
        return Markup('<circle cx="{:.1f}" cy="{:.1f}" r="{}" fill="{}"/>').format(x, y, r, colour)
    if mark == "ring":
        ring = '<circle cx="{:.1f}" cy="{:.1f}" r="{}" fill="#fff" stroke="{}" stroke-width="2"/>'
        return Markup(ring).format(x, y, r, colour)
    if mark == "square":
        return polygon((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9))
    if mark == "triangle":
        return polygon((0, -1.2), (1.1, 0.8), (-1.1, 0.8))
    if mark == "diamond":
        return polygon((0, -1.3), (1.1, 0), (0, 1.3), (-1.1, 0))
    if mark == "star":
        corners = [(math.sin(k * math.pi / 5), -math.cos(k * math.pi / 5)) for k in range(10)]
        return polygon(
            *((1.5 * dx, 1.5 * dy) if k % 2 == 0 else (0.65 * dx, 0.65 * dy) for k, (dx, dy) in enumerate(corners))
        )
    a, b = (r, 0.0) if mark == "plus" else (0.8 * r, 0.8 * r)
    way = f"M{x - a:.1f},{y - b:.1f}L{x + a:.1f},{y + b:.1f}M{x - b:.1f},{y + a:.1f}L{x + b:.1f},{y - a:.1f}"
    return Markup('<path d="{}" stroke="{}" stroke-width="2.2" fill="none"/>').format(way, colour)


def _hinted(s: Series, i: int, drawn: Markup) -> Markup:
    return Markup("<g>{}<title>{}</title></g>").format(drawn, s.hints[i]) if s.hints else drawn


def _label(text: str, x: float, y: float, frame: _Frame, placed: list[tuple[float, float]]) -> Markup:
    """Text beside a point, on the side where there is room, moved down where it would cover another."""
    leftwards = x > frame.left + 0.62 * (frame.right - frame.left)
    while any(abs(x - px) < 130 and abs(y - py) < 12 for px, py in placed):
        y += 12
    placed.append((x, y))
    anchor, dx = ("end", -8) if leftwards else ("start", 8)
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}" font-size="11" fill="{}">{}</text>').format(
        x + dx, y + 4, anchor, _INK, text
    )
