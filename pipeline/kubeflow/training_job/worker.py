# SPDX-License-Identifier: Apache-2.0
"""One worker of a training job, from the address of the job to the model in the store."""

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

# Of an upload: what hours of training have made is not given up for one bad minute of the store.
_RETRIES = 3
# How long the other workers wait for the first one's upload.
UPLOAD_SECONDS, _POLL_SECONDS = 600.0, 2.0


def work(url: str) -> None:
    """Does a worker's part of a training job; TF_CONFIG in the environment says which worker this is.

    Nothing but the splits train and val and the transform graph is fetched. A worker that is started again after the
    model was published has nothing to do.

    Args:
        url: of the job, see `exchange`.

    Raises:
        BadInput: the store cannot be used, or the job is one that `run.run_fn` refuses.
        GateStopped: the training diverges.
        devices.PeerLost: another worker is gone; all are to be started again.
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
                exchange.publish, url, pathlib.Path("made")
            )
            _remove_checkpoints(job)
        else:
            _wait_for_the_model(url)


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
            serving_model_dir="made/model/Format-Serving",
            model_run_dir="made/model_run",
            custom_config=job.config,
        )
    )


def _remove_checkpoints(job: exchange.Job) -> None:
    """Not before the model is published, so that a worker that is lost in its upload need not train again."""
    from components.train import checkpoints

    if folder := job.config.get("checkpoints"):
        with contextlib.suppress(BadInput):  # a store may let nothing be removed
            checkpoints.remove(folder)


def _is_published(url: str) -> bool:
    try:
        return exchange.is_published(url)
    except BadInput as error:  # as the upload is, so as not to end the job meanwhile
        progress.report(progress.Message(f"looking for the model is tried again: {error}"), logging.WARNING)
        return False


def _wait_for_the_model(url: str) -> None:
    """Stays until the first worker is done: if that one is lost now, all are needed to train again."""
    until = time.monotonic() + UPLOAD_SECONDS
    while not _is_published(url):
        if time.monotonic() > until:
            raise devices.PeerLost(
                f"the first worker must publish the model; it did not in {UPLOAD_SECONDS:.0f} s; all are started again"
            )
        time.sleep(_POLL_SECONDS)


RETRYABLE = 138


def main(arguments: Sequence[str]) -> int:
    """Does a worker's part and returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="pipeline.kubeflow.training_job.worker", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("--code_digest", required=True)
    parser.add_argument("url")
    told = parser.parse_args(arguments)
    logging.basicConfig(stream=sys.stdout, format="%(message)s")
    progress.LOGGER.setLevel(logging.INFO)
    try:
        entrypoint.check_code(told.code_digest)

        work(told.url)
    except ProjectError as error:
        entrypoint.print_error(error)
        return RETRYABLE if isinstance(error, PeerLost) else error.exit_code
    except Exception as error:
        return entrypoint.exit_code(error)
    return 0


def end_at_sigterm() -> None:
    """Makes SIGTERM end the process at once.

    The first process of a container ignores it otherwise, and a handler in Python would have to wait for TensorFlow,
    which may be waiting for a worker that is gone.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def end() -> None:
        os._exit(128 + signal.sigwait({signal.SIGTERM}))

    threading.Thread(target=end, daemon=True).start()


if __name__ == "__main__":
    environment.prepare(several_workers=True)
    stdio.prepare()
    os.umask(entrypoint.UMASK)
    end_at_sigterm()
    ended = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    # Without taking TensorFlow down in order: that would ask the other workers, which may be gone.
    os._exit(ended)
