"""The report as a page."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from components.log_example_gen.config import AttributionConfig, LogsConfig
from components.log_example_gen.page import page, remarks
from tests.components.log_example_gen.log_files import attribution_config, logs_config

DAYS = [f"2026-01-0{n}" for n in range(1, 7)]
ATTRIBUTION = attribution_config("30m", "3d")


def logs(**settings) -> LogsConfig:
    return logs_config("/logs", **settings)


def log(rows: int = 100, days=DAYS[1:5], rejected: int = 0, other: dict | None = None) -> dict:
    """A log with as many joined rows on each day, and some other outcomes on the first."""
    by_day = {day: {"joined": {"": rows}} for day in days}
    for (outcome, reason), n in (other or {}).items():
        by_day[days[0]].setdefault(outcome, {})[reason] = n
    kinds = []
    if rejected:
        by_day[days[0]]["rejected"] = {"bad_type": rejected}
        example = ["x/<b>.csv", 1234, "expected a number, found <script>", "a & b"]
        kinds = [{"reason": "bad_type", "column": "price", "rows": rejected, "example": example}]
    outcomes: dict[str, dict[str, int]] = {}
    for found in by_day.values():
        for outcome, reasons in found.items():
            for reason, n in reasons.items():
                outcomes.setdefault(outcome, {})[reason] = outcomes.get(outcome, {}).get(reason, 0) + n
    read = sum(n for reasons in outcomes.values() for n in reasons.values())
    file = {"day": days[0], "read": read, "rejected": {"bad_type": rejected} if rejected else {}}
    return {
        "read": read,
        "outcomes": outcomes,
        "days": by_day,
        "files": {"x/<b>.csv": file},
        "rejected": kinds,
        "columns": {},
    }


def report(exposures=None, click=None, purchase=None, delays=None) -> dict:
    return {
        "window": {"first_day": DAYS[1], "first_eval_day": DAYS[4], "last_day": DAYS[4], "data_end_ms": 0},
        "logs": {"exposures": exposures or log(), "click": click or log(), "purchase": purchase or log()},
        "delays": {"click": {}, "purchase": {}} | (delays or {}),
        "examples": {
            split: {"rows": rows, "labels": {"click": rows // 10, "purchase": rows // 100}}
            for split, rows in (("train", 300), ("eval", 100))
        },
    }


def shown(of: dict, attribution: AttributionConfig = ATTRIBUTION, **settings) -> str:
    return page(of, logs(**settings), attribution)


class _Elements(HTMLParser):
    """The elements of a page with their attributes, and whether each is closed in its place."""

    VOID = ("meta", "line", "rect", "br")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


def elements(html: str) -> list[tuple[str, dict[str, str | None]]]:
    parser = _Elements()
    parser.feed(html)
    parser.close()
    assert parser.open == []
    return parser.found


def words(html: str) -> str:
    """The text that is shown."""
    body = re.sub(r"<style>.*?</style>", "", html, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", body).split())


class TestPage:
    def test_needs_nothing_but_itself(self):
        html = shown(report(log(rejected=3)))
        found = elements(html)
        assert not {tag for tag, _ in found} & {"script", "link", "img", "iframe", "object"}
        assert not [a for _, attributes in found for a in attributes if a in ("src", "href") or a.startswith("on")]
        assert "http" not in html
        assert "url(" not in html

    def test_all_is_well(self):
        text = words(shown(report()))
        assert "All is well. Each of the 1,200 rows that were read has exactly one outcome" in text
        assert "to look at" not in text

    def test_text_of_the_logs_is_text(self):
        html = shown(report(log(rejected=3)))
        assert "x/&lt;b&gt;.csv" in html
        assert "found &lt;script&gt;" in html
        assert "a &amp; b" in html
        assert "1,234" in words(html)

    def test_days_and_what_they_are_for(self):
        days = {DAYS[0]: {"outside_window": {"other_days": 7}}, **log()["days"]}
        exposures = {**log(), "days": days, "read": 407, "outcomes": {"joined": {"": 400}, "outside_window": {"": 7}}}
        html = shown(report(exposures))
        rows = re.findall(r"<tr><td>(2026-01-\d\d)</td><td>(\w*)</td>", html)
        of_window = [(DAYS[1], "train"), (DAYS[2], "train"), (DAYS[3], "train"), (DAYS[4], "eval")]
        assert rows == [(DAYS[0], ""), *of_window * 3]
        assert "Training days 2026-01-02 to 2026-01-04, evaluation days 2026-01-05" in words(html)

    def test_bars_are_in_proportion(self):
        days = {DAYS[1]: {"joined": {"": 60}, "orphan": {"no_exposure": 20}}, DAYS[2]: {"joined": {"": 40}}}
        click = {**log(), "days": days, "read": 120, "outcomes": {"joined": {"": 100}, "orphan": {"no_exposure": 20}}}
        bars = re.findall(r'<rect [^>]*width="([\d.]+)"[^>]*><title>([^<]+)</title>', shown(report(click=click)))
        widths = [(title, float(width)) for width, title in bars]
        # 200 units wide, of the longest day of the log and of the log.
        for bar in (("joined: 60", 150.0), ("orphan: 20", 50.0), ("joined: 40", 100.0)):
            assert widths.count(bar) == 1
        assert ("joined: 100", 166.67) in widths

    def test_outcomes_of_any_name(self):
        html = shown(report(log(other={("sampled_out", ""): 50, ("forgotten", ""): 3})))
        colours = dict(re.findall(r'<rect [^>]*fill="(#\w+)"/></svg>([\w ]+)</li>', html))
        assert {"sampled out", "forgotten", "joined"} <= set(colours.values())
        assert len(colours) == len(set(colours.values()))

    def test_delays(self):
        delays = {"click": {DAYS[1]: {"10 s": 50, "1 min": 30}, DAYS[2]: {"1 min": 10, "30 min": 10}}}
        click = log(rows=25, other={("outside_window", "after_window"): 5})
        html = shown(report(click=click, delays=delays))
        text = words(html)
        assert "50% come within 10 s, 90% within 1 min, 99% within 30 min. 5 came too late." in text
        assert "No event was joined. 0 came too late." in text
        first, second = (chart for chart in re.findall(r"<svg.*?</svg>", html, re.DOTALL) if "Delays of" in chart)
        assert "window 30 min" in first and "window 3 d" in second
        rectangles = re.findall(r'<rect [^>]*height="([\d.]+)"[^>]*><title>([^<]+)</title>', first)
        heights = {title: float(height) for height, title in rectangles}
        assert heights["up to 10 s: 50"] == pytest.approx(50 / 40 * heights["up to 1 min: 40"])
        assert heights["after the window: 5"] == pytest.approx(0.1 * heights["up to 10 s: 50"])
        assert "up to 1 h" not in first
        assert "up to 3 d: 0" in second

    @pytest.mark.parametrize(
        ("window", "place"),
        [("30m", 6), ("15m", 5), ("1s", 1), ("500ms", 0.89966), ("20m", 5.415), ("90d", 17)],
    )
    def test_where_the_window_ends(self, window, place):
        """At the edge of a bucket, or inside it where it lies on a logarithmic axis: ln(20/15) / ln(30/15)."""
        html = shown(report(), attribution_config(window, "3d"))
        svg = next(chart for chart in re.findall(r"<svg.*?</svg>", html, re.DOTALL) if "Delays of click" in chart)
        edges = [float(x) for x in re.findall(r'<rect x="([\d.]+)"', svg)]
        axis, line = (float(x) for x in re.findall(r'<line x1="([\d.]+)"', svg))
        step = (414 - axis) / len(edges)
        assert (line - axis) / step == pytest.approx(place, abs=1e-3)
        assert len(edges) - 1 == {"1s": 1, "500ms": 1, "15m": 5, "20m": 6, "30m": 6, "90d": 17}[window]

    def test_missing_values(self):
        columns = {"price": {"missing": 100, "absent": 40}, "age": {"missing": 0, "absent": 0}}
        exposures = {**log(rejected=10), "columns": columns}
        text = words(shown(report(exposures)))
        assert "exposures price 100 25.0% 40 exposures age 0 0% 0" in text


class TestRemarks:
    def of(self, of: dict, **settings) -> list[str]:
        return list(remarks(of, logs(**settings), ATTRIBUTION))

    def test_nothing(self):
        assert self.of(report()) == []

    def test_near_the_limit(self):
        exposures = log(rejected=12)  # of 412
        assert self.of(report(exposures)) == ["exposures: 2.9% of the rows were rejected; the limit is 5.0%."]
        assert self.of(report(exposures), max_rejected=0.2) == []
        assert self.of(report(exposures), max_rejected={"total": 0.2, "bad_type": 0.03}) == [
            "exposures: 2.9% of the rows were rejected as bad_type; the limit is 3.0%."
        ]

    def test_orphans(self):
        few, many = (log(other={("orphan", "no_exposure"): n}) for n in (20, 30))
        assert self.of(report(click=few)) == []
        assert self.of(report(click=many)) == [
            "click: 7.0% of the rows have no cause. Look at keys, clocks and lost files."
        ]

    def test_late_events(self):
        few, many = (log(other={("outside_window", "after_window"): n}) for n in (20, 30))
        assert self.of(report(purchase=few)) == []
        assert self.of(report(purchase=many)) == [
            "purchase: 7.0% of the rows with a cause come after the window of 3 d. It may be too short."
        ]

    def test_a_thin_day(self):
        thin = log()
        thin["days"][DAYS[2]] = {"joined": {"": 49}}
        assert self.of(report(thin)) == [
            "exposures: 2026-01-03 has 49 rows, the median day 100. Is a part of the day missing?"
        ]

    def test_an_empty_column(self):
        click = {**log(), "columns": {"value": {"missing": 400, "absent": 0}}}
        assert self.of(report(click=click)) == ["click: 'value' is missing in all rows."]

    def test_damaged_files(self):
        exposures = log(other={("rejected", "unreadable_file"): 2})
        assert self.of(report(exposures)) == [
            "exposures: of 2 damaged files a part is lost, and nobody knows how many rows it had."
        ]


def test_a_run_that_was_stopped_says_why():
    html = page(report(log(rejected=30)), logs(), ATTRIBUTION, stopped="exposures: too many\n  30 bad_type: of <b>")
    text = words(html)
    assert "The run was stopped. exposures: too many 30 bad_type: of &lt;b&gt;" in text
    assert "exposures: 7.0% of the rows were rejected; the limit is 5.0%." in text
    assert "All is well" not in text and "no limit was passed" not in text
    elements(html)
