# SPDX-License-Identifier: Apache-2.0
"""Whole runs that read their data from S3 and push to S3, on a server on loopback."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import pytest

from components.ingest import digits
from components.push import versions
from components.push.serving_dir import open_destination
from tests import object_stores

pytestmark = pytest.mark.slow


def test_data_from_a_bucket_and_a_model_into_another(run: Any, tmp_path: pathlib.Path) -> None:
    digits.write(tmp_path / "digits")
    with object_stores.running() as server:
        data, models = server.bucket("data"), server.bucket("models")
        for path in (tmp_path / "digits").iterdir():
            data.upload_file(str(path), f"digits/span-7/{path.name}")
        environment = {**object_stores.ENVIRONMENT, "AWS_ENDPOINT_URL": server.url}
        options = ["--data-dir", "s3://data/digits", "--serving-dir", "s3://models/serving", "--train-steps", "200"]
        settings = {"through": ["env", *(f"{name}={value}" for name, value in environment.items())]}

        first = run(*options, "--output", tmp_path / "output", **settings)
        assert first.code == 0, first.stdout + first.stderr
        assert first.record["verdict"] == "pushed"
        assert first.record["dataset"]["name"] == "digits"
        assert first.record["model"]["path"] == "s3://models/serving/mnist/1"
        provenance = versions.find_version("s3://models/serving/mnist", 1).provenance
        assert provenance["dataset"]["span"] == 7
        assert not (tmp_path / "output" / "serving").exists()
        assert "s3://models/serving/mnist/1" in pathlib.Path(first.record["report"]).read_text()

        again = run(*options, "--output", tmp_path / "output", **settings)
        assert (again.code, again.record["verdict"]) == (0, "unchanged")
        assert again.record["run_id"] == first.record["run_id"]

        # A model that is gone is noticed, and what the cache holds is pushed under the next number.
        open_destination("s3://models/serving/mnist").remove(1)
        restored = run(*options, "--output", tmp_path / "output", **settings)
        assert (restored.code, restored.record["verdict"]) == (0, "pushed")
        assert restored.record["model"]["path"] == "s3://models/serving/mnist/2"
        assert next(stage for stage in restored.record["stages"] if stage["name"] == "train")["state"] == "cached"

        texts = [first.stdout, first.stderr, json.dumps(first.record), pathlib.Path(first.record["log"]).read_text()]
        objects = [item.get()["Body"].read().decode(errors="replace") for item in models.objects.all()]
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            assert not any(environment[name] in text for text in (*texts, *objects))

        server.before = lambda method, path: object_stores.REFUSED
        refused = run(*options, "--output", tmp_path / "output", **settings)
        assert refused.code == 2
        assert refused.stderr.count("\n") == 1
        assert refused.stderr.startswith("error: s3://models/serving/mnist: ")
