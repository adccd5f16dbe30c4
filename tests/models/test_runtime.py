import os
import subprocess
import sys

import pytest


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("TF_")}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**inherited, **environment}, timeout=200
    )


@pytest.mark.slow
def test_libraries_are_imported_without_a_word_and_with_keras_2():
    done = run_python(
        "from models.runtime import prepare_process; prepare_process()\n"
        "import apache_beam, tensorflow as tf, tensorflow_recommenders\n"
        "import tensorflow_model_analysis, tensorflow_transform\n"
        "from tfx import v1\n"
        "import tf_keras\n"
        "assert tf.keras.Model is tf_keras.Model\n"
        "tf.constant(1.0) + 1.0\n"
    )
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "")


def test_keras_3_in_the_process_is_refused_with_a_way_out():
    done = run_python(
        "import tensorflow as tf; tf.keras.layers\nfrom models.runtime import prepare_process; prepare_process()",
        TF_CPP_MIN_LOG_LEVEL="3",
    )
    assert done.returncode == 1
    assert "imported with Keras 3." in done.stderr
    assert "set TF_USE_LEGACY_KERAS=1 before Python starts" in done.stderr


def test_a_native_log_level_of_the_environment_is_kept():
    code = (
        "import os; from models.runtime import prepare_process; prepare_process(verbose=True); "
        "print(os.environ['TF_CPP_MIN_LOG_LEVEL'])"
    )
    assert run_python(code, TF_CPP_MIN_LOG_LEVEL="1").stdout == "1\n"
    assert run_python(code).stdout == "0\n"


def test_only_noise_is_held_back_while_tensorflow_is_loaded(tmp_path):
    (tmp_path / "tensorflow.py").write_text(
        "import os\n"
        "os.write(2, b'WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\\n'\n"
        "            b'I0000 00:00:1795214283.038820      35 port.cc:153] oneDNN custom operations are on.\\n'\n"
        "            b'E0000 00:00:1795214283.038820      35 port.cc:153] illegal instruction\\n')\n"
        "raise ImportError('libtensorflow_framework.so.2 is missing')\n"
    )
    done = run_python(
        "import sys; from models.runtime import prepare_process; prepare_process()\n"
        f"sys.path.insert(0, {str(tmp_path)!r})\n"
        "import tensorflow\n"
    )
    assert done.returncode == 1
    first, *rest = done.stderr.splitlines()
    assert first == "E0000 00:00:1795214283.038820      35 port.cc:153] illegal instruction"
    assert rest[-1] == "ImportError: libtensorflow_framework.so.2 is missing"
