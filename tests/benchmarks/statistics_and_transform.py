"""StatisticsGen and Transform on many rows, as the pipeline runs them: what larger batches gain.

The examples are made from a seed: 24 columns as a shop's joined log has them, with ten vocabularies of 4 to 200,000
ids, lists of items, numbers with gaps, and quantiles. Each run is a process of its own; its seconds and CPU seconds
are those of the component's executor, without imports. Contenders take turns:
- `before`: TFX's default, in which tfx_bsl hands on batches of at most 1000 rows.
- `after`: batches by their bytes, of up to 8192 rows (tfx_bsl's flag tfxio_use_byte_size_batching).
The statistics of both are compared: counts, means and numbers of values have to be equal.

    python tests/benchmarks/statistics_and_transform.py

The last line printed is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

from models.runtime import prepare_process

prepare_process()

import numpy as np
import tensorflow_data_validation as tfdv
from absl import flags
from environments import REPOSITORY
from rich.console import Console
from rich.table import Table
from statistics_and_transform_common import FEATURES, LABELS, make_examples
from tfx.components.statistics_gen.executor import Executor as StatisticsGen
from tfx.components.transform.executor import Executor as Transform
from tfx.components.util import examples_utils
from tfx.proto import example_gen_pb2, transform_pb2
from tfx.types import artifact_utils, standard_artifacts
from tfx.utils import proto_utils

COMPONENTS = ("StatisticsGen", "Transform")
CONTENDERS = ("before", "after")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, default=REPOSITORY / "runs" / "statistics_and_transform")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--files", type=int, default=4, help="files of each split")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--components", nargs="+", choices=COMPONENTS, default=list(COMPONENTS))
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)  # how the benchmark starts itself
    arguments = parser.parse_args()
    if arguments.worker:
        component, contender, folder = arguments.worker
        print(json.dumps(measure(component, contender, Path(folder), arguments.work)))
        return
    console = Console(stderr=True, highlight=False)
    folder = (arguments.work / f"examples-{arguments.rows}-{arguments.files}").resolve()
    if not (folder / "features.json").exists():
        console.print(f"making {arguments.rows:,} rows in {folder}")
        shutil.rmtree(folder, ignore_errors=True)
        make_examples(folder, arguments.rows, arguments.files)
        found = tfdv.generate_statistics_from_tfrecord(str(folder / "Split-eval" / "data_tfrecord-00000*"))
        tfdv.write_schema_text(tfdv.infer_schema(found, max_string_domain_size=0), str(folder / "schema.pbtxt"))
    runs: dict[str, dict[str, list[dict]]] = {c: {k: [] for k in CONTENDERS} for c in arguments.components}
    for number in range(arguments.rounds):
        for component in arguments.components:
            for contender in CONTENDERS[:: 1 if number % 2 == 0 else -1]:
                command = [sys.executable, __file__, "--worker", component, contender, folder]
                done = subprocess.run(
                    [*command, "--work", arguments.work], stdout=subprocess.PIPE, text=True, check=True, env=os.environ
                )
                run = json.loads(done.stdout.splitlines()[-1])
                runs[component][contender].append(run)
                console.print(f"{component}, {contender}: {run['wall']:.1f} s, CPU {run['cpu']:.1f} s")
    result: dict = {"benchmark": "statistics_and_transform", "rows": arguments.rows, "rounds": arguments.rounds}
    result["components"] = {
        component: {
            contender: {key: float(np.median([r[key] for r in of])) for key in ("wall", "cpu", "peak_gib")}
            for contender, of in of_component.items()
        }
        for component, of_component in runs.items()
    }
    if "StatisticsGen" in runs:
        before, after = (facts(arguments.work / "out" / c / "StatisticsGen") for c in CONTENDERS)
        result["same_statistics"] = before == after
    report(result, Console(highlight=False))
    print(json.dumps(result))


def measure(component: str, contender: str, folder: Path, work: Path) -> dict:
    """Runs a component's executor with the properties that the pipeline gives it."""
    flags.FLAGS.set_default("tfxio_use_byte_size_batching", contender == "after")
    out = (work / "out" / contender / component).resolve()
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)

    def artifact(kind, name: str, uri: Path | None = None):
        made = kind()
        made.uri = str(uri or out / name)
        return made

    examples = artifact(standard_artifacts.Examples, "", folder)
    examples.split_names = artifact_utils.encode_split_names(["train", "eval"])
    examples_utils.set_payload_format(examples, example_gen_pb2.PayloadFormat.FORMAT_TF_EXAMPLE)
    beam = ["--runner=FnApiRunner", "--sdk_container_image=seesaw"]
    if component == "StatisticsGen":
        executor, inputs, properties = StatisticsGen, {"examples": [examples]}, {"exclude_splits": "[]"}
        outputs = {"statistics": [artifact(standard_artifacts.ExampleStatistics, "statistics")]}
    else:
        schema = artifact(standard_artifacts.Schema, "schema")
        Path(schema.uri).mkdir()
        shutil.copy(folder / "schema.pbtxt", schema.uri)
        executor, inputs = Transform, {"examples": [examples], "schema": [schema]}
        outputs = {
            "transform_graph": [artifact(standard_artifacts.TransformGraph, "graph")],
            "transformed_examples": [artifact(standard_artifacts.Examples, "examples")],
            "updated_analyzer_cache": [artifact(standard_artifacts.TransformCache, "cache")],
        }
        splits = transform_pb2.SplitsConfig(analyze=["train"], transform=["train", "eval"])
        properties = {
            "preprocessing_fn": "models.preprocessing.preprocessing_fn",
            "splits_config": proto_utils.proto_to_json(splits),
            "custom_config": json.dumps({"features": json.dumps(FEATURES), "labels": list(LABELS)}),
            "disable_statistics": 1,
            "force_tf_compat_v1": 0,
        }
    context = executor.Context(beam_pipeline_args=beam, tmp_dir=str(out / "tmp"))
    wall, cpu = time.perf_counter(), time.process_time()
    executor(context).Do(inputs, outputs, properties)
    return {
        "wall": time.perf_counter() - wall,
        "cpu": time.process_time() - cpu,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20),
    }


def facts(folder: Path) -> dict:
    """What statistics say exactly, whatever the batches were: no sketches."""
    found: dict = {}
    for split in ("train", "eval"):
        path = folder / "statistics" / f"Split-{split}" / "FeatureStats.pb"
        for feature in tfdv.load_stats_binary(str(path)).datasets[0].features:
            kind = feature.WhichOneof("stats")
            common = getattr(feature, kind).common_stats
            mean = feature.num_stats.mean if kind == "num_stats" else feature.string_stats.avg_length
            known = (common.num_non_missing, common.num_missing, common.tot_num_values, f"{mean:.6g}")
            found[split, feature.path.step[0]] = known
    return found


def report(result: dict, console: Console) -> None:
    table = Table(title=f"{result['rows']:,} rows", box=None, header_style="bold")
    for column in ("component", "batches", "seconds", "CPU s", "peak GiB"):
        table.add_column(column, justify="left" if column in ("component", "batches") else "right")
    for component, contenders in result["components"].items():
        for contender, found in contenders.items():
            table.add_row(component, contender, *(f"{found[k]:.1f}" for k in ("wall", "cpu", "peak_gib")))
    console.print(table)


if __name__ == "__main__":
    main()
