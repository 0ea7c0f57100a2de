# SPDX-License-Identifier: Apache-2.0
"""Follows a training job until it ends: its states, the lines of its first worker, and why it failed.

It asks again and again instead of watching: a connection of hours breaks, and each break would have to be made up for
by asking anyway.
"""

from __future__ import annotations

import time
from typing import Any

from components import progress
from components.errors import BadInput, GateStopped, ProjectError
from pipeline.kubeflow.training_job.cluster import Cluster, Json, Refused

# Between two looks; how long the API may stay away; how long a job may lie there without any operator taking it up.
POLL_SECONDS, PATIENCE_SECONDS, UNTOUCHED_SECONDS = 5.0, 900.0, 600.0
_LAST_LINES = 20
_PERMANENT = range(1, 128)
_FINAL = ("Succeeded", "Failed")
_KINDS = {BadInput.exit_code: BadInput, GateStopped.exit_code: GateStopped}


class JobWatch:
    """One job, as it was last seen."""

    def __init__(self, cluster: Cluster, name: str, restarts: int) -> None:
        """Prepares to follow the job of this name, whose workers may be started again so often."""
        self._cluster, self._name, self._restarts = cluster, name, restarts
        self._said: dict[str, str] = {}
        self._last_line: tuple[str, str] = ("", "")  # the pod's uid, and the line with its time
        self._uids: dict[str, dict[str, None]] = {}  # pod -> its incarnations
        self._ended: dict[str, str] = {}  # uid of a pod that failed -> how

    def until_it_succeeds(self) -> None:
        """Waits, and says what happens meanwhile.

        Raises:
            GateStopped, BadInput, ProjectError: the job failed; as the worker's exit code has it.
            ProjectError: somebody deleted it, no operator takes it up, it is started again and again, or the API has
                stayed away for too long.
        """
        began = answered = time.monotonic()
        while True:
            try:
                if self._look(began):
                    return
                answered = time.monotonic()
            except Refused as error:
                if time.monotonic() - answered > PATIENCE_SECONDS:
                    raise
                self._say("the API", str(error))
            time.sleep(POLL_SECONDS)

    def _look(self, began: float) -> bool:
        """Whether the job has succeeded by now."""
        job = self._cluster.job(self._name)
        if job is None:
            raise ProjectError(
                f"the training job {self._name} must stay until it has ended; somebody deleted it. Run again."
            )
        pods = sorted(self._cluster.pods(self._name), key=_index)
        self._said.pop("the API", None)
        state, message = _state(job)
        said = f"{self._name}: {state}" if state else ""
        if state not in _FINAL:
            self._say("training job", said)
        for pod in pods:
            self._note(pod)
        try:
            self._show_log(pods)
        except Refused as error:  # its node may be gone; what has become of the job does not depend on it
            self._say("the log of worker 0", str(error))
        self._say("training job", said)
        if state == "Failed":
            raise self._failure(pods, message)
        if state == "Succeeded":
            return True
        if not state and time.monotonic() - began > UNTOUCHED_SECONDS:
            raise ProjectError(
                f"Kubeflow's training operator must take up the job {self._name}; it has not for "
                f"{UNTOUCHED_SECONDS:.0f} s. Check that it runs: kubectl get pods --all-namespaces | grep training"
            )
        self._refuse_endless_restarts()
        return False

    def _note(self, pod: Json) -> None:
        """Says why a worker waits or how it ended; a failed pod is replaced by another, and its state goes with it."""
        name, uid = _name(pod), pod["metadata"]["uid"]
        self._uids.setdefault(name, {})[uid] = None
        status = pod.get("status", {})
        ended = _ended(pod)
        if ended and ended["exitCode"]:
            self._ended[uid] = f"exit code {ended['exitCode']}, {ended.get('reason', 'Error')}"
            self._say(name, f"ended with {self._ended[uid]}")
            return
        unplaced = [
            one for one in status.get("conditions", ()) if (one["type"], one["status"]) == ("PodScheduled", "False")
        ]
        waiting = [one["state"]["waiting"] for one in status.get("containerStatuses", ()) if "waiting" in one["state"]]
        why = next((one for one in [*unplaced, *waiting] if one.get("message")), None)
        self._say(name, f"waits: {why.get('reason', '')}: {why['message']}" if why else "")

    def _refuse_endless_restarts(self) -> None:
        for name, uids in self._uids.items():
            if len(uids) - 1 > self._restarts:
                last = next((self._ended[uid] for uid in reversed(uids) if uid in self._ended), "nobody saw of what")
                raise ProjectError(
                    f"a worker may be started again {self._restarts} times; {name} of the training job {self._name} "
                    f"was started more often, the last time after it had ended with {last}. Give the workers more "
                    "memory (--memory train=…), or look at their nodes."
                )

    def _failure(self, pods: list[Json], message: str) -> ProjectError:
        """Why the job failed: what the worker said that ended first of those that would not be started again."""
        ended = [(end["exitCode"], end.get("finishedAt") or "", pod) for pod in pods if (end := _ended(pod))]
        failed = sorted((one for one in ended if one[0] in _PERMANENT), key=lambda one: one[1])
        failed = failed or [one for one in ended if one[0]]
        if not failed:
            seen = f"; before that a worker ended with {list(self._ended.values())[-1]}" if self._ended else ""
            return ProjectError(f"the training job {self._name} failed: {message.rstrip('.')}{seen}. Run again.")
        code, _, pod = failed[0]
        try:
            lines = _lines(self._cluster.log(_name(pod), tailLines=str(_LAST_LINES)))
        except Refused as error:
            self._say(f"the log of {_name(pod)}", str(error))
            lines = []
        if _index(pod):
            for line in lines:
                progress.report(progress.Message(f"{_name(pod)}: {line}"))
        said = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")] or lines or [message]
        return _KINDS.get(code, ProjectError)(
            f"{said[-1]} ({_name(pod)} of the training job {self._name}: exit code {code}, "
            f"{(_ended(pod) or {}).get('reason', 'Error')})"
        )

    def _show_log(self, pods: list[Json]) -> None:
        """Says what the first worker has written since the last look."""
        if not pods or _index(pods[0]) or pods[0].get("status", {}).get("phase") in {None, "Pending"}:
            return
        uid, last = pods[0]["metadata"]["uid"], self._last_line[1]
        if uid != self._last_line[0]:
            last = ""
        since = {"sinceTime": last.partition(" ")[0]} if last else {}
        lines = _lines(self._cluster.log(_name(pods[0]), timestamps="true", **since))
        # Times are compared by the second, so that some lines come again.
        new = lines[len(lines) - lines[::-1].index(last) :] if last in lines else lines
        for line in new:
            progress.report(progress.Message(f"worker 0: {line.partition(' ')[2]}"))
        self._last_line = (uid, new[-1] if new else last)

    def _say(self, what: str, text: str) -> None:
        """Says something of a thing once, and again when it has been something else meanwhile."""
        if text and self._said.get(what) != text:
            progress.report(progress.Message(f"{what}: {text}"))
        self._said[what] = text


def _lines(log: str) -> list[str]:
    """Those that Kubernetes puts a time before: a line of a program may hold other characters that end one."""
    return [line for line in log.split("\n") if line]


def _state(job: Json) -> tuple[str, str]:
    """The last condition that holds, with its message; "" before there is one."""
    conditions: list[Any] = [one for one in job.get("status", {}).get("conditions") or () if one["status"] == "True"]
    return (conditions[-1]["type"], conditions[-1].get("message", "")) if conditions else ("", "")


def _ended(pod: Json) -> Json | None:
    """How the worker's container ended; None while it has not."""
    for one in pod.get("status", {}).get("containerStatuses", ()):
        if one["name"] == "tensorflow" and (ended := one["state"].get("terminated")):
            return dict(ended)
    return None


def _index(pod: Json) -> int:
    return int(pod["metadata"].get("labels", {}).get("training.kubeflow.org/replica-index", 0))


def _name(pod: Json) -> str:
    return str(pod["metadata"]["name"])
