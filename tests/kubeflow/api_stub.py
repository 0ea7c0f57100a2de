# SPDX-License-Identifier: Apache-2.0
"""A stand-in for the Kubeflow Pipelines API and the user interface before it, on loopback; refuses what they refuse.

The addresses, fields and refusals are those of kubeflow/pipelines 2.14 to 2.17: backend/src/apiserver (server/,
template/v2_template.go), frontend/server/app.ts, and what a server of 2.17 was recorded to answer (recorded/). Runs
make a step at each GET. Where it refuses, it repeats the token that it was sent, which must not be shown.
"""

from __future__ import annotations

import contextlib
import copy
import datetime
import email.parser
import email.policy
import http.server
import json
import re
import ssl
import threading
import urllib.parse
import uuid
from collections.abc import Iterator
from typing import Any

import yaml

from tests.kubeflow import workflows

API = "/apis/v2beta1"
ARGO_NAME = re.compile(r"[a-zA-Z][-a-zA-Z0-9]{0,120}")
PIPELINE_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
# What a schedule hands to its runs.
OF_A_RUN = ("experiment_id", "pipeline_version_reference", "runtime_config", "service_account")
NUMBER = (int, float)
KINDS: dict[str, type | tuple[type, ...]] = {
    "NUMBER_INTEGER": NUMBER, "NUMBER_DOUBLE": NUMBER, "STRING": str, "BOOLEAN": bool, "LIST": list,
}  # fmt: skip


class Refused(Exception):
    """An answer other than success."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


class Api:
    """The state of the server.

    Attributes:
        token: the one it wants, None for a server without users.
        namespaces: those that the account may use, None for a server without users.
        hang: seconds before each answer.
        hangs_at: the only address that it hangs at, "" for all.
        page: whether everything is answered with a page, as by a login server that does not redirect.
        redirect: whether everything is answered with the way to a login page.
        failing: how many of the next GETs of a run fail.
        failing_from: after how many GETs of a run all fail.
        script: fields of the run at each GET of it, the last ones from then on; "tasks" are those of `workflows.nodes`,
            "attempts" those of each task's command. Without "state", no controller has reported the run yet.
        scripts: those of single runs, by their ids.
        attempts: of each task's command, unless the script says otherwise.
        is_beyond_limit: whether Argo has compressed the workflow, so that the server's list ends with its first task.
        recorded: answers to GETs, by path, that go before all others.
        workflow_is_gone: whether the cluster has lost the workflows.
        orphans: runs that went on when their schedule was deleted, and its workflows with it.
        fires: whether schedules of every minute start a run, which they do when runs are listed.
        provider: what the user interface must be told of the store, unless it is Kubeflow's own.
        objects: what the storage holds, by URI.
        logs: by pod.
        has_user_interface: whether it is the user interface's address, or the API's.
        renames: whether uploaded pipelines get another name in their specification, as on some servers.
        requests: method and path of all that was asked; headers: the names of those that came with each.
        page_limit: rows on a page, whatever is asked for; 0 for what is asked for.
    """

    def __init__(self):
        self.token: str | None = None
        self.namespaces: set[str] | None = None
        self.hang = 0.0
        self.hangs_at = ""
        self._authorization: str | None = None
        self.page = self.redirect = False
        self.failing = self.failing_from = 0
        self.script: list[dict[str, Any]] = [{"state": "SUCCEEDED"}]
        self.scripts: dict[str, list[dict[str, Any]]] = {}
        self.attempts = 1
        self.is_beyond_limit = self.workflow_is_gone = False
        self.orphans: set[str] = set()
        self.fires = True
        self.recorded: dict[str, tuple[int, bytes]] = {}
        self.provider = ""
        self.objects: dict[str, bytes] = {}
        self.logs: dict[str, str] = {}
        self.has_user_interface = True
        self.renames = False
        self.requests: list[str] = []
        self.headers: list[set[str]] = []
        self.page_limit = 0
        self.pipelines: dict[str, dict[str, Any]] = {}
        self.versions: dict[str, dict[str, Any]] = {}
        self.experiments: dict[str, dict[str, Any]] = {}
        self.runs: dict[str, dict[str, Any]] = {}
        self.schedules: dict[str, dict[str, Any]] = {}
        self._now = datetime.datetime(2026, 11, 21, tzinfo=datetime.UTC)

    def now(self) -> str:
        self._now += datetime.timedelta(seconds=1)
        return self._now.isoformat().replace("+00:00", "Z")

    # What is asked, by method and address.
    def respond(self, method: str, path: str, query: dict[str, str], headers: Any, body: bytes) -> Any:
        self._authorization = headers.get("authorization")
        if self.token is not None and headers.get("authorization") != f"Bearer {self.token}":
            raise Refused(401, f"Request not authenticated: {self._authorization}")
        if method == "GET" and path in self.recorded:
            status, content = self.recorded[path]
            if status != 200:
                raise Refused(status, json.loads(content)["message"])
            return content
        route = (method, path.removeprefix(API))
        if path == "/artifacts/get":
            return self._artifact(query)
        if path == "/k8s/pod/logs":
            return self._log(query.get("podname", ""), self.has_user_interface)
        if match := re.fullmatch(r"/apis/v1alpha1/runs/([^/]+)/nodes/([^/]+)/log", path):
            return self._log(match[2], not self.has_user_interface)
        if match := re.fullmatch(r"/apis/v1beta1/runs/([^/]+)", path):
            return self._get_run_v1(match[1])
        if not path.startswith(API):
            raise Refused(404, "Not Found")
        if route == ("GET", "/healthz"):
            return {"commit_sha": "stub", "tag_name": "2.16.1", "multi_user": self.namespaces is not None}
        if route == ("POST", "/pipelines/upload"):
            return self._upload(query, headers, body)
        if route == ("POST", "/pipelines/upload_version"):
            return self._upload_version(query, headers, body)
        if route == ("GET", "/pipelines"):
            return {"pipelines": self._filtered(self.pipelines, query)}
        if match := re.fullmatch(r"/pipelines/([^/]+)/versions", route[1]):
            mine = {key: item for key, item in self.versions.items() if item["pipeline_id"] == match[1]}
            namespace = self._existing(self.pipelines, match[1], "Pipeline")["namespace"]
            rows = self._filtered(mine, query | {"namespace": namespace})
            return {"pipeline_versions": [{**row, "pipeline_spec": None} for row in rows]}
        if match := re.fullmatch(r"/pipelines/([^/]+)/versions/([^/]+)", route[1]):
            return self._existing(self.versions, match[2], "PipelineVersion")
        if route == ("GET", "/experiments"):
            return {"experiments": self._filtered(self.experiments, query)}
        if route == ("POST", "/experiments"):
            return self._experiment(json.loads(body))
        if match := re.fullmatch(r"/experiments/([^/]+)", route[1]):
            return self._existing(self.experiments, match[1], "Experiment")
        if route == ("POST", "/runs"):
            return self._run(json.loads(body))
        if route == ("GET", "/runs"):
            self._fire()
            return {"runs": self._filtered(self.runs, query)}
        if match := re.fullmatch(r"/runs/([^/:]+):terminate", route[1]):
            self._terminate(match[1])
            return {}
        if match := re.fullmatch(r"/runs/([^/]+)", route[1]):
            if method == "DELETE":
                return self.runs.pop(match[1]) and {}
            return self._get_run(match[1])
        if route == ("POST", "/recurringruns"):
            return self._schedule(json.loads(body))
        if route == ("GET", "/recurringruns"):
            return {"recurringRuns": self._filtered(self.schedules, query)}
        if match := re.fullmatch(r"/recurringruns/([^/:]+)(:disable)?", route[1]):
            schedule = self._existing(self.schedules, match[1], "RecurringRun")
            if route[0] == "DELETE":
                self._delete_schedule(match[1])
                return {}
            if match[2]:
                schedule["status"] = "DISABLED"
                return {}
            return schedule
        raise Refused(404, "Not Found")

    def _existing(self, table: dict[str, dict[str, Any]], key: str, kind: str) -> dict[str, Any]:
        if key not in table:
            raise Refused(404, f"ResourceNotFoundError: {kind} {key} not found.")
        return table[key]

    def _filtered(self, table: dict[str, dict[str, Any]], query: dict[str, str]) -> list[dict[str, Any]]:
        self._allow(query.get("namespace", ""))
        rows = sorted(table.values(), key=lambda row: row["created_at"], reverse="desc" in query.get("sort_by", ""))
        for predicate in json.loads(query.get("filter") or "{}").get("predicates", []):
            assert predicate["operation"] == 1
            rows = [row for row in rows if row[predicate["key"]] == predicate["stringValue"]]
        if self.namespaces is not None:
            rows = [row for row in rows if row.get("namespace", query.get("namespace")) == query.get("namespace")]
        return rows[: self.page_limit or int(query.get("page_size", 10))]

    def _allow(self, namespace: str) -> None:
        if self.namespaces is not None and namespace not in self.namespaces:
            raise Refused(403, f"User 'ann' ({self._authorization}) is not authorized in namespace '{namespace}'")

    def _package(self, headers: Any, body: bytes) -> dict[str, Any]:
        message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(
            b"Content-Type: " + headers["content-type"].encode() + b"\r\n\r\n" + body
        )
        parts = {part.get_param("name", header="content-disposition"): part for part in message.iter_parts()}
        if "uploadfile" not in parts:
            raise Refused(400, "Failed to read pipeline from file")
        documents = list(yaml.safe_load_all(parts["uploadfile"].get_payload(decode=True)))
        specs = [document for document in documents if document and "pipelineInfo" in document]
        platforms = [document for document in documents if document and "platforms" in document]
        if len(specs) != 1 or len(specs) + len(platforms) != len(documents) or len(platforms) > 1:
            raise Refused(400, "Invalid input error: no pipeline spec is provided")
        spec = specs[0]
        if spec.get("schemaVersion") != "2.1.0":
            version = spec.get("schemaVersion", "")
            raise Refused(400, f"KFP only supports schema version 2.1.0, but the pipeline spec has version {version}")
        if not PIPELINE_NAME.fullmatch(spec["pipelineInfo"].get("name", "")):
            raise Refused(400, "invalid v2 pipeline spec: name should consist of lower case alphanumeric characters")
        if not spec.get("root"):
            raise Refused(400, "invalid v2 pipeline spec: root component is empty")
        return {"pipeline_spec": spec, "platform_spec": platforms[0]} if platforms else spec

    def _upload(self, query: dict[str, str], headers: Any, body: bytes) -> dict[str, Any]:
        package, namespace = self._package(headers, body), query.get("namespace", "")
        self._allow(namespace)
        name = query.get("name", "")
        if not 0 < len(name) <= 128:
            raise Refused(400, "Pipeline's name must be 1 to 128 long")
        if any(row["display_name"] == name for row in self.pipelines.values()):
            raise Refused(409, "Failed to create a pipeline and a pipeline version")
        key = str(uuid.uuid4())
        row = {"pipeline_id": key, "display_name": name, "created_at": self.now(), "namespace": namespace}
        row["description"] = query.get("description", "")
        self.pipelines[key] = row
        self._add_version(key, name, package)
        return row

    def _upload_version(self, query: dict[str, str], headers: Any, body: bytes) -> dict[str, Any]:
        package = self._package(headers, body)
        if query.get("pipelineid") not in self.pipelines:
            raise Refused(400, "Failed to create a pipeline version")
        return self._add_version(query["pipelineid"], query["name"], package)

    def _add_version(self, pipeline: str, name: str, package: dict[str, Any]) -> dict[str, Any]:
        rows = [row for row in self.versions.values() if row["pipeline_id"] == pipeline]
        if any(row["display_name"] == name for row in rows):
            raise Refused(409, "Failed to create a pipeline version")
        package = copy.deepcopy(package)
        if self.renames:
            info = package.get("pipeline_spec", package)["pipelineInfo"]
            info["name"] = f"pipeline/{info['name']}"
        key = str(uuid.uuid4())
        self.versions[key] = {
            "pipeline_id": pipeline, "pipeline_version_id": key, "display_name": name, "created_at": self.now(),
            "pipeline_spec": package,
        }  # fmt: skip
        return self.versions[key]

    def _experiment(self, body: dict[str, Any]) -> dict[str, Any]:
        self._allow(body.get("namespace", ""))
        if not body.get("display_name"):
            raise Refused(400, "Experiment name is empty")
        key = str(uuid.uuid4())
        row = {"experiment_id": key, "created_at": self.now(), "namespace": body.get("namespace", "")}
        self.experiments[key] = row | {"display_name": body["display_name"]}
        return self.experiments[key]

    def _check_job(self, body: dict[str, Any]) -> None:
        self._existing(self.experiments, body.get("experiment_id", ""), "Experiment")
        if not body.get("display_name"):
            raise Refused(400, "The run name is empty")
        if ("pipeline_spec" in body) == ("pipeline_version_reference" in body):
            raise Refused(400, "Either a pipeline spec or a pipeline version reference is needed")
        package = body.get("pipeline_spec")
        if package is None:
            key = body["pipeline_version_reference"]["pipeline_version_id"]
            package = self._existing(self.versions, key, "PipelineVersion")["pipeline_spec"]
        spec = package.get("pipeline_spec", package)
        for component in [spec["root"], *spec.get("components", {}).values()]:
            for name in component.get("dag", {}).get("tasks", {}):
                if not ARGO_NAME.fullmatch(name):
                    raise Refused(400, f"Failed to create a run: templates.tasks.name: Invalid value: {name!r}")
        values = body.get("runtime_config", {}).get("parameters", {})
        declared = spec["root"].get("inputDefinitions", {}).get("parameters", {})
        for name in values:
            if name not in declared:
                raise Refused(400, f"parameter {name} provided is not required by pipeline")
        for name, parameter in declared.items():
            kind = parameter["parameterType"]
            if name in values:
                is_bool = isinstance(values[name], bool)
                if not isinstance(values[name], KINDS[kind]) or is_bool != (kind == "BOOLEAN"):
                    raise Refused(400, f"input parameter {name} requires type {kind}")
            elif "defaultValue" not in parameter and not parameter.get("isOptional"):
                raise Refused(400, f"parameter {name} is not optional, yet has neither default value nor user value")
        root = body.get("runtime_config", {}).get("pipeline_root", "")
        if root and not re.match(r"(gs|s3|minio)://[^/]+", root):
            raise Refused(400, f"unrecognized pipeline root format: {root!r}")

    def _run(self, body: dict[str, Any]) -> dict[str, Any]:
        self._check_job(body)
        key = str(uuid.uuid4())
        row = body | {"run_id": key, "created_at": self.now(), "finished_at": workflows.NOT_FINISHED}
        self.runs[key] = row | {"gets": 0}
        return row | {"state": "PENDING"}

    def _step(self, row: dict[str, Any], number: int) -> dict[str, Any]:
        script = self.scripts.get(row["run_id"], self.script)
        return script[min(number, len(script) - 1)]

    def _get_run(self, key: str) -> dict[str, Any]:
        row = self._existing(self.runs, key, "Run")
        if self.failing or (self.failing_from and row["gets"] >= self.failing_from):
            self.failing = max(self.failing - 1, 0)
            raise Refused(503, "upstream connect error")
        step = self._step(row, row["gets"])
        row["gets"] += 1
        listed = workflows.details(self._nodes(step))
        if self.is_beyond_limit:
            first = next(iter(step["tasks"]))
            listed = [item for item in listed if item.get("display_name", "").startswith(first)]
            listed.append(listed[0] | {"display_name": "root", "state": "RUNNING", "end_time": workflows.NOT_ENDED})
        response = {name: value for name, value in (row | step).items() if name not in ("gets", "tasks", "attempts")}
        return response | {"run_details": {"task_details": listed}}

    def _nodes(self, step: dict[str, Any]) -> dict[str, Any]:
        return workflows.nodes(step.get("tasks", {}), step.get("attempts", self.attempts), self.provider)

    def _get_run_v1(self, key: str) -> dict[str, Any]:
        row = self._existing(self.runs, key, "Run")
        step = self._step(row, max(row["gets"] - 1, 0))
        text = workflows.manifest(self._nodes(step), self.is_beyond_limit)
        return {"run": {"id": key}, "pipeline_runtime": {"workflow_manifest": text}}

    def _terminate(self, key: str) -> None:
        row = self._existing(self.runs, key, "Run")
        if self.workflow_is_gone or key in self.orphans:
            raise Refused(500, f"Failed to terminate run {key} due to error terminating its workflow: not found")
        time = {"update_time": workflows.START.format(0)}
        history = [time, {"state": "CANCELING"} | time]  # the first was no controller's
        self.scripts[key] = [{"state": "FAILED", "state_history": history}]
        row["gets"] = 0

    def _schedule(self, body: dict[str, Any]) -> dict[str, Any]:
        self._check_job(body)
        cron = body.get("trigger", {}).get("cron_schedule", {}).get("cron", "")
        field = r"(\?|\*|[\dA-Z]+(-[\dA-Z]+)?)(/\d+)?(,(\*|[\dA-Z]+(-[\dA-Z]+)?)(/\d+)?)*"
        if len(cron.split()) != 6 or not all(re.fullmatch(field, part) for part in cron.split()):
            raise Refused(400, f"Schedule cron is not supported({cron}). Please use a valid cron expression.")
        if not 1 <= int(body.get("max_concurrency", 0)) <= 10:
            raise Refused(400, "Max concurrency of the recurring run is out of range. Support 1-10")
        key = str(uuid.uuid4())
        self.schedules[key] = body | {"recurring_run_id": key, "created_at": self.now(), "status": "ENABLED"}
        return self.schedules[key]

    def _fire(self) -> None:
        fired = {row.get("recurring_run_id") for row in self.runs.values()}
        for key, row in self.schedules.items():
            is_due = row["trigger"]["cron_schedule"]["cron"] == "0 * * * * *" and row["status"] == "ENABLED"
            if self.fires and is_due and key not in fired:
                name = f"{row['display_name']}rftkm-1-1695245639"
                self._run({field: row[field] for field in OF_A_RUN if field in row} | {"display_name": name})
                list(self.runs.values())[-1]["recurring_run_id"] = key

    def _delete_schedule(self, key: str) -> None:
        del self.schedules[key]
        for run, row in self.runs.items():
            step = self._step(row, max(row["gets"] - 1, 0))
            if row.get("recurring_run_id") == key and step.get("state") not in ("SUCCEEDED", "FAILED"):
                self.orphans.add(run)

    def _artifact(self, query: dict[str, str]) -> bytes:
        if not self.has_user_interface:
            raise Refused(404, "Not Found")
        if self.namespaces is not None:
            self._allow(query.get("namespace", ""))
        uri = f"{query['source'].replace('gcs', 'gs')}://{query['bucket']}/{query['key']}"
        if self.provider and query.get("providerInfo") != self.provider:
            raise Refused(500, "Failed to initialize Minio Client for S3 Provider")
        if uri not in self.objects:
            raise Refused(404, "The specified key does not exist.")
        return self.objects[uri]

    def _log(self, pod: str, exists: bool) -> bytes:
        if not exists or pod not in self.logs:
            raise Refused(404, "pod not found")
        return self.logs[pod].encode()


@contextlib.contextmanager
def serving(api: Api, context: ssl.SSLContext | None = None) -> Iterator[str]:
    """Serves on loopback, with a context by https; yields the address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def handle_one(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            url = urllib.parse.urlsplit(self.path)
            api.requests.append(f"{self.command} {url.path}")
            api.headers.append({name.lower() for name in self.headers})
            stopped.wait(api.hang if api.hangs_at in ("", url.path) else 0)
            if api.redirect:
                self.reply(302, b"", {"Location": "/dex/auth"})
            elif api.page:
                self.reply(200, b"<!doctype html><title>Log in</title>", {"Content-Type": "text/html"})
            else:
                try:
                    query = dict(urllib.parse.parse_qsl(url.query))
                    response = api.respond(self.command, url.path, query, self.headers, body)
                    self.reply(200, response if isinstance(response, bytes) else json.dumps(response).encode(), {})
                except Refused as refused:
                    message = {"error": str(refused), "code": 3, "message": str(refused), "details": []}
                    self.reply(refused.status, json.dumps(message).encode(), {})

        do_GET = do_POST = do_DELETE = handle_one  # noqa: N815

        def reply(self, status: int, content: bytes, headers: dict[str, str]) -> None:
            with contextlib.suppress(ConnectionError):
                self.send_response(status)
                for name, value in ({"Content-Type": "application/json"} | headers).items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    stopped = threading.Event()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http{'s' if context else ''}://127.0.0.1:{server.server_port}"
    finally:
        stopped.set()
        server.shutdown()
        server.server_close()
        thread.join()
