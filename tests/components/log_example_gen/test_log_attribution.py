"""Attribution against a plain join, one row at a time, and by hand."""

import json
from collections import Counter
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.log_example_gen.attribution import Rows, Rules, Verdict, attribute, rules
from components.log_example_gen.executor import _pieces
from components.log_example_gen.join import join
from components.log_example_gen.parsing import key_hash, log_specs
from components.log_example_gen.report import count_joined, merge
from tests.components.log_example_gen.log_files import attribution_config, logs_config, ms, window_of_days

HOUR = 3_600_000
RULES = Rules(
    first=24 * HOUR, first_eval=48 * HOUR, end=72 * HOUR, data_end=78 * HOUR, windows=(2 * HOUR, 5 * HOUR), skew=HOUR
)
SPECS = log_specs(logs_config("/nowhere"), ())
STEPS = {"click": "exposure", "purchase": "click"}


def rows(*key_and_time):
    keys = np.array([k for k, _ in key_and_time], np.int64)
    return Rows(keys, np.array([t for _, t in key_and_time], np.int64), np.zeros(len(keys), np.int64))


def verdicts(exposures, clicks=(), purchases=(), rules=RULES):
    result = attribute(rows(*exposures), [rows(*clicks), rows(*purchases)], rules)
    return [[Verdict(v) for v in of_log] for of_log in (result.exposures, *result.events)]


class TestByHand:
    def test_window_is_closed_at_its_begin_and_open_at_its_end(self):
        times = [RULES.first - 1, RULES.first, RULES.end - HOUR * 2, RULES.end]
        # The latest with final labels is at data_end - maturity = 78 - 8 = 70 h.
        assert verdicts(list(enumerate(times)))[0] == [
            Verdict.OTHER_DAYS, Verdict.JOINED, Verdict.JOINED, Verdict.OTHER_DAYS,
        ]

    def test_mature_to_the_millisecond(self):
        last = RULES.data_end - RULES.maturity
        assert verdicts([(0, last), (1, last + 1)])[0] == [Verdict.JOINED, Verdict.NOT_MATURE]

    def test_earliest_exposure_of_a_key_counts(self):
        assert verdicts([(0, 30 * HOUR), (0, 29 * HOUR), (1, 30 * HOUR)])[0] == [
            Verdict.DUPLICATE, Verdict.JOINED, Verdict.JOINED,
        ]

    def test_rank_decides_between_exposures_of_one_time(self):
        exposures = Rows(np.array([0, 0]), np.array([30 * HOUR, 30 * HOUR]), np.array([1, 0]))
        result = attribute(exposures, [rows((0, 30 * HOUR)), rows()], RULES)
        assert result.exposures.tolist() == [Verdict.DUPLICATE, Verdict.JOINED]
        assert result.exposure_of[0].tolist() == [1]

    @pytest.mark.parametrize(
        ("delay", "verdict"),
        [
            (-HOUR - 1, Verdict.BEFORE_CAUSE),
            (-HOUR, Verdict.JOINED),
            (0, Verdict.JOINED),
            (2 * HOUR, Verdict.JOINED),
            (2 * HOUR + 1, Verdict.AFTER_WINDOW),
        ],
    )
    def test_click_window_and_skew(self, delay, verdict):
        time = 30 * HOUR
        assert verdicts([(7, time)], [(7, time + delay)])[1] == [verdict]

    def test_event_without_exposure(self):
        assert verdicts([(0, 30 * HOUR)], [(1, 30 * HOUR)], [(1, 30 * HOUR)])[1:] == [
            [Verdict.NO_CAUSE], [Verdict.NO_CAUSE],
        ]

    def test_no_exposure_at_all(self):
        assert verdicts([], [(1, 30 * HOUR)], [(1, 30 * HOUR)])[1:] == [[Verdict.NO_CAUSE], [Verdict.NO_CAUSE]]

    def test_same_event_twice_and_two_clicks_of_one_exposure(self):
        time = 30 * HOUR
        got = verdicts([(0, time)], [(0, time + 5), (0, time + 5), (0, time + 6)])[1]
        assert sorted(got) == [Verdict.JOINED, Verdict.JOINED, Verdict.DUPLICATE]

    def test_purchase_needs_a_click_that_counts(self):
        time = 30 * HOUR
        late_click = time + 2 * HOUR + 1
        assert verdicts([(0, time)], [(0, late_click)], [(0, late_click + 5)])[1:] == [
            [Verdict.AFTER_WINDOW], [Verdict.NO_CAUSE],
        ]

    def test_purchase_fits_the_second_click_only(self):
        time = 30 * HOUR
        clicks = [(0, time), (0, time + 2 * HOUR)]
        assert verdicts([(0, time)], clicks, [(0, time + 7 * HOUR)])[2] == [Verdict.JOINED]
        assert verdicts([(0, time)], clicks, [(0, time + 7 * HOUR + 1)])[2] == [Verdict.AFTER_WINDOW]
        assert verdicts([(0, time)], clicks, [(0, time - HOUR - 1)])[2] == [Verdict.BEFORE_CAUSE]

    def test_events_share_the_outcome_of_their_exposure(self):
        before, young = RULES.first - HOUR, RULES.data_end - RULES.maturity + 1
        exposures = [(0, before), (1, young)]
        clicks = [(0, before + HOUR), (1, young + HOUR)]
        purchases = [(0, before + 2 * HOUR), (1, young + 2 * HOUR)]
        inherited = [Verdict.EXPOSURE_OUTSIDE_WINDOW, Verdict.EXPOSURE_NOT_MATURE]
        assert verdicts(exposures, clicks, purchases)[1:] == [inherited, inherited]

    def test_click_of_another_day_is_still_a_cause(self):
        before = RULES.first - 3 * HOUR
        got = verdicts([(0, before)], [(0, before + HOUR)], [(0, before + 4 * HOUR)])
        assert got[1:] == [[Verdict.OTHER_DAYS], [Verdict.EXPOSURE_OUTSIDE_WINDOW]]

    def test_own_time_of_an_event(self):
        first, last = RULES.first - RULES.skew, RULES.end + RULES.maturity
        got = verdicts([], [(0, first - 1), (0, first), (0, last), (0, last + 1)])[1]
        assert got == [Verdict.OTHER_DAYS, Verdict.NO_CAUSE, Verdict.NO_CAUSE, Verdict.OTHER_DAYS]

    def test_rules_of_a_configuration(self):
        logs = logs_config("/nowhere", timezone="Europe/Berlin")
        window = window_of_days("2026-03-28", "2026-03-29", "2026-03-29", "2026-04-01 00:00")
        got = rules(logs, attribution_config("30m", "2d", "1s"), window)
        # Summer time begins on the 29th, which has 23 hours.
        assert (got.first, got.first_eval, got.end) == (
            ms("2026-03-27 23:00"), ms("2026-03-28 23:00"), ms("2026-03-29 22:00"),
        )
        assert got.maturity == timedelta(minutes=30, days=2, seconds=1) / timedelta(milliseconds=1)


def plain_join(exposures, events, rules):
    """One row at a time, from the words of the rules.

    Returns:
      Counts of (log, outcome, reason), and the labels and value by key of a joined exposure.
    """
    counts = Counter()
    kept = {}
    for row in sorted(exposures, key=lambda r: r["event_time"]):
        key = row["request_id"], row["item_id"]
        if key in kept:
            counts["exposures", "duplicate", ""] += 1
            continue
        time = row["event_time"]
        if not rules.first <= time < rules.end:
            outcome = "outside_window"
        elif time + sum(rules.windows) + rules.skew > rules.data_end:
            outcome = "not_mature"
        else:
            outcome = "joined"
        counts["exposures", outcome, ""] += 1
        kept[key] = outcome, time
    labels = {key: {} for key, (outcome, _) in kept.items() if outcome == "joined"}
    causes = {key: [time] for key, (_, time) in kept.items()}
    for (log, cause), window in zip(STEPS.items(), rules.windows):
        seen = set()
        next_causes = {}
        for row in events[log]:
            key, time = (row["request_id"], row["item_id"]), row["event_time"]
            if (key, time) in seen:
                counts[log, "duplicate", ""] += 1
                continue
            seen.add((key, time))
            of_key = causes.get(key, [])
            fits = any(c - rules.skew <= time <= c + window for c in of_key)
            if fits:
                next_causes.setdefault(key, []).append(time)
            exposure_outcome = kept.get(key, ("", 0))[0]
            if time < rules.first - rules.skew or time > rules.end + sum(rules.windows) + rules.skew:
                outcome, reason = "outside_window", "other_days"
            elif not of_key:
                outcome, reason = "orphan", f"no_{cause}"
            elif all(time < c - rules.skew for c in of_key):
                outcome, reason = "orphan", f"before_{cause}"
            elif exposure_outcome != "joined":
                outcome, reason = exposure_outcome, f"exposure_{exposure_outcome}"
            elif not fits:
                outcome, reason = "outside_window", "after_window"
            else:
                outcome, reason = "joined", ""
                labels[key].setdefault(log, []).append(row.get("value"))
            counts[log, outcome, reason] += 1
        causes = next_causes
    return counts, labels


# Times lie on the hours and a millisecond beside them, where the rules' edges are.
TIMES = st.builds(lambda hour, off: hour * HOUR + off, st.integers(12, 84), st.sampled_from((-1, 0, 0, 1)))
KEYS = st.fixed_dictionaries({"request_id": st.sampled_from("abc"), "item_id": st.sampled_from("xy")})
RELATIVE = st.builds(lambda hour, off: hour * HOUR + off, st.integers(-2, 9), st.sampled_from((-1, 0, 0, 1)))


@st.composite
def event_sets(draw):
    exposures = draw(st.lists(st.builds(lambda k, t: {**k, "event_time": t}, KEYS, TIMES), max_size=8))
    events = {}
    before = exposures
    for log in STEPS:
        near = st.nothing()
        if before:
            near = st.builds(lambda r, d: {**r, "event_time": r["event_time"] + d}, st.sampled_from(before), RELATIVE)
        far = st.builds(lambda k, t: {**k, "event_time": t}, KEYS, TIMES)
        events[log] = draw(st.lists(near | far, max_size=8))
        before = events[log]
    for row in events["purchase"]:
        row["value"] = float(row["event_time"] % 97)
    return exposures, events


def table(log, of_rows):
    spec = SPECS[log]
    filled = [{"user_id": "u", **row} for row in of_rows]
    columns = {c.name: pa.array([row.get(c.name) for row in filled], c.type) for c in spec.columns}
    columns["hash"] = pa.array(key_hash(*(pa.chunked_array([columns[n]]) for n in ("request_id", "item_id"))))
    return pa.table(columns).cast(spec.schema)


class TestAgainstPlainJoin:
    @settings(max_examples=200, deadline=None)
    @given(event_sets(), st.integers(1, 5), st.randoms(use_true_random=False))
    def test_any_events_in_any_order_files_and_buckets(self, made, buckets, random):
        exposures, events = made
        counts, labels = plain_join(exposures, events, RULES)
        # Every log is cut into files at random, and every file by bucket.
        by_bucket = {b: {log: [spec.schema.empty_table()] for log, spec in SPECS.items()} for b in range(buckets)}
        for log, of_log in {"exposures": exposures, **events}.items():
            of_log = random.sample(of_log, len(of_log))
            while of_log:
                cut = random.randint(1, len(of_log))
                for bucket, (name, piece) in _pieces(log, table(log, of_log[:cut]), buckets):
                    by_bucket[bucket][name].append(pa.ipc.open_stream(piece).read_all())
                of_log = of_log[cut:]
        joined = [
            join({log: pa.concat_tables(random.sample(p, len(p))) for log, p in tables.items()}, SPECS, RULES)
            for tables in by_bucket.values()
        ]

        merged = merge(count_joined(j, SPECS) for j in joined)
        got = {
            (log, outcome, reason): n
            for log, outcomes in merged["outcomes"].items()
            for outcome, reasons in outcomes.items()
            for reason, n in reasons.items()
        }
        assert got == dict(counts)
        examples = {}
        for split in ("train", "eval"):
            for row in pa.concat_tables([j.examples[split] for j in joined]).to_pylist():
                assert (row["event_time"] >= RULES.first_eval) == (split == "eval")
                examples[row["request_id"], row["item_id"]] = row
        assert examples.keys() == labels.keys()
        for key, row in examples.items():
            assert row["click"] == int("click" in labels[key])
            assert row["purchase"] == int("purchase" in labels[key])
            assert row["purchase_value"] == sum(labels[key].get("purchase", []))

    def test_order_of_examples_does_not_depend_on_the_buckets(self):
        exposures = [
            {"request_id": f"r{i}", "item_id": f"i{i % 7}", "event_time": RULES.first + i} for i in range(500)
        ]
        empty = {log: SPECS[log].schema.empty_table() for log in STEPS}

        def in_order(buckets):
            found = []
            for _, (_, piece) in _pieces("exposures", table("exposures", exposures), buckets):
                tables = {"exposures": pa.ipc.open_stream(piece).read_all(), **empty}
                found += join(tables, SPECS, RULES).examples["train"].column("request_id").to_pylist()
            return found

        once = in_order(1)
        assert sorted(once) == sorted(row["request_id"] for row in exposures)
        assert once == in_order(2) == in_order(13)
        assert once != [row["request_id"] for row in exposures]

    def test_conflicting_duplicates_give_one_result_in_any_order(self):
        spec = {**SPECS}
        same = {"request_id": "a", "item_id": "x", "event_time": 30 * HOUR}
        exposures = [{**same, "user_id": u} for u in "vuw"]
        purchases = [{**same, "value": v} for v in (3.0, 2.0)]
        found = set()
        for order in (1, -1):
            tables = {
                "exposures": table("exposures", exposures[::order]),
                "click": table("click", [same]),
                "purchase": table("purchase", purchases[::order]),
            }
            (row,) = join(tables, spec, RULES).examples["train"].to_pylist()
            found.add(json.dumps(row, sort_keys=True))
        assert len(found) == 1
        assert json.loads(found.pop())["purchase_value"] in (2.0, 3.0)
