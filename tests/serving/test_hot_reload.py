import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_requests_get_the_right_answer_while_versions_change(exported, tmp_path):
    from hot_reload import run

    result = run(exported, tmp_path, reloads=3, seconds=15, rollback_after=2)
    assert result["failures"] == 0, result["first_failures"]
    assert not result["server_died"] and result["rollbacks"] == 1
    assert result["requests"]["grpc"] > 20 and result["requests"]["rest"] > 5
