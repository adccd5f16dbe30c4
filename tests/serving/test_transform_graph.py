"""The hash of the transform: the same before and after the export, another when anything of it is another."""

import json
import shutil

import pytest

from models.section import UserError
from serving.transform_graph import DESCRIPTION, check_transform, transform_hash
from tests.transforms import fit_transform, raw_rows


def test_the_exported_model_has_the_transform_that_it_was_trained_behind(exported, transform):
    description = json.loads((exported / DESCRIPTION).read_text())
    assert description["transform"] == transform_hash(transform)
    assert description["value"] == "pctcvr * price"
    check_transform(exported)


def test_another_fit_has_another_hash(transform, tmp_path):
    """The same vocabularies, and other means."""
    rows = [{**row, "price": [x + 1 for x in row["price"]]} for row in raw_rows(200)]
    other = fit_transform(rows, tmp_path)
    assert other.vocabulary_by_name("vocabulary_item") == transform.vocabulary_by_name("vocabulary_item")
    assert transform_hash(other) != transform_hash(transform)


@pytest.fixture
def copy(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "copy")


def another_vocabulary(folder):
    file = folder / "assets" / "vocabulary_item"
    file.write_bytes(b"\n".join(reversed(file.read_bytes().splitlines())) + b"\n")


def half_a_vocabulary(folder):
    file = folder / "assets" / "vocabulary_user"
    file.write_bytes(file.read_bytes()[:-5])


def no_vocabulary(folder):
    (folder / "assets" / "vocabulary_user").unlink()


def another_constant(folder):
    """One float in the graph, by its bytes: the boundary 6.0 of 'hour' becomes 7.0."""
    import numpy as np

    old, new = (np.array(b, "<f4").tobytes() for b in ([6, 12, 18], [7, 12, 18]))
    graph = (folder / "saved_model.pb").read_bytes()
    assert graph.count(old)
    (folder / "saved_model.pb").write_bytes(graph.replace(old, new))


@pytest.mark.parametrize("change", [another_vocabulary, half_a_vocabulary, no_vocabulary, another_constant])
def test_a_change_of_what_transforms_is_found(copy, change):
    change(copy)
    with pytest.raises(UserError, match="do not belong together"):
        check_transform(copy)


@pytest.mark.parametrize(
    "content, told", [(None, "half copied"), ("{", "expected JSON"), ('{"transform": "0"}', "do not belong together")]
)
def test_a_model_that_does_not_say_what_it_was_trained_behind_is_refused(copy, content, told):
    if content is None:
        (copy / DESCRIPTION).unlink()
    else:
        (copy / DESCRIPTION).write_text(content)
    with pytest.raises(UserError, match=told):
        check_transform(copy)
