# SPDX-License-Identifier: Apache-2.0
"""The command `compile` of runner_kfp.py: from flags to a checked package."""

from __future__ import annotations

import argparse
import contextlib
import os
import pathlib
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from components.errors import BadInput, ProjectError
from components.train.devices import GPU, Compute
from components.train.hyperparameters import MODELS
from pipeline import cli, settings

if TYPE_CHECKING:
    from pipeline.kubeflow.resources import Needs

PACKAGE = "pipeline.yaml"
KUBEFLOW, OWN = "kubeflow", "own"
SERVING_DIR = "s3://mlpipeline/serving"
_TOLERATION = re.compile(
    r"(?P<key>[^=:]+)(?:=(?P<value>[^=:]+))?(?::(?P<effect>NoSchedule|PreferNoSchedule|NoExecute))?"
)


def register(subparsers: Any) -> None:
    """Adds the command."""
    text = "Write the pipeline as a package for Kubeflow Pipelines."
    parser: argparse.ArgumentParser = subparsers.add_parser("compile", help=text, description=text, allow_abbrev=False)
    parser.set_defaults(run=run)
    parser.add_argument("--image", required=True, metavar="IMAGE", help="container image of every task")
    parser.add_argument("--gpu-image", metavar="IMAGE", help="of the training on accelerators; default: IMAGE")
    parser.add_argument("--output", default=PACKAGE, metavar="FILE", help=f"default: {PACKAGE}")
    parser.add_argument("--config", metavar="FILE", help="TOML file, as of runner_local.py; flags override it")
    cli.add_json_argument(parser)
    settings.add_flags(
        parser,
        set(settings.FLAGS) - {"output", "fresh", "force-push", "accelerator", "gpus"},
        dataset="expected data set, by its SHA-256; default: any",
        data_dir="folder with the four IDX files, in a volume (--pvc), or its URL; default: MNIST from the web",
        serving_dir=f"folder of the served models, in a volume or an object store; default: {SERVING_DIR}",
        profile="limits and schema of the data; a run cannot change it",
        beam_args="option for Beam; a run cannot change it",
    )
    add_cluster(parser).add_argument(
        "--retries", type=int, default=2, metavar="N",
        help="tries after the first: within a task when a store or the network does not answer, and of a task whose "
        "pod was lost; before Kubeflow Pipelines 2.17 of any failed task but gates, push and report; default: 2",
    )  # fmt: skip


def add_cluster(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Adds the resources of the tasks on the cluster; returns the group."""
    cluster = parser.add_argument_group("cluster")
    for resource in ("cpu", "memory"):
        cluster.add_argument(
            f"--{resource}", action="append", default=[], metavar="TASK=REQUEST:LIMIT", help="TASK may be all"
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
        help="storage of the tasks: that of the Kubeflow installation, or your own by --env and --secret",
    )  # fmt: skip
    cluster.add_argument(
        "--secret", action="append", default=[], metavar="SECRET:KEY=VARIABLE", help="environment of every task"
    )
    cluster.add_argument("--env", action="append", default=[], metavar="VARIABLE=VALUE", help="the same, not secret")
    return cluster


def run(args: argparse.Namespace) -> int:
    """Compiles, checks, and writes the package."""
    from pipeline.kubeflow import checks, size

    config_layer = settings.read_config(args.config)
    flags = _read_flags(args, config_layer)
    profile = settings.find_profile(flags.get("profile") or config_layer.get("profile") or "mnist")
    config = settings.build(flags, config_layer, profile)
    _check_floors(config.model_gate.accuracy, profile)
    output = pathlib.Path(args.output)
    if not output.absolute().parent.is_dir():
        raise BadInput(f"--output takes a file in a folder that exists; {output.absolute().parent} does not")

    cluster = needs(args)
    if config.compute.accelerator == GPU and not (cluster.gpus or cluster.gpus_per_worker):
        raise BadInput(
            "the config file asks for GPUs, so say how many a node must have with --gpus N, or with --gpus-per-worker N"
        )
    if cluster.workers:  # the job has the accelerators; the task of a search has none
        compute = Compute.of(precision=config.compute.precision)
        config = config.model_copy(update={"compute": compute})
    checks.refuse([*checks.check_values(_values(args, config, cluster))], "the command")
    with _quiet():
        from pipeline.kubeflow import compiler

        images = compiler.ContainerImages(args.image, args.gpu_image or args.image)
        overrides = settings.training_overrides(flags, config_layer, profile)
        documents = compiler.compile_graph(config, overrides, images, cluster)
        text = compiler.dump(documents)
    checks.refuse(checks.check(text, "" if args.storage == KUBEFLOW else size.SESSION), "the compiled package")
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise BadInput(f"--output takes a file that can be written; {output}: {error.strerror}") from None
    tasks, model = len(documents[0]["deploymentSpec"]["executors"]), config.training.model
    cli.print_lines(args.json, f"{output}: pipeline {compiler.PIPELINE}, {tasks} tasks, model {model}")
    result = {"package": str(output.absolute()), "pipeline": compiler.PIPELINE, "tasks": tasks, "model": model}
    cli.write_json(result, args.json)
    return 0


def _read_flags(args: argparse.Namespace, config_layer: settings.Layer) -> dict[str, Any]:
    """Returns the flags as a layer, with the defaults of this command for those that no config file sets."""
    flags = settings.read_flags(args)
    if args.gpus > 0:
        flags |= {"accelerator": GPU, "gpus": args.gpus}
    if "data-dir" not in {**flags, **config_layer}:
        if (flags.get("dataset") or config_layer.get("dataset")) == "digits":
            raise BadInput("with --dataset digits, --data-dir must name its folder or URL; it is not on the web")
        from components.ingest import download

        flags["data-dir"] = download.MIRRORS[0]
    if "serving-dir" not in {**flags, **config_layer}:
        if args.storage == OWN:
            raise BadInput(
                "with --storage own, --serving-dir must name the folder for the models, such as s3://BUCKET/NAME"
            )
        flags["serving-dir"] = SERVING_DIR
    return flags


def _values(args: argparse.Namespace, config: settings.Settings, cluster: Needs) -> dict[str, Any]:
    """Returns the flags as `checks.check_values` takes them, so that it refuses them before the compilation."""
    variables = [(variable, "") for keys in cluster.secrets.values() for variable in keys.values()]
    return {
        "--image": args.image,
        "--gpu-image": args.gpu_image,
        "--env": [{"name": name, "value": value} for name, value in (*cluster.env.items(), *variables)],
        "--pvc": [{"mountPath": path} for path in cluster.volumes.values()],
        "--data-dir": str(config.data_dir),
        "--serving-dir": str(config.model_dir),
        "--beam-arg": list(config.beam_args),
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
    missing = [model for model in MODELS if model not in set(floors)]
    if missing:
        raise BadInput(
            f"a run may use any model, so the profile must set an accuracy floor for each; {profile} has no "
            f"[model-gate.accuracy] {', '.join(missing)}"
        )


def needs(args: argparse.Namespace) -> Needs:
    """Reads the arguments of `add_cluster`, `--retries` and `--gpu-image`.

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
    first, _, second = text.partition(separator)
    if not (first and second):
        # The text may be a secret, so it is not repeated.
        raise BadInput(f"{flag} takes {form}; received something else")
    return first, second


def _toleration(text: str) -> dict[str, str]:
    match = _TOLERATION.fullmatch(text)
    if not match:
        raise BadInput(f"--toleration takes KEY[=VALUE][:EFFECT], such as nvidia.com/gpu:NoSchedule; received {text!r}")
    fields = {name: value for name, value in match.groupdict().items() if value}
    return {"operator": "Equal" if "value" in fields else "Exists", **fields}
