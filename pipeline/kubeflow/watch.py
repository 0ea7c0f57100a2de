# SPDX-License-Identifier: Apache-2.0
"""A run on the screen, to its end and its verdict."""

from __future__ import annotations

import contextlib
import json
import re
import time
import urllib.parse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console
from rich.live import Live
from rich.text import Text

from components.errors import ProjectError
from pipeline import run_record
from pipeline.kubeflow import workflow
from pipeline.kubeflow.submit import ROOT

if TYPE_CHECKING:
    from pipeline.kubeflow.client import Server

POLL_SECONDS = 5.0
PATIENCE, CANCELING_PATIENCE = 60.0, 600.0  # seconds without an answer; seconds until a terminated run must have ended
_MARKS = {"done": ("✓", "green"), "cached": ("=", "cyan"), "failed": ("✗", "red"), "running": ("…", "yellow")}
_SENTENCE = re.compile(r"^(?:PUSHED|UNCHANGED|NOT BLESSED|STOPPED|FAILED): .*$", re.MULTILINE)


def table(tasks: list[workflow.Task]) -> Text:
    """A line for each task: its state and seconds."""
    lines = []
    for task in tasks:
        mark, style = _MARKS.get(task.state, ("-", "dim"))
        seconds = "" if task.seconds is None else f"{task.seconds:9.1f} s"
        lines.append(Text.assemble((f"{mark} {task.name:<16}", style), f" {task.state:<10}{seconds}".rstrip()))
    return Text("\n").join(lines)


def until_end(server: Server, run_id: str, stream: TextIO) -> dict[str, Any]:
    """Follows a run to its end: a table on a terminal, elsewhere a line for each task that ends.

    Returns:
        its verdict, as `verdict` does.

    Raises:
        ProjectError: the run was terminated, or failed after its verdict; or the server does not answer for a minute.
    """
    console = Console(file=stream, highlight=False)
    run = workflow.get(server, run_id)
    spec, printed = workflow.spec(server, run), {""}
    heard = uncanceled = time.monotonic()
    argo = None
    try:
        live = Live(console=console, redirect_stdout=False, redirect_stderr=False) if console.is_terminal else None
        with live or contextlib.nullcontext():
            while True:
                state = workflow.state(run)
                argo = workflow.fetch(server, run_id) if state in workflow.ENDED else None
                tasks = workflow.tasks(run, spec, argo)
                if live:
                    live.update(table(tasks), refresh=True)
                else:
                    new = [one for one in tasks if one.name not in printed and one.state not in ("waiting", "running")]
                    printed |= {one.name for one in new}
                    if new:
                        console.print(table(new), soft_wrap=True)
                if state in workflow.ENDED:
                    break
                if state == "canceling" and heard - uncanceled > CANCELING_PATIENCE:
                    raise ProjectError(f"the run {run_id} is being terminated and does not end: {workflow.GONE}")
                uncanceled = uncanceled if state == "canceling" else heard
                time.sleep(POLL_SECONDS)
                try:
                    run = workflow.get(server, run_id)
                    heard = time.monotonic()
                except ProjectError:
                    if time.monotonic() - heard > PATIENCE:
                        raise
    except KeyboardInterrupt:
        raise ProjectError(
            f"no longer watched, the run goes on: `status {run_id} --wait` watches again, `terminate {run_id}` ends it"
        ) from None
    if state not in ("succeeded", "failed"):
        raise ProjectError(f"the run {run_id} was {state}")
    row = verdict(server, run, spec, argo)
    console.print(Text(row["sentence"], style="bold red" if row["exit_code"] else "bold green"), soft_wrap=True)
    if state == "failed" and not row["exit_code"]:
        raise ProjectError(f"the run {run_id} failed after its verdict: `logs {run_id}` says why")
    return row


def verdict(server: Server, run: Any, spec: Mapping[str, Any], argo: workflow.Workflow | None) -> dict[str, Any]:
    """Returns the record of a run that has ended, which lies at PIPELINE_ROOT/PIPELINE/RUN_ID/record.json.

    The user interface hands it out, if it can read the store. Where it does not, the row has run_id, verdict, exit_code
    and sentence only: by what the task `report` prints last, else by the states of run and tasks, with verdict None.
    """
    root = ((run.runtime_config and run.runtime_config.pipeline_root) or ROOT).rstrip("/")
    name = str(spec.get("pipelineInfo", {}).get("name", ""))
    for part in dict.fromkeys((name, name.rpartition("/")[2])):  # some servers put words before the name
        row = _record(server, argo, f"{root}/{part}/{run.run_id}/{run_record.RECORD_FILE}")
        if row:
            return row
    tasks = workflow.tasks(run, spec, argo)
    report = next((task for task in tasks if task.name == "report"), None)
    text = (workflow.log(server, run, argo, report)[0] if report else None) or ""
    sentence = next(reversed(_SENTENCE.findall(text)), "")
    word = sentence.partition(":")[0].lower().replace(" ", "_") or None
    code = run_record.EXIT_CODES.get(word or "", 1)
    if word is None:
        state, failed = workflow.state(run), [task.name for task in tasks if task.state == "failed"]
        is_gate = bool(failed) and all(name.endswith("-gate") for name in failed)
        code = 0 if state == "succeeded" else run_record.EXIT_CODES[run_record.STOPPED] if is_gate else 1
        parts = f" in {', '.join(failed)}" if failed else ""
        sentence = f"{state.upper()}{parts}: the record is out of reach, see `logs {run.run_id}`."
    return {"run_id": run.run_id, "verdict": word, "exit_code": code, "sentence": sentence}


def _record(server: Server, argo: workflow.Workflow | None, uri: str) -> dict[str, Any] | None:
    address = urllib.parse.urlsplit(uri)
    query = {
        "source": {"gs": "gcs"}.get(address.scheme, address.scheme), "bucket": address.netloc,
        "key": address.path.lstrip("/"), "namespace": server.namespace or (argo.namespace if argo else ""),
        "providerInfo": argo.provider(address.scheme) if argo else "",
    }  # fmt: skip
    try:
        response = server.get("/artifacts/get", **query)
        row = json.loads(response.content) if response.status_code == 200 else None
    except (ProjectError, ValueError):  # no answer, as of a store that does not answer; a page
        return None
    if not isinstance(row, dict) or row.get("verdict") not in run_record.EXIT_CODES:
        return None
    sentence = row.get("sentence") or f"{row['verdict']}: {row.get('reason')}"
    return row | {"exit_code": run_record.EXIT_CODES[row["verdict"]], "sentence": sentence}
