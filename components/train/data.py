# SPDX-License-Identifier: Apache-2.0
"""The images of one split, read once, and their labels."""

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

# Of the images of one split that stay in memory; more go to the disk. MNIST's training images take 172 MB.
MEMORY_BYTES = 256 * 2**20


@dataclasses.dataclass(frozen=True, eq=False)
class InMemoryDataset:
    """Images float32 [n, height, width, 1] in [0, 1], in memory or on disk, and their labels int64 [n]."""

    images: ArrayRows
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def gather(self, numbers: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """In a graph: by number, int64 [k], images float32 [k, height, width, 1] and labels int64 [k]."""
        images, labels = tf.numpy_function(
            lambda index: (self.images[index], self.labels[index]), [numbers], (tf.float32, tf.int64), stateful=False
        )
        shape = tf.TensorShape([*numbers.shape, *self.images.shape[1:]])
        return tf.ensure_shape(images, shape), tf.ensure_shape(labels, numbers.shape)


def store_images(blocks: Iterable[tuple[np.ndarray, np.ndarray]], count: Callable[[], int]) -> InMemoryDataset:
    """Keeps images in memory up to MEMORY_BYTES, else in a file in the folder for temporary files.

    Args:
        blocks: at least one of images float32 [k, height, width, 1] and labels int64 [k].
        count: says how many images are in all of them.

    Raises:
        ProjectError: if the disk has no room for them.
    """
    labels: list[np.ndarray] = []

    def images() -> Iterator[np.ndarray]:
        for some, their in blocks:
            labels.append(their)
            yield some

    kept = array_store.store(images(), count, MEMORY_BYTES)
    return InMemoryDataset(kept, np.concatenate(labels))


class TransformGraph(tf.Module):
    """Image bytes in, what the network takes out. Owns the restored graph, so a module that owns this one exports it.

    It needs TensorFlow alone. tf.Transform's own layer is a Keras 2 layer, which a Keras 3 model cannot hold.
    """

    def __init__(self, folder: str):
        """Loads the graph from the URI of a TransformGraph artifact."""
        super().__init__(name="transform")
        self._restored = tf.saved_model.load(tf.io.gfile.join(folder, "transform_fn"))
        # One positional argument, a dict from the name of each feature of the schema to its TensorSpec.
        self._inputs = self._restored.transform_fn.structured_input_signature[0][0]

    def __call__(self, image: tf.Tensor) -> tf.Tensor:
        """Image bytes, string [n] of height * width bytes each -> float32 [n, height, width, 1] in [0, 1]."""
        # Sorted, so that two exports of one network are the same program.
        inputs = {name: _absent(self._inputs[name], tf.size(image)) for name in sorted(self._inputs)}
        rank = self._inputs[features.IMAGE].shape.rank
        inputs[features.IMAGE] = image if rank == 1 else image[:, tf.newaxis]
        return self._restored.transform_fn(inputs)[features.IMAGE]


def _absent(spec: Any, count: tf.Tensor) -> Any:
    """A stand-in for a feature on which the image does not depend; the graph asks for all of them."""
    empty = "" if spec.dtype == tf.string else tf.zeros([], spec.dtype)
    if isinstance(spec, tf.SparseTensorSpec):
        no_indices = tf.zeros([0, 2], tf.int64)
        return tf.SparseTensor(no_indices, tf.fill([0], empty), [tf.cast(count, tf.int64), 0])
    return tf.fill([count, *spec.shape[1:]], empty)


_EXAMPLES_PER_READ = 1024
_AT_A_TIME, _AHEAD = 2, 4  # blocks or batches
# No Python branches on a tensor here, so that TensorFlow need not look for it, which takes longer than the graph.
_as_it_is = tf.autograph.experimental.do_not_convert
_SPEC = {
    features.IMAGE: tf.io.FixedLenFeature([], tf.string),
    features.LABEL: tf.io.FixedLenFeature([], tf.int64),
}


def load(patterns: Sequence[str], transform: Callable[[tf.Tensor], tf.Tensor], split: str) -> InMemoryDataset:
    """Reads the examples of a split and keeps them, in the order of the files' names.

    Args:
        patterns: as of `files_of`, of uncompressed TFRecord files of tf.Examples with `image` and `label`.
        transform: string [n] of image bytes -> float32 [n, height, width, 1] in [0, 1].
        split: name of the split, for the error.

    Raises:
        BadInput: if there is no example.
        ProjectError: if the images fit neither into memory nor onto the disk.
    """
    files = files_of(patterns)

    @_as_it_is
    def parse(serialized: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        example = tf.io.parse_example(serialized, _SPEC)
        return transform(example[features.IMAGE]), example[features.LABEL]

    records = datasets.records(files)
    dataset = records.batch(_EXAMPLES_PER_READ).map(parse, num_parallel_calls=_AT_A_TIME)
    blocks: Iterator[tuple[np.ndarray, np.ndarray]] = dataset.prefetch(_AHEAD).as_numpy_iterator()
    first = next(blocks, None)
    if first is None:
        raise BadInput(
            f"the split {split!r} must hold at least one example, but {len(files)} files of {', '.join(patterns)} hold "
            "none; give the pipeline more images"
        )
    return store_images(itertools.chain([first], blocks), lambda: datasets.count(records))


def files_of(patterns: Sequence[str]) -> list[str]:
    """Lists the files that TFX's Trainer means, which names them FOLDER/*: all of a folder, by their names.

    The folder's name is no pattern, whatever characters are in it.
    """
    return sorted(file for pattern in patterns for file in datasets.files(pattern.removesuffix("/*")))


def steps_per_pass(images: int, batch_size: int) -> int:
    """How many batches of `batches` show every image at least once."""
    return -(-images // batch_size)


def batches(
    kept: InMemoryDataset, batch_size: int, seed: int, first_pass: int = 0, replicas: int = 1, mine: slice = slice(None)
) -> tf.data.Dataset:
    """Endless batches for training, all of one size; each pass over the images has an order of its own.

    The order depends on the seed and the number of the pass alone, so a training that goes on after a stop sees what it
    would have seen. The last batch of a pass is filled up with images from the pass's start. Whole batches are gathered
    by index: it costs less than shuffling and batching single images, and shuffles all of them.

    Where several replicas take a step together, each has an equal part of its batch, and one element after the other.

    Args:
        kept: n images and labels.
        batch_size: images per batch, a multiple of `replicas`; may be more than n.
        seed: 0 .. 2^31 - 1.
        first_pass: number of the pass to begin with.
        replicas: into how many parts a batch is split.
        mine: which of the parts are wanted.

    Returns:
        Dataset of (float32 [batch_size / replicas, height, width, 1], int64 [batch_size / replicas]).
    """
    count, steps, share = len(kept), steps_per_pass(len(kept), batch_size), batch_size // replicas

    @_as_it_is
    def one_pass(number: tf.Tensor) -> tf.data.Dataset:
        order = tf.random.experimental.stateless_shuffle(tf.range(count, dtype=tf.int64), [seed, number])
        filled = tf.gather(order, tf.range(steps * batch_size) % count)
        parts = tf.reshape(filled, [steps, replicas, share])[:, mine]
        return tf.data.Dataset.from_tensor_slices(tf.reshape(parts, [-1, share]))

    dataset = datasets.untuned(tf.data.Dataset.counter(first_pass)).flat_map(one_pass)
    return dataset.map(_as_it_is(kept.gather), num_parallel_calls=_AT_A_TIME).prefetch(_AHEAD)


def in_order(kept: InMemoryDataset, batch_size: int) -> tf.data.Dataset:
    """All images once, in their order, without labels; the last batch may be smaller.

    Returns:
        Dataset of float32 [up to batch_size, height, width, 1].
    """
    rows = datasets.untuned(tf.data.Dataset.range(len(kept))).batch(batch_size)
    return rows.map(_as_it_is(lambda index: kept.gather(index)[0])).prefetch(_AHEAD)


def on_device(dataset: tf.data.Dataset, device: str) -> tf.data.Dataset:
    """The same, its next batches copied to the device while it computes; must be the last that is done to it."""
    copied: tf.data.Dataset = dataset.apply(tf.data.experimental.prefetch_to_device(device, _AT_A_TIME))
    return copied
