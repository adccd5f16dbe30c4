from __future__ import annotations

import pytest
import yaml

from pipeline.config import ConfigError, load

CONFIG = {
    "name": "shop",
    "logs": {
        "exposures": {"path": "exposures/{date}/*"},
        "events": {"click": {"path": "clicks/{date}/*"}, "purchase": {"path": "purchases/{date}/*"}},
    },
    "window": {"train_days": 1},
    "features": [{"name": "device", "kind": "id", "side": "context"}],
    "model": {"preset": "esmm"},
    "validation": {"schema": "schema.pbtxt"},
}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "shop.yaml"
    path.write_text(yaml.safe_dump(CONFIG))
    return path


@pytest.mark.parametrize("number", ["1e-3", "1E-3", "1.e-3", ".1e-2", "1.0e-3", "+1e-3", "0.001"])
def test_numbers_with_an_exponent(file, number):
    assert load(file, overrides=(f"optimizer.dense.learning_rate={number}",)).optimizer.dense.learning_rate == 0.001
    file.write_text(yaml.safe_dump(CONFIG) + f"optimizer: {{dense: {{learning_rate: {number}}}}}\n")
    assert load(file).optimizer.dense.learning_rate == 0.001


@pytest.mark.parametrize("text", ["'1e-3'", "1e-3x", "e3", "1e"])
def test_text_is_no_number(file, text):
    with pytest.raises(ConfigError, match="optimizer.dense.learning_rate: expected a valid number, got"):
        load(file, overrides=(f"optimizer.dense.learning_rate={text}",))
