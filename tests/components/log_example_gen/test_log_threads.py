"""A DoFn on threads gives what it would give without, in any bundle; and threads do not change what a join gives."""

import threading
import time

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.util import assert_that, equal_to

from components.log_example_gen.executor import threads_of
from components.log_example_gen.threads import ThreadedDoFn
from tests.components.log_example_gen.log_files import exposure, logs_config, ms, run, window_of_days, write_logs


class Squares(ThreadedDoFn):
    """Squares to the main output, and the odd numbers to another one."""

    def work(self, element):
        yield element**2
        if element % 2:
            yield beam.pvalue.TaggedOutput("odd", element)


class Meets(ThreadedDoFn):
    """Waits until two elements are in work."""

    def start_bundle(self):
        super().start_bundle()
        self.barrier = threading.Barrier(2)

    def work(self, element):
        self.barrier.wait(timeout=30)
        return [element]


class Breaks(ThreadedDoFn):
    def __init__(self, threads, path):
        super().__init__(threads)
        self.path = path

    def work(self, element):
        if element == 1:
            raise ValueError("the first breaks")
        time.sleep(0.5)
        (self.path / str(element)).touch()
        return []


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_outputs(threads):
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        found = pipeline | beam.Create(range(50)) | beam.ParDo(Squares(threads)).with_outputs("odd", main="squares")
        # In a window like any other elements: they can be grouped.
        grouped = found.squares | beam.WithKeys(lambda n: n % 3) | beam.GroupByKey() | beam.MapTuple(_sorted)
        assert_that(grouped, equal_to([(k, sorted(i**2 for i in range(50) if i**2 % 3 == k)) for k in (0, 1)]))
        assert_that(found.odd, equal_to(list(range(1, 50, 2))), label="odd")


def _sorted(key, values):
    return key, sorted(values)


def test_elements_are_worked_on_at_once():
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        assert_that(pipeline | beam.Create([1, 2, 3, 4]) | beam.ParDo(Meets(2)), equal_to([1, 2, 3, 4]))


def test_an_error_ends_the_run_and_nothing_is_written_after_it(tmp_path):
    with pytest.raises(Exception, match="the first breaks"), beam.Pipeline(runner="FnApiRunner") as pipeline:
        _ = pipeline | beam.Create([1, 2, 3, 4, 5, 6]) | beam.Reshuffle() | beam.ParDo(Breaks(2, tmp_path))
    written = sorted(p.name for p in tmp_path.iterdir())
    time.sleep(0.7)
    assert sorted(p.name for p in tmp_path.iterdir()) == written


def test_threads_of_a_worker(monkeypatch):
    monkeypatch.setattr("components.log_example_gen.executor.os.sched_getaffinity", lambda process: {0, 1, 2})
    for flags, threads in (
        (["--runner=FnApiRunner"], 3),
        (["--runner=FnApiRunner", "--join_threads=1"], 1),
        (["--runner=FnApiRunner", "--direct_running_mode=multi_processing", "--direct_num_workers=2"], 1),
        (["--runner=FlinkRunner"], 1),
        (["--runner=FlinkRunner", "--join_threads=4"], 4),
    ):
        assert threads_of(PipelineOptions(flags)) == threads, flags
    monkeypatch.setattr("components.log_example_gen.executor.os.sched_getaffinity", lambda process: set(range(64)))
    assert threads_of(PipelineOptions(["--runner=FnApiRunner"])) == 4


def test_threads_do_not_change_the_rows(tmp_path):
    start = ms("2026-01-02")
    shown = [exposure(f"r{i % 300}", start + i * 1000, item=f"i{i % 7}") for i in range(900)]
    write_logs(tmp_path, "csv", [*shown, exposure("x", "2026-01-03 01:00")])
    window = window_of_days("2026-01-02", "2026-01-03", "2026-01-03", "2026-01-05 00:30")
    runs = [
        run(tmp_path / f"out-{n}", logs_config(tmp_path, "csv"), window=window, flags=[f"--join_threads={n}", memory])
        for n, memory in ((1, "--join_memory_gib=0.0001"), (4, "--join_memory_gib=0.0004"))
    ]
    # The memory of a task is the same, and so are the buckets.
    assert runs[0].records == runs[1].records
    assert runs[0].report == runs[1].report
    assert len(list((tmp_path / "out-4/examples/Split-train").iterdir())) > 3
