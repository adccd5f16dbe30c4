import pytest


@pytest.fixture(scope="session")
def exported(transform, tmp_path_factory):
    """A SavedModel of an untrained ranker."""
    from models.presets import ModelConfig
    from serving.signatures import export
    from tests.serving.exported import make_ranker
    from tests.transforms import FEATURES

    path = tmp_path_factory.mktemp("exported") / "1"
    model = ModelConfig(preset="shared_bottom")
    export(make_ranker(transform, model=model), transform, FEATURES, path, model.model_dump(mode="json"))
    return path
