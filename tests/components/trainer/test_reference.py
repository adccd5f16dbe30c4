import numpy as np
import pytest

from components.trainer.config import TrainingConfig
from components.trainer.reference import Reference, score_reference
from models.section import UserError
from tests.components.trainer.toy_training import FILES, ROWS, Training, write_rows


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference")
    return Training(write_rows(folder / "rows"), folder, training=TrainingConfig(batch_size=16))


def test_the_first_rows_have_the_scores_of_the_model_in_memory(training, tmp_path):
    for weight in training.ranker.trainable_weights:
        weight.assign_add(np.random.default_rng(0).normal(size=weight.shape).astype(np.float32))
    reference = score_reference(training.ranker, training.examples, rows=50)
    assert len(reference) == 50
    numbers = reference.features["row"].astype(int)
    assert len(set(numbers)) == 50
    np.testing.assert_array_equal(reference.features["item"], numbers % 7)
    # Row by row, and not in the batches in which they were scored.
    for i in (0, 17, 49):
        features = {name: values[i : i + 1] for name, values in reference.features.items()}
        for name, values in training.ranker(features).items():
            assert reference.scores[name][i] == pytest.approx(float(values[0]), abs=1e-6)
    assert set(reference.scores) == {"pctr", "pcvr", "pctcvr"}
    assert np.std(reference.scores["pctr"]) > 0.01

    reference.write(str(tmp_path))
    again = Reference.read(str(tmp_path))
    for of_one, of_other in ((reference.features, again.features), (reference.scores, again.scores)):
        assert of_one.keys() == of_other.keys()
        for name in of_one:
            np.testing.assert_array_equal(of_one[name], of_other[name])
            assert of_one[name].dtype == of_other[name].dtype


def test_no_more_rows_than_there_are(training):
    assert len(score_reference(training.ranker, training.examples)) == FILES * ROWS


def test_a_reference_that_is_not_there_is_told(tmp_path):
    with pytest.raises(UserError, match=r"reference.npz: expected rows with the trainer's scores"):
        Reference.read(str(tmp_path))
