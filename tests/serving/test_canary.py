"""The canary's share: kept with the labels, taken back with its candidate, and the same for the same key."""

import json
import time

import numpy as np
import pytest

from models.section import UserError
from serving.canary import CanaryShare, place_of
from serving.model_repository import ModelRepository
from tests.serving.test_model_repository import saved_model


@pytest.fixture
def repository(tmp_path):
    """Version 1 is in service, version 2 is its candidate."""
    repository = ModelRepository(tmp_path / "models", "shop")
    repository.promote(repository.publish(saved_model(tmp_path / "a", "a"), reason=""), "")
    repository.publish(saved_model(tmp_path / "b", "b"), reason="")
    return repository


def test_the_share_is_kept_with_the_labels_and_in_the_history(repository):
    assert repository.canary() == 0
    assert repository.set_canary(0.05, "a trial") == 2
    assert repository.canary() == 0.05 and repository.labels() == {"stable": 1, "candidate": 2}
    last = repository.history()[-1]
    assert (last["action"], last["version"], last["reason"], last["canary"]) == ("canary", 2, "a trial", 0.05)
    repository.set_canary(0, "over")
    assert repository.canary() == 0 and "canary" not in repository.history()[-1]


@pytest.mark.parametrize("change", ["promote", "publish"])
def test_another_candidate_does_not_get_the_share_of_the_one_before(repository, tmp_path, change):
    repository.set_canary(0.5, "")
    if change == "promote":
        repository.promote(2, "better")
    repository.publish(saved_model(tmp_path / "c", "c"), reason="")
    assert repository.labels()["candidate"] == 3 and repository.canary() == 0


def test_the_share_stays_while_the_candidate_does(repository, tmp_path):
    repository.set_canary(0.5, "")
    repository.publish(saved_model(tmp_path / "b2", "b"), reason="the same again")
    assert repository.canary() == 0.5


def test_what_is_no_share(repository):
    for share in (-0.1, 1.5, float("nan")):
        with pytest.raises(UserError, match="canary: expected a share from 0 to 1"):
            repository.set_canary(share, "")
    repository.promote(2, "")
    with pytest.raises(UserError, match="expected a version labelled 'candidate', found none"):
        repository.set_canary(0.1, "")
    path = repository.path / "labels.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "candidate": 1, "canary": 3}))
    with pytest.raises(UserError, match="labels.json: 'canary': expected a share from 0 to 1, got 3"):
        repository.canary()


def test_keys_are_spread_evenly_and_stay_where_they_are():
    places = np.array([place_of(f"user-{i}") for i in range(20_000)])
    assert places.min() >= 0 and places.max() < 1
    for share in (0.01, 0.1, 0.5):
        # Four standard deviations of a binomial.
        assert abs((places < share).mean() - share) < 4 * np.sqrt(share * (1 - share) / 20_000)
    assert place_of("user-7") == places[7]


def test_the_repository_is_looked_at_from_time_to_time(repository):
    share = CanaryShare(repository, seconds=0.2)
    assert share() == 0
    repository.set_canary(0.3, "")
    assert share() == 0
    time.sleep(0.25)
    assert share() == 0.3
