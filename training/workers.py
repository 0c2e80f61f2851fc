"""One training on several machines: TensorFlow's MultiWorkerMirroredStrategy, joined by TF_CONFIG or as a pod of a Kubernetes job."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager

import tensorflow as tf

from engines.errors import said
from training.errors import TrainingError
from training.loop import Workers

PEERS = "ALMENA_WORKERS"
"""Addresses host:port of all workers in their order, comma-separated: for a job whose pods know no more than their number."""
INDEX = "JOB_COMPLETION_INDEX"
"""What Kubernetes calls a pod's number in an Indexed Job."""


@contextmanager
def joined(several: bool) -> Iterator[Workers]:
    """This process as one of several workers; alone unless `several`. It waits until all are there.

    Raises TrainingError where it is not said which worker this is, and where another worker is lost on the way.
    """
    if not several:
        yield Workers()
        return
    count, number = place()
    try:
        options = tf.distribute.experimental.CommunicationOptions(timeout_seconds=60.0)
        yield Workers(count, number, tf.distribute.MultiWorkerMirroredStrategy(communication_options=options))
    except (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.DeadlineExceededError, tf.errors.InternalError) as error:
        raise TrainingError(
            f"worker {number} of {count} lost the others: {said(error)}. Start all workers again: they go on from the last epoch"
        ) from error


def place() -> tuple[int, int]:
    """How many workers there are and which one this is, from TF_CONFIG, or from $ALMENA_WORKERS and $JOB_COMPLETION_INDEX.

    TF_CONFIG is set where it was not. Raises TrainingError.
    """
    if PEERS in os.environ and "TF_CONFIG" not in os.environ:
        peers = [peer.strip() for peer in os.environ[PEERS].split(",")]
        index = os.environ.get(INDEX, "")
        if not index.isdecimal() or int(index) >= len(peers):
            raise TrainingError(f"{INDEX} is {index!r}, not the number of one of the {len(peers)} workers in {PEERS}, from 0")
        os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": peers}, "task": {"type": "worker", "index": int(index)}})
    try:
        config = json.loads(os.environ["TF_CONFIG"])
        peers, task = config["cluster"]["worker"], config["task"]
        count, number = len(peers), int(task["index"])
    except KeyError as error:
        raise TrainingError(
            f"--workers needs TF_CONFIG, or {PEERS} and {INDEX}, to say which worker this is; {error} is missing: docs/training.md"
        ) from error
    except (ValueError, TypeError) as error:
        raise TrainingError(f"TF_CONFIG cannot be read: {error}; docs/training.md has an example") from error
    if task.get("type") != "worker" or not 0 <= number < count:
        raise TrainingError(f"TF_CONFIG: task {task} is none of the {count} workers; the chief is worker 0")
    return count, number
