"""The devices that train together: one, all of a host, or those of several workers."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import tensorflow as tf

from models.section import UserError


@dataclass(frozen=True)
class Share:
    """The share of a batch: of so many pieces, those numbered from `first` to before `last`.

    A batch of up to B rows is cut into pieces of ceil(B / pieces) rows; the last pieces of a shorter one may be empty.
    """

    pieces: int = 1
    first: int = 0
    last: int = 1


def strategy_of(name: str) -> tf.distribute.Strategy:
    """The strategy of `training.strategy`. To be made before anything else is done with TensorFlow.

    Raises:
      UserError: for 'multi_worker' where TF_CONFIG does not tell of the workers.
    """
    if name == "mirrored":
        return tf.distribute.MirroredStrategy()
    if name == "multi_worker":
        _check_cluster()
        return tf.distribute.MultiWorkerMirroredStrategy()
    return tf.distribute.get_strategy()


def _check_cluster() -> None:
    text = os.environ.get("TF_CONFIG", "")
    wanted = "training.strategy: expected the workers in TF_CONFIG, as Kubeflow's training operator sets it,"
    wanted += " for multi_worker"
    try:
        given = json.loads(text)
        cluster, kind, index = given["cluster"], given["task"]["type"], int(given["task"]["index"])
        cluster[kind][index]
    except (ValueError, KeyError, IndexError, TypeError):
        raise UserError(f"{wanted}, got {text!r}") from None
    if kind not in ("chief", "worker") or set(cluster) - {"chief", "worker"}:
        raise UserError(f"{wanted}: a chief, if any, and workers; got {', '.join(sorted(cluster))} and task {kind}")


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process writes what the training gives; of several workers, the chief or else the first one."""
    resolver = strategy.cluster_resolver
    if resolver is None or not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return True
    return resolver.task_type == "chief" or ("chief" not in resolver.cluster_spec().jobs and resolver.task_id == 0)


@contextmanager
def own_files(strategy: tf.distribute.Strategy) -> Iterator[Callable[[str], str]]:
    """Gives a function of a path: the path itself for the chief, and one that is thrown away for other workers.

    They have to go along with what is saved: a sum over the replicas is read by all of them together.
    """
    if is_chief(strategy):
        yield lambda path: path
    else:
        with tempfile.TemporaryDirectory() as scratch:
            yield lambda path: os.path.join(scratch, path.replace("://", "/").lstrip("/"))


def distributed(
    strategy: tf.distribute.Strategy, batches: Callable[..., tf.data.Dataset]
) -> tf.data.Dataset | tf.distribute.DistributedDataset:
    """Batches for the replicas of a strategy, each batch cut among them.

    The cut is made here, because TensorFlow's own shards files or rows among workers: batches would be others than
    those of one device.

    Args:
      strategy: the strategy.
      batches: gives the dataset; with a Share, the one with the pieces of each batch, one after the other.
    """
    pieces = strategy.num_replicas_in_sync
    if pieces == 1:
        return batches()

    def of_worker(context: tf.distribute.InputContext) -> tf.data.Dataset:
        own = pieces // context.num_input_pipelines
        first = context.input_pipeline_id * own
        return batches(Share(pieces, first, first + own))

    return strategy.distribute_datasets_from_function(of_worker)


def wait_for_all(strategy: tf.distribute.Strategy) -> None:
    """Until every worker has come here."""
    if strategy.num_replicas_in_sync > 1:
        strategy.reduce(tf.distribute.ReduceOp.SUM, strategy.run(lambda: tf.constant(1.0)), axis=None)
