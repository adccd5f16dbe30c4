"""The join of log_join.py as most would write it in Beam: dicts, CoGroupByKey, one tf.Example after the other."""

from __future__ import annotations

import csv
import os

import apache_beam as beam
import pyarrow.parquet as pq
import tensorflow as tf
from apache_beam.options.pipeline_options import PipelineOptions
from log_join_common import CLICK_WINDOW_MS, IDS, KEYS, NUMBERS, PURCHASE_WINDOW_MS, Task, main


def join(task: Task) -> None:
    with beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner"])) as pipeline:
        logs = {
            log: pipeline
            | f"Files of {log}" >> beam.Create(task.files(log))
            | f"Read {log}" >> beam.FlatMap(_rows, task.form)
            | f"Key {log}" >> beam.Map(lambda row: ((row["request_id"], str(row["item_id"])), row))
            for log in ("exposures", "clicks", "purchases")
        }
        _ = (
            logs
            | beam.CoGroupByKey()
            | "Label" >> beam.FlatMap(_label)
            | "Encode" >> beam.Map(_encode)
            | beam.io.WriteToTFRecord(os.path.join(task.out, "joined"))
        )


def _rows(path, form):
    if form == "parquet":
        for batch in pq.ParquetFile(path).iter_batches():
            yield from batch.to_pylist()
    else:
        with open(path, newline="") as file:
            yield from csv.DictReader(file)


def _label(element):
    _, logs = element
    clicks = sorted(int(row["time"]) for row in logs["clicks"])
    for row in logs["exposures"]:
        time = int(row["time"])
        clicked = [t for t in clicks if 0 <= t - time <= CLICK_WINDOW_MS]
        bought = [
            float(p["amount"])
            for p in logs["purchases"]
            if clicked and 0 <= int(p["time"]) - clicked[0] <= PURCHASE_WINDOW_MS
        ]
        yield {**row, "click": int(bool(clicked)), "purchase": int(bool(bought)), "purchase_value": sum(bought)}


def _encode(row):
    features = {}
    for name in (*KEYS[:3], *IDS):
        if row[name] not in (None, ""):
            value = tf.train.BytesList(value=[str(row[name]).encode()])
            features[name] = tf.train.Feature(bytes_list=value)
    for name in (*NUMBERS, "purchase_value"):
        if row[name] not in (None, ""):
            features[name] = tf.train.Feature(float_list=tf.train.FloatList(value=[float(row[name])]))
    for name, value in (("event_time", row["time"]), ("click", row["click"]), ("purchase", row["purchase"])):
        features[name] = tf.train.Feature(int64_list=tf.train.Int64List(value=[int(value)]))
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


if __name__ == "__main__":
    main(join)
