# SPDX-License-Identifier: Apache-2.0
"""Serves a pushed model over HTTP: `python -m serving`."""

from __future__ import annotations

import argparse
import logging
import pathlib
import sys

from components import environment, paths, stdio
from components.errors import BadInput
from serving import cli


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    return cli.run(_parser(), _serve, arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m serving",
        description="Serves a pushed model: TensorFlow Serving's REST interface, KServe's V1 and V2 protocols, and a "
        "page to draw a digit on. New versions are loaded while it runs.",
    )
    cli.add_model_dir_argument(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; default: %(default)s")
    parser.add_argument(
        "--port",
        type=cli.whole_number(0, 65535),
        default=cli.DEFAULT_PORT,
        help="port, 0 for any free one; default: %(default)s",
    )
    parser.add_argument(
        "--canary-share",
        type=cli.share,
        default=0.1,
        metavar="SHARE",
        help="share of the requests that go to the version labelled canary, 0 to 1; default: %(default)s",
    )
    limits = parser.add_argument_group("limits")
    for flag, high, default, text in (
        ("--max-body-bytes", 2**31, 8 * 2**20, "bytes in the body of a request; default: 8 MiB"),
        ("--max-instances", 10**6, 1024, "images in one request; default: %(default)s"),
        ("--max-batch", 10**6, 64, "images in one call of the model; default: %(default)s"),
        ("--max-queue", 10**6, 1024, "images in the queue; default: %(default)s"),
    ):
        limits.add_argument(flag, type=cli.whole_number(1, high), default=default, metavar="N", help=text)
    limits.add_argument(
        "--request-seconds",
        type=cli.seconds,
        default=10.0,
        metavar="S",
        help="time for a request to arrive, and for the client to read the response; default: %(default)g",
    )
    sampling = parser.add_argument_group("sampling, for python -m serving.drift")
    sampling.add_argument(
        "--sample-dir", type=pathlib.Path, metavar="DIR", help="folder for samples of the requests; default: none"
    )
    sampling.add_argument(
        "--sample-share",
        type=cli.share,
        default=0.01,
        metavar="SHARE",
        help="share of the images; default: %(default)s",
    )
    sampling.add_argument(
        "--sample-max-bytes",
        type=cli.whole_number(1, 2**40),
        default=100 * 2**20,
        metavar="N",
        help="bytes of all samples; default: 100 MiB",
    )
    sampling.add_argument(
        "--sample-images", action="store_true", help="store the images too, not only their statistics"
    )
    return parser


def _serve(args: argparse.Namespace) -> int:
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    log = logging.getLogger("serving")
    log.setLevel(logging.INFO)
    # Imported late, so that --help and wrong usage respond at once.
    from serving import app, savedmodel, server
    from serving.limits import Limits
    from serving.models import ModelVersions, find_model
    from serving.sampling import Sampler

    limits = Limits(
        max_body_bytes=args.max_body_bytes,
        max_instances=args.max_instances,
        max_batch=args.max_batch,
        max_queue=args.max_queue,
        request_seconds=args.request_seconds,
    )
    folder = find_model(args.model_dir)
    listener = server.bind(args.host, args.port)  # before the model is loaded: a port in use is an error at once
    host, port = listener.getsockname()[:2]
    if args.sample_dir is not None and (fault := paths.fault(paths.absolute(args.sample_dir, "--sample-dir"))):
        raise BadInput(f"--sample-dir takes a folder to write to, but {fault}")
    models = ModelVersions(folder, savedmodel.load, args.canary_share)
    models.start()
    sampler = None
    if args.sample_dir is not None:
        sampler = Sampler(args.sample_dir, args.sample_share, args.sample_max_bytes, with_images=args.sample_images)
    application = app.build(models, limits, sampler)
    log.info("serving %s on http://%s:%s", models.name, f"[{host}]" if ":" in host else host, port)
    try:
        server.run(application, listener, limits)
    finally:
        models.stop()
        if sampler is not None:
            sampler.close()
    return 0


if __name__ == "__main__":
    environment.prepare()
    stdio.run(main)
