"""The join of log_join.py with polars, to one Parquet file: the floor of what a join costs on one machine."""

from __future__ import annotations

from pathlib import Path

import polars as pl
from log_join_common import CLICK_WINDOW_MS, PURCHASE_WINDOW_MS, Task, main

KEY = ["request_id", "item_id"]


def join(task: Task) -> None:
    scan = pl.scan_parquet if task.form == "parquet" else pl.scan_csv
    exposures, clicks, purchases = (scan(task.files(log)) for log in ("exposures", "clicks", "purchases"))
    counted = (
        clicks.rename({"time": "click_time"})
        .join(exposures.select(*KEY, "time"), on=KEY)
        .filter((pl.col("click_time") - pl.col("time")).is_between(0, CLICK_WINDOW_MS))
        .group_by(KEY)
        .agg(pl.col("click_time").min(), click=pl.lit(1, pl.Int64).first())
    )
    bought = (
        purchases.rename({"time": "purchase_time"})
        .join(counted, on=KEY)
        .filter((pl.col("purchase_time") - pl.col("click_time")).is_between(0, PURCHASE_WINDOW_MS))
        .group_by(KEY)
        .agg(purchase=pl.lit(1, pl.Int64).first(), purchase_value=pl.col("amount").sum())
    )
    joined = (
        exposures.join(counted.drop("click_time"), on=KEY, how="left")
        .join(bought, on=KEY, how="left")
        .with_columns(pl.col("click", "purchase").fill_null(0), pl.col("purchase_value").fill_null(0.0))
    )
    # Not sink_parquet, whose joins come out slower here.
    joined.collect().write_parquet(Path(task.out) / "joined.parquet")


if __name__ == "__main__":
    main(join)
