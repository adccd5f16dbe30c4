"""What a process needs before it imports TensorFlow: one Keras, and quiet libraries."""

from __future__ import annotations

import logging
import os
import sys
import warnings

LEGACY_KERAS = "TF_USE_LEGACY_KERAS"
NATIVE_LOG_LEVEL = "TF_CPP_MIN_LOG_LEVEL"

# Python loggers of the libraries below, which report every artifact, function and file that they touch.
_CHATTY_LOGGERS = ("absl", "apache_beam", "tensorflow", "tfx", "h5py", "kfp", "urllib3")

# Warnings that libraries address to their own authors: nothing here can be acted upon by a user.
_LIBRARY_WARNINGS: tuple[tuple[type[Warning], str, str], ...] = (
    (FutureWarning, r"Support for google-cloud-storage", r"google\.cloud\.aiplatform"),
)


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
    # absl resets its logger's level from a verbosity of its own as soon as it is imported.
    from absl import logging as absl_logging

    absl_logging.set_verbosity(absl_logging.INFO if verbose else absl_logging.ERROR)
    if not verbose:
        for category, message, module in _LIBRARY_WARNINGS:
            warnings.filterwarnings("ignore", message=message, category=category, module=module)


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
