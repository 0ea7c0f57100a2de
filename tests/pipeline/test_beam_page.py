# SPDX-License-Identifier: Apache-2.0
"""docs/beam.md names no option that the installed Beam does not have."""

from __future__ import annotations

import importlib.metadata
import pathlib
import re

import pytest
from apache_beam.options.pipeline_options import PipelineOptions, _BeamArgumentParser
from apache_beam.runners.worker import worker_pool_main

PAGE = (pathlib.Path(__file__).parents[2] / "docs/beam.md").read_text(encoding="utf-8")


def unknown_options(options):
    parser = _BeamArgumentParser(allow_abbrev=False)
    for group in PipelineOptions.__subclasses__():
        group._add_argparse_args(parser)
    return parser.parse_known_args(options)[1]


def test_every_option_is_beams():
    commands = re.findall(r"^    \.venv/bin/python runner_(?:.*\\\n)*.*$", PAGE, re.MULTILINE)
    options = [re.findall(r"--beam-arg=([^\s']+)", command) for command in commands]
    assert sum(map(len, options)) > 25
    assert [unknown_options(group) for group in options] == [[]] * len(options)
    assert unknown_options(["--flink_masters=x"]) == ["--flink_masters=x"]
    for option in re.findall(r"`(--\w+_\w+)[`=]", PAGE):
        assert unknown_options([f"{option}=2.0" if option == "--flink_version" else f"{option}=1"]) == []


def test_the_worker_pool_takes_its_option(capsys):
    assert "worker_pool_main --service_port=50000" in PAGE
    with pytest.raises(SystemExit):
        worker_pool_main.main(["worker_pool_main", "--help"])
    assert "--service_port" in capsys.readouterr().out


def test_it_is_about_the_installed_beam():
    assert f"({importlib.metadata.version('apache-beam')})" in PAGE
