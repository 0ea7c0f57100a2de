# SPDX-License-Identifier: Apache-2.0
"""The size of a run's workflow, held against two that KFP 2.17 ran."""

from __future__ import annotations

import gzip
import json
import pathlib
import re

import pytest
import yaml

import runner_kfp
from pipeline.kubeflow import size
from tests.kubeflow import packages

# Run -> the package, the bytes of the workflow's spec and of each of its nodes.
RECORDED = json.loads(gzip.decompress(pathlib.Path(__file__).with_name("recorded").joinpath(
    "workflow-sizes.json.gz").read_bytes()))  # fmt: skip
DEFAULT = ("--image", "mnist:1")
MAXIMUM = 800_000


@pytest.mark.parametrize("run", RECORDED)
def test_the_estimate_agrees_with_recorded_runs(run):
    package, spec, nodes = (RECORDED[run][key] for key in ("package", "spec", "nodes"))
    documents = list(yaml.safe_load_all(package))
    documents = [documents[0]["pipeline_spec"], documents[0]["platform_spec"]] if len(documents) == 1 else documents
    ran = {match[1] for name in nodes if (match := re.search(r"\.([a-z-]+)-driver\(0\)$", name))}
    assert len(ran) in (17, 16)  # with the exit handler; of the stopped run without push
    sizes = size.estimate(documents, ran, session=size.SESSION)
    assert sum(sizes.values()) == pytest.approx(spec + sum(nodes.values()), rel=0.1)
    for task in ran - {"exit-handler-1", "root", "schema"}:  # schema came from the server's cache once
        of_task = sum(count for name, count in nodes.items() if re.search(rf"\.{task}(-driver)?(\(0\)|$)", name))
        assert sizes[task] == pytest.approx(of_task, rel=0.15), task


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--workers", "2"),
        ("--tune", "4"),
    ],
)
def test_a_run_stays_below_what_the_server_can_follow(arguments):
    assert sum(size.estimate(packages.documents(*DEFAULT, *arguments)).values()) < MAXIMUM


def test_a_search_in_a_store_of_ones_own_stays_below_the_limit_too():
    documents = packages.documents(*DEFAULT, "--tune", "4")
    assert sum(size.estimate(documents, session=size.SESSION).values()) < size.LIMIT


def test_a_package_whose_run_would_pass_the_limit_is_refused(tmp_path, capfd):
    output = tmp_path / "pipeline.yaml"
    environment = [part for number in range(60) for part in ("--env", f"VARIABLE_{number}={'x' * 60}")]
    assert runner_kfp.main(["compile", *DEFAULT, *environment, "--output", str(output)]) == 2
    message = capfd.readouterr().err
    assert "the workflow of a run must stay below 1 MiB (1,049 KB)" in message
    assert "give fewer or shorter --env" in message
    assert message.count("\n") == 1
    assert not output.exists()
