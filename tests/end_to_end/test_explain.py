# SPDX-License-Identifier: Apache-2.0
"""`--explain` names the stages that an edit concerns, and a run runs them."""

import pathlib
from typing import Any

import pytest

pytestmark = pytest.mark.slow

WORK = ("--dataset", "digits", "--train-steps", "200")


def test_an_edit_runs_the_stages_that_it_concerns(
    run: Any, pushed_run: Any, copy_output: Any, checkout: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    output = tmp_path / "output"

    def explained(*arguments: str) -> dict[str, Any]:
        result = run(*WORK, *arguments, "--output", output, "--explain", root=checkout)
        assert result.code == 0, result.stderr
        for row in result.record["stages"]:
            assert f"{row['stage']:<12} {'runs  ' if row['runs'] else 'reused'}  {row['reason']}\n" in result.stdout
        return {row["stage"]: row for row in result.record["stages"]}

    untouched = explained()
    assert all(row["runs"] for row in untouched.values())
    assert untouched["ingest"]["reason"] == "it has not been completed yet"
    assert untouched["transform"]["reason"].startswith("ingest runs")

    output = copy_output(tmp_path / "copy")
    (checkout / "README.md").write_text("A comment, or two.\n")
    same = explained()
    assert not any(row["runs"] for row in same.values())
    assert pushed_run.record["run_id"] in same["train"]["reason"]

    other_seed = explained("--seed", "2")
    assert other_seed["train"]["reason"] == "seed changed from 1 to 2"
    assert not other_seed["ingest"]["runs"]

    networks = checkout / "components" / "train" / "models.py"
    networks.write_text(networks.read_text() + "# a comment\n")
    edited = explained()
    assert edited["train"]["reason"] == "components/train/models.py changed"
    assert edited["infra-check"]["reason"].startswith("train runs")
    assert not any(edited[name]["runs"] for name in ("ingest", "statistics", "transform"))
    again = run(*WORK, "--output", output, root=checkout)
    assert {stage["name"]: stage["state"] in ("done", "failed", "skipped") for stage in again.record["stages"]} == {
        name: row["runs"] for name, row in edited.items()
    }

    checks = pathlib.Path(again.record["artifacts"]["statistics.statistics"], "Split-train", "FeatureStats.pb")
    checks.write_bytes(checks.read_bytes() + b"\0")
    spoilt = explained()
    assert spoilt["statistics"]["reason"].endswith(" was changed")
    assert spoilt["statistics"]["runs"]
    assert not spoilt["ingest"]["runs"]
