"""A process that carries out the trainings of a sweep, one after the other.

It reads a training per line of its standard input and answers each with a line of JSON. It ends with that input, so
none outlives the process that started it.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import traceback
from pathlib import Path

from models.runtime import prepare_process

RESULT = "{key}.json"
SCORES = "{key}.npz"


def main() -> None:
    rows_folder, out, threads = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    # Ctrl-C reaches the whole group of processes; the one that reads our answers ends us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    lines: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_listen, args=(lines,), daemon=True).start()

    prepare_process()
    import numpy as np
    import tensorflow as tf

    from models.section import UserError
    from pipeline.sweep.rows import Rows
    from pipeline.sweep.training import SweepTraining, train_and_judge

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    # The same machine finds the same figures again.
    tf.config.experimental.enable_op_determinism()
    rows = Rows.read(rows_folder)
    while True:
        job = json.loads(lines.get())
        key = job["key"]
        try:
            training = SweepTraining.from_json(json.dumps(job["training"]))
            found, scores = train_and_judge(training, rows, out / key)
            aside = out / f".part-{key}.npz"
            np.savez(aside, **scores)
            os.replace(aside, out / SCORES.format(key=key))
            aside = out / f".part-{key}.json"
            aside.write_text(json.dumps({"training": job["training"], **found}), encoding="utf-8")
            # Last: where it is, all is.
            os.replace(aside, out / RESULT.format(key=key))
            answer = {"key": key, "error": None}
        except Exception as error:
            traceback.print_exc()
            said = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {str(error)[:500]}"
            answer = {"key": key, "error": said}
        print(json.dumps(answer), file=answers, flush=True)


def _listen(lines: queue.Queue[str]) -> None:
    for line in sys.stdin:
        lines.put(line)
    os._exit(0)


if __name__ == "__main__":
    main()
