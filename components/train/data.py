# SPDX-License-Identifier: Apache-2.0
"""Reading: the images and labels of one split, transformed once and kept, and the batches drawn from them."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from components import array_store, datasets, features
from components.array_store import ArrayRows
from components.errors import BadInput

# Limit of one split's images in memory; a larger split goes to disk. MNIST's training images take 172 MB.
MEMORY_BYTES = 256 * 2**20


@dataclasses.dataclass(frozen=True, eq=False)
class InMemoryDataset:
    """Images float32 [n, height, width, 1] in [0, 1] and labels int64 [n]; images over MEMORY_BYTES are on disk."""

    images: ArrayRows
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def gather(self, indices: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns, in a graph, the images float32 [k, height, width, 1] and labels int64 [k] at indices int64 [k]."""
        images, labels = tf.numpy_function(
            lambda rows: (self.images[rows], self.labels[rows]), [indices], (tf.float32, tf.int64), stateful=False
        )
        shape = tf.TensorShape([*indices.shape, *self.images.shape[1:]])
        return tf.ensure_shape(images, shape), tf.ensure_shape(labels, indices.shape)


def store_images(blocks: Iterable[tuple[np.ndarray, np.ndarray]], count: Callable[[], int]) -> InMemoryDataset:
    """Stores images in memory up to MEMORY_BYTES, else in a file in the folder for temporary files.

    Args:
        blocks: one or more blocks of images float32 [k, height, width, 1] and labels int64 [k].
        count: returns the number of images in all blocks.

    Raises:
        ProjectError: the disk has no room for them.
    """
    labels: list[np.ndarray] = []

    def images() -> Iterator[np.ndarray]:
        for block_images, block_labels in blocks:
            labels.append(block_labels)
            yield block_images

    rows = array_store.store(images(), count, MEMORY_BYTES)
    return InMemoryDataset(rows, np.concatenate(labels))


class TransformGraph(tf.Module):
    """The transform stage's graph, from image bytes to network input; exported with any tf.Module that has it.

    It needs TensorFlow only. tf.Transform's own layer is for Keras 2 and cannot be part of a Keras 3 model.
    """

    def __init__(self, folder: str):
        """Loads the graph from the folder of a TransformGraph artifact."""
        super().__init__(name="transform")
        self._restored = tf.saved_model.load(tf.io.gfile.join(folder, "transform_fn"))
        # The only positional argument: feature name -> TensorSpec.
        self._inputs = self._restored.transform_fn.structured_input_signature[0][0]

    def __call__(self, image: tf.Tensor) -> tf.Tensor:
        """Transforms images, string [n] of height * width bytes each, to float32 [n, height, width, 1] in [0, 1]."""
        # Sorted, so that two exports of one network are identical.
        inputs = {name: _placeholder(self._inputs[name], tf.size(image)) for name in sorted(self._inputs)}
        rank = self._inputs[features.IMAGE].shape.rank
        inputs[features.IMAGE] = image if rank == 1 else image[:, tf.newaxis]
        return self._restored.transform_fn(inputs)[features.IMAGE]


def _placeholder(spec: Any, count: tf.Tensor) -> Any:
    """Returns empty values for a feature that the graph requires but the image does not depend on."""
    empty = "" if spec.dtype == tf.string else tf.zeros([], spec.dtype)
    if isinstance(spec, tf.SparseTensorSpec):
        no_indices = tf.zeros([0, 2], tf.int64)
        return tf.SparseTensor(no_indices, tf.fill([0], empty), [tf.cast(count, tf.int64), 0])
    return tf.fill([count, *spec.shape[1:]], empty)


_EXAMPLES_PER_READ = 1024
_PARALLEL_CALLS, _PREFETCH = 2, 4  # blocks or batches
# These functions have no Python control flow on tensors; AutoGraph's search for it takes longer than the graph itself.
_without_autograph = tf.autograph.experimental.do_not_convert
_FEATURE_SPEC = {
    features.IMAGE: tf.io.FixedLenFeature([], tf.string),
    features.LABEL: tf.io.FixedLenFeature([], tf.int64),
}


def load(patterns: Sequence[str], transform: Callable[[tf.Tensor], tf.Tensor], split: str) -> InMemoryDataset:
    """Reads all examples of a split, in the order of the file names.

    Args:
        patterns: of uncompressed TFRecord files of tf.Examples with `image` and `label`, see `list_files`.
        transform: string [n] of image bytes -> float32 [n, height, width, 1] in [0, 1].
        split: name of the split, for the error.

    Raises:
        BadInput: the split is empty.
        ProjectError: the images fit neither into memory nor onto the disk.
    """
    files = list_files(patterns)

    @_without_autograph
    def parse(serialized: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        example = tf.io.parse_example(serialized, _FEATURE_SPEC)
        return transform(example[features.IMAGE]), example[features.LABEL]

    records = datasets.records(files)
    dataset = records.batch(_EXAMPLES_PER_READ).map(parse, num_parallel_calls=_PARALLEL_CALLS)
    blocks: Iterator[tuple[np.ndarray, np.ndarray]] = dataset.prefetch(_PREFETCH).as_numpy_iterator()
    first = next(blocks, None)
    if first is None:
        raise BadInput(
            f"the split {split!r} must hold at least one example, but {len(files)} files of {', '.join(patterns)} hold "
            "none; give the pipeline more images"
        )
    return store_images(itertools.chain([first], blocks), lambda: datasets.count(records))


def list_files(patterns: Sequence[str]) -> list[str]:
    """Lists the files of TFX's patterns FOLDER/*, sorted; wildcards in a folder's name are taken literally."""
    return sorted(file for pattern in patterns for file in datasets.files(pattern.removesuffix("/*")))


def steps_per_pass(images: int, batch_size: int) -> int:
    """Returns the number of batches that show every image at least once."""
    return -(-images // batch_size)


def train_batches(
    dataset: InMemoryDataset,
    batch_size: int,
    seed: int,
    first_pass: int = 0,
    *,
    replicas: int = 1,
    shards: slice = slice(None),
) -> tf.data.Dataset:
    """Returns endless batches of equal size, in a new order for each pass over the images.

    The order depends only on the seed and the index of the pass, so a resumed training sees the batches that it would
    have seen. The last batch of a pass is filled up from the pass's start. Whole batches are gathered by index, which
    is faster than shuffling and batching single images, and shuffles all of them.

    For replicas that share each batch, it is split into equal parts, which follow each other as separate elements.

    Args:
        dataset: n images and labels.
        batch_size: images per batch, a multiple of `replicas`; may exceed n.
        seed: 0 .. 2^31 - 1.
        first_pass: index of the first pass.
        replicas: number of parts of each batch.
        shards: the parts to return.

    Returns:
        Dataset of (float32 [batch_size / replicas, height, width, 1], int64 [batch_size / replicas]).
    """
    count, steps, shard_size = len(dataset), steps_per_pass(len(dataset), batch_size), batch_size // replicas

    @_without_autograph
    def pass_indices(index: tf.Tensor) -> tf.data.Dataset:
        order = tf.random.experimental.stateless_shuffle(tf.range(count, dtype=tf.int64), [seed, index])
        filled = tf.gather(order, tf.range(steps * batch_size) % count)
        parts = tf.reshape(filled, [steps, replicas, shard_size])[:, shards]
        return tf.data.Dataset.from_tensor_slices(tf.reshape(parts, [-1, shard_size]))

    indices = datasets.untuned(tf.data.Dataset.counter(first_pass)).flat_map(pass_indices)
    return indices.map(_without_autograph(dataset.gather), num_parallel_calls=_PARALLEL_CALLS).prefetch(_PREFETCH)


def eval_batches(dataset: InMemoryDataset, batch_size: int) -> tf.data.Dataset:
    """Returns all images once, in order and without labels; the last batch may be smaller.

    Returns:
        Dataset of float32 [up to batch_size, height, width, 1].
    """
    indices = datasets.untuned(tf.data.Dataset.range(len(dataset))).batch(batch_size)
    return indices.map(_without_autograph(lambda rows: dataset.gather(rows)[0])).prefetch(_PREFETCH)


def prefetch_to_device(dataset: tf.data.Dataset, device: str) -> tf.data.Dataset:
    """Copies the next batches to a device while it computes; must be the dataset's last transformation."""
    prefetched: tf.data.Dataset = dataset.apply(tf.data.experimental.prefetch_to_device(device, _PARALLEL_CALLS))
    return prefetched
