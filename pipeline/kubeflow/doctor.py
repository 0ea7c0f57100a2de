# SPDX-License-Identifier: Apache-2.0
"""The command `doctor` of runner_kfp.py: what a first run needs of server and cluster, before there is one.

What can be seen depends on who looks: the server says its version and whether it takes the token, a kubeconfig shows
the cluster, and a run of one tiny task (`--submit`) tries the rest. What none of them shows is not known, and no line
says otherwise.
"""

from __future__ import annotations

import argparse
import contextlib
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from components.errors import BadInput, ProjectError
from pipeline import cli
from pipeline.cli import BLOCKED, OK, UNKNOWN, WARNING, Check
from pipeline.kubeflow import commands, compile_command, submit

if TYPE_CHECKING:
    from pipeline.kubeflow.client import Server
    from pipeline.kubeflow.kubeconfig import Cluster
    from pipeline.kubeflow.resources import Needs

_SUBMIT, _KUBECONFIG, _EITHER = "--submit", "a kubeconfig", "--submit or a kubeconfig"
_OLDEST, _ONLY_ERRORS, _NEWEST = (2, 14), (2, 17), (2, 17)
_SUBMIT_SECONDS = 60.0


def register(subparsers: Any) -> None:
    """Adds the command."""
    does = "Say whether a run can start on a server's cluster, and which flags it needs."
    parser: argparse.ArgumentParser = subparsers.add_parser("doctor", help=does, description=does, allow_abbrev=False)
    parser.set_defaults(run=run, retries=0, gpu_image=None)
    commands.add_server(parser)
    look = parser.add_argument_group("what to look at")
    look.add_argument(
        "--kubeconfig", metavar="FILE", help="of the server's cluster; default: kubectl's, if there is one"
    )
    look.add_argument(
        "--submit", nargs="?", const=_SUBMIT_SECONDS, type=float, metavar="SECONDS",
        help=f"run a tiny task on --image; its pod may wait SECONDS for a node; default: {_SUBMIT_SECONDS:.0f}",
    )  # fmt: skip
    look.add_argument("--image", metavar="IMAGE", help="container image of the tasks")
    look.add_argument("--serving-dir", metavar="URL|DIR", help="where models are pushed, as for `compile`")
    look.add_argument(
        "--pipeline-root", default=submit.ROOT, metavar="URI", help=f"as for `run`; default: {submit.ROOT}"
    )
    look.add_argument("--service-account", metavar="NAME", help="of the run's pods; default: the server's choice")
    compile_command.add_cluster(parser)


def run(args: argparse.Namespace) -> int:
    """Prints every line; exit code 2 where a run would fail."""
    if args.submit is not None and not args.image:
        raise BadInput("--submit runs a task on an image: give --image IMAGE")
    submit.check_root(args.pipeline_root)
    checks = examine(args, compile_command.needs(args))
    blocked, unknown = cli.check_names(checks, BLOCKED), cli.check_names(checks, UNKNOWN)
    last = f"Not known: {', '.join(unknown)}. What is known stops no run." if unknown else "A run can start."
    last = f"A run would fail: {', '.join(blocked)}." if blocked else last
    cli.print_lines(args.json, *cli.format_checks(checks, cli.message_stream(args.json).isatty()), last)
    rows = [one._asdict() for one in checks]
    cli.write_json({"blocked": blocked, "not_known": unknown, "checks": rows}, args.json)
    return BadInput.exit_code if blocked else 0


def examine(args: argparse.Namespace, needs: Needs) -> list[Check]:
    """Every check, in the order in which one would mend things."""
    server, checks = _connected(args)
    with contextlib.ExitStack() as stack:
        cluster, row = _cluster(args, server, stack)
        checks.append(row)
        if server is not None:
            checks[0] = _version(server, cluster)
        checks += _of_cluster(args, needs, server, cluster)
    place = {one.name: number for number, one in enumerate(checks)}
    image = checks[place["image"]]
    if args.submit is None or server is None or BLOCKED in (image.state, *(one.state for one in checks[:3])):
        return checks
    from pipeline.kubeflow import probe_run

    text = probe_run.package(args.image, needs, _serving_dir(args) or "")
    for one in probe_run.run(server, text, args):
        if one.name in place:
            checks[place[one.name]] = one
        else:
            checks.append(one)
    return [
        one._replace(found="not known: the task on the cluster did not get so far")
        if one.state == UNKNOWN and _SUBMIT in one.found
        else one
        for one in checks
    ]


def _connected(args: argparse.Namespace) -> tuple[Server | None, list[Check]]:
    """The server, None where it does not answer, and the lines about it."""
    from pipeline.kubeflow import client

    unknown = [Check(name, UNKNOWN, "not known: the server does not answer") for name in ("token", "namespace")]
    try:
        server = client.connect(args.host, args.namespace, args.token_file)
    except client.Unauthorized as error:
        token = Check("token", BLOCKED, str(error), "--token-file FILE, or the variable KFP_TOKEN")
        reason = "not known: the server wants a token that it takes"
        return None, [Check("server", UNKNOWN, reason), token, Check("namespace", UNKNOWN, reason)]
    except BadInput as error:
        return None, [Check("server", BLOCKED, str(error), "--host URL"), *unknown]
    has_token = client.find_token(args.token_file) is not None
    token = Check("token", OK, "accepted" if has_token else "none needed")
    if server.has_users and not server.namespace:
        row = Check("namespace", BLOCKED, "the server has users, and none is given", "--namespace NAME")
    else:
        row = Check("namespace", OK, server.namespace or "none needed: the server has no users")
        if server.namespace:
            row = row._replace(advice=f"--namespace {server.namespace}")
    try:
        listed = {"page_size": 1, "namespace": server.namespace or None}
        server.call("list runs", lambda: server.kfp.list_runs(**listed))
    except client.Unauthorized as error:
        token = Check("token", BLOCKED, str(error), "--token-file FILE, or the variable KFP_TOKEN")
    except ProjectError as error:
        row = Check("namespace", BLOCKED, str(error), "--namespace NAME")
    return server, [Check("server", OK, server.host), token, row]


def _version(server: Server, cluster: Cluster | None) -> Check:
    """The version and what follows from it."""
    version = server.version or (cluster.version if cluster else "")
    match = re.match(r"v?(\d+)\.(\d+)", version)
    if not match:
        advice = "from 2.17 on, --retries counts within a task and for lost pods; before, for failed commands too"
        return Check(
            "server", UNKNOWN, f"not known: {server.host} does not say its version; needs {_KUBECONFIG}", advice
        )
    number = (int(match[1]), int(match[2]))
    store = "minio-service:9000" if number < (2, 15) else "seaweedfs:8333"
    retries = "--retries counts within a task and for lost pods"
    retries = retries if number >= _ONLY_ERRORS else "--retries counts for failed commands, not for lost pods"
    found = f"Kubeflow Pipelines {version}: its manifests have the store {store}; {retries}"
    if not _OLDEST <= number <= _NEWEST:
        return Check("server", WARNING, found, "packages are made for 2.14 to 2.17, of which each point was read")
    return Check("server", OK, found)


def _cluster(
    args: argparse.Namespace, server: Server | None, stack: contextlib.ExitStack
) -> tuple[Cluster | None, Check]:
    """The cluster, None without a kubeconfig, and the line about it."""
    from pipeline.kubeflow import kubeconfig

    file = args.kubeconfig or kubeconfig.default()
    if file is None:
        return None, Check("cluster", UNKNOWN, f"not known: needs {_KUBECONFIG}", "--kubeconfig FILE")
    namespace = (server.namespace if server else args.namespace) or kubeconfig.INSTALLATION
    try:
        cluster = stack.enter_context(kubeconfig.Cluster(file, namespace))
    except BadInput as error:
        if args.kubeconfig:
            raise
        return None, Check("cluster", UNKNOWN, f"not known: {error}")
    return cluster, kubeconfig.installation(cluster)


def _of_cluster(args: argparse.Namespace, needs: Needs, server: Server | None, cluster: Cluster | None) -> list[Check]:
    """The lines about the cluster, by the kubeconfig as far as that goes."""
    from pipeline.kubeflow import kubeconfig

    def line(name: str, needed: str, look: Callable[[Cluster], Check]) -> Check:
        if cluster is None:
            return Check(name, UNKNOWN, f"not known: needs {needed}")
        try:
            return look(cluster)
        except kubeconfig.NotKnown as error:
            return Check(name, UNKNOWN, f"not known: {error}; needs {_SUBMIT}")

    endpoint = needs.env.get("AWS_ENDPOINT_URL", "")
    account = args.service_account or ("default-editor" if server and server.has_users else "pipeline-runner")
    unasked = [
        Check(name, OK, f"none asked for ({flag})")
        for name, flag in (("GPUs", "--gpus"), ("volume", "--pvc"), ("secret", "--secret"))
    ]
    store = line("store", _EITHER, lambda api: kubeconfig.store(api, endpoint))
    if not endpoint:
        store = Check("store", UNKNOWN, f"not known: no AWS_ENDPOINT_URL is given; needs {_SUBMIT}")
    elif store.state == UNKNOWN:
        store = store._replace(found=f"{store.found}; the tasks will look at {endpoint}")
    return [
        store,
        line("secret", _EITHER, lambda api: kubeconfig.secret(api, needs)) if needs.secrets else unasked[2],
        line("launcher", _EITHER, lambda api: kubeconfig.launcher(api, args.pipeline_root)),
        _push(args, needs),
        _image(args, needs),
        line("nodes", _EITHER, lambda api: kubeconfig.nodes(api, needs)),
        line("GPUs", _EITHER, lambda api: kubeconfig.gpus(api, needs))
        if needs.gpus or needs.gpus_per_worker
        else unasked[0],
        line("volume", _EITHER, lambda api: kubeconfig.volume(api, needs)) if needs.volumes else unasked[1],
        line("account", _EITHER, lambda api: kubeconfig.account(api, account, needs)),
        Check("pod", UNKNOWN, f"not known: needs {_SUBMIT}"),
    ]


def _serving_dir(args: argparse.Namespace) -> str | None:
    own = args.storage == compile_command.OWN
    root = args.serving_dir or (None if own else compile_command.SERVING_ROOT)
    return f"{root.rstrip('/')}/mnist" if root else None


def _push(args: argparse.Namespace, needs: Needs) -> Check:
    from components import storage

    folder = _serving_dir(args)
    if folder is None:
        return Check("push", UNKNOWN, "not known: needs --serving-dir, as --storage own has no default")
    if not storage.is_url(folder):
        if not any(f"{folder}/".startswith(f"{path.rstrip('/')}/") for path in needs.volumes.values()):
            return Check("push", BLOCKED, f"{folder} is in no volume", "--pvc CLAIM=PATH")
    else:
        try:
            storage.check(folder, "--serving-dir", *storage.OBJECT_STORES)
        except BadInput as error:
            return Check("push", BLOCKED, str(error), "--serving-dir")
    return Check("push", UNKNOWN, f"not known: needs {_SUBMIT}, which tries {folder} and its If-None-Match")


def _image(args: argparse.Namespace, needs: Needs) -> Check:
    if not args.image:
        return Check("image", UNKNOWN, f"not known: needs --image and {_SUBMIT}")
    from pipeline.kubeflow.quiet import quiet

    with quiet():
        from pipeline.kubeflow import checks, probe_run
    findings = checks.check(probe_run.package(args.image, needs, _serving_dir(args) or ""))
    wrong = [one for one in findings if one.rule == "image"]
    if wrong:
        return Check("image", BLOCKED, wrong[0].received, "--image HOST/NAME:TAG, as it was pushed")
    checks.refuse([one for one in findings if one.rule != "local-path"], "the package of --submit")
    return Check("image", UNKNOWN, f"not known: needs {_SUBMIT}, by which the cluster pulls {args.image}")
