# SPDX-License-Identifier: Apache-2.0
"""The command `compile` of runner_kfp.py: from flags to a checked package."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import pathlib
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from components.errors import BadInput, ProjectError
from components.train.devices import AUTO, GPU
from pipeline import cli
from pipeline.cli import HYPERPARAMETERS, add_training_arguments

if TYPE_CHECKING:
    from pipeline.kubeflow.resources import Needs
    from pipeline.settings import Config

PACKAGE = "pipeline.yaml"
KUBEFLOW, OWN = "kubeflow", "own"
SERVING_ROOT = "s3://mlpipeline/serving"
_TOLERATION = re.compile(
    r"(?P<key>[^=:]+)(?:=(?P<value>[^=:]+))?(?::(?P<effect>NoSchedule|PreferNoSchedule|NoExecute))?"
)


def register(subparsers: Any) -> None:
    """Adds the command."""
    does = "Write the pipeline as a package for Kubeflow Pipelines."
    parser: argparse.ArgumentParser = subparsers.add_parser("compile", help=does, description=does, allow_abbrev=False)
    parser.set_defaults(run=run)
    parser.add_argument("--image", required=True, metavar="IMAGE", help="container image of every task")
    parser.add_argument("--gpu-image", metavar="IMAGE", help="of the training on accelerators; default: IMAGE")
    parser.add_argument("--output", default=PACKAGE, metavar="FILE", help=f"default: {PACKAGE}")
    parser.add_argument("--config", metavar="FILE", help="TOML file, as of runner_local.py; flags go over it")
    cli.add_json_argument(parser)
    told = parser.add_argument_group("data and models: defaults of what a run may change")
    told.add_argument(
        "--dataset", metavar="mnist|digits", help="what the data must be by its SHA-256; default: whatever it is"
    )
    told.add_argument("--data-dir", metavar="URL|DIR", help="DIR is in a volume (--pvc); default: MNIST from the web")
    told.add_argument("--span", type=int, metavar="N", help="which span; default: the newest")
    told.add_argument("--serving-dir", metavar="URL|DIR", help=f"where models are pushed; default: {SERVING_ROOT}")
    told.add_argument("--serving-name", metavar="NAME", help="name of the model's folder there; default: mnist")
    told.add_argument("--profile", metavar="NAME|FILE", help="limits and schema; not for a run to change")
    told.add_argument(
        "--allow", action="append", metavar="FINDING", help="a finding of the data gate that must not stop the run"
    )
    told.add_argument("--beam-arg", action="append", metavar="ARG", help="option for Beam; not for a run to change")
    add_training_arguments(parser)
    add_cluster(parser).add_argument(
        "--retries", type=int, default=2, metavar="N",
        help="tries after the first: within a task when a store or the network does not answer, and of a task whose "
        "pod was lost; before Kubeflow Pipelines 2.17 of any failed task but gates, push and report; default: 2",
    )  # fmt: skip


def add_cluster(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Adds what the tasks need of the cluster; returns the group."""
    cluster = parser.add_argument_group("cluster")
    for what in ("cpu", "memory"):
        cluster.add_argument(
            f"--{what}", action="append", default=[], metavar="TASK=REQUEST:LIMIT", help="TASK may be all"
        )
    cluster.add_argument("--gpus", type=int, default=0, metavar="N", help="accelerators of the training; default: 0")
    cluster.add_argument("--workers", type=int, metavar="N", help="train in a TFJob of N pods; default: in the task")
    cluster.add_argument("--gpus-per-worker", type=int, metavar="N", help="accelerators of each of them; default: 1")
    cluster.add_argument("--gpu-resource", default="nvidia.com/gpu", metavar="NAME", help="default: nvidia.com/gpu")
    cluster.add_argument(
        "--node-selector", action="append", default=[], metavar="LABEL=VALUE", help="nodes for the training"
    )
    cluster.add_argument(
        "--toleration", action="append", default=[], metavar="KEY[=VALUE][:EFFECT]", help="taint of those nodes"
    )
    cluster.add_argument("--shared-memory", default="", metavar="SIZE", help="/dev/shm of the training, such as 2Gi")
    cluster.add_argument("--pvc", action="append", default=[], metavar="CLAIM=PATH", help="volume for every task")
    cluster.add_argument(
        "--storage", choices=(KUBEFLOW, OWN), default=KUBEFLOW,
        help="whose storage the tasks may use: that of Kubeflow's installation, or one's own by --env and --secret",
    )  # fmt: skip
    cluster.add_argument(
        "--secret", action="append", default=[], metavar="SECRET:KEY=VARIABLE", help="environment of every task"
    )
    cluster.add_argument("--env", action="append", default=[], metavar="VARIABLE=VALUE", help="the same, not secret")
    return cluster


def run(args: argparse.Namespace) -> int:
    """Compiles, checks, and writes the package."""
    from pipeline import settings
    from pipeline.kubeflow import checks, size

    file = settings.read_toml(pathlib.Path(args.config), settings.CONFIG_KEYS, "config file") if args.config else {}
    flags = _flags(args, file)
    profile = settings.find_profile(args.profile or file.get("profile") or "mnist")
    effective = settings.build(flags, file, profile)
    _check_floors(effective.model_limits.accuracy, profile)
    output = pathlib.Path(args.output)
    if not output.absolute().parent.is_dir():
        raise BadInput(f"--output takes a file in a folder that is there; {output.absolute().parent} is not")

    cluster = needs(args)
    if effective.compute.accelerator == GPU and not (cluster.gpus or cluster.gpus_per_worker):
        raise BadInput(
            "the config file asks for GPUs, so say how many a node must have with --gpus N, or with --gpus-per-worker N"
        )
    if cluster.workers:  # the accelerators are theirs, as the job says; a search in a task of its own has none
        effective = dataclasses.replace(
            effective, compute=dataclasses.replace(effective.compute, accelerator=AUTO, gpus=1)
        )
    checks.refuse([*checks.check_values(_values(args, effective, cluster))], "the command")
    with _quiet():
        from pipeline.kubeflow import compiler

        images = compiler.Images(args.image, args.gpu_image or args.image)
        documents = compiler.compile_graph(effective, settings.training_told(flags, file, profile), images, cluster)
        text = compiler.dump(documents)
    checks.refuse(checks.check(text, "" if args.storage == KUBEFLOW else size.SESSION), "the compiled package")
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise BadInput(f"--output takes a file that can be written; {output}: {error.strerror}") from None
    tasks, model = len(documents[0]["deploymentSpec"]["executors"]), effective.hyperparameters.model
    cli.print_lines(args.json, f"{output}: pipeline {compiler.PIPELINE}, {tasks} tasks, model {model}")
    told = {"package": str(output.absolute()), "pipeline": compiler.PIPELINE, "tasks": tasks, "model": model}
    cli.write_json(told, args.json)
    return 0


def _flags(args: argparse.Namespace, file: dict[str, Any]) -> dict[str, Any]:
    """The flags as `config.build` takes them."""
    names = (
        "dataset", "span", "allow", "profile", "data-dir", "serving-dir", "serving-name", "beam-arg", "tune",
        "precision",
    )  # fmt: skip
    flags: dict[str, Any] = {name: getattr(args, name.replace("-", "_")) for name in names}
    if args.gpus > 0:
        flags |= {"accelerator": GPU, "gpus": args.gpus}
    flags["training"] = {name: getattr(args, name.replace("-", "_")) for name in ("model", *HYPERPARAMETERS)}
    if flags["data-dir"] is None and "data-dir" not in file:
        if (flags["dataset"] or file.get("dataset")) == "digits":
            raise BadInput("with --dataset digits, --data-dir must say where its files are; they are not on the web")
        from components.ingest import download

        flags["data-dir"] = download.MIRRORS[0]
    if flags["serving-dir"] is None and "serving-dir" not in file:
        if args.storage == OWN:
            raise BadInput(
                "with --storage own, --serving-dir must say where models are pushed, such as s3://BUCKET/NAME"
            )
        flags["serving-dir"] = SERVING_ROOT
    return flags


def _values(args: argparse.Namespace, effective: Config, cluster: Needs) -> dict[str, Any]:
    """Returns the flags as `checks.check_values` takes them, so that it refuses them before the compilation."""
    variables = [(variable, "") for keys in cluster.secrets.values() for variable in keys.values()]
    return {
        "--image": args.image,
        "--gpu-image": args.gpu_image,
        "--env": [{"name": name, "value": value} for name, value in (*cluster.env.items(), *variables)],
        "--pvc": [{"mountPath": path} for path in cluster.volumes.values()],
        "--data-dir": str(effective.data_dir),
        "--serving-dir": str(effective.serving_dir),
        "--beam-arg": args.beam_arg,
    }


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Sends file descriptor 2 to a file, as libraries log while they compile; an unexpected error prints the file."""
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as log:
        os.dup2(log.fileno(), 2)
        try:
            yield
        except ProjectError:
            raise
        except Exception:
            log.seek(0)
            os.write(terminal, log.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)


def _check_floors(floors: Iterable[str], profile: pathlib.Path) -> None:
    from components.train.hyperparameters import MODELS

    missing = [model for model in MODELS if model not in set(floors)]
    if missing:
        raise BadInput(
            f"a run may take any model, so the profile must give a floor for each: {profile} has no "
            f"[model-gate.accuracy] {', '.join(missing)}"
        )


def needs(args: argparse.Namespace) -> Needs:
    """Reads what `add_cluster` added, `--retries` and `--gpu-image`.

    Raises:
        BadInput: flags that do not fit their form, or each other.
    """
    from pipeline.kubeflow import resources

    gpus_per_worker = _gpus_per_worker(args)
    if args.gpus < 0 or args.retries < 0:
        raise BadInput(f"--gpus and --retries take numbers from 0; received {min(args.gpus, args.retries)}")
    if args.gpu_image and not (args.gpus or gpus_per_worker):
        raise BadInput("--gpu-image is for the training on accelerators; say how many with --gpus N")
    if args.shared_memory:
        resources.amount("--shared-memory", args.shared_memory)
    accelerated = resources.ON_ACCELERATOR if args.gpus else {resources.TRAIN} if gpus_per_worker else ()
    env = dict(_pair("--env", text, "=", "VARIABLE=VALUE") for text in args.env)
    secrets: dict[str, dict[str, str]] = {}
    for text in args.secret:
        name, keys = _pair("--secret", text, ":", "SECRET:KEY=VARIABLE")
        key, variable = _pair("--secret", keys, "=", "SECRET:KEY=VARIABLE")
        secrets.setdefault(name, {})[key] = variable
    if args.storage == KUBEFLOW:
        env = resources.KUBEFLOW_ENV | env
        secrets = {resources.KUBEFLOW_SECRET: dict(resources.KUBEFLOW_KEYS)} | secrets
    return resources.Needs(
        shares=resources.shares(args.cpu, args.memory, accelerated, args.shared_memory),
        gpus=args.gpus,
        workers=args.workers or 0,
        gpus_per_worker=gpus_per_worker,
        gpu_resource=args.gpu_resource,
        node_selector=dict(_pair("--node-selector", text, "=", "LABEL=VALUE") for text in args.node_selector),
        tolerations=tuple(_toleration(text) for text in args.toleration),
        shared_memory=args.shared_memory,
        retries=args.retries,
        volumes=dict(_pair("--pvc", text, "=", "CLAIM=PATH") for text in args.pvc),
        secrets=secrets,
        env=env,
    )


def _gpus_per_worker(args: argparse.Namespace) -> int:
    if args.workers is None:
        if args.gpus_per_worker is not None:
            raise BadInput("--gpus-per-worker is for the workers of a training job; say how many with --workers N")
        return 0
    if args.workers < 1 or (args.gpus_per_worker or 0) < 0:
        raise BadInput(
            f"--workers takes numbers from 1, and --gpus-per-worker from 0; received {args.workers} and "
            f"{args.gpus_per_worker}"
        )
    if args.gpus:
        raise BadInput(
            "with --workers, the accelerators are the workers'; say how many each gets with --gpus-per-worker N, and "
            "leave --gpus out"
        )
    return 1 if args.gpus_per_worker is None else int(args.gpus_per_worker)


def _pair(flag: str, text: str, separator: str, form: str) -> tuple[str, str]:
    left, found, right = text.partition(separator)
    if not (left and found and right):
        # What was given may be a secret, so it is not repeated.
        raise BadInput(f"{flag} takes {form}; received something else")
    return left, right


def _toleration(text: str) -> dict[str, str]:
    match = _TOLERATION.fullmatch(text)
    if not match:
        raise BadInput(f"--toleration takes KEY[=VALUE][:EFFECT], such as nvidia.com/gpu:NoSchedule; received {text!r}")
    given = {name: value for name, value in match.groupdict().items() if value}
    return {"operator": "Equal" if "value" in given else "Exists", **given}
