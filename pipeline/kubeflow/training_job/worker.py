# SPDX-License-Identifier: Apache-2.0
"""A worker of a training job: fetches the inputs from the store, trains, and publishes the model."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import pathlib
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Sequence

from components import environment, progress, retries, stdio, storage
from components.errors import BadInput, ProjectError
from components.train import devices
from components.train.devices import PeerLost
from pipeline.kubeflow import entrypoint
from pipeline.kubeflow.training_job import exchange

# Of an upload, so that a short outage of the store does not waste hours of training.
_RETRIES = 3
# Limit of the other workers' wait for the first one's upload.
UPLOAD_SECONDS, _POLL_SECONDS = 600.0, 2.0


def work(url: str) -> None:
    """Runs the worker of a training job that TF_CONFIG in the environment names.

    It fetches the splits train and val and the transform graph, and nothing else. A worker that restarts after the
    model was published has nothing to do.

    Args:
        url: of the job, see `exchange`.

    Raises:
        BadInput: the store cannot be used, or `trainer.run_fn` refuses the job.
        GateStopped: the training diverges.
        PeerLost: another worker stopped responding; all must be restarted.
    """
    job = exchange.read(url)
    if exchange.is_published(url):
        progress.report(progress.Message("the model is published already"))
        return
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
        progress.report(progress.Message("fetching the data"))
        _train(job)
        if devices.is_chief():
            progress.report(progress.Message("publishing the model"))
            retries.retrying(_RETRIES, lambda error: isinstance(error, BadInput))(
                exchange.publish, url, pathlib.Path("results")
            )
            remove_checkpoints(job)
        else:
            wait_for_model(url)


def _train(job: exchange.Job) -> None:
    """Fetches the inputs into the working directory and trains."""
    from tfx.components.trainer.fn_args_utils import FnArgs

    from components.train import trainer

    for kind, urls in (("train", job.train), ("val", job.val), ("transform_graph", [job.transform_graph])):
        for number, url in enumerate(urls):
            storage.fetch(url, pathlib.Path(kind, str(number)))
    trainer.run_fn(
        FnArgs(
            train_files=[f"train/{number}/*" for number in range(len(job.train))],
            eval_files=[f"val/{number}/*" for number in range(len(job.val))],
            transform_graph_path="transform_graph/0",
            serving_model_dir="results/model/Format-Serving",
            model_run_dir="results/model_run",
            custom_config=job.config,
        )
    )


def remove_checkpoints(job: exchange.Job) -> None:
    """Removes the checkpoints; called after the upload, so that a worker that is killed during it can resume."""
    from components.train import checkpoints

    if folder := job.config.get("checkpoints"):
        with contextlib.suppress(BadInput):  # rights may not include removing
            checkpoints.remove(folder)


def _is_published(url: str) -> bool:
    try:
        return exchange.is_published(url)
    except BadInput as error:  # the upload is retried too; the job must not end before it
        progress.report(
            progress.Message(f"checking for the model failed and will be retried: {error}"), logging.WARNING
        )
        return False


def wait_for_model(url: str) -> None:
    """Waits for the first worker's upload; if that worker is lost, all are needed to resume the training."""
    deadline = time.monotonic() + UPLOAD_SECONDS
    while not _is_published(url):
        if time.monotonic() > deadline:
            raise PeerLost(
                f"the first worker must publish the model within {UPLOAD_SECONDS:.0f} s; it did not. All workers are "
                "restarted."
            )
        time.sleep(_POLL_SECONDS)


RETRYABLE = 138


def main(arguments: Sequence[str]) -> int:
    """Runs the worker and returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="pipeline.kubeflow.training_job.worker", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("--code_digest", required=True)
    parser.add_argument("url")
    args = parser.parse_args(arguments)
    logging.basicConfig(stream=sys.stdout, format="%(message)s")
    progress.LOGGER.setLevel(logging.INFO)
    try:
        entrypoint.check_code(args.code_digest)
        work(args.url)
    except ProjectError as error:
        entrypoint.print_error(error)
        return RETRYABLE if isinstance(error, PeerLost) else error.exit_code
    except Exception as error:
        return entrypoint.exit_code(error)
    return 0


def exit_on_sigterm() -> None:
    """Makes SIGTERM end the process at once.

    By default the first process of a container ignores it, and a Python handler would have to wait for TensorFlow,
    which may be waiting for a lost worker.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def wait() -> None:
        os._exit(128 + signal.sigwait({signal.SIGTERM}))

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    environment.prepare(several_workers=True)
    stdio.prepare()
    os.umask(entrypoint.UMASK)
    exit_on_sigterm()
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    # Skips TensorFlow's shutdown, which would wait for the other workers.
    os._exit(code)
