# SPDX-License-Identifier: Apache-2.0
"""A tiny data set on disk, and the executor run on a folder."""

import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from components.ingest import idx

TRAIN, TEST = 48, 10


@pytest.fixture
def write_set() -> Callable[..., pathlib.Path]:
    """Writes a data set of random images into a folder: 48 for training, 10 for test."""

    def write(folder: pathlib.Path, shape: tuple[int, int] = (28, 28), suffix: str = "", seed: int = 0) -> pathlib.Path:
        folder.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(seed)
        for images, labels, count in (
            (idx.TRAIN_IMAGES, idx.TRAIN_LABELS, TRAIN),
            (idx.TEST_IMAGES, idx.TEST_LABELS, TEST),
        ):
            idx.write(folder / f"{images}{suffix}", rng.integers(0, 256, (count, *shape), dtype=np.uint8))
            idx.write(folder / f"{labels}{suffix}", (np.arange(count) % 10).astype(np.uint8))
        return folder

    return write


@pytest.fixture
def run_executor(tmp_path: pathlib.Path) -> Callable[..., Any]:
    """Runs the executor as TFX does, into a folder under `tmp_path`, and returns the artifact."""
    from tfx.dsl.components.base import base_beam_executor
    from tfx.types import standard_artifacts

    from components.ingest import executor

    def run(to: str = "examples", **exec_properties: Any) -> Any:
        artifact = standard_artifacts.Examples()
        artifact.uri = str(tmp_path / to)
        pathlib.Path(artifact.uri).mkdir()
        # The image option keeps TFX from packing itself into a source distribution for remote workers: two seconds.
        arguments = ["--runner=FnApiRunner", "--sdk_container_image=unused"]
        context = base_beam_executor.BaseBeamExecutor.Context(beam_pipeline_args=arguments)
        executor.IngestExecutor(context).Do({}, {"examples": [artifact]}, exec_properties)
        return artifact

    return run
