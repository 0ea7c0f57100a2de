# SPDX-License-Identifier: Apache-2.0
"""Where a training that was killed goes on from, so that it ends with the weights it would have had."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf


def folder_of(parent: str, identity: Mapping[str, Any]) -> str:
    """A folder below `parent` for one training; another training finds nothing in it.

    Args:
        parent: must be the same for the run that was killed and the one that goes on, unlike an output artifact's URI.
        identity: JSON values: all that the result depends on.
    """
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return tf.io.gfile.join(parent, digest[:32])


class Checkpoints(keras.callbacks.Callback):
    """Saves, after each epoch, all that the next one depends on; the last one saved is kept.

    That is the weights, the state of the optimizer and of each dropout's random numbers, and the rows of the epochs
    done. Keras's own BackupAndRestore leaves out the random numbers: a training with dropout would go on differently.
    """

    def __init__(self, folder: str, network: keras.Model, rows: list[dict[str, float]]):
        """Prepares for a compiled network; `rows` are those that `callbacks.History` fills."""
        super().__init__()
        network.optimizer.build(network.trainable_variables)
        self._rows = rows
        self._saved_rows = tf.Variable("[]", dtype=tf.string)
        state = tf.train.Checkpoint(
            network=[variable.value for variable in network.variables],
            optimizer=[variable.value for variable in network.optimizer.variables],
            rows=self._saved_rows,
        )
        self._manager = tf.train.CheckpointManager(state, folder, max_to_keep=1)

    def restore(self) -> bool:
        """Puts the last saved state into the network and the rows. False, and nothing done, where there is none."""
        if not self._manager.restore_or_initialize():
            return False
        self._rows[:] = json.loads(self._saved_rows.numpy())
        return True

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._saved_rows.assign(json.dumps(self._rows))
        self._manager.save()
