"""What a process needs before it imports TensorFlow: one Keras, and quiet libraries."""

from __future__ import annotations

import importlib.abc
import importlib.util
import logging
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

LEGACY_KERAS = "TF_USE_LEGACY_KERAS"
NATIVE_LOG_LEVEL = "TF_CPP_MIN_LOG_LEVEL"

# Python loggers of the libraries below, which report every artifact, function and file that they touch.
_CHATTY_LOGGERS = ("absl", "apache_beam", "tensorflow", "tfx", "h5py", "kfp", "urllib3")

# What TensorFlow 2.21 writes to stderr while it is loaded, whatever TF_CPP_MIN_LOG_LEVEL says
# (https://github.com/tensorflow/tensorflow/issues/100442): lines of level 'information'.
_LOADING_NOISE = re.compile(rb"(WARNING: All log messages before absl::InitializeLog\(\)|I\d{4} ).*\n?")


def prepare_process(verbose: bool = False) -> None:
    """Settles on Keras 2 and on the log levels of this process and of those that it starts.

    To be called first thing by every entry point, before TensorFlow is imported. A second call may
    change the log levels of the Python libraries; TensorFlow's native code reads its level once.

    Args:
      verbose: let libraries report what they do, not only errors. Levels that the environment
        already sets (TF_CPP_MIN_LOG_LEVEL) are kept in both cases.

    Raises:
      RuntimeError: when TensorFlow is already there with Keras 3 as its `tf.keras`.
    """
    os.environ[LEGACY_KERAS] = "1"
    # Level 2 would still show three 'Unable to register factory' errors at every import of
    # TensorFlow 2.16. What is an error for the caller is raised as a Python exception as well.
    os.environ.setdefault(NATIVE_LOG_LEVEL, "0" if verbose else "3")
    _refuse_keras_3()

    level = logging.INFO if verbose else logging.ERROR
    for name in _CHATTY_LOGGERS:
        logging.getLogger(name).setLevel(level)
    # A hundred lines at every import, one for each type that it knows nothing of.
    logging.getLogger("apache_beam.typehints").setLevel(logging.ERROR)
    # absl resets its logger's level from a verbosity of its own as soon as it is imported.
    from absl import logging as absl_logging

    absl_logging.set_verbosity(absl_logging.INFO if verbose else absl_logging.ERROR)
    if not verbose:
        # Addressed to the library's own authors.
        warnings.filterwarnings("ignore", "Support for google-cloud-storage", FutureWarning)
        if "tensorflow" not in sys.modules and not any(isinstance(f, _QuietTensorFlow) for f in sys.meta_path):
            sys.meta_path.insert(0, _QuietTensorFlow())


class _QuietTensorFlow(importlib.abc.MetaPathFinder):
    """Has TensorFlow loaded under `_without_loading_noise`, whoever imports it first."""

    def find_spec(self, name, path=None, target=None):
        if name != "tensorflow":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec and spec.loader:
            load = spec.loader.exec_module

            def load_quietly(module):
                with _without_loading_noise():
                    load(module)

            spec.loader.exec_module = load_quietly  # type: ignore[method-assign]
        return spec


@contextmanager
def _without_loading_noise() -> Iterator[None]:
    """Holds back what is written to stderr, native code included, and then passes on all but the noise."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as held:
        stderr = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)
            held.seek(0)
            for line in held:
                if not _LOADING_NOISE.fullmatch(line):
                    os.write(2, line)


def _refuse_keras_3() -> None:
    # The environment decides when `tf.keras` is first touched, so TensorFlow alone does no harm.
    tensorflow = sys.modules.get("tensorflow")
    keras = getattr(tensorflow, "keras", None)
    version = getattr(keras, "version", None)
    if callable(version) and version().startswith("3."):
        raise RuntimeError(
            f"expected TensorFlow with Keras 2, but it was imported with Keras {version()} before prepare_process() "
            f"was called; call it first, or set {LEGACY_KERAS}=1 before Python starts"
        )
