# SPDX-License-Identifier: Apache-2.0
"""The rules about the training job that a task launches: what Kubernetes refuses or drops, what nobody should run."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from components.errors import BadInput
from components.train.exchange import MANIFEST
from pipeline.kubeflow import lint_contents, resources, training_job
from pipeline.kubeflow.finding import Finding

Json = dict[str, Any]

_JOB = frozenset({"apiVersion", "kind", "spec"})
_SPEC = frozenset({"runPolicy", "successPolicy", "tfReplicaSpecs", "enableDynamicWorker"})
_RUN_POLICY = frozenset(
    {
        "activeDeadlineSeconds", "backoffLimit", "cleanPodPolicy", "managedBy", "schedulingPolicy", "suspend",
        "ttlSecondsAfterFinished",
    }
)  # fmt: skip
_REPLICA = frozenset({"replicas", "restartPolicy", "template"})
_CLEAN, _SUCCESS = frozenset({"None", "Running", "All"}), frozenset({"", "AllWorkers"})
_HOST = ("hostNetwork", "hostPID", "hostIPC")
_CORRECT = "correct it, or compile it again"


def check(spec: Json) -> Iterator[Finding]:
    """Looks at every training job in a PipelineSpec that has the form of one."""
    for component in spec.get("components", {}).values():
        for name, task in component.get("dag", {}).get("tasks", {}).items():
            config = _config(task)
            if config is not None and MANIFEST in config:
                where = f"the training job of {name}"
                container = _container_of(spec, task)
                job = config[MANIFEST]
                yield from _launcher(where, task, container)
                broken = list(_job(where, job)) if isinstance(job, dict) else [_finding(where, "found no object")]
                yield from broken
                if not broken:
                    yield from _workers(where, job["spec"]["tfReplicaSpecs"][training_job.REPLICA], container)


def _config(task: Json) -> Json | None:
    given = task.get("inputs", {}).get("parameters", {}).get("custom_config", {})
    text = given.get("runtimeValue", {}).get("constant")
    try:
        config = json.loads(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return config if isinstance(config, dict) else None


def _container_of(spec: Json, task: Json) -> Json:
    component = spec.get("components", {}).get(task.get("componentRef", {}).get("name"), {})
    container: Json = (
        spec["deploymentSpec"].get("executors", {}).get(component.get("executorLabel"), {}).get("container", {})
    )
    return container


def _finding(where: str, found: str, way_out: str = _CORRECT, rule: str = "training-job") -> Finding:
    return Finding(rule, where, found, way_out)


def _launcher(where: str, task: Json, container: Json) -> Iterator[Finding]:
    run_fn = task["inputs"]["parameters"].get("run_fn", {}).get("runtimeValue", {}).get("constant")
    if run_fn != training_job.RUN_FN:
        yield _finding(where, f"the task that has a job must launch it, by {training_job.RUN_FN}; found {run_fn!r}")
    if "accelerator" in container.get("resources", {}):
        found = "the task only looks on while workers train; found an accelerator for it"
        yield _finding(where, found, "give accelerators to the workers, with --gpus-per-worker")


def _job(where: str, job: Json) -> Iterator[Finding]:
    """The job, down to the workers' pods."""
    kind = (job.get("apiVersion"), job.get("kind"))
    if kind != (training_job.API_VERSION, training_job.KIND):
        ours = f"{training_job.KIND} of {training_job.API_VERSION}"
        yield _finding(where, f"it must be a {ours}; found {kind[1]} of {kind[0]}")
    spec = _object(job, "spec")
    policy, replicas = _object(spec, "runPolicy"), _object(spec, "tfReplicaSpecs")
    yield from _unknown(where, job, _JOB, "the job")
    yield from _unknown(where, spec, _SPEC, "spec")
    yield from _unknown(where, policy, _RUN_POLICY, "spec.runPolicy")
    for name in ("activeDeadlineSeconds", "backoffLimit", "ttlSecondsAfterFinished"):
        if not isinstance(policy.get(name), int) or policy[name] < 1:
            found = f"nothing stays for ever: spec.runPolicy.{name} is above 0; found {policy.get(name)!r}"
            yield _finding(where, found)
    for name, value, known in (
        ("spec.runPolicy.cleanPodPolicy", policy.get("cleanPodPolicy", "None"), _CLEAN),
        ("spec.successPolicy", spec.get("successPolicy", ""), _SUCCESS),
    ):
        if value not in known:
            yield _finding(where, f"{name} is one of {', '.join(sorted(known))}; found {value!r}")
    if set(replicas) != {training_job.REPLICA}:
        found = f"a synchronous training has workers alone; found {', '.join(sorted(replicas)) or 'none'}"
        yield _finding(where, found)
        return
    worker = _object(replicas, training_job.REPLICA)
    yield from _unknown(where, worker, _REPLICA, f"spec.tfReplicaSpecs.{training_job.REPLICA}")
    count = worker.get("replicas")
    if not isinstance(count, int) or count < 1:
        yield _finding(where, f"a job needs at least one worker; found {count!r}", "compile with --workers N")
    if worker.get("restartPolicy") != "ExitCode":
        found = "a worker that was killed is started again, one that stopped itself is not: restartPolicy ExitCode"
        yield _finding(where, f"{found}; found {worker.get('restartPolicy')!r}")
    yield from _unknown_of_pod(where, worker.get("template"), "V1PodTemplateSpec", "template")


def _workers(where: str, worker: Json, launcher: Json) -> Iterator[Finding]:
    """The workers' pods, whose fields are known."""
    pod = worker["template"].get("spec", {})
    containers = pod.get("containers", ())
    if [one.get("name") for one in containers] != [training_job.CONTAINER]:
        found = f"the operator looks for one container, called {training_job.CONTAINER}; found another or none"
        yield _finding(where, found)
        return
    [container] = containers
    for field in ("image", "command", "args"):
        if not container.get(field):
            yield _finding(where, f"a worker needs its {field}; found none", "compile with --image")
    yield from _privileges(where, pod, container)
    yield from _resources(where, container.get("resources", {}))
    for variable in container.get("env", ()):
        if lint_contents.holds_secret(variable.get("name", ""), variable.get("value")):
            found = f"the environment of a package is not secret; found a value of {variable['name']}"
            yield Finding("secret", where, found, f"mount it with --secret SECRET:KEY={variable['name']}")
    codes = [dict(itertools.pairwise(one.get("args", ()))).get("--code_digest") for one in (container, launcher)]
    if codes[0] != codes[1]:
        found = f"workers and tasks must carry the digest of one code; found {codes[0]} and {codes[1]}"
        yield Finding("code-digest", where, found, "compile it again")


def _privileges(where: str, pod: Json, container: Json) -> Iterator[Finding]:
    settings = {**pod.get("securityContext", {}), **container.get("securityContext", {})}
    if settings.get("runAsNonRoot") is not True or settings.get("runAsUser", 1) == 0:
        yield _finding(where, "workers do not run as root; found no runAsNonRoot: true, or user 0", rule="privileges")
    if settings.get("allowPrivilegeEscalation") is not False or settings.get("privileged"):
        found = "workers get no privileges; found them, or no allowPrivilegeEscalation: false"
        yield _finding(where, found, rule="privileges")
    if settings.get("capabilities", {}).get("add") or "ALL" not in settings.get("capabilities", {}).get("drop", ()):
        yield _finding(where, "workers need no capabilities; found some added, or not all dropped", rule="privileges")
    taken = [name for name in _HOST if pod.get(name)] + [
        "hostPath" for one in pod.get("volumes", ()) if "hostPath" in one
    ]
    if taken:
        yield _finding(where, f"workers take nothing of their node; found {', '.join(taken)}", rule="privileges")
    if pod.get("automountServiceAccountToken") is not False:
        found = "workers ask nothing of Kubernetes; found no automountServiceAccountToken: false"
        yield _finding(where, found, rule="privileges")


def _resources(where: str, needed: Json) -> Iterator[Finding]:
    limits, requests = needed.get("limits", {}), needed.get("requests", {})
    amounts = {}
    for bound, given in (("limit", limits), ("request", requests)):
        for name, text in given.items():
            if name not in {"cpu", "memory"}:
                if not re.fullmatch(r"[1-9]\d*", str(text)):
                    yield Finding("resources", where, f"{name} takes whole numbers from 1; found {text!r}", _CORRECT)
                continue
            try:
                amounts[name, bound] = resources.amount(f"the {bound} of {name}", str(text))
            except BadInput as error:
                yield Finding("resources", where, str(error), "write it as Kubernetes does")
    for name in ("cpu", "memory"):
        if (name, "limit") not in amounts or amounts.get((name, "request"), 0) > amounts[name, "limit"]:
            found = (
                f"a worker needs a limit of {name}, and a request that is not above it; found {limits} and {requests}"
            )
            yield Finding("resources", where, found, f"give --{name} train=REQUEST:LIMIT")


def _object(holder: Any, name: str) -> Json:
    value = holder.get(name)
    return value if isinstance(value, dict) else {}


def _unknown(where: str, value: Mapping[str, Any], known: frozenset[str], what: str) -> Iterator[Finding]:
    for name in sorted(set(value) - known):
        yield _finding(where, f"Kubernetes drops a field that it does not know; found {name!r} in {what}")


def _unknown_of_pod(where: str, value: Any, kind: str, what: str) -> Iterator[Finding]:
    """The same for what is in a pod, by the models of the package `kubernetes`."""
    if inner := re.fullmatch(r"list\[(.*)\]", kind):
        if not isinstance(value, list):
            yield _finding(where, f"{what} must be a list; found {value!r}")
            return
        for one in value:
            yield from _unknown_of_pod(where, one, inner[1], what)
    elif kind.startswith("V1"):
        from kubernetes import client  # half a second, that only such a package takes

        if not isinstance(value, dict):
            yield _finding(where, f"{what} must be an object; found {value!r}")
            return
        model = getattr(client, kind)
        kinds = {model.attribute_map[name]: inner for name, inner in model.openapi_types.items()}
        yield from _unknown(where, value, frozenset(kinds), what)
        for name in sorted(set(value) & set(kinds)):
            yield from _unknown_of_pod(where, value[name], kinds[name], name)
