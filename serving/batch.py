# SPDX-License-Identifier: Apache-2.0
"""Predicts many images at once, on Beam: `python -m serving.batch INPUT --output DIR`.

INPUT is a folder or a file: PNG and JPEG pictures, IDX files, TFRecords of tf.Examples as ingest writes them. Errors of
single items are written beside the predictions, and stop nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import pathlib
import sys
import threading
import time
from collections.abc import Callable, Iterator

from components import environment, paths, stdio
from components.errors import BadInput
from serving import cli

_PROGRESS_SECONDS = 0.5


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    return cli.run(_parser(), _predict, arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m serving.batch",
        description="Predicts all images in a folder or file, on Beam. Writes predictions and errors as lines of JSON.",
    )
    parser.add_argument(
        "input", type=pathlib.Path, metavar="INPUT", help="pictures, IDX files or TFRecords; folder or file"
    )
    parser.add_argument(
        "--output", type=pathlib.Path, required=True, metavar="DIR", help="folder for the results, new or empty"
    )
    cli.add_model_dir_argument(parser)
    cli.add_json_argument(parser, "the summary")
    parser.add_argument(
        "--beam-arg",
        action="append",
        default=[],
        metavar="ARG",
        help="option of Beam, repeat for several; default: --runner=FnApiRunner",
    )
    return parser


def _predict(args: argparse.Namespace) -> int:
    if not args.input.exists():
        raise BadInput(f"INPUT takes a file or folder; {args.input} does not exist")
    output = paths.absolute(args.output, "--output")
    paths.refuse_patterns(output, "--output")
    if fault := paths.fault(output):
        raise BadInput(f"--output takes a folder that can be written to, but {fault}")
    if output.exists() and any(output.iterdir()):
        raise BadInput(f"--output takes a new or empty folder; {output} is not empty")
    # Imported late, so that --help and wrong usage respond at once.
    from components.push import versions
    from serving import batch_pipeline
    from serving.models import find_model

    folder = find_model(args.model_dir)
    production = versions.production_version(folder)
    if production is None:
        raise BadInput(f"--model-dir takes a folder with a version in production; {folder} has none")
    files = batch_pipeline.find_files(args.input)
    output.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    pipeline = batch_pipeline.BatchPipeline(production.path, output, args.beam_arg)
    with _progress_line(pipeline.count_images, files.images):
        counts = pipeline.run(files)
    seconds = round(time.monotonic() - start, 1)
    summary = {
        "version": production.number,
        "predicted": counts.predictions,
        "errors": counts.errors,
        "seconds": seconds,
        "output": str(output),
    }
    if not cli.write_json(summary, args.json):
        print(  # noqa: T201
            f"{counts.predictions} images predicted by version {production.number}, {counts.errors} errors, "
            f"{seconds} s: {args.output}"
        )
    return 0


@contextlib.contextmanager
def _progress_line(count_images: Callable[[], int], total: int | None) -> Iterator[None]:
    """Shows the number of predicted images on a terminal."""
    if not sys.stderr.isatty():
        yield
        return
    stopping = threading.Event()
    suffix = " images" if total is None else f" of {total} images"

    def show() -> None:
        while not stopping.wait(_PROGRESS_SECONDS):
            print(f"\r{count_images()}{suffix}", end="", file=sys.stderr, flush=True)  # noqa: T201
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)  # noqa: T201

    thread = threading.Thread(target=show, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()


if __name__ == "__main__":
    environment.prepare()
    stdio.run(main)
