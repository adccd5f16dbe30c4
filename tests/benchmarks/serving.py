"""What a request costs: `serving_latency.py`, under the name of the package that it measures."""

from pathlib import Path

FOLDER = Path(__file__).resolve().parent

if __name__ == "__main__":
    import runpy

    runpy.run_path(str(FOLDER / "serving_latency.py"), run_name="__main__")
else:
    # A script's folder comes first among the modules: to the scripts beside this file, it is the package `serving`.
    __path__ = [str(FOLDER.parents[1] / "serving")]
