# SPDX-License-Identifier: Apache-2.0
"""The command `doctor` of runner_kfp.py: checks of server and cluster before the first run.

The server gives its version and accepts the token or not, a kubeconfig gives access to the cluster, and a run of one
small task (`--submit`) tries the rest. A check that needs one of these which is not there is unknown.
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
from pipeline.kubeflow import client, commands, compile_command

if TYPE_CHECKING:
    from pipeline.kubeflow.client import Server
    from pipeline.kubeflow.cluster import KubernetesApi
    from pipeline.kubeflow.resources import Needs

_SUBMIT, _KUBECONFIG = "--submit", "a kubeconfig"
_OLDEST, _ONLY_ERRORS, _NEWEST = (2, 14), (2, 17), (2, 17)
_SUBMIT_SECONDS = 60.0


def register(subparsers: Any) -> None:
    """Adds the command."""
    summary = "Check that a run can start on a server's cluster, and list the flags that it needs."
    parser = subparsers.add_parser("doctor", help=summary, description=summary, allow_abbrev=False)
    parser.set_defaults(run=run, retries=0, gpu_image=None)
    commands.add_server(parser)
    group = parser.add_argument_group("checks")
    group.add_argument(
        "--kubeconfig", metavar="FILE", help="of the server's cluster; default: kubectl's, if there is one"
    )
    group.add_argument(
        "--submit", nargs="?", const=_SUBMIT_SECONDS, type=float, metavar="SECONDS",
        help=f"run a small task on --image; its pod may wait SECONDS for a node; default: {_SUBMIT_SECONDS:.0f}",
    )  # fmt: skip
    group.add_argument("--image", metavar="IMAGE", help="container image of the tasks")
    group.add_argument("--serving-dir", metavar="URL|DIR", help="models are pushed below it, as for `compile`")
    commands.add_pod_arguments(group)
    compile_command.add_cluster(parser)


def run(args: argparse.Namespace) -> int:
    """Prints every check; exit code 2 where a run would fail."""
    if args.submit is not None and not args.image:
        raise BadInput("--submit runs a task on an image: give --image IMAGE")
    checks = examine(args, compile_command.needs(args))
    blocked, unknown = cli.check_names(checks, BLOCKED), cli.check_names(checks, UNKNOWN)
    summary = f"Not known: {', '.join(unknown)}. Nothing else stops a run." if unknown else "A run can start."
    summary = f"A run would fail: {', '.join(blocked)}." if blocked else summary
    cli.print_lines(args.json, *cli.format_checks(checks, cli.message_stream(args.json).isatty()), summary)
    rows = [row._asdict() for row in checks]
    cli.write_json({"blocked": blocked, "not_known": unknown, "checks": rows}, args.json)
    return BadInput.exit_code if blocked else 0


def examine(args: argparse.Namespace, needs: Needs) -> list[Check]:
    """Returns every check, in the order in which to mend what is wrong."""
    server, checks = _server(args)
    with contextlib.ExitStack() as stack:
        cluster, row = _cluster(args, server, stack)
        checks.append(row)
        if server is not None:
            checks[0] = _version(server, cluster)
        checks += _of_cluster(args, needs, server, cluster)
    by_name = {row.name: row for row in checks}
    if args.submit is None or server is None or BLOCKED in (by_name["image"].state, *(row.state for row in checks[:3])):
        return checks
    from pipeline.kubeflow import probe_run

    text = probe_run.package(args.image, needs, _serving_dir(args) or "")
    by_name |= {row.name: row for row in probe_run.run(server, text, args)}
    return [
        row._replace(result="not known: the task on the cluster did not get that far")
        if row.state == UNKNOWN and _SUBMIT in row.result
        else row
        for row in by_name.values()
    ]


def _server(args: argparse.Namespace) -> tuple[Server | None, list[Check]]:
    """Returns the server, None where it does not respond, and the checks of it."""
    unknown = [Check(name, UNKNOWN, "not known: the server does not respond") for name in ("token", "namespace")]
    try:
        server = client.connect(args.host, args.namespace, args.token_file)
    except client.Unauthorized as error:
        token = Check("token", BLOCKED, str(error), "--token-file FILE, or the variable KFP_TOKEN")
        reason = "not known: the server does not accept this account"
        return None, [Check("server", UNKNOWN, reason), token, Check("namespace", UNKNOWN, reason)]
    except BadInput as error:
        return None, [Check("server", BLOCKED, str(error), "--host URL"), *unknown]
    token = Check("token", OK, "accepted" if server.has_token else "none needed")
    if server.has_users and not server.namespace:
        row = Check("namespace", BLOCKED, "the server has users, and no namespace is given", "--namespace NAME")
    else:
        row = Check("namespace", OK, server.namespace or "none needed: the server has no users")
        if server.namespace:
            row = row._replace(advice=f"--namespace {server.namespace}")
    try:
        server.call("list runs", server.kfp.list_runs, page_size=1, namespace=server.namespace or None)
    except client.Unauthorized as error:
        token = Check("token", BLOCKED, str(error), "--token-file FILE, or the variable KFP_TOKEN")
    except ProjectError as error:
        row = Check("namespace", BLOCKED, str(error), "--namespace NAME")
    return server, [Check("server", OK, server.host), token, row]


def _version(server: Server, cluster: KubernetesApi | None) -> Check:
    """Returns the check of the version, with the consequences for store and retries."""
    version = server.version or (cluster.version if cluster else "")
    match = re.match(r"v?(\d+)\.(\d+)", version)
    if not match:
        advice = "from 2.17 on, --retries counts within a task and for lost pods; before, for failed commands too"
        return Check(
            "server", UNKNOWN, f"not known: {server.host} does not give its version; needs {_KUBECONFIG}", advice
        )
    number = (int(match[1]), int(match[2]))
    store = "minio-service:9000" if number < (2, 15) else "seaweedfs:8333"
    retries = "--retries counts within a task and for lost pods"
    retries = retries if number >= _ONLY_ERRORS else "--retries counts for failed commands, not for lost pods"
    result = f"Kubeflow Pipelines {version}: its manifests have the store {store}; {retries}"
    if not _OLDEST <= number <= _NEWEST:
        return Check("server", WARNING, result, "packages are made for 2.14 to 2.17")
    return Check("server", OK, result)


def _cluster(
    args: argparse.Namespace, server: Server | None, stack: contextlib.ExitStack
) -> tuple[KubernetesApi | None, Check]:
    """Returns the cluster, None without a kubeconfig, and the check of it."""
    from pipeline.kubeflow import cluster as checks

    file = args.kubeconfig or checks.default_kubeconfig()
    if file is None:
        return None, Check("cluster", UNKNOWN, f"not known: needs {_KUBECONFIG}", "--kubeconfig FILE")
    namespace = (server.namespace if server else args.namespace) or checks.INSTALLATION
    try:
        cluster = stack.enter_context(checks.KubernetesApi(file, namespace))
    except BadInput as error:
        if args.kubeconfig:
            raise
        return None, Check("cluster", UNKNOWN, f"not known: {error}")
    return cluster, checks.installation(cluster)


def _of_cluster(
    args: argparse.Namespace, needs: Needs, server: Server | None, cluster: KubernetesApi | None
) -> list[Check]:
    """Returns the checks of the cluster, unknown where they need a kubeconfig or more rights."""
    from pipeline.kubeflow import cluster as checks

    def run(name: str, work: Callable[[KubernetesApi], Check]) -> Check:
        if cluster is None:
            return Check(name, UNKNOWN, f"not known: needs {_SUBMIT} or {_KUBECONFIG}")
        try:
            return work(cluster)
        except checks.Unknown as error:
            return Check(name, UNKNOWN, f"not known: {error}; needs {_SUBMIT}")

    endpoint = needs.env.get("AWS_ENDPOINT_URL", "")
    account = args.service_account or ("default-editor" if server and server.has_users else "pipeline-runner")
    unused = {
        name: Check(name, OK, f"none requested ({flag})")
        for name, flag in (("GPUs", "--gpus"), ("volume", "--pvc"), ("secret", "--secret"))
    }
    store = run("store", lambda api: checks.store(api, endpoint))
    if not endpoint:
        store = Check("store", UNKNOWN, f"not known: no AWS_ENDPOINT_URL is given; needs {_SUBMIT}")
    elif store.state == UNKNOWN:
        store = store._replace(result=f"{store.result}; the tasks will use {endpoint}")
    return [
        store,
        run("secret", lambda api: checks.secret(api, needs)) if needs.secrets else unused["secret"],
        run("launcher", lambda api: checks.launcher(api, args.pipeline_root)),
        _push(args, needs),
        _image(args, needs),
        run("nodes", lambda api: checks.nodes(api, needs)),
        run("GPUs", lambda api: checks.gpus(api, needs)) if needs.gpus or needs.gpus_per_worker else unused["GPUs"],
        run("volume", lambda api: checks.volume(api, needs)) if needs.volumes else unused["volume"],
        run("account", lambda api: checks.account(api, account, needs)),
        Check("pod", UNKNOWN, f"not known: needs {_SUBMIT}"),
    ]


def _serving_dir(args: argparse.Namespace) -> str | None:
    default = None if args.storage == compile_command.OWN else compile_command.SERVING_DIR
    root = args.serving_dir or default
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
    from pipeline.kubeflow import checks, probe_run

    findings = checks.check(probe_run.package(args.image, needs, _serving_dir(args) or ""))
    if malformed := [finding for finding in findings if finding.rule == "image"]:
        return Check("image", BLOCKED, malformed[0].message, "--image HOST/NAME:TAG, as it was pushed")
    checks.refuse([finding for finding in findings if finding.rule != "local-path"], "the package of --submit")
    return Check("image", UNKNOWN, f"not known: needs {_SUBMIT}, by which the cluster pulls {args.image}")
