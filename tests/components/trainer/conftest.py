import pytest

from tests.components.trainer.toy_training import write_rows


@pytest.fixture(scope="session")
def pattern(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("examples"))
