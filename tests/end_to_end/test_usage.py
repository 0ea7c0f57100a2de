# SPDX-License-Identifier: Apache-2.0
"""Wrong usage and bad files: one line on stderr, exit code 2, no stack trace, nothing written."""

import pathlib
import subprocess
import sys
import tomllib
from typing import Any

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--modle", "cnn"], "did you mean '--model'?"),
        (["--model", "resnet"], "resnet"),
        (["--train-steps", "many"], "many"),
        (["--train-steps", "0"], "train_steps"),
        (["--dataset", "cifar"], "cifar"),
        (["--data-dir", "/nowhere"], "/nowhere"),
        (["--profile", "nobody"], "nobody"),
        (["--config", "/nowhere.toml"], "/nowhere.toml"),
        (["--model", "linear", "--ksize1", "3"], "ksize1"),
        (["--data-dir", "https://someone:secret@host/data"], "without user, password"),
        (["--serving-dir", "https://host/models"], "begins with s3://, gs://"),
        (["--span", "3", "--dataset", "digits"], "--span"),
        (["--dataset", "digits", "--output", "/proc/none"], "/proc/none"),
    ],
)
def test_wrong_usage(run: Any, arguments: list[str], message: str, tmp_path: pathlib.Path) -> None:
    output = [] if "--output" in arguments else ["--output", tmp_path / "output"]
    process = run(*arguments, *output)
    assert process.code == 2
    assert process.stderr.count("\n") == 1
    assert process.stderr.startswith("error: ")
    assert message in process.stderr
    assert process.record is None
    assert not (tmp_path / "output" / "pipeline_root").exists()


def test_help_names_every_option_and_needs_nothing_heavy() -> None:
    program = (
        "import sys, runner_local\n"
        "try: runner_local.main(['--help'])\n"
        "except SystemExit as stop: code = stop.code\n"
        "heavy = {'tensorflow', 'tfx', 'apache_beam', 'numpy', 'rich'} & set(sys.modules)\n"
        "sys.exit(f'{code} {heavy}' if code or heavy else 0)\n"
    )
    completed = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert completed.returncode == 0, completed.stderr
    for option in (
        "--dataset",
        "--data-dir",
        "--serving-dir",
        "--model",
        "--ksize1",
        "--nfil2",
        "--json",
        "--fresh",
        "--allow",
        "--beam-arg",
    ):
        assert option in completed.stdout


@pytest.mark.parametrize("runner", ["runner_local.py", "runner_kfp.py"])
def test_the_version_is_that_of_the_project(runner: str, tmp_path: pathlib.Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    command = [sys.executable, str(ROOT / runner), "--version"]
    completed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (completed.returncode, completed.stderr) == (0, "")
    assert completed.stdout == f"{runner} {project['version']}\n"
