# SPDX-License-Identifier: Apache-2.0
"""Follows a training job until it ends: its state, the log of its first worker, and the reason of a failure.

It polls the API. A watch is a connection of hours, which breaks, and polling would be needed after each break.
"""

from __future__ import annotations

import time
from typing import Any

from components import progress
from components.errors import BadInput, GateStopped, ProjectError
from pipeline.kubeflow.training_job.cluster import ApiError, JobClient, Json

POLL_SECONDS = 5.0
PATIENCE_SECONDS = 900.0  # without a response of the API
UNTOUCHED_SECONDS = 600.0  # without a state of the job, which the operator sets
_TAIL_LINES = 20
_PERMANENT = range(1, 128)
_FINAL = ("Succeeded", "Failed")
_ERRORS = {BadInput.exit_code: BadInput, GateStopped.exit_code: GateStopped}


class JobWatch:
    """Follows one job."""

    def __init__(self, client: JobClient, name: str, restarts: int) -> None:
        """Prepares to follow a job whose workers may each be restarted `restarts` times."""
        self._client, self._name, self._restarts = client, name, restarts
        self._messages: dict[str, str] = {}  # subject -> last message
        self._last_line: tuple[str, str] = ("", "")  # the pod's uid, and the line with its time
        self._uids: dict[str, dict[str, None]] = {}  # pod -> uids of its incarnations, in order
        self._exits: dict[str, str] = {}  # uid of a failed pod -> description of its exit

    def wait(self) -> None:
        """Waits until the job has succeeded, and logs its progress.

        Raises:
            GateStopped, BadInput, ProjectError: the job failed; by the exit code of the failed worker.
            ProjectError: the job was deleted, no operator handles it, a worker was restarted too often, or the API did
                not respond for too long.
        """
        start = last_response = time.monotonic()
        while True:
            try:
                if self._poll(start):
                    return
                last_response = time.monotonic()
            except ApiError as error:
                if time.monotonic() - last_response > PATIENCE_SECONDS:
                    raise
                self._log("the API", str(error))
            time.sleep(POLL_SECONDS)

    def _poll(self, start: float) -> bool:
        """Returns whether the job has succeeded."""
        job = self._client.job(self._name)
        if job is None:
            raise ProjectError(
                f"the training job {self._name} must exist until it has ended, but it was deleted. Run again."
            )
        pods = sorted(self._client.pods(self._name), key=_index)
        self._messages.pop("the API", None)
        state, message = _state(job)
        status = f"{self._name}: {state}" if state else ""
        if state not in _FINAL:
            self._log("training job", status)
        for pod in pods:
            self._log_pod(pod)
        try:
            self._forward_log(pods)
        except ApiError as error:  # its node may be lost; the job's result does not depend on the log
            self._log("the log of worker 0", str(error))
        self._log("training job", status)
        if state == "Failed":
            raise self._failure(pods, message)
        if state == "Succeeded":
            return True
        if not state and time.monotonic() - start > UNTOUCHED_SECONDS:
            raise ProjectError(
                f"Kubeflow's training operator must start the job {self._name} within {UNTOUCHED_SECONDS:.0f} s; it "
                "did not. Check that it runs: kubectl get pods --all-namespaces | grep training"
            )
        self._check_restarts()
        return False

    def _log_pod(self, pod: Json) -> None:
        """Logs the reason that a worker waits or its exit, which is lost with the pod when it is replaced."""
        name, uid = _name(pod), pod["metadata"]["uid"]
        self._uids.setdefault(name, {})[uid] = None
        status = pod.get("status", {})
        terminated = _terminated(pod)
        if terminated and terminated["exitCode"]:
            self._exits[uid] = f"exit code {terminated['exitCode']}, {terminated.get('reason', 'Error')}"
            self._log(name, f"ended with {self._exits[uid]}")
            return
        unscheduled = [
            condition
            for condition in status.get("conditions", ())
            if (condition["type"], condition["status"]) == ("PodScheduled", "False")
        ]
        containers = status.get("containerStatuses", ())
        waiting = [container["state"]["waiting"] for container in containers if "waiting" in container["state"]]
        cause = next((cause for cause in [*unscheduled, *waiting] if cause.get("message")), None)
        self._log(name, f"waits: {cause.get('reason', '')}: {cause['message']}" if cause else "")

    def _check_restarts(self) -> None:
        for name, uids in self._uids.items():
            if len(uids) - 1 > self._restarts:
                last = next((self._exits[uid] for uid in reversed(uids) if uid in self._exits), "an unknown exit code")
                raise ProjectError(
                    f"a worker may be restarted {self._restarts} times; {name} of the training job {self._name} "
                    f"exceeded that, and last ended with {last}. Give the workers more memory (--memory train=…), or "
                    "look at their nodes."
                )

    def _failure(self, pods: list[Json], message: str) -> ProjectError:
        """Returns the error of the worker that failed first, preferably of those that are not restarted."""
        exits = [(end["exitCode"], end.get("finishedAt") or "", pod) for pod in pods if (end := _terminated(pod))]
        failures = sorted((item for item in exits if item[0] in _PERMANENT), key=lambda item: item[1])
        failures = failures or [item for item in exits if item[0]]
        if not failures:
            earlier = f"; before that a worker ended with {list(self._exits.values())[-1]}" if self._exits else ""
            return ProjectError(f"the training job {self._name} failed: {message.rstrip('.')}{earlier}. Run again.")
        code, _, pod = failures[0]
        try:
            lines = _lines(self._client.log(_name(pod), tailLines=str(_TAIL_LINES)))
        except ApiError as error:
            self._log(f"the log of {_name(pod)}", str(error))
            lines = []
        if _index(pod):
            for line in lines:
                progress.report(progress.Message(f"{_name(pod)}: {line}"))
        errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")] or lines or [message]
        return _ERRORS.get(code, ProjectError)(
            f"{errors[-1]} ({_name(pod)} of the training job {self._name}: exit code {code}, "
            f"{(_terminated(pod) or {}).get('reason', 'Error')})"
        )

    def _forward_log(self, pods: list[Json]) -> None:
        """Logs the lines that the first worker has written since the last call."""
        if not pods or _index(pods[0]) or pods[0].get("status", {}).get("phase") in {None, "Pending"}:
            return
        uid, last = pods[0]["metadata"]["uid"], self._last_line[1]
        if uid != self._last_line[0]:
            last = ""
        since = {"sinceTime": last.partition(" ")[0]} if last else {}
        lines = _lines(self._client.log(_name(pods[0]), timestamps="true", **since))
        # The API compares whole seconds and so repeats some lines.
        new = lines[len(lines) - lines[::-1].index(last) :] if last in lines else lines
        for line in new:
            progress.report(progress.Message(f"worker 0: {line.partition(' ')[2]}"))
        self._last_line = (uid, new[-1] if new else last)

    def _log(self, subject: str, message: str) -> None:
        """Logs a message about a subject if it differs from the last one about it."""
        if message and self._messages.get(subject) != message:
            progress.report(progress.Message(f"{subject}: {message}"))
        self._messages[subject] = message


def _lines(log: str) -> list[str]:
    """Splits a log where Kubernetes does; other line separators are part of a program's line."""
    return [line for line in log.split("\n") if line]


def _state(job: Json) -> tuple[str, str]:
    """Returns type and message of the last condition that is true; "" if there is none."""
    conditions: list[Any] = [item for item in job.get("status", {}).get("conditions") or () if item["status"] == "True"]
    return (conditions[-1]["type"], conditions[-1].get("message", "")) if conditions else ("", "")


def _terminated(pod: Json) -> Json | None:
    """Returns the `terminated` state of the worker's container; None if it has not ended."""
    for container in pod.get("status", {}).get("containerStatuses", ()):
        if container["name"] == "tensorflow" and (terminated := container["state"].get("terminated")):
            return dict(terminated)
    return None


def _index(pod: Json) -> int:
    return int(pod["metadata"].get("labels", {}).get("training.kubeflow.org/replica-index", 0))


def _name(pod: Json) -> str:
    return str(pod["metadata"]["name"])
