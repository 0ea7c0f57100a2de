# SPDX-License-Identifier: Apache-2.0
"""Predicts many images at once, on Beam: `python -m serving.batch INPUT --output DIR`.

INPUT is a folder or a file: PNG and JPEG pictures, IDX files, TFRecords of tf.Examples as ingest writes them. What is
wrong with one item is collected beside the predictions and stops nothing.

It runs on Beam's RunInference and not on TFX's BulkInferrer: that one takes tf.Examples alone, and fails as a whole
when the model refuses one of them.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
import threading
import time

from components import environment, paths, stdio
from components.errors import BadInput
from serving import command

PREDICTIONS, ERRORS = "predictions", "errors"


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    return command.run(_parser(), _run, arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m serving.batch",
        description="Predicts all images of a folder or file, on Beam. Writes predictions and errors as lines of JSON.",
    )
    parser.add_argument(
        "input", type=pathlib.Path, metavar="INPUT", help="pictures, IDX files or TFRecords; folder or file"
    )
    parser.add_argument("--output", type=pathlib.Path, required=True, metavar="DIR", help="folder for the answers")
    parser.add_argument(
        "--model-dir", type=pathlib.Path, default=pathlib.Path("output/serving"), metavar="DIR", help="as of the server"
    )
    parser.add_argument("--json", nargs="?", const="-", metavar="FILE", help="write the summary as JSON")
    parser.add_argument(
        "--beam-arg", action="append", default=[], metavar="ARG", help="goes to Beam; default: --runner=FnApiRunner"
    )
    return parser


def _run(options: argparse.Namespace) -> int:
    from serving.batch_items import find_items

    items = find_items(options.input)
    output = paths.absolute(options.output, "--output")
    paths.refuse_patterns(output, "--output")
    if fault := paths.fault(output):
        raise BadInput(f"--output takes a folder that can be written to, but {fault}")
    if output.exists() and any(output.iterdir()):
        raise BadInput(f"--output takes a new or empty folder; {output} holds something")
    from components.push import versions
    from serving import quiet
    from serving.models import find_model

    with quiet.native_stderr():
        from serving import batch_pipeline

    folder = find_model(options.model_dir)
    version = versions.production_version(folder)
    if version is None:
        raise BadInput(f"--model-dir takes a folder with a version in production; {folder} has none")
    output.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    done = threading.Event()
    ticker = threading.Thread(target=_show_progress, args=(done, items.count), daemon=True)
    ticker.start()
    try:
        predicted, failed = batch_pipeline.run(items, version.path, output, options.beam_arg)
    finally:
        done.set()
        ticker.join()
    summary = {
        "version": version.number,
        "predicted": predicted,
        "errors": failed,
        "seconds": round(time.monotonic() - start, 1),
        "output": str(output),
    }
    if options.json is not None:
        text = json.dumps(summary, indent=1)
        if options.json == "-":
            print(text)  # noqa: T201
            return 0
        pathlib.Path(options.json).write_text(text + "\n", encoding="utf-8")
    print(  # noqa: T201
        f"{predicted} images predicted by version {version.number}, {failed} errors, "
        f"{summary['seconds']} s: {options.output}"
    )
    return 0


def _show_progress(done: threading.Event, total: int | None) -> None:
    """Shows how far it is, where Beam's workers are threads of this process."""
    from serving import batch_pipeline

    shown = ""
    while not done.wait(0.5):
        of = f" of {total}" if total is not None else ""
        shown = f"{batch_pipeline.progress()}{of} images"
        if sys.stderr.isatty():
            print(f"\r{shown}", end="", file=sys.stderr, flush=True)  # noqa: T201
    if shown and sys.stderr.isatty():
        print("\r" + " " * len(shown) + "\r", end="", file=sys.stderr, flush=True)  # noqa: T201


if __name__ == "__main__":
    environment.prepare()
    stdio.run(main)
