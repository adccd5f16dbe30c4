import itertools
import math
import re
import xml.etree.ElementTree as ElementTree

import pytest

from components.pages import (
    Bar,
    Series,
    bar_chart,
    interval_strip,
    legend,
    line_chart,
    scatter_chart,
    stacked_bar,
    swatches,
)
from components.pages.charts import MARKS, ticks


def parse(picture):
    return ElementTree.fromstring(str(picture))


def points(picture, which=0):
    text = [e.attrib["points"] for e in parse(picture).iter("polyline")][which]
    return [tuple(map(float, pair.split(","))) for pair in text.split()]


def numbers(picture, anchor):
    return [float(e.text.replace(",", "")) for e in parse(picture).iter("text") if e.attrib.get("text-anchor") == anchor
            and re.fullmatch(r"-?[\d,.]+", e.text)]  # fmt: skip


@pytest.mark.parametrize("low, high", [(0, 1), (-3, 7), (0.7412, 0.7419), (0, 1e6), (1e-9, 3e-9), (-1, 1), (95, 105)])
def test_ticks_are_round_evenly_spaced_and_inside(low, high):
    found = ticks(low, high)
    assert 2 <= len(found) <= 6 and low - 1e-12 <= found[0] and found[-1] <= high + 1e-9 * abs(high)
    step = found[1] - found[0]
    assert all(b - a == pytest.approx(step) for a, b in itertools.pairwise(found))
    mantissa = step / 10 ** math.floor(math.log10(step) + 1e-9)
    assert any(mantissa == pytest.approx(m) for m in (1, 2, 5))


def test_lines_are_linear_in_the_data():
    picture = line_chart(
        [Series("a", [0, 1, 4], [0, 5, 20])], x_label="x", y_label="y", x_range=(0, 4), y_range=(0, 20)
    )
    (x0, y0), (x1, y1), (x2, y2) = points(picture)
    assert (x1 - x0) / (x2 - x0) == pytest.approx(0.25, abs=1e-2) and (y1 - y0) / (y2 - y0) == pytest.approx(
        0.25, abs=1e-2
    )
    assert x0 < x2 and y0 > y2  # upwards is less in SVG
    assert numbers(picture, "end") == [0, 5, 10, 15, 20]


def test_tick_labels_tell_close_values_apart():
    picture = line_chart([Series("a", [0, 1], [0.74121, 0.74129])], x_label="x", y_label="y")
    shown = numbers(picture, "end")
    assert len(set(shown)) == len(shown) >= 3


def test_points_that_are_no_numbers_are_left_out():
    picture = line_chart([Series("a", [0, 1, 2], [1, math.nan, 3]), Series("b", [], [])], x_label="x", y_label="y")
    assert len(points(picture)) == 2 and points(picture, 1) == []


def test_scatter_has_every_mark_with_its_hint_and_the_front():
    series = [
        Series(m, [i], [i], [(0.5, 0.5)], colour=i, mark=m, labels=[m], hints=[f"point <{i}>"])
        for i, m in enumerate(MARKS)
    ]
    picture = scatter_chart(series, x_label="x", y_label="y", front=[(0, 0), (7, 7)])
    assert [t.text for t in parse(picture).iter("title")] == [f"point <{i}>" for i in range(len(MARKS))]
    assert len(points(picture)) == 2
    legend(series, marks=True)


def test_labels_do_not_cover_each_other():
    series = [Series("a", [1, 1.01, 5], [1, 1.01, 1], labels=["first", "second", "far"])]
    picture = scatter_chart(series, x_label="x", y_label="y")
    at = {e.text: float(e.attrib.get("y", "nan")) for e in parse(picture).iter("text")}
    assert abs(at["first"] - at["second"]) >= 11


def strip(low, middle, high, reach=1.0, **options):
    found = parse(interval_strip(low, middle, high, reach, **options))
    bar = [e for e in found.iter("line") if e.attrib.get("stroke-width") == "2.5"]
    return found, (float(bar[0].attrib["x1"]), float(bar[0].attrib["x2"])) if bar else None


def test_an_interval_lies_beside_zero_as_its_ends_do():
    _, (low, high) = strip(0.25, 0.5, 0.75)
    assert 100 < low < high and (low - 100) * 3 == pytest.approx(high - 100, abs=0.2)
    _, (low, high) = strip(-0.5, 0, 0.5)
    assert low + high == pytest.approx(200, abs=0.2)


def test_an_interval_beyond_the_line_ends_in_an_arrow():
    found, (_, high) = strip(0.5, 1.0, 9.0)
    assert len(list(found.iter("polygon"))) == 1 and high == pytest.approx(196)
    assert not list(strip(-0.5, 0, 0.5)[0].iter("polygon"))


def test_an_unknown_interval_is_an_empty_line():
    found, bar = strip(math.nan, math.nan, math.nan)
    assert bar is None and not list(found.iter("circle"))


def test_bars_are_linear_in_their_size_and_the_mark_is_between_them():
    bars = [Bar("a", 5, "#111111", "5", "five"), Bar("b", 20, value="<20>"), Bar("c", 0)]
    picture = parse(bar_chart(bars, label="bars", mark=(1.5, "here")))
    a, b, c = picture.iter("rect")
    assert float(a.attrib["height"]) / float(b.attrib["height"]) == pytest.approx(0.25)
    assert float(c.attrib["height"]) == 0
    assert a.attrib["fill"] == "#111111" and a.find("title").text == "five"
    axis, mark = picture.iter("line")
    middle = (float(axis.attrib["x1"]) + float(axis.attrib["x2"])) / 2
    assert float(mark.attrib["x1"]) == pytest.approx(middle, abs=0.01)
    assert [e.text for e in picture.iter("text")] == ["a", "5", "b", "<20>", "c", "here"]
    assert len(list(parse(bar_chart([], label="none")).iter("rect"))) == 0


def test_parts_of_a_bar_follow_each_other_and_small_ones_are_seen():
    parts = [Bar("a", 0.5, hint="half"), Bar("b", 0.0001), Bar("c", 0.25)]
    picture = parse(stacked_bar(parts, label="x"))
    found = [(float(r.attrib["x"]), float(r.attrib["width"])) for r in picture.iter("rect")]
    assert found == [(0.0, 100.0), (100.0, 1.0), (pytest.approx(100.02), 50.0)]


def test_swatches():
    picture = parse(swatches({"one & all": "#123456", "none": "#654321"}))
    assert [e.attrib["fill"] for e in picture.iter("rect")] == ["#123456", "#654321"]
    assert [li.find("svg").tail for li in picture.iter("li")] == ["one & all", "none"]
