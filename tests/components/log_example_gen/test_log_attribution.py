"""Attribution by hand: edges of days, windows, skew and maturity; causes by request and by user."""

from datetime import date, timedelta

import numpy as np
import pyarrow as pa
import pytest

from components.log_example_gen.attribution import EventRows, Rows, Rules, Verdict, attribute, rules
from components.log_example_gen.config import AttributionConfig, EventColumns
from components.log_example_gen.join import join
from components.log_example_gen.keys import key_codes, order_of_equals
from components.log_example_gen.local_days import day_numbers
from components.log_example_gen.parsing import key_hash, log_specs
from tests.components.log_example_gen.log_files import attribution_config, features, logs_config, ms

HOUR = 3_600_000
DAYS = (date(1970, 1, 2), date(1970, 1, 3))
BEGIN, END = 24 * HOUR, 72 * HOUR
RULES = Rules(
    days=DAYS,
    timezone="UTC",
    data_end=78 * HOUR,
    windows=(2 * HOUR, 5 * HOUR),
    touches=("last_touch", "last_touch"),
    skew=HOUR,
)
NEVER = Verdict.OTHER_DAYS


def arrays(pairs):
    return np.array([k for k, _ in pairs], np.int64), np.array([t for _, t in pairs], np.int64)


def judge(exposures, clicks=(), purchases=(), rules=RULES, users=None, requests=None):
    """What becomes of (key, time) pairs; clicks are joined by the exposures' keys, purchases by `users` if given."""
    key, time = arrays(exposures)
    none = np.zeros(len(key), np.int64)
    events = []
    for pairs, of in ((clicks, key), (purchases, key if users is None else np.array(users))):
        zeros = np.zeros(len(pairs), np.int64)
        events.append(EventRows(*arrays(pairs), zeros, of, none if requests is None else np.array(requests)))
    return attribute(Rows(key, time, none), events, rules)


def verdicts(*args, **kwargs):
    return [[Verdict(v) for v in judged.verdicts] for judged in judge(*args, **kwargs)]


class TestExposures:
    def test_days_are_closed_at_their_begin_and_open_at_their_end(self):
        times = [BEGIN - 1, BEGIN, END - HOUR * 2, END]
        # The latest with final labels is at data_end - maturity = 78 - 8 = 70 h.
        assert verdicts(list(enumerate(times)))[0] == [NEVER, Verdict.JOINED, Verdict.JOINED, NEVER]
        assert judge(list(enumerate(times)))[0].days.tolist() == [
            date(1970, 1, d).toordinal() for d in (1, 2, 3, 4)
        ]  # fmt: skip

    def test_days_between_which_there_is_another(self):
        apart = Rules(**{**RULES.__dict__, "days": (DAYS[0], date(1970, 1, 4)), "data_end": 200 * HOUR})
        assert verdicts([(0, 30 * HOUR), (1, 50 * HOUR), (2, 80 * HOUR)], rules=apart)[0] == [
            Verdict.JOINED, NEVER, Verdict.JOINED,
        ]  # fmt: skip

    def test_mature_to_the_millisecond(self):
        last = RULES.data_end - RULES.maturity
        assert verdicts([(0, last), (1, last + 1)])[0] == [Verdict.JOINED, Verdict.NOT_MATURE]

    def test_repeats(self):
        time = 30 * HOUR
        # Six hours after another one of the key at most, whether that one counts or not.
        exposures = [(0, time + 6 * HOUR), (0, time), (0, time + 12 * HOUR), (0, time + 18 * HOUR + 1), (1, time)]
        assert verdicts(exposures)[0] == [
            Verdict.DUPLICATE, Verdict.JOINED, Verdict.DUPLICATE, Verdict.JOINED, Verdict.JOINED,
        ]  # fmt: skip

    def test_rank_decides_between_exposures_of_one_time(self):
        time = np.array([30 * HOUR] * 2)
        nothing = EventRows(*[np.zeros(0, np.int64)] * 3, np.zeros(2, np.int64), np.zeros(2, np.int64))
        exposures = Rows(np.zeros(2, np.int64), time, np.array([1, 0]))
        assert attribute(exposures, [nothing, nothing], RULES)[0].verdicts.tolist() == [
            Verdict.DUPLICATE, Verdict.JOINED,
        ]  # fmt: skip


class TestEvents:
    @pytest.mark.parametrize(
        ("delay", "verdict"),
        [
            (-13 * HOUR - 1, Verdict.NO_CAUSE),
            (-13 * HOUR, Verdict.BEFORE_CAUSE),
            (-HOUR - 1, Verdict.BEFORE_CAUSE),
            (-HOUR, Verdict.JOINED),
            (0, Verdict.JOINED),
            (2 * HOUR, Verdict.JOINED),
            (2 * HOUR + 1, Verdict.AFTER_WINDOW),
            (14 * HOUR, Verdict.AFTER_WINDOW),
            (14 * HOUR + 1, Verdict.NO_CAUSE),
        ],
    )
    def test_window_skew_and_what_is_near(self, delay, verdict):
        time = 45 * HOUR
        assert verdicts([(7, time)], [(7, time + delay)])[1] == [verdict]

    def test_without_exposure(self):
        assert verdicts([(0, 30 * HOUR)], [(1, 30 * HOUR)], [(1, 30 * HOUR)])[1:] == [[Verdict.NO_CAUSE]] * 2
        assert verdicts([], [(1, 30 * HOUR)], [(1, 30 * HOUR)])[1:] == [[Verdict.NO_CAUSE]] * 2

    def test_same_event_twice_and_two_clicks_of_one_exposure(self):
        time = 30 * HOUR
        got = verdicts([(0, time)], [(0, time + 5), (0, time + 5), (0, time + 6)])[1]
        assert sorted(got) == [Verdict.JOINED, Verdict.JOINED, Verdict.DUPLICATE]

    def test_purchase_needs_a_click_that_counts(self):
        time = 30 * HOUR
        late_click = time + 2 * HOUR + 1
        assert verdicts([(0, time)], [(0, late_click)], [(0, late_click + 5)])[1:] == [
            [Verdict.AFTER_WINDOW], [Verdict.NO_CAUSE],
        ]  # fmt: skip

    def test_purchase_fits_the_second_click_only(self):
        time = 30 * HOUR
        clicks = [(0, time), (0, time + 2 * HOUR)]
        assert verdicts([(0, time)], clicks, [(0, time + 7 * HOUR)])[2] == [Verdict.JOINED]
        assert verdicts([(0, time)], clicks, [(0, time + 7 * HOUR + 1)])[2] == [Verdict.AFTER_WINDOW]
        assert verdicts([(0, time)], clicks, [(0, time - HOUR - 1)])[2] == [Verdict.BEFORE_CAUSE]

    def test_events_have_the_day_and_outcome_of_their_exposure(self):
        before, young = BEGIN - HOUR, RULES.data_end - RULES.maturity + 1
        exposures = [(0, before), (1, young)]
        clicks = [(0, before + HOUR), (1, young + 2 * HOUR)]
        purchases = [(0, before + 2 * HOUR), (1, young + 4 * HOUR)]
        got = judge(exposures, clicks, purchases)
        for judged in got:
            assert judged.verdicts.tolist() == [NEVER, Verdict.NOT_MATURE]
            assert judged.days.tolist() == [date(1970, 1, 1).toordinal(), date(1970, 1, 3).toordinal()]
            assert judged.exposure.tolist() == [-1, -1]

    def test_a_click_after_midnight_counts_on_the_day_before(self):
        time = 48 * HOUR - 5
        _, clicks, _ = judge([(0, time)], [(0, time + HOUR), (1, time + HOUR)])
        assert clicks.days.tolist() == [DAYS[0].toordinal(), DAYS[1].toordinal()]
        assert clicks.exposure.tolist() == [0, -1]

    def test_one_click_before_its_exposure_by_the_skew(self):
        judged = judge([(0, 30 * HOUR)], [(0, 29 * HOUR)], [(0, 28 * HOUR)])
        assert [j.delay.tolist() for j in judged[1:]] == [[-HOUR], [-HOUR]]


class TestTouch:
    # Two exposures of a user, both clicked, in two requests.
    EXPOSURES = ((0, 30 * HOUR), (1, 31 * HOUR))
    CLICKS = ((0, 31 * HOUR + 5), (1, 31 * HOUR + 3))

    def purchase(self, touch, time, exposures=EXPOSURES, clicks=CLICKS, **more):
        by_touch = Rules(**{**RULES.__dict__, "touches": ("last_touch", touch)})
        judged = judge(exposures, clicks, [(9, time)], rules=by_touch, users=[9] * len(exposures), **more)[2]
        return int(judged.exposure[0]), int(judged.delay[0])

    def test_the_last_or_first_clicked_one(self):
        time = 33 * HOUR
        # Last is the last click, though it is on the earlier exposure.
        assert self.purchase("last_touch", time) == (0, 2 * HOUR - 5)
        assert self.purchase("first_touch", time) == (1, 2 * HOUR - 3)

    def test_of_those_in_the_window(self):
        assert self.purchase("first_touch", 36 * HOUR + 4) == (0, 5 * HOUR - 1)
        assert self.purchase("last_touch", 30 * HOUR + 3) == (1, -HOUR)

    def test_clicks_of_one_time_stand_as_their_exposures(self):
        clicks = [(0, 31 * HOUR), (1, 31 * HOUR)]
        assert self.purchase("last_touch", 33 * HOUR, clicks=clicks)[0] == 1
        assert self.purchase("first_touch", 33 * HOUR, clicks=clicks)[0] == 0

    def test_and_exposures_of_one_time_as_their_requests(self):
        exposures = [(0, 30 * HOUR), (1, 30 * HOUR)]
        same = {"exposures": exposures, "clicks": [(0, 31 * HOUR), (1, 31 * HOUR)]}
        assert self.purchase("last_touch", 33 * HOUR, requests=[2, 1], **same)[0] == 0
        assert self.purchase("first_touch", 33 * HOUR, requests=[2, 1], **same)[0] == 1

    def test_an_exposure_without_a_click_is_no_cause(self):
        assert self.purchase("last_touch", 33 * HOUR, clicks=self.CLICKS[:1]) == (0, 2 * HOUR - 5)


class TestColumns:
    EXPOSURES = ({"request_id": "a", "item_id": "x", "user_id": "u", "event_time": 30 * HOUR},)

    def joined(self, clicks=(), purchases=(), exposures=EXPOSURES, owner="request_id"):
        columns = {"value": "value"} | ({"request_id": None, "user_id": "user_id"} if owner == "user_id" else {})
        specs = log_specs(logs_config("/nowhere", purchases={"columns": columns}), TAGGED)
        rows = {"exposures": exposures, "click": clicks, "purchase": purchases}
        return join({log: table(spec, rows[log]) for log, spec in specs.items()}, specs, RULES)

    def test_count_first_time_and_sum(self):
        key = {"request_id": "a", "item_id": "x"}
        clicks = [{**key, "event_time": 30 * HOUR + t} for t in (HOUR, 700, HOUR)]
        purchases = [{**key, "event_time": 33 * HOUR + t, "value": v} for t, v in ((9, 0.1), (7, 0.7), (8, None))]
        (row,) = self.joined(clicks, purchases).examples[DAYS[0]].to_pylist()
        found = {name: row[name] for name in row if name.startswith(("click", "purchase"))}
        assert found == {
            "click": 1, "click_count": 2, "click_delay_ms": 700,
            "purchase": 1, "purchase_count": 3, "purchase_delay_ms": 3 * HOUR + 7, "purchase_value": 0.7 + 0.1,
        }  # fmt: skip

    def test_without_events(self):
        (row,) = self.joined().examples[DAYS[0]].to_pylist()
        assert (row["click"], row["click_count"], row["click_delay_ms"]) == (0, 0, None)
        assert (row["purchase"], row["purchase_count"], row["purchase_value"]) == (0, 0, 0.0)

    def test_delays_by_bucket(self):
        key = {"request_id": "a", "item_id": "x"}
        clicks = [{**key, "event_time": 30 * HOUR + t} for t in (-5, 1000, 1001, 60_000, 2 * HOUR)]
        assert self.joined(clicks).delays == {
            "click": {"1970-01-02": {"1 s": 2, "10 s": 1, "1 min": 1, "3 h": 1}}, "purchase": {},
        }  # fmt: skip

    @pytest.mark.parametrize("order", [1, -1])
    def test_conflicting_duplicates_give_one_result_in_any_order(self, order):
        exposures = [
            {**self.EXPOSURES[0], "user_id": u, "tags": tags}
            for u, tags in (("v", ["a"]), ("u", ["b"]), ("u", ["a", "b"]), ("u", ["a"]), ("u", None), ("w", []))
        ]
        key = {"request_id": "a", "item_id": "x", "event_time": 30 * HOUR}
        purchases = [{**key, "value": v} for v in (10.0, 9.0, None)]
        (row,) = (
            self.joined([key], purchases[::order], exposures[::order]).examples[DAYS[0]].to_pylist()
        )  # fmt: skip
        assert (row["user_id"], row["tags"], row["purchase_value"]) == ("u", ["a"], 9.0)

    def test_no_two_examples_for_one_exposure_of_two_users_events(self):
        exposures = [{**self.EXPOSURES[0], "request_id": r, "event_time": 30 * HOUR + i} for i, r in enumerate("ab")]
        clicks = [{"request_id": r, "item_id": "x", "event_time": 31 * HOUR} for r in "ab"]
        purchase = {"user_id": "u", "item_id": "x", "event_time": 32 * HOUR, "value": 5.0}
        rows = self.joined(clicks, [purchase], exposures, "user_id").examples[DAYS[0]].to_pylist()
        assert {row["request_id"]: row["purchase_value"] for row in rows} == {"a": 0.0, "b": 5.0}


TAGGED = features({"name": "tags", "kind": "id_list", "max_length": 5})


def table(spec, rows):
    columns = {c.name: pa.array([row.get(c.name) for row in rows], c.type) for c in spec.columns}
    for name, ids in spec.hashes:
        columns[name] = pa.array(key_hash(*(pa.chunked_array([columns[i]]) for i in ids), spec.by_item))
    return pa.table(columns).cast(spec.schema)


class TestKeys:
    def test_two_keys_of_one_hash_are_told_apart(self):
        of_hash = pa.array([5, 5, 5, 6, 5], pa.uint64())
        first = pa.table({"r": ["a", "b", "a", "a", "a"], "i": ["x", "x", "x", "x", "y"], "hash": of_hash})
        second = pa.table({"r": ["b", "c"], "i": ["x", "x"], "hash": pa.array([5, 5], pa.uint64())})
        one, two = key_codes([(first, "hash"), (second, "hash")], ("r", "i"))
        keys = [("a", "x", 5), ("b", "x", 5), ("a", "x", 5), ("a", "x", 6), ("a", "y", 5), ("b", "x", 5), ("c", "x", 5)]
        codes = [*one.tolist(), *two.tolist()]
        assert [[a == b for a in codes] for b in codes] == [[a == b for a in keys] for b in keys]

    def test_order_by_content(self):
        lists = [["b"], [], ["a", "b"], None, ["a"], ["ab"], ["a\0"], [""], ["a", ""], ["a\1"]]
        rows = pa.table({"tags": pa.array(lists, pa.list_(pa.string()))})
        n = len(lists)
        order = np.argsort(order_of_equals(rows, ["tags"], np.zeros(n, np.int64), np.zeros(n, np.int64)))
        assert [lists[i] for i in order] == [*sorted(x for x in lists if x is not None), None]

    def test_only_rows_of_one_key_and_time_have_an_order(self):
        rows = pa.table({"value": [3.0, 2.0, 1.0, 0.0]})
        ranks = order_of_equals(rows, ["value"], np.array([0, 0, 0, 1]), np.array([7, 8, 7, 7]))
        assert ranks[1] == ranks[3] == 0
        assert ranks[2] < ranks[0]

    def test_items_stay_together_where_users_are_joined(self):
        ids = [f"r{i}" for i in range(99)], ["x", "y", "z"] * 33
        requests, items = (pa.chunked_array([pa.array(column)]) for column in ids)
        together = key_hash(requests, items, by_item=True)
        assert len(set((together >> np.uint64(32)).tolist())) == 3
        assert len(set(together.tolist())) == len(set(key_hash(requests, items).tolist())) == 99


class TestConfiguration:
    def test_rules(self):
        logs = logs_config("/nowhere", timezone="Europe/Berlin")
        attribution = attribution_config("30m", "2d", "1s").model_copy(update={"touch": {"purchase": "first_touch"}})
        got = rules(logs, attribution, DAYS, 5)
        assert got.maturity == timedelta(minutes=30, days=2, seconds=1) / timedelta(milliseconds=1)
        assert (got.days, got.data_end, got.skew, got.timezone) == (DAYS, 5, 1000, "Europe/Berlin")
        assert got.touches == ("last_touch", "first_touch")
        assert got.sampling is None
        assert attribution.look_back == timedelta(days=2, hours=18, minutes=30, seconds=2)
        assert attribution.look_ahead == timedelta(days=2, minutes=30, seconds=2)
        assert attribution_config("1h", "1h", "1s").look_ahead == timedelta(hours=12, seconds=2)

    def test_local_days(self):
        # Summer time begins on the 29th, which has 23 hours.
        edges = [ms("2026-03-28 23:00"), ms("2026-03-29 22:00")]
        found = day_numbers(np.array([edges[0] - 1, edges[0], edges[1] - 1, edges[1]]), "Europe/Berlin")
        assert found.tolist() == [date(2026, 3, d).toordinal() for d in (28, 29, 29, 30)]

    @pytest.mark.parametrize(
        ("columns", "message"),
        [
            ({"request_id": None}, "got request_id: null and user_id: null"),
            ({"user_id": "uid"}, "got request_id: request_id and user_id: uid"),
        ],
    )
    def test_one_key_per_event_log(self, columns, message):
        with pytest.raises(ValueError, match=f"expected either request_id, or request_id: null and user_id.*{message}"):
            EventColumns(**columns)

    def test_touch_of_an_unknown_event(self):
        with pytest.raises(ValueError, match=r"touch: expected events among click, purchase, got 'buy'"):
            AttributionConfig(touch={"buy": "last_touch"})
