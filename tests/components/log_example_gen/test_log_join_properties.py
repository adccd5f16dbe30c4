"""The join against a plain one: any rows, in any order, files, buckets and days that are joined apart."""

from __future__ import annotations

import bisect
from collections import Counter
from datetime import date, timedelta

import pyarrow as pa
from hypothesis import event as note
from hypothesis import given, settings
from hypothesis import strategies as st

from components.log_example_gen.attribution import rules
from components.log_example_gen.config import AttributionConfig
from components.log_example_gen.join import DELAYS, MORE, join
from components.log_example_gen.parsing import key_hash, log_specs
from components.log_example_gen.window import day_start_ms
from tests.components.log_example_gen.log_files import features, logs_config
from tests.components.log_example_gen.reference_join import Setting, reference_join

HOUR = 3_600_000
ZONE = "Europe/Berlin"  # whose clocks change on the 29th
DAYS = tuple(date(2026, 3, 27) + timedelta(days=i) for i in range(5))
FEATURES = features({"name": "price", "kind": "number"}, {"name": "tags", "kind": "id_list", "max_length": 5})


def logs_of(owners):
    """A configuration whose events are keyed by request or user."""
    columns = {
        event: {"user_id": "user_id", "request_id": None} if owner == "user_id" else {}
        for event, owner in owners.items()
    }
    return logs_config(
        "/nowhere",
        timezone=ZONE,
        clicks={"columns": columns["click"]},
        purchases={"columns": {"value": "value", **columns["purchase"]}},
    )


BEGIN = day_start_ms(logs_of(dict.fromkeys(("click", "purchase"), "request_id")), DAYS[0])


@st.composite
def joins(draw):
    """A setting with events in it, most of them near the edges of the rules."""
    owners = {event: draw(st.sampled_from(("request_id", "user_id"))) for event in ("click", "purchase")}
    setting = Setting(
        days=DAYS,
        zone=ZONE,
        data_end=BEGIN + draw(st.sampled_from((100, 130, 200, 200))) * HOUR,
        windows={"click": draw(st.sampled_from((1, 2))) * HOUR, "purchase": draw(st.sampled_from((3, 20))) * HOUR},
        touches={event: draw(st.sampled_from(("last_touch", "first_touch"))) for event in owners},
        owners=owners,
        skew=draw(st.sampled_from((0, HOUR // 2))),
    )
    times = st.builds(
        lambda hour, off: BEGIN + hour * HOUR + off, st.integers(-30, 130), st.sampled_from((-1, 0, 0, 1))
    )
    ids = st.fixed_dictionaries(
        {"request_id": st.sampled_from("abc"), "item_id": st.sampled_from("xxy"), "user_id": st.sampled_from("uuv")}
    )
    content = st.fixed_dictionaries(
        {
            "price": st.sampled_from((None, 1.0, 2.0, 10.0)),
            "tags": st.sampled_from((None, [], ["a"], ["a", "b"], ["ab"], ["a\0"], [""])),
        }
    )

    def near(rows, offsets):
        """Rows with the ids of others, off by just so much."""
        off = st.builds(int.__add__, st.sampled_from(offsets), st.sampled_from((-1, 0, 0, 1)))
        return st.builds(lambda row, by: {**row, "event_time": row["event_time"] + by}, st.sampled_from(rows), off)

    first = draw(st.lists(st.builds(lambda i, t: {**i, "event_time": t}, ids, times), min_size=1, max_size=5))
    repeated = near(first, (0, HOUR, 6 * HOUR, 12 * HOUR))
    of_user = st.builds(lambda row, by: {**row, **by}, repeated, ids.map(lambda i: {"request_id": i["request_id"]}))
    shown = [*first, *draw(st.lists(repeated | of_user, max_size=4))]
    exposures = [
        {name: {**row, **more}[name] for name in ("request_id", "item_id", "user_id", "event_time", "price", "tags")}
        for row, more in ((row, draw(content)) for row in shown)
    ]
    events, before = {}, shown
    for event, window in setting.windows.items():
        offsets = (0, -setting.skew, window, -12 * HOUR - setting.skew, window + 12 * HOUR, HOUR)
        far = st.builds(lambda i, t: {**i, "event_time": t}, ids, times)
        near_before = near(before, offsets) | near(before, (0, HOUR, window))
        rows = draw(st.lists(near_before | near_before | near(shown, (0, HOUR)) | far, min_size=1, max_size=7))
        rows += draw(st.lists(st.sampled_from(rows), max_size=2))
        # Of user and request an event log has one only.
        events[event] = [{name: row[name] for name in (owners[event], "item_id", "event_time")} for row in rows]
        if event == "purchase":
            values = st.sampled_from((None, 0.1, 0.2, 0.7, 3.0))
            events[event] = [{**row, "value": draw(values)} for row in events[event]]
        before = rows
    return setting, exposures, events


def table(spec, rows):
    columns = {c.name: pa.array([row[c.name] for row in rows], c.type) for c in spec.columns}
    for name, ids in spec.hashes:
        columns[name] = pa.array(key_hash(*(pa.chunked_array([columns[i]]) for i in ids), spec.by_item))
    return pa.table(columns).cast(spec.schema)


def by_bucket(rows, buckets):
    """Cuts a table by the high half of the hash."""
    bucket = [((h >> 32) * buckets) >> 32 for h in rows.column("hash").to_pylist()]
    return [rows.filter(pa.array([b == number for b in bucket], pa.bool_())) for number in range(buckets)]


def add_up(joined, days, outcomes, delays, examples):
    """Adds what was joined of some days."""
    for log, by_day in joined.outcomes.items():
        for day, of_day in by_day.items():
            for outcome, reasons in of_day.items():
                for reason, count in reasons.items():
                    if date.fromisoformat(day) in days:
                        outcomes[log, date.fromisoformat(day), outcome, reason] += count
                    else:
                        assert (outcome, reason) == ("outside_window", "other_days")
    for event, by_day in joined.delays.items():
        for day, of_day in by_day.items():
            for label, count in of_day.items():
                delays[event, date.fromisoformat(day), label] += count
    assert tuple(joined.examples) == days
    for day, rows in joined.examples.items():
        examples.setdefault(day, []).extend(rows.to_pylist())


@settings(max_examples=200, deadline=None)
@given(joins(), st.integers(1, 3), st.sampled_from((2, 3, 5)), st.randoms(use_true_random=False))
def test_any_rows_in_any_order_files_buckets_and_days(made, buckets, together, random):
    setting, exposures, events = made
    logs = logs_of(setting.owners)
    attribution = AttributionConfig(
        windows={event: timedelta(milliseconds=w) for event, w in setting.windows.items()},
        clock_skew=timedelta(milliseconds=setting.skew),
        touch=setting.touches,
    )
    specs = log_specs(logs, FEATURES)
    expected = reference_join(exposures, events, setting)

    outcomes, delays, examples = Counter(), Counter(), {}
    for start in range(0, len(DAYS), together):
        days = DAYS[start : start + together]
        of_days = rules(logs, attribution, days, setting.data_end)
        # What may decide about these days, and nothing else.
        first = day_start_ms(logs, days[0]) - attribution.look_back / timedelta(milliseconds=1)
        end = day_start_ms(logs, days[-1] + timedelta(days=1)) + attribution.look_ahead / timedelta(milliseconds=1)
        pieces = {}
        for log, rows in {"exposures": exposures, **events}.items():
            rows = [row for row in rows if first <= row["event_time"] < end]
            pieces[log] = by_bucket(table(specs[log], random.sample(rows, len(rows))), buckets)
        for bucket in range(buckets):
            cut = {}
            for log, of_log in pieces.items():
                # Rows come from several files, so in chunks.
                where = random.randint(0, len(of_log[bucket]))
                cut[log] = pa.concat_tables([of_log[bucket].slice(0, where), of_log[bucket].slice(where)])
            add_up(join(cut, specs, of_days), days, outcomes, delays, examples)

    of_joined_days = {key: n for key, n in expected.outcomes.items() if key[1] in DAYS}
    assert outcomes == of_joined_days
    expected_delays = Counter()
    labels, edges = [*DELAYS, MORE], [edge / timedelta(milliseconds=1) for edge in DELAYS.values()]
    for (event, day), found in expected.delays.items():
        for delay in found:
            expected_delays[event, day, labels[bisect.bisect_left(edges, delay)]] += 1
    assert delays == expected_delays

    wanted = {}
    for row in expected.examples:
        day = next(d for d in reversed(DAYS) if day_start_ms(logs, d) <= row["event_time"])
        wanted.setdefault(day, []).append({"purchase_value": 0.0, **row})

    def in_order(rows):
        return sorted(rows, key=lambda row: (row["request_id"], row["item_id"], row["event_time"]))

    assert {day: in_order(rows) for day, rows in examples.items() if rows} == {
        day: in_order(rows) for day, rows in wanted.items()
    }
    for outcome in {key[2] + key[3] for key in of_joined_days}:
        note(outcome)
    note(f"purchases joined: {bool(sum(row['purchase'] for row in expected.examples))}")
