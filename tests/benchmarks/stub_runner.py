# SPDX-License-Identifier: Apache-2.0
"""A stand-in for `runner_local.py`: the same flags and a record, without any work.

A stage takes a microsecond for each byte of the training images. The memory of `train` is larger by `TRAIN_MEMORY`.
"""

from __future__ import annotations

import json
import pathlib
import time

STAGES = (
    "ingest", "statistics", "image-check", "data-check", "transform", "train", "infra-check", "evaluate", "push",
)  # fmt: skip
TRAIN_MEMORY = 150 * 2**20  # bytes
_PAUSE = 0.8  # seconds, in which the memory is read many times
_NETWORK = pathlib.Path("components/train/models.py")


def write_checkout(folder: pathlib.Path, root: pathlib.Path) -> pathlib.Path:
    """Writes a checkout whose runner is this one.

    Args:
        folder: for the checkout.
        root: the project's.
    """
    for path in (_NETWORK, pathlib.Path("requirements/run.lock")):
        (folder / path).parent.mkdir(parents=True)
        (folder / path).write_bytes((root / path).read_bytes())
    (folder / "pipeline").mkdir()
    (folder / "runner_local.py").write_text(
        f"import sys\nsys.path[:] = [{str(root)!r}, *sys.path[1:]]\n"
        "from tests.benchmarks import stub_runner\nstub_runner.main(sys.argv[1:])\n"
    )
    return folder


def main(arguments: list[str]) -> None:
    from pipeline import settings
    from pipeline.local import run_command

    args = run_command.parse(arguments)  # ends the process where a flag is wrong
    config = settings.build(settings.read_flags(args), {}, settings.find_profile("mnist"))
    output = pathlib.Path(config.output)
    path = output / "runs/1/record.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    seconds = pathlib.Path(str(config.data_dir), "train-images-idx3-ubyte").stat().st_size * 1e-6

    def write(verdict: str, states: dict[str, str]) -> None:
        stages = [{"name": name, "state": state, "seconds": seconds} for name, state in states.items()]
        record: dict[str, object] = {
            "verdict": verdict,
            "sentence": verdict,
            "stages": stages,
            "artifacts": {},
            "metrics": None,
        }
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(record))
        partial.replace(path)

    network, former = _NETWORK.read_bytes(), output / "network"
    if former.exists() and former.read_bytes() == network:
        verdict = "unchanged"
    else:
        write("", {"ingest": "running"})
        time.sleep(_PAUSE)
        write("", {"ingest": "done", "train": "running"})
        time.sleep(_PAUSE)
        memory = b"x" * TRAIN_MEMORY
        time.sleep(_PAUSE)
        del memory
        former.write_bytes(network)
        verdict = "pushed"
    write(verdict, dict.fromkeys(STAGES, "done"))
    if args.json:
        pathlib.Path(args.json).write_bytes(path.read_bytes())
