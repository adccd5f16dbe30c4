"""Turns the KuaiRand slice (Gao et al., CIKM 2022) into exposure, click and purchase logs.

exposure = an impression; click = `is_click`; purchase = `long_view`, worth the seconds played.

- There are no request ids: a user's impressions with gaps under 30 minutes are one request, and a
  video that comes again within one starts the next, so that (request_id, item_id) is an impression.
- Rows that repeat (user_id, video_id, time_ms) stay, as a join has to deal with them; so do long views
  without a click.
- A folder holds what has the same `date`. That is the day on which an impression was logged, at
  least 8 minutes after `time_ms` and for 0.9 % of the rows on the day after (the zone is Asia/Shanghai).
- Features know nothing of the impression's own feedback. Histories end on the day before the slice,
  and the counts of what a user did and of what happened to a video end with the day before the
  impression's.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from models.section import UserError
from pipeline.datasets.folder import fingerprint, is_current, replacing
from pipeline.fingerprint import code_fingerprint

TIMEZONE = "Asia/Shanghai"
REQUEST_GAP_MS = 30 * 60_000
CLICK_DELAY_MS = 1
"""A click is given its impression's time and this; the data have no time of it."""

_IMPRESSIONS = "impressions_20220425_0505.parquet"
_USERS = "user_features_pure.csv"
_VIDEOS = "video_features_basic_pure.csv"
_SEQUENCES = "user_sequences.parquet"

_USER_NUMBERS = ("follow_user_num", "fans_user_num", "friend_user_num", "register_days")
_USER_IDS = ("is_live_streamer", "is_video_author", *(f"onehot_feat{i}" for i in range(18)))
_EXPECTED = {
    _IMPRESSIONS: (
        "user_id",
        "video_id",
        "date",
        "time_ms",
        "is_click",
        "long_view",
        "play_time_ms",
        "duration_ms",
        "tab",
    ),
    _USERS: ("user_id", "user_active_degree", *_USER_NUMBERS, *_USER_IDS),
    _VIDEOS: (
        "video_id",
        "author_id",
        "video_type",
        "upload_dt",
        "upload_type",
        "server_width",
        "server_height",
        "music_id",
        "music_type",
        "tag",
    ),
    _SEQUENCES: ("user_id", "history_len", "last_time_ms", "watch_seq", "like_seq", "long_watch_seq"),
}
_DAY_MS = 86_400_000
_ZONE_MS = 8 * 3_600_000  # China has had no summer time since 1991
_PRIOR_WEIGHT = 20


def convert(source: Path, out: Path) -> dict[str, Any]:
    """Writes `out/{exposures,clicks,purchases}/YYYY-MM-DD/part-0.parquet`, times in epoch ms.

    Logs that are there from the same source are kept as they are, and nothing appears at `out` before
    all of it is written.

    Args:
      source: folder with the four files of the slice.
      out: folder to make.

    Returns:
      Days, rows of each log, and counts of what is dirty in them; also in `out/summary.json`.

    Raises:
      UserError: a file of the slice is missing, cannot be read or lacks a column, or `out` holds
        something else.
    """
    source, out = Path(source), Path(out)
    for name in _EXPECTED:
        if not (source / name).is_file():
            raise UserError(f"{source / name}: not found; expected the KuaiRand slice: {', '.join(_EXPECTED)}")
    manifest = {
        "dataset": "kuairand",
        "source": fingerprint(*(source / name for name in _EXPECTED)),
        "code": code_fingerprint(__name__),
    }
    if is_current(out, manifest):
        return json.loads((out / "summary.json").read_text())

    impressions = _impressions(_read(source, _IMPRESSIONS))
    exposures = _exposures(impressions, _read(source, _USERS), _read(source, _VIDEOS), _read(source, _SEQUENCES))
    clicks, purchases = _events(impressions)
    logs = {"exposures": exposures, "clicks": clicks, "purchases": purchases}
    summary = _summary(impressions, logs)
    with replacing(out, manifest) as folder:
        for date in np.unique(impressions["date"]):
            day = pd.Timestamp(str(date)).date().isoformat()
            for log, table in logs.items():
                path = folder / log / day / "part-0.parquet"
                path.parent.mkdir(parents=True)
                rows = np.flatnonzero(table["date"].to_numpy() == date)
                pq.write_table(table.take(pa.array(rows)).drop(["date"]), path)
        (folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    return summary


def _read(source: Path, name: str) -> pa.Table:
    path = source / name
    try:
        if path.suffix == ".csv":
            # Tags such as '3,39' and '39' must not be read as numbers.
            options = pyarrow.csv.ConvertOptions(column_types={"tag": pa.string()}, strings_can_be_null=True)
            table = pyarrow.csv.read_csv(path, convert_options=options)
        else:
            table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path}: expected a {path.suffix[1:]} file of KuaiRand, could not read it: {error}") from error
    missing = [c for c in _EXPECTED[name] if c not in table.column_names]
    if missing:
        raise UserError(f"{path}: expected the columns {', '.join(missing)}, found {', '.join(table.column_names)}")
    for column in _EXPECTED[name] if name == _IMPRESSIONS else _EXPECTED[name][:1]:
        values = table[column]
        if not pa.types.is_integer(values.type) or values.null_count:
            found = f"{values.type} with {values.null_count} of {len(values)} missing"
            raise UserError(f"{path}: expected whole numbers in column {column}, found {found}")
    return table.select(_EXPECTED[name])


def _impressions(table: pa.Table) -> pd.DataFrame:
    """Impressions ordered by user and time, with request_id, position and day (number of the local day)."""
    rows = table.to_pandas().sort_values(["user_id", "time_ms", "video_id"], kind="stable", ignore_index=True)
    request_id, position = _requests(rows["user_id"], rows["video_id"], rows["time_ms"])
    return rows.assign(request_id=request_id, position=position, day=(rows["time_ms"] + _ZONE_MS) // _DAY_MS)


def _requests(users: pd.Series, videos: pd.Series, times: pd.Series) -> tuple[list[str], list[int]]:
    """Request id and position, from 1 on, of impressions ordered by user and time."""
    request_ids, positions = [], []
    user = time = None
    shown: dict[int, tuple[int, int]] = {}  # video -> time and position in the request
    for next_user, video, next_time in zip(users.tolist(), videos.tolist(), times.tolist()):
        again = video in shown and shown[video][0] != next_time
        if next_user != user or next_time - time >= REQUEST_GAP_MS or again:
            shown, request_id = {}, f"{next_user}-{next_time}"
        user, time = next_user, next_time
        shown.setdefault(video, (time, len(shown) + 1))
        request_ids.append(request_id)
        positions.append(shown[video][1])
    return request_ids, positions


def _exposures(rows: pd.DataFrame, users: pa.Table, videos: pa.Table, sequences: pa.Table) -> pa.Table:
    local = rows["time_ms"] + _ZONE_MS
    columns: dict[str, Any] = {
        "date": rows["date"],
        "request_id": rows["request_id"],
        "item_id": rows["video_id"],
        "user_id": rows["user_id"],
        "time": rows["time_ms"],
        "tab": rows["tab"],
        "position": rows["position"],
        "hour": local // 3_600_000 % 24,
        "weekday": (rows["day"] + 3) % 7,  # 0 is Monday; 1970-01-01 was a Thursday
        "duration_ms": rows["duration_ms"],
    }
    columns = {name: pa.array(values) for name, values in columns.items()}
    columns.update(_looked_up(_user_features(users), "user_id", rows["user_id"]))
    item = _looked_up(_video_features(videos), "video_id", rows["video_id"])
    uploaded = item.pop("uploaded").to_pandas()
    columns.update(item)
    columns["video_age_days"] = pa.array(rows["day"] - uploaded, from_pandas=True)
    first = rows.groupby("user_id")["time_ms"].min()
    columns.update(_looked_up(_histories(sequences, first), "user_id", rows["user_id"]))
    for who, key in (("user", "user_id"), ("item", "video_id")):
        for name, values in _past_counts(rows, key).items():
            columns[f"{who}_{name}"] = pa.array(values, from_pandas=True)
    return pa.table(columns)


def _looked_up(table: pa.Table, key: str, keys: pd.Series) -> dict[str, pa.ChunkedArray]:
    """The columns of the row of each key; null where the table has none."""
    index = pd.Index(table[key].to_numpy()).get_indexer(keys)
    found = table.drop([key]).combine_chunks().take(pa.array(index, mask=index < 0))
    return dict(zip(found.column_names, found.columns))


def _user_features(users: pa.Table) -> pa.Table:
    features = {name: users[name] for name in ("user_id", "user_active_degree", *_USER_NUMBERS)}
    for name in _USER_IDS:  # some are written as 1.0
        features[name] = users[name].cast(pa.int64())
    return pa.table(features)


def _video_features(videos: pa.Table) -> pa.Table:
    features = {name: videos[name] for name in ("video_id", "author_id", "video_type", "upload_type", "music_id")}
    for name in ("music_type", "server_width", "server_height"):
        features[name] = videos[name].cast(pa.int64())
    uploaded = pd.to_datetime(videos["upload_dt"].to_pandas())
    features["uploaded"] = pa.array((uploaded - pd.Timestamp(0)) // pd.Timedelta(days=1), from_pandas=True)
    tags = [None if tag is None else [int(t) for t in tag.split(",")] for tag in videos["tag"].to_pylist()]
    features["tags"] = pa.array(tags, pa.list_(pa.int64()))
    return pa.table(features)


def _histories(sequences: pa.Table, first_impression: pd.Series) -> pa.Table:
    """Histories of the users whose history ends before their first impression in the slice."""
    first = first_impression.reindex(sequences["user_id"].to_numpy()).to_numpy()
    last = sequences["last_time_ms"].to_numpy()
    sequences = sequences.filter(pa.array(~(last >= first)))
    watched, long_watched = sequences["watch_seq"].to_pylist(), sequences["long_watch_seq"].to_pylist()
    # Both lists are cut to 50, so the share is that of the watched ones that were also watched long.
    share = [np.isin(seen, long).mean() if seen else None for seen, long in zip(watched, long_watched)]
    return pa.table(
        {
            "user_id": sequences["user_id"],
            "history_length": sequences["history_len"],
            "long_watch_share": pa.array(share, pa.float64()),
            "watch_history": sequences["watch_seq"],
            "long_watch_history": sequences["long_watch_seq"],
            "like_history": sequences["like_seq"],
        }
    )


def _past_counts(rows: pd.DataFrame, key: str) -> dict[str, np.ndarray]:
    """Impressions, and smoothed rates of clicks and long views, logged before the day of each impression.

    A rate is (events + 20 p) / (impressions + 20) with p the rate of all impressions before that day,
    null where there were none.
    """
    logged = (pd.to_datetime(rows["date"].astype(str)) - pd.Timestamp(0)) // pd.Timedelta(days=1)
    seen = rows.drop_duplicates(["user_id", "video_id", "time_ms"]).assign(logged=logged, impressions=1)
    events = ["impressions", "is_click", "long_view"]
    counts = {name: np.zeros(len(rows)) for name in events}
    overall = {name: np.zeros(len(rows)) for name in events}
    for day in rows["day"].unique():
        past = seen[seen["logged"] < day]
        totals = past.groupby(key)[events].sum()
        today = (rows["day"] == day).to_numpy()
        found = totals.reindex(rows.loc[today, key]).fillna(0)
        for name in events:
            counts[name][today] = found[name].to_numpy()
            overall[name][today] = past[name].sum()
    impressions = counts["impressions"]
    features = {"past_impressions": impressions.astype(np.int64)}
    with np.errstate(invalid="ignore"):
        for name, event in (("past_click_rate", "is_click"), ("past_long_view_rate", "long_view")):
            prior = overall[event] / overall["impressions"]
            features[name] = (counts[event] + _PRIOR_WEIGHT * prior) / (impressions + _PRIOR_WEIGHT)
    return features


def _events(rows: pd.DataFrame) -> tuple[pa.Table, pa.Table]:
    tables = []
    for event in ("is_click", "long_view"):
        happened = rows[rows[event] == 1]
        time = happened["time_ms"] + CLICK_DELAY_MS
        columns = {"date": happened["date"], "request_id": happened["request_id"], "item_id": happened["video_id"]}
        if event == "is_click":
            columns["time"] = time
        else:
            columns["time"] = time + happened["play_time_ms"]
            columns["value"] = happened["play_time_ms"] / 1000
        tables.append(pa.table({name: pa.array(values) for name, values in columns.items()}))
    return tables[0], tables[1]


def _summary(rows: pd.DataFrame, logs: dict[str, pa.Table]) -> dict[str, Any]:
    logged = (pd.to_datetime(rows["date"].astype(str)) - pd.Timestamp(0)) // pd.Timedelta(days=1)
    return {
        "timezone": TIMEZONE,
        "first_day": pd.Timestamp(str(rows["date"].min())).date().isoformat(),
        "last_day": pd.Timestamp(str(rows["date"].max())).date().isoformat(),
        "users": int(rows["user_id"].nunique()),
        "items": int(rows["video_id"].nunique()),
        "requests": int(rows["request_id"].nunique()),
        "rows": {log: len(table) for log, table in logs.items()},
        "duplicate_exposures": int(rows.duplicated(["user_id", "video_id", "time_ms"]).sum()),
        "purchases_without_click": int(((rows["long_view"] == 1) & (rows["is_click"] == 0)).sum()),
        "logged_on_a_later_day": int((logged > rows["day"]).sum()),
    }
