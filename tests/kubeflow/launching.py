# SPDX-License-Identifier: Apache-2.0
"""The inputs of a task that launches a training job, with the tests' artifact store."""

from __future__ import annotations

import pathlib
import types
from typing import Any

from pipeline.kubeflow.resources import Needs
from pipeline.kubeflow.training_job import exchange, tfjob_manifest
from tests import object_stores

RUN = "s3://artifacts/root/mnist-tfx/0a1b2c3d-0000-4444-8888-ffffffffffff"
SALT = f"{RUN}/train/0f-1e"
# Content of the secret `store`.
KEYS = {
    "id": object_stores.ENVIRONMENT["AWS_ACCESS_KEY_ID"],
    "key": object_stores.ENVIRONMENT["AWS_SECRET_ACCESS_KEY"],
}


def manifest(s3: object_stores.S3, workers: int, digest: str = "0" * 64) -> dict[str, Any]:
    """Returns a package's TFJob whose workers can use the store."""
    needs = Needs(
        workers=workers,
        env={"AWS_ENDPOINT_URL": s3.url},
        secrets={"store": {"id": "AWS_ACCESS_KEY_ID", "key": "AWS_SECRET_ACCESS_KEY"}},
    )
    return tfjob_manifest.build_manifest(needs, "registry.example/mnist:1", digest)


def fn_args(folder: pathlib.Path, job: dict[str, Any], config: dict[str, Any]) -> types.SimpleNamespace:
    """Returns the argument of `tfjob.run_fn`; `folder` has the inputs and outputs of the task."""
    urls = {
        f"{folder}/examples": "s3://artifacts/elsewhere/ingest/examples",
        f"{folder}/transform_graph": "s3://artifacts/elsewhere/transform/transform_graph",
        f"{folder}/model": f"{SALT}/model",
        f"{folder}/model_run": f"{SALT}/model_run",
    }
    for name in ("model", "model_run"):
        (folder / name).mkdir(parents=True)
    task = {"name": "train", "run": RUN, "urls": urls}
    return types.SimpleNamespace(
        train_files=[f"{folder}/examples/Split-train/*"],
        eval_files=[f"{folder}/examples/Split-val/*"],
        transform_graph_path=f"{folder}/transform_graph",
        serving_model_dir=f"{folder}/model/Format-Serving",
        model_run_dir=f"{folder}/model_run",
        custom_config={**config, exchange.MANIFEST: job, exchange.TASK: task},
    )


def list_files(folder: pathlib.Path) -> set[str]:
    """Returns the names of all files below a folder."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
