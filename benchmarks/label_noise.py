# SPDX-License-Identifier: Apache-2.0
"""How many wrong labels `components.validate.label_noise` finds, and how many right ones it suspects.

    python benchmarks/label_noise.py [--data-dir DIR] [--seeds N]

Labels of the digits that come with scikit-learn, and of the 60,000 training images of MNIST where `--data-dir` or
MNIST_DATA_DIR names the folder with its files, are made wrong on purpose. A row is one seed of the errors:

- suspects: share of all labels that are suspect
- precision: share of the suspects that are wrong; recall: share of the wrong labels that are suspect
- pair: of the labels of one class, the largest share that looks like one other class
- finding: what the check says with its default limits
"""

from __future__ import annotations

import argparse
import os
import pathlib
import sys
import tempfile
import time
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from components import environment, features
from components.ingest import digits, idx
from components.validate import label_noise
from components.validate.images import Images

Labels = npt.NDArray[np.int64]
CLASSES = len(features.CLASSES)


def cases(labels: Labels, seed: int) -> Iterator[tuple[str, Labels]]:
    """The name of each kind of error, and the labels with it."""
    random = np.random.default_rng(seed)
    yield "clean", labels
    for share in (0.05, 0.2, 0.4):
        flipped = labels.copy()
        chosen = random.choice(len(labels), round(share * len(labels)), replace=False)
        flipped[chosen] = (labels[chosen] + random.integers(1, CLASSES, len(chosen))) % CLASSES
        yield f"{share:.0%} flipped", flipped
    fours = np.flatnonzero(labels == 4)
    for name, chosen in {
        "half of the 4s as 9": random.choice(fours, len(fours) // 2, replace=False),
        "first half of the 4s as 9": fours[: len(fours) // 2],
        "a tenth of the 4s as 9": random.choice(fours, len(fours) // 10, replace=False),
    }.items():
        relabelled = labels.copy()
        relabelled[chosen] = 9
        yield name, relabelled


def measure(name: str, pixels: npt.NDArray[np.uint8], labels: Labels, seeds: int) -> None:
    """Prints one row for each kind of error and seed; what is no draw is measured once."""
    ids = [str(index) for index in range(len(labels))]
    for seed in range(seeds):
        for case, given in cases(labels, seed):
            if seed and case in ("clean", "first half of the 4s as 9"):
                continue
            images = Images(ids, pixels, given)
            start = time.perf_counter()
            noise = label_noise.find_label_noise(images, CLASSES)
            seconds = time.perf_counter() - start
            wrong = given != labels
            right = wrong[noise.index].sum()
            precision = f"{right / len(noise.index):9.3f}" if len(noise.index) and wrong.any() else " " * 9
            recall = f"{right / wrong.sum():6.3f}" if wrong.any() else " " * 6
            pairs = np.zeros((CLASSES, CLASSES), np.int64)
            np.add.at(pairs, (noise.given, noise.likely), 1)
            pair = (pairs / np.bincount(given, minlength=CLASSES)[:, None]).max()
            finding = "yes" if label_noise.check_label_noise(images, CLASSES) else "no"
            figures = f"{noise.share:8.2%} {precision} {recall} {pair:6.1%} {finding:7} {seconds:4.1f} s"
            print(f"{name:6} {case:26} {seed:4} {figures}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=pathlib.Path, default=os.environ.get("MNIST_DATA_DIR"), help="MNIST's files")
    parser.add_argument("--seeds", type=int, default=3, help="how often errors are drawn (default 3)")
    arguments = parser.parse_args()
    print(f"{'data':6} {'errors':26} seed suspects precision recall   pair finding")
    with tempfile.TemporaryDirectory() as folder:
        digits.write(folder)
        for name, source in {"digits": folder, "mnist": arguments.data_dir}.items():
            if source:
                images, labels = idx.read_pair(source, idx.TRAIN_IMAGES, idx.TRAIN_LABELS, features.IMAGE_SHAPE)
                measure(name, images.array, labels.array.astype(np.int64), arguments.seeds)


if __name__ == "__main__":
    environment.prepare()
    main()
