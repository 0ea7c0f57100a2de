# SPDX-License-Identifier: Apache-2.0
"""Runs in the container of every worker of a training job.

    python -m pipeline.kubeflow.worker --code_digest SHA256 URL

URL is the job's (`components.train.exchange`). The exit code is 0, 3 where the training was stopped, 2 for input that
is refused, 1 for anything else, and RETRYABLE where another worker was lost: the training operator starts such a worker
again, as it does with one that was killed (128 and above), and leaves those with codes below as they are.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence

from components import environment, stdio
from components.errors import ProjectError
from components.train.devices import PeerLost
from pipeline.kubeflow import entrypoint

RETRYABLE = 138


def main(arguments: Sequence[str]) -> int:
    """Does a worker's part and returns the exit code."""
    parser = argparse.ArgumentParser(prog="pipeline.kubeflow.worker", description=__doc__, allow_abbrev=False)
    parser.add_argument("--code_digest", required=True)
    parser.add_argument("url")
    told = parser.parse_args(arguments)
    logging.basicConfig(stream=sys.stdout, format="%(message)s")
    logging.getLogger("progress").setLevel(logging.INFO)
    try:
        entrypoint.check_code(told.code_digest)
        from components.train import worker

        worker.work(told.url)
    except ProjectError as error:
        entrypoint.say(error)
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
