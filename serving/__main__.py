# SPDX-License-Identifier: Apache-2.0
"""Serves a pushed model over HTTP: `python -m serving`."""

from __future__ import annotations

import argparse
import logging
import os
import pathlib
import sys

from components import environment, paths, stdio
from components.errors import BadInput, ProjectError

DEFAULT_MODEL_DIR = pathlib.Path("output/serving")


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    options = _parser().parse_args(arguments)
    try:
        _serve(options)
    except ProjectError as error:
        print(f"serving: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m serving",
        description="Serves a pushed model: TensorFlow Serving's REST interface, KServe's V1 and V2 "
        "protocols, and a page "
        "to draw a digit on. New versions are taken up while it runs.",
    )
    parser.add_argument(
        "--model-dir",
        type=pathlib.Path,
        default=DEFAULT_MODEL_DIR,
        metavar="DIR",
        help="folder with the numbered versions of a model, or one that holds a single such "
        "folder; default: %(default)s",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; default: %(default)s")
    parser.add_argument("--port", type=_whole(0, 65535), default=8501, help="port; default: %(default)s, 0 for any")
    parser.add_argument(
        "--canary-share",
        type=_share,
        default=0.1,
        metavar="SHARE",
        help="share of the requests that the version labelled canary answers, 0 to 1; default: %(default)s",
    )
    limits = parser.add_argument_group("limits")
    limits.add_argument(
        "--max-body-bytes", type=_whole(1, 2**31), default=8 * 2**20, metavar="N", help="of a request; default: 8 MiB"
    )
    limits.add_argument(
        "--max-instances", type=_whole(1, 10**6), default=1024, metavar="N", help="images in one request; default: 1024"
    )
    limits.add_argument(
        "--max-batch", type=_whole(1, 10**6), default=64, metavar="N", help="images in one joined call; default: 64"
    )
    limits.add_argument(
        "--max-queue", type=_whole(1, 10**6), default=1024, metavar="N", help="images that may wait; default: 1024"
    )
    limits.add_argument(
        "--request-seconds",
        type=_seconds,
        default=10.0,
        metavar="S",
        help="within which a request must have arrived and its answer be taken; default: 10",
    )
    sampling = parser.add_argument_group("sampling, for python -m serving.drift")
    sampling.add_argument(
        "--sample-dir", type=pathlib.Path, metavar="DIR", help="folder for samples of what is served; default: none"
    )
    sampling.add_argument(
        "--sample-share", type=_share, default=0.01, metavar="SHARE", help="share of the images; default: %(default)s"
    )
    sampling.add_argument(
        "--sample-max-bytes", type=_whole(1, 2**40), default=100 * 2**20, metavar="N", help="in all; default: 100 MiB"
    )
    sampling.add_argument(
        "--sample-images", action="store_true", help="keep the images too, not only what describes them"
    )
    return parser


def _serve(options: argparse.Namespace) -> None:
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("serving").setLevel(logging.INFO)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # Imported here: --help and a wrong option must be answered at once.
    from serving import app, server
    from serving.limits import Limits
    from serving.models import Models, find_model
    from serving.sampling import FileSampler

    limits = Limits(
        max_body_bytes=options.max_body_bytes,
        max_instances=options.max_instances,
        max_batch=options.max_batch,
        max_queue=options.max_queue,
        request_seconds=options.request_seconds,
    )
    folder = find_model(options.model_dir)
    listener = server.bind(options.host, options.port)  # before the model: a port that is taken is said at once
    host, port = listener.getsockname()[:2]
    if options.sample_dir is not None and (fault := paths.fault(paths.absolute(options.sample_dir, "--sample-dir"))):
        raise BadInput(f"--sample-dir takes a folder to write to, but {fault}")
    models = Models(folder, options.canary_share)
    models.start()
    sampler = None
    if options.sample_dir is not None:
        sampler = FileSampler(
            options.sample_dir, options.sample_share, options.sample_max_bytes, with_images=options.sample_images
        )
    application = app.build(models, limits, sampler)
    shown = f"[{host}]" if ":" in host else host
    logging.getLogger("serving").info("serving %s on http://%s:%s", models.name, shown, port)
    try:
        server.run(application, listener, limits)
    finally:
        models.stop()
        if sampler is not None:
            sampler.close()


def _whole(low: int, high: int):  # type: ignore[no-untyped-def]
    def parse(text: str) -> int:
        if not (text.isascii() and text.isdecimal()) or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"takes a whole number of {low} to {high}; received {text!r}")
        return int(text)

    return parse


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"takes a number of 0 to 1; received {text!r}")
    return share


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds <= 3600:
        raise argparse.ArgumentTypeError(f"takes a number of seconds above 0, up to 3600; received {text!r}")
    return seconds


if __name__ == "__main__":
    environment.prepare()
    stdio.run(main)
