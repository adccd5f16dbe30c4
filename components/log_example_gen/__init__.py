"""From exposure and event logs to labelled tf.Examples, with every input row accounted for."""

from components.log_example_gen.component import LogExampleGen, LogReport

__all__ = ["LogExampleGen", "LogReport"]
