"""The simulator's truth, against what its files hold and against a join in plain Python."""

import csv
import json
from collections import Counter, defaultdict
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import pyarrow.parquet as pq
import pytest

from components.log_example_gen.config import AttributionConfig, Window
from pipeline.simulator import DirtConfig, SimulationConfig, expected_reconciliation, simulate

REQUIRED = {
    "exposures": ("request_id", "item_id", "user_id", "time"),
    "clicks": ("request_id", "item_id", "time"),
    "purchases": ("request_id", "item_id", "time"),
}
HOUR_MS = 3_600_000
FORMATS = ("parquet", "csv", "jsonl")

# Much dirt, and enough clicks and purchases that every kind is there many times over.
VERY_DIRTY = DirtConfig(**{name: 0.1 for name in DirtConfig.model_fields})
DIRTY = SimulationConfig(
    users=200, items=80, categories=6, exposures_per_day=1000,
    days=7, first_day=date(2026, 3, 26), timezone="Europe/Berlin",
    ctr=0.2, cvr=0.3, click_window=timedelta(minutes=30), purchase_window=timedelta(days=1),
    clock_skew=timedelta(seconds=2), dirt=VERY_DIRTY,
)


def read_lines(path):
    """(row, '') of each row that can be taken apart, (None, reason) of the others."""
    if path.suffix == ".parquet":
        for row in pq.read_table(path).to_pylist():
            yield row, ""
    elif path.suffix == ".csv":
        with path.open(newline="") as file:
            header, *lines = csv.reader(file)
        for line in lines:
            if len(line) == len(header):
                yield {name: value or None for name, value in zip(header, line)}, ""
            else:
                yield None, "malformed_row"
    else:
        for line in path.read_text().splitlines():
            try:
                yield json.loads(line), ""
            except json.JSONDecodeError:
                yield None, "malformed_row"


def read_rows(path, log):
    """Rows of a file as {'request_id', 'item_id', 'time', 'reason'}."""
    for row, reason in read_lines(path):
        if not reason:
            if any(name not in row for name in REQUIRED[log]):
                reason = "missing_column"
            elif any(row[name] is None for name in REQUIRED[log]):
                reason = "missing_value"
            else:
                try:
                    time = int(row["time"])
                    reason = "" if time > 10**12 else "time_out_of_range"
                except ValueError:
                    reason = "bad_time"
        if reason:
            yield {"reason": reason}
        else:
            yield {"key": (row["request_id"], str(row["item_id"])), "time": time, "reason": "", "row": row}


def start_ms(day, zone="Europe/Berlin"):
    return round(datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(zone)).timestamp() * 1000)


def join(out, window, attribution, lateness_days=1):
    """The rules of the join, row by row."""
    skew = attribution.clock_skew // timedelta(milliseconds=1)
    maturity = attribution.maturity // timedelta(milliseconds=1)
    start, end = start_ms(window.first_day), start_ms(window.last_day + timedelta(days=1))
    windows, skews = sum(attribution.windows.values(), timedelta(0)), 2 * attribution.clock_skew
    back, ahead = windows + timedelta(hours=18) + skews, max(windows, timedelta(hours=12)) + skews
    zone = ZoneInfo("Europe/Berlin")
    folders = [
        datetime.fromtimestamp(ms / 1000, zone).date()
        for ms in (start - back / timedelta(milliseconds=1), end + ahead / timedelta(milliseconds=1) - 1)
    ]
    folders[1] += timedelta(days=lateness_days)
    logs = {}
    for log in REQUIRED:
        logs[log] = []
        for folder in sorted((out / log).iterdir()):
            if folders[0] <= date.fromisoformat(folder.name) <= folders[1]:
                for file in sorted(folder.iterdir()):
                    logs[log] += read_rows(file, log)

    report, exposures = {}, {}
    outcomes = Counter()
    for row in sorted((r for r in logs["exposures"] if not r["reason"]), key=lambda r: r["time"]):
        if not start <= row["time"] < end:
            outcome = "outside_window", "other_days"
        elif row["key"] in exposures:
            outcome = "duplicate", ""
        else:
            outcome = ("not_mature" if row["time"] + maturity > window.data_end_ms else "joined"), ""
        if row["key"] not in exposures:
            exposures[row["key"]] = row["time"], outcome[0]
        outcomes[outcome] += 1
    report["exposures"] = tally(logs["exposures"], outcomes)

    causes = {key: [time] for key, (time, _) in exposures.items()}
    labels = {}
    for event, log, cause in (("click", "clicks", "exposure"), ("purchase", "purchases", "click")):
        reach = attribution.windows[event] // timedelta(milliseconds=1)
        outcomes, seen, attributed = Counter(), set(), defaultdict(list)
        labels[event] = set()
        for row in (r for r in logs[log] if not r["reason"]):
            key, time = row["key"], row["time"]
            near = [t for t in causes.get(key, []) if t - skew - 12 * HOUR_MS <= time <= t + reach + 12 * HOUR_MS]
            fits = any(t - skew <= time <= t + reach for t in near) and (key, time) not in seen
            exposure_outcome = exposures[key][1] if fits else ""
            if exposure_outcome == "outside_window" or (not fits and not start <= time < end):
                outcome = "outside_window", "other_days"
            elif (key, time) in seen:
                outcome = "duplicate", ""
            elif exposure_outcome == "not_mature":
                outcome = "not_mature", "exposure_not_mature"
            elif fits:
                outcome = "joined", ""
                labels[event].add(key)
            elif not near:
                outcome = "orphan", f"no_{cause}"
            elif time < min(near) - skew:
                outcome = "orphan", f"before_{cause}"
            else:
                outcome = "outside_window", "after_window"
            if fits:  # one of another day is a cause nevertheless
                attributed[key].append(time)
            seen.add((key, time))
            outcomes[outcome] += 1
        report[event] = tally(logs[log], outcomes)
        causes = attributed

    examples = {split: {"rows": 0, "labels": dict.fromkeys(labels, 0)} for split in ("train", "eval")}
    for key, (time, outcome) in exposures.items():
        if outcome == "joined":
            split = examples["eval" if time >= start_ms(window.first_eval_day) else "train"]
            split["rows"] += 1
            for event, keys in labels.items():
                split["labels"][event] += key in keys
    return {"logs": report, "examples": examples}


def tally(rows, outcomes):
    outcomes = outcomes + Counter(("rejected", r["reason"]) for r in rows if r["reason"])
    nested = defaultdict(dict)
    for (name, reason), count in outcomes.items():
        nested[name][reason] = count
    assert sum(outcomes.values()) == len(rows)
    return {"read": len(rows), "outcomes": dict(nested)}


@pytest.fixture(scope="module", params=FORMATS)
def dirty(request, tmp_path_factory):
    out = tmp_path_factory.mktemp("dirty") / "logs"
    config = DIRTY.model_copy(update={"format": request.param})
    return out, config, simulate(config, out)


def window(first, last, first_eval=None, data_end=date(2026, 4, 2)):
    return Window(
        first_day=first, first_eval_day=first_eval or last, last_day=last, data_end_ms=start_ms(data_end)
    )


ATTRIBUTION = AttributionConfig(
    windows={"click": timedelta(minutes=30), "purchase": timedelta(days=1)}, clock_skew=timedelta(seconds=2)
)
WINDOWS = {
    "all days": window(date(2026, 3, 26), date(2026, 4, 1)),
    "middle days, over the change of the clock": window(date(2026, 3, 28), date(2026, 3, 30)),
    "one day": window(date(2026, 3, 29), date(2026, 3, 29)),
    "two evaluation days": window(date(2026, 3, 27), date(2026, 3, 30), date(2026, 3, 29)),
    "data end before the last folder": window(date(2026, 3, 27), date(2026, 3, 30), data_end=date(2026, 3, 31)),
}


@pytest.mark.parametrize("days", list(WINDOWS))
def test_expected_reconciliation_is_that_of_a_plain_join(dirty, days):
    out, _, _ = dirty
    assert expected_reconciliation(out, WINDOWS[days], ATTRIBUTION) == join(out, WINDOWS[days], ATTRIBUTION)


@pytest.mark.parametrize(
    ("click", "purchase", "skew", "lateness"),
    [(5, 60, 0, 1), (90, 3 * 24 * 60, 0, 1), (30, 24 * 60, 30, 0), (1, 10, 300, 2)],
)
def test_expected_reconciliation_of_another_attribution(dirty, click, purchase, skew, lateness):
    out, _, _ = dirty
    attribution = AttributionConfig(
        windows={"click": timedelta(minutes=click), "purchase": timedelta(minutes=purchase)},
        clock_skew=timedelta(seconds=skew),
    )
    days = WINDOWS["two evaluation days"]
    assert expected_reconciliation(out, days, attribution, lateness) == join(out, days, attribution, lateness)


def test_truth_has_the_reconciliation_of_all_days(dirty):
    out, config, truth = dirty
    days = Window.from_json(json.dumps(truth["window"]))
    assert (days.first_day, days.last_day) == (config.first_day, config.last_day)
    # Labels of the last day and a half are not final.
    assert days.first_eval_day == date(2026, 3, 30)
    assert truth["reconciliation"] == join(out, days, ATTRIBUTION)
    outcomes = {
        log: {(o, r) for o, reasons in counts["outcomes"].items() for r in reasons}
        for log, counts in truth["reconciliation"]["logs"].items()
    }
    assert outcomes["click"] >= {
        ("joined", ""), ("duplicate", ""), ("orphan", "no_exposure"), ("orphan", "before_exposure"),
        ("outside_window", "after_window"), ("not_mature", "exposure_not_mature"), ("rejected", "missing_column"),
    }
    assert outcomes["purchase"] >= {
        ("joined", ""), ("duplicate", ""), ("orphan", "no_click"), ("orphan", "before_click"),
        ("outside_window", "after_window"), ("not_mature", "exposure_not_mature"), ("rejected", "missing_value"),
    }
    # Only rows that arrive late can join less than was drawn, so the labels of the first days are the drawn ones.
    train = truth["reconciliation"]["examples"]["train"]
    drawn = [pq.read_table(out / f"truth/probabilities/2026-03-{day}.parquet").to_pandas() for day in range(26, 30)]
    assert train["rows"] == sum(map(len, drawn)) == 4000
    assert train["labels"] == {event: sum(int(d[event].sum()) for d in drawn) for event in ("click", "purchase")}


@pytest.mark.parametrize("form", FORMATS)
def test_kinds_of_dirt_counted_in_the_files(tmp_path, form):
    dirt = VERY_DIRTY.model_copy(update={"late": 0.0})
    truth = simulate(DIRTY.model_copy(update={"dirt": dirt, "format": form, "days": 4}), tmp_path)
    skew, click_reach, purchase_reach = 2000, HOUR_MS // 2, 24 * HOUR_MS
    exposed, clicked, counted = {}, defaultdict(list), {}
    for log in REQUIRED:
        rows = [row for file in sorted((tmp_path / log).rglob(f"*.{form}")) for row in read_rows(file, log)]
        good = [(row["key"], row["time"]) for row in rows if not row["reason"]]
        found = Counter(
            malformed=sum(r["reason"] not in ("", "missing_column") for r in rows),
            missing_column=sum(r["reason"] == "missing_column" for r in rows),
        )
        if log == "exposures":
            for key, time in good:
                exposed[key] = min(time, exposed.get(key, time))
            found["duplicate"] = len(good) - len(exposed)
            found["no_device"] = sum("device" not in r["row"] for r in rows if not r["reason"])
        else:
            found["duplicate"] = len(good) - len(set(good))
        for key, time in set(good):
            if log == "clicks" and key not in exposed:
                found["no_exposure"] += 1
            elif log == "clicks":
                clicked[key].append(time)
                found["before_exposure"] += time < exposed[key] - skew
                found["after_window"] += time > exposed[key] + click_reach
            elif log == "purchases":
                causes = [t for t in clicked[key] if t <= exposed[key] + click_reach]
                if not causes:
                    found["no_click"] += 1
                else:
                    found["before_click"] += time < min(causes) - skew
                    found["after_window"] += time > min(causes) + purchase_reach
        if log == "clicks":
            found["repeated"] = sum(len(times) - 1 for times in clicked.values())
        found["clean"] = len(rows) - sum(n for kind, n in found.items() if kind != "no_device")
        counted[log] = {kind: n for kind, n in found.items() if n}
    assert counted == {log: {kind: n for kind, n in kinds.items() if n} for log, kinds in truth["rows"].items()}
    assert counted["exposures"].keys() == {"clean", "duplicate", "malformed", "missing_column", "no_device"}
    assert counted["clicks"].keys() == {
        "clean", "duplicate", "malformed", "missing_column",
        "no_exposure", "before_exposure", "after_window", "repeated",
    }
    assert counted["purchases"].keys() == {
        "clean", "duplicate", "malformed", "missing_column", "no_click", "before_click", "after_window",
    }
    # A tenth of the clean rows; what is damaged, of all rows that are due.
    assert counted["exposures"] == {
        "clean": 4000, "duplicate": 400, "malformed": 440, "missing_column": 440, "no_device": 440,
    }
    drawn = sum(pq.read_table(f)["click"].to_numpy().sum() for f in (tmp_path / "truth/probabilities").iterdir())
    assert counted["clicks"]["before_exposure"] == -(-drawn // 10)


def test_late_rows_lie_in_the_next_days_folder(dirty):
    out, config, truth = dirty
    for log, kinds in truth["rows"].items():
        late = 0
        for file in (out / log).rglob(f"*.{config.format}"):
            folder = date.fromisoformat(file.parent.name)
            days = {
                datetime.fromtimestamp(row["time"] / 1000, ZoneInfo(config.timezone)).date()
                for row in read_rows(file, log)
                if not row["reason"]
            }
            if file.name.startswith("late"):
                assert days == {folder - timedelta(days=1)}
                late += sum(1 for _ in read_rows(file, log))
            else:
                assert days <= {folder}
        assert late == kinds["late"] > 10


def test_text_holds_what_parquet_holds(tmp_path):
    tables = {}
    for form in FORMATS:
        simulate(DIRTY.model_copy(update={"format": form, "days": 2}), tmp_path / form)
        for log in REQUIRED:
            rows = []
            for file in sorted((tmp_path / form / log).rglob(f"*.{form}")):
                rows += [r["row"] for r in read_rows(file, log) if not r["reason"]]
            tables[form, log] = rows
    for log in REQUIRED:
        # Rows are drawn for damage by format, but the readable ones are the same.
        assert tables["jsonl", log] == tables["parquet", log]
        as_text = [
            {k: "|".join(map(str, v)) or None if isinstance(v, list) else str(v) for k, v in row.items()}
            for row in tables["jsonl", log]
        ]
        assert tables["csv", log] == as_text


def test_malformed_rows_break_in_every_way(tmp_path):
    for form in FORMATS:
        out = tmp_path / form
        simulate(DIRTY.model_copy(update={"format": form, "days": 4}), out)
        for log in REQUIRED:
            reasons, lost, dropped = Counter(), Counter(), Counter()
            for file in (out / log).rglob(f"*.{form}"):
                names = None
                for row, reason in read_lines(file):
                    names = row if row else names
                    if row and not reason and all(name in row for name in REQUIRED[log]):
                        lost.update(name for name in REQUIRED[log] if row[name] is None)
                reasons.update(r["reason"] for r in read_rows(file, log))
                dropped.update(name for name in REQUIRED[log] if names and name not in names)
            assert set(lost) == set(REQUIRED[log])
            assert set(dropped) == set(REQUIRED[log])
            of_form = {"time_out_of_range"} if form == "parquet" else {"malformed_row", "bad_time"}
            assert set(reasons) == {"", "missing_value", "missing_column"} | of_form
