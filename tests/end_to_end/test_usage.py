# SPDX-License-Identifier: Apache-2.0
"""Wrong usage and bad files: one line on stderr, exit code 2, no stack trace, nothing written."""

import pathlib
import subprocess
import sys
from typing import Any

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--modle", "cnn"], "--modle"),
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
    ended = run(*arguments, *output)
    assert ended.code == 2
    assert ended.stderr.count("\n") == 1
    assert ended.stderr.startswith("error: ")
    assert message in ended.stderr
    assert ended.record is None
    assert not (tmp_path / "output" / "pipeline_root").exists()


def test_help_names_every_option_and_needs_nothing_heavy() -> None:
    program = (
        "import sys, runner_local\n"
        "try: runner_local.main(['--help'])\n"
        "except SystemExit as stop: code = stop.code\n"
        "heavy = {'tensorflow', 'tfx', 'apache_beam', 'numpy', 'rich'} & set(sys.modules)\n"
        "sys.exit(f'{code} {heavy}' if code or heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
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
        assert option in done.stdout
