from models.runtime import prepare_process

prepare_process()  # before any test module imports TensorFlow

pytest_plugins = ("tests.transforms", "tests.warm")
