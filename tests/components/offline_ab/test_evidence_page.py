import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from components.offline_ab.config import EvidenceConfig, Rule
from components.offline_ab.document import Arm, PolicyValue, SampleRatio, Scorer
from components.offline_ab.gather import gather_evidence
from components.offline_ab.page import write_page
from models.tasks import DEFAULT_TASKS

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from evidence_worlds import scored_rows

RULES = (
    Rule(task="ctr", metric="auc", better_by=0),
    Rule(task="ctr", metric="calibration_error", not_worse_by=0.001),
)
BASELINE = Scorer(name="version 3", source="/models/shop/3", version=3)


class Tables(HTMLParser):
    """The cells of every table, row by row, and what stands between section headings."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.sections, self.tones, self.inside = [], {}, {}, ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.tones[len(self.rows) - 1, len(self.rows[-1]) - 1] = dict(attributes).get("class", "")
        self.inside = tag if tag in ("td", "th", "h2") else self.inside
        if tag == "h2":
            self.sections[None] = len(self.rows)

    def handle_endtag(self, tag):
        self.inside = "" if tag == self.inside else self.inside

    def handle_data(self, data):
        if self.inside in ("td", "th"):
            self.rows[-1][-1] += data
        elif self.inside == "h2":
            self.sections[data] = self.sections.pop(None)


def evidence(rows, rules=RULES, baseline=BASELINE, **changes):
    made = gather_evidence(
        rows, DEFAULT_TASKS, [["device"]], EvidenceConfig(rules=rules, replicates=100), baseline=baseline,
        candidate=Scorer(name="candidate <b>", source="/run/model"), source="/x", links={"scores": "/a b/s"},
    )  # fmt: skip
    return made.model_copy(update=changes)


@pytest.fixture(scope="module")
def compared():
    # The candidate ranks better and predicts too much.
    return evidence(scored_rows(seed=1, users=1500, noise=(1.2, 0.5), bias=(0.0, 0.4), devices=6))


@pytest.fixture(scope="module")
def text(compared, tmp_path_factory):
    return write_page(compared, tmp_path_factory.mktemp("page")).read_text()


def test_the_verdict_stands_first_with_its_reasons(compared, text):
    assert compared.verdict == "keep"
    banner = re.search(r'<div class="banner bad"><strong>(.*?)</strong>(.*?)</div>', text, re.DOTALL)
    assert banner[1] == "Keep version 3" and banner[2].count("<li>") == len(compared.reasons)
    assert text.index("banner bad") < text.index("<h2>")
    assert "candidate &lt;b&gt;" in text and "candidate <b>" not in text


def test_it_needs_no_network(text):
    assert not re.search(r"<(script|link|img|iframe)|@import|url\(", text)
    assert set(re.findall(r'href="([^"]*)"', text)) == {"file:///a%20b/s"}


def test_every_metric_has_its_difference_and_its_tone(compared, text):
    found = Tables(text)
    rows = {row[0]: (i, row) for i, row in enumerate(found.rows) if len(row) == 7}
    for m in compared.metrics:
        if m.slice:
            continue
        i, row = rows[f"{m.task} {m.metric}"]
        assert float(row[2].replace("−", "-")) == pytest.approx(m.difference.value, abs=6e-5, rel=0.06)
        assert float(row[5]) == pytest.approx(m.candidate.value, abs=6e-5, rel=0.06)
        # Log loss and errors count the other way.
        sign = {"higher": 1, "lower": -1, None: 0}[m.better]
        ends = [sign * v for v in (m.difference.low, m.difference.high)]
        expected = "good" if min(ends) > 0 else "bad" if max(ends) < 0 else "plain"
        assert (expected in found.tones[i, 2].split()) == (expected != "plain"), (m.task, m.metric)
    assert "good" in found.tones[rows["ctr log_loss"][0], 2] or "bad" in found.tones[rows["ctr log_loss"][0], 2]


def test_slices_stand_by_harm(compared, text):
    found = Tables(text)
    first = found.sections["Slices, harm first"]
    order = [(row[0].removeprefix("device = "), row[1]) for row in found.rows[first + 1 :] if len(row) == 8][:15]
    judged = [m for m in compared.metrics if m.slice and m.metric == "auc" and m.enough]
    expected = sorted(judged, key=lambda m: m.difference.high)
    assert order == [(m.slice["device"], m.task) for m in expected[:15]] and len(order) > 10


def test_charts_of_both_sides(text):
    figures = re.findall(r"<figure.*?</figure>", text, re.DOTALL)
    assert len(figures) == 9  # calibration, scores and lift of three probabilities
    assert all(figure.count("<polyline") == 2 and "nan" not in figure for figure in figures)


def test_without_a_baseline(tmp_path):
    first = evidence(scored_rows(seed=2, users=300), rules=(), baseline=None)
    text = write_page(first, tmp_path).read_text()
    assert "<strong>Promote candidate &lt;b&gt;, the first</strong>" in text and "Slices" not in text
    value = next(m for m in first.metrics if (m.task, m.metric) == ("ctr", "auc")).candidate.value
    assert f"{value:.4f}" in text


def test_too_little_data_and_all_other_parts(tmp_path):
    made = evidence(
        scored_rows(seed=3, users=60),
        sample_ratio=SampleRatio(
            column="arm", units="users", statistic=30.0, p_value=1e-7, limit=0.001, passed=False,
            arms=(Arm(arm="a", units=600, expected_share=0.5), Arm(arm="b", units=400, expected_share=0.5)),
        ),
        off_policy=(
            PolicyValue(estimator="ips", reward="click", logged=0.1, baseline=None, candidate=None, difference=None,
                        effective_sample_size=2.0, effective_share=0.01, largest_weight=99.0, requests=200,
                        refused="the weights explode"),
        ),
    )  # fmt: skip
    assert made.verdict == "not_enough_data"
    text = write_page(made, tmp_path).read_text()
    assert '<div class="banner doubt"><strong>Keep version 3: not enough data to decide' in text
    assert "The arms of arm do not have their shares" in text and "60.00%" in text
    assert "no value: the weights explode" in text
