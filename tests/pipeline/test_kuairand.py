"""The KuaiRand adapter, on a made-up source of the same form and on the real slice where it is at hand."""

import json
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.section import UserError
from pipeline.datasets.kuairand import convert

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "kuairand"
SHANGHAI = timezone(timedelta(hours=8))
MINUTE = 60_000


def at(day, hour, minute=0):
    """Epoch ms of a time in April 2022 in Shanghai."""
    return round(datetime(2022, 4, day, hour, minute, tzinfo=SHANGHAI).timestamp() * 1000)


def impression(user, video, time, click=0, long_view=0, play=0, date=None, tab=1):
    logged = date or int(datetime.fromtimestamp(time / 1000, SHANGHAI).strftime("%Y%m%d"))
    return {
        "user_id": user, "video_id": video, "date": logged, "hourmin": 0, "time_ms": time, "is_click": click,
        "is_like": 0, "long_view": long_view, "play_time_ms": play, "duration_ms": 1000 * (video + 1), "tab": tab,
    }


def write_source(folder, impressions, sequences=()):
    """A source with users 0 to 9 and videos 0 to 9; user 8 and video 8 have no row, video 7 has little in its row."""
    folder.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(impressions).to_parquet(folder / "impressions_20220425_0505.parquet")
    users = [u for u in range(10) if u != 8]
    columns = {
        "user_id": users, "user_active_degree": ["full_active"] * 9, "is_live_streamer": [-124] * 9,
        "is_video_author": [1] * 9, "follow_user_num": [10 * u for u in users], "fans_user_num": [5] * 9,
        "friend_user_num": [3] * 9, "register_days": [700 + u for u in users],
    }
    columns |= {f"onehot_feat{i}": [i] * 9 for i in range(12)}
    columns |= {f"onehot_feat{i}": ["", *["1.0"] * 8] for i in range(12, 18)}
    pd.DataFrame(columns).to_csv(folder / "user_features_pure.csv", index=False)
    videos = [v for v in range(10) if v != 8]
    pd.DataFrame(
        {
            "video_id": videos, "author_id": [100 + v for v in videos], "video_type": ["NORMAL"] * 9,
            "upload_dt": [f"2022-04-{v + 1:02}" for v in videos], "upload_type": ["LongImport"] * 9,
            "server_width": ["720.0"] * 9, "server_height": ["1280.0"] * 9,
            "music_id": [9155697141 + v for v in videos], "music_type": ["" if v == 7 else "9.0" for v in videos],
            "tag": ["" if v == 7 else "3,39" if v == 1 else "12" for v in videos],
        }
    ).to_csv(folder / "video_features_basic_pure.csv", index=False)
    schema = {
        "user_id": pa.int64(), "history_len": pa.int64(), "last_time_ms": pa.int64(), "watch_seq": pa.list_(pa.int64()),
        "like_seq": pa.list_(pa.int64()), "long_watch_seq": pa.list_(pa.int64()),
    }
    pq.write_table(pa.Table.from_pylist(list(sequences), pa.schema(schema.items())), folder / "user_sequences.parquet")
    return folder


def read(out, log, day="*"):
    files = sorted(out.glob(f"{log}/{day}/*.parquet"))
    return pa.concat_tables([pq.read_table(f) for f in files]).to_pandas()


def converted(tmp_path, impressions, sequences=()):
    out = tmp_path / "logs"
    return out, convert(write_source(tmp_path / "source", impressions, sequences), out)


def test_requests_end_after_a_pause_and_where_a_video_comes_again(tmp_path):
    start = at(25, 10)
    shown = [
        (0, 1, start),
        (0, 2, start + 29 * MINUTE),
        (0, 3, start + 58 * MINUTE),
        (0, 1, start + 59 * MINUTE),  # shown before in this request
        (0, 2, start + 60 * MINUTE),
        (0, 4, start + 90 * MINUTE),  # a pause of exactly 30 minutes
        (1, 4, start + 91 * MINUTE),  # another user
    ]
    out, summary = converted(tmp_path, [impression(*s) for s in reversed(shown)])
    rows = read(out, "exposures").sort_values("time")
    first, again, paused = start, start + 59 * MINUTE, start + 90 * MINUTE
    assert rows["request_id"].tolist() == [
        *[f"0-{first}"] * 3, *[f"0-{again}"] * 2, f"0-{paused}", f"1-{start + 91 * MINUTE}",
    ]
    assert rows["position"].tolist() == [1, 2, 3, 1, 2, 1, 1]
    assert not rows.duplicated(["request_id", "item_id"]).any()
    assert summary["requests"] == 4


def test_repeated_rows_stay_and_belong_to_one_impression(tmp_path):
    time = at(25, 10)
    out, summary = converted(
        tmp_path,
        [
            impression(0, 1, time),
            impression(0, 2, time + 5),
            impression(0, 2, time + 5, click=1),  # the same impression, other feedback
            impression(0, 3, time + 9),
        ],
    )
    rows = read(out, "exposures").sort_values(["time", "item_id"])
    assert rows["request_id"].nunique() == 1
    assert rows["position"].tolist() == [1, 2, 2, 3]
    twice = rows[rows["item_id"] == 2].drop(columns=["tags"])
    assert twice.iloc[0].equals(twice.iloc[1])
    assert summary["duplicate_exposures"] == 1
    assert summary["rows"] == {"exposures": 4, "clicks": 1, "purchases": 0}


def test_events_and_their_times(tmp_path):
    time = at(25, 10)
    out, summary = converted(
        tmp_path,
        [
            impression(0, 1, time, click=1, long_view=1, play=61_802),
            impression(0, 2, time + 10, click=1, play=900),
            impression(0, 3, time + 20, long_view=1, play=5_000),  # played to the end without a click
            impression(0, 4, time + 30, play=700),
        ],
    )
    request = f"0-{time}"
    assert read(out, "clicks").to_dict("records") == [
        {"request_id": request, "item_id": 1, "time": time + 1},
        {"request_id": request, "item_id": 2, "time": time + 11},
    ]
    assert read(out, "purchases").to_dict("records") == [
        {"request_id": request, "item_id": 1, "time": time + 1 + 61_802, "value": 61.802},
        {"request_id": request, "item_id": 3, "time": time + 21 + 5_000, "value": 5.0},
    ]
    assert summary["purchases_without_click"] == 1


def test_folders_are_the_days_of_logging(tmp_path):
    late = at(25, 23, 55)
    logged_after = impression(0, 2, late, click=1, date=20220426)
    out, summary = converted(tmp_path, [impression(0, 1, at(25, 1)), logged_after, impression(0, 3, at(26, 0, 5))])
    assert sorted(p.name for p in (out / "exposures").iterdir()) == ["2022-04-25", "2022-04-26"]
    assert sorted(p.name for p in (out / "purchases").iterdir()) == ["2022-04-25", "2022-04-26"]  # though empty
    rows = read(out, "exposures", "2022-04-26").sort_values("time")
    assert rows["item_id"].tolist() == [2, 3]
    assert rows["hour"].tolist() == [23, 0]
    assert rows["weekday"].tolist() == [0, 1]  # 2022-04-25 was a Monday
    assert read(out, "clicks", "2022-04-26")["time"].tolist() == [late + 1]
    assert (summary["first_day"], summary["last_day"]) == ("2022-04-25", "2022-04-26")
    assert summary["logged_on_a_later_day"] == 1


def test_features_of_users_and_videos(tmp_path):
    out, _ = converted(
        tmp_path, [impression(u, v, at(25, 10 + i), tab=4) for i, (u, v) in enumerate([(0, 1), (1, 7), (8, 8)])]
    )
    known, sparse, unknown = pq.read_table(out / "exposures/2022-04-25/part-0.parquet").sort_by("time").to_pylist()
    expected = {
        "tab": 4, "duration_ms": 2000, "hour": 10, "user_active_degree": "full_active", "follow_user_num": 0,
        "register_days": 700, "is_live_streamer": -124, "onehot_feat3": 3, "onehot_feat12": None, "author_id": 101,
        "tags": [3, 39], "video_age_days": 23, "music_id": 9155697142, "music_type": 9, "server_height": 1280,
    }
    assert {name: known[name] for name in expected} == expected
    assert sparse["onehot_feat12"] == 1
    assert (sparse["tags"], sparse["music_type"]) == (None, None)
    for name in ("user_active_degree", "register_days", "onehot_feat0", "author_id", "tags", "video_age_days"):
        assert unknown[name] is None
    assert unknown["duration_ms"] == 9000


def test_histories_that_reach_into_the_slice_are_dropped(tmp_path):
    first = at(25, 10)
    old = {"history_len": 70, "watch_seq": [5, 3, 5, 9], "like_seq": [3], "long_watch_seq": [1, 5]}
    out, _ = converted(
        tmp_path,
        [impression(u, 1, first + i * MINUTE) for i in range(2) for u in range(4)],
        [
            {"user_id": 0, "last_time_ms": first - 1, **old},
            {"user_id": 1, "last_time_ms": first, **old},
            {"user_id": 2, "last_time_ms": first + MINUTE, **old},
            {"user_id": 9, "last_time_ms": first, **old},  # not in the slice
        ],
    )
    rows = {r["user_id"]: r for r in pq.read_table(out / "exposures/2022-04-25/part-0.parquet").to_pylist()}
    expected = {
        "history_length": 70, "watch_history": [5, 3, 5, 9], "like_history": [3], "long_watch_history": [1, 5],
        "long_watch_share": 0.5,  # two of four: 5, twice
    }
    assert {name: rows[0][name] for name in expected} == expected
    for user in (1, 2, 3):
        assert rows[user]["watch_history"] is None
        assert rows[user]["history_length"] is None
        assert rows[user]["long_watch_share"] is None


def random_impressions(seed, days=4, rows=300):
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(rows):
        time = at(25, 0) + int(rng.integers(days * 24 * 60)) * MINUTE
        click = int(rng.random() < 0.5)
        logged = datetime.fromtimestamp(time / 1000 + 8 * 60, SHANGHAI)  # 8 minutes later
        made.append(
            impression(
                int(rng.integers(4)), int(rng.integers(6)), time, click, int(click and rng.random() < 0.6),
                int(rng.integers(60_000)), int(logged.strftime("%Y%m%d")),
            )
        )
    return made + made[:20]


def test_past_counts_are_of_what_was_logged_before_the_impressions_day(tmp_path):
    impressions = random_impressions(0)
    out, _ = converted(tmp_path, impressions)
    rows = read(out, "exposures")
    once = {(i["user_id"], i["video_id"], i["time_ms"]): i for i in reversed(impressions)}.values()
    assert len(rows) == 320
    for _, row in rows.iterrows():
        day = int(datetime.fromtimestamp(row["time"] / 1000, SHANGHAI).strftime("%Y%m%d"))
        past = [i for i in once if i["date"] < day]
        for who, key, value in (("user", "user_id", row["user_id"]), ("item", "video_id", row["item_id"])):
            own = [i for i in past if i[key] == value]
            assert row[f"{who}_past_impressions"] == len(own)
            for event, rate in (("is_click", "past_click_rate"), ("long_view", "past_long_view_rate")):
                if not past:
                    assert np.isnan(row[f"{who}_{rate}"])
                    continue
                prior = sum(i[event] for i in past) / len(past)
                expected = (sum(i[event] for i in own) + 20 * prior) / (len(own) + 20)
                assert row[f"{who}_{rate}"] == pytest.approx(expected)


def test_feedback_of_a_day_shows_in_no_feature_of_that_day(tmp_path):
    impressions = random_impressions(1)
    out, _ = converted(tmp_path / "a", impressions)
    for row in impressions:
        if row["date"] >= 20220427:
            row.update(is_click=1 - row["is_click"], long_view=1 - row["long_view"], play_time_ms=123, is_like=1)
    other, _ = converted(tmp_path / "b", impressions)
    for day in ("2022-04-25", "2022-04-26", "2022-04-27"):
        name = f"exposures/{day}/part-0.parquet"
        assert (out / name).read_bytes() == (other / name).read_bytes()
    assert not read(out, "exposures", "2022-04-28").equals(read(other, "exposures", "2022-04-28"))


def test_logs_of_the_same_source_are_kept(tmp_path):
    out, summary = converted(tmp_path, [impression(0, 1, at(25, 10))])
    inode = out.stat().st_ino
    assert convert(tmp_path / "source", out) == summary == json.loads((out / "summary.json").read_text())
    assert out.stat().st_ino == inode
    write_source(tmp_path / "source", [impression(0, 1, at(25, 10)), impression(0, 2, at(25, 10))])
    assert convert(tmp_path / "source", out)["rows"]["exposures"] == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["logs", "source"]


def test_a_missing_file_is_named(tmp_path):
    source = write_source(tmp_path / "source", [impression(0, 1, at(25, 10))])
    (source / "user_sequences.parquet").unlink()
    with pytest.raises(UserError, match=r"source/user_sequences.parquet: not found; expected the KuaiRand slice"):
        convert(source, tmp_path / "logs")
    assert not (tmp_path / "logs").exists()


@pytest.mark.parametrize(
    ("name", "column"),
    [("impressions_20220425_0505.parquet", "long_view"), ("video_features_basic_pure.csv", "tag")],
)
def test_a_missing_column_is_named_with_its_file(tmp_path, name, column):
    source = write_source(tmp_path / "source", [impression(0, 1, at(25, 10))])
    path = source / name
    if path.suffix == ".csv":
        pd.read_csv(path).drop(columns=[column]).to_csv(path, index=False)
    else:
        pd.read_parquet(path).drop(columns=[column]).to_parquet(path)
    with pytest.raises(UserError, match=rf"{name}: expected the columns {column}, found .*_id"):
        convert(source, tmp_path / "logs")


@pytest.mark.parametrize("value", ["25 April", None])
def test_a_column_of_something_else_is_named_with_its_file(tmp_path, value):
    source = write_source(tmp_path / "source", [impression(0, 1, at(25, 10))])
    path = source / "impressions_20220425_0505.parquet"
    pd.read_parquet(path).assign(date=[value]).to_parquet(path)
    with pytest.raises(UserError, match=r"impressions_20220425_0505.parquet: expected whole numbers in column date"):
        convert(source, tmp_path / "logs")


def test_an_unreadable_file_is_named(tmp_path):
    source = write_source(tmp_path / "source", [impression(0, 1, at(25, 10))])
    (source / "impressions_20220425_0505.parquet").write_bytes(b"not parquet at all")
    with pytest.raises(UserError, match=r"impressions_20220425_0505.parquet: expected a parquet file of KuaiRand"):
        convert(source, tmp_path / "logs")


@pytest.mark.skipif(not REAL.is_dir(), reason=f"the KuaiRand slice is not at {REAL}")
def test_the_real_slice(tmp_path):
    out = tmp_path / "logs"
    summary = convert(REAL, out)
    source = pd.read_parquet(REAL / "impressions_20220425_0505.parquet")
    key = ["user_id", "video_id", "time_ms"]
    assert summary["rows"] == {
        "exposures": len(source), "clicks": source["is_click"].sum(), "purchases": source["long_view"].sum(),
    }
    assert len(source) == 185_061
    assert summary["duplicate_exposures"] == source.duplicated(key).sum()
    # `date` is when an impression was logged: a little after it in Shanghai, at times on the day after.
    local = pd.to_datetime(source["time_ms"], unit="ms") + pd.Timedelta(hours=8)
    days_later = (pd.to_datetime(source["date"].astype(str)) - local.dt.normalize()).dt.days
    assert set(days_later) == {0, 1}
    assert summary["logged_on_a_later_day"] == days_later.sum() == 1673

    rows = read(out, "exposures")
    assert len(list((out / "exposures").iterdir())) == 11
    # (request_id, item_id) tells apart exactly what (user, video, time) does.
    assert len(rows[["request_id", "item_id"]].drop_duplicates()) == len(source[key].drop_duplicates())
    pause = rows.sort_values(["request_id", "time"]).groupby("request_id")["time"].diff()
    assert pause.max() < 30 * MINUTE
    assert rows["position"].min() == 1
    # All but three users' histories end before the slice.
    sequences = pd.read_parquet(REAL / "user_sequences.parquet").set_index("user_id")["last_time_ms"]
    first = source.groupby("user_id")["time_ms"].min()
    reaching = sequences.index[sequences >= first.reindex(sequences.index)]
    assert len(reaching) == 3
    with_history = set(rows["user_id"][rows["watch_history"].notna()])
    assert with_history == (set(sequences.index) & set(first.index)) - set(reaching)
