# SPDX-License-Identifier: Apache-2.0
"""`make sbom` and `make audit`, as they are typed; the service that knows vulnerabilities is one of this machine."""

from __future__ import annotations

import http.server
import json
import os
import pathlib
import re
import subprocess
import threading
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).parents[1]
VULNERABLE = "jinja2"


def make(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs make, which takes the environment as it is."""
    return subprocess.run(
        ["make", "--no-print-directory", "-o", ".venv/dev.stamp", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_sbom_holds_all_that_is_locked_and_is_the_same_each_time(tmp_path: pathlib.Path) -> None:
    files = [tmp_path / "one.cdx.json", tmp_path / "two.cdx.json"]
    for file in files:
        process = make("sbom", f"SBOM={file}", PIP_INDEX_URL="https://mirror.example/simple")
        assert (process.returncode, process.stderr) == (0, "")
    text = files[0].read_text()
    assert files[1].read_text() == text
    bill = json.loads(text)
    locked = re.findall(r"^([a-z0-9._-]+)==(\S+)", (ROOT / "requirements/run.lock").read_text(), re.MULTILINE)
    assert len(locked) > 200
    assert sorted((row["name"], row["version"]) for row in bill["components"]) == sorted(locked)
    assert bill["metadata"]["component"]["name"] == "mnist-tfx"
    assert f"{len(locked)} packages" in process.stdout
    hosts = set(re.findall(r"https?://([^/\"]+)", text))
    assert hosts <= {"pypi.org", "cyclonedx.org", "github.com"} | {
        host for host in hosts if host.endswith("readthedocs.io")
    }


@pytest.fixture
def service() -> Iterator[tuple[str, list[str]]]:
    """An OSV service: its URL, and the names of the packages in which it knows a vulnerability."""
    vulnerable: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            name = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["package"]["name"]
            affected = {
                "package": {"name": name, "ecosystem": "PyPI"},
                "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}]}],
            }
            vulnerability = {"id": "TEST-2026-1", "summary": "a test", "affected": [affected]}
            body = json.dumps({"vulns": [vulnerability]} if name in vulnerable else {}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1/query", vulnerable
        server.shutdown()
        thread.join()


def audit(url: str) -> subprocess.CompletedProcess[str]:
    return make("audit", PIP_AUDIT_VULNERABILITY_SERVICE="osv", PIP_AUDIT_OSV_URL=url)


def test_an_audit_that_could_look_everything_up_finds_nothing(service: tuple[str, list[str]]) -> None:
    process = audit(service[0])
    assert process.returncode == 0, process.stderr
    assert "No known vulnerabilities found" in process.stderr
    assert "NOT AUDITED" not in process.stderr


def test_an_audit_names_what_it_finds_and_fails(service: tuple[str, list[str]]) -> None:
    service[1].append(VULNERABLE)
    process = audit(service[0])
    assert process.returncode != 0
    assert VULNERABLE in process.stdout
    assert "TEST-2026-1" in process.stdout
    assert "NOT AUDITED" not in process.stderr


def test_an_audit_that_could_not_look_anything_up_says_so_plainly() -> None:
    process = audit("http://127.0.0.1:9/v1/query")
    assert process.returncode != 0
    assert "NOT AUDITED: not every package could be looked up" in process.stderr
    assert "No known vulnerabilities" not in process.stdout + process.stderr


def test_an_audit_by_a_service_that_knows_no_package_is_none(tmp_path: pathlib.Path) -> None:
    # PyPI is not reachable from the tests, so its responses are simulated: each package is "not found".
    (tmp_path / "sitecustomize.py").write_text(
        "import requests\n"
        "def request(self, method, url, **more):\n"
        "    response = requests.Response()\n"
        "    response.status_code, response.url = 404, url\n"
        "    return response\n"
        "requests.Session.request = request\n"
    )
    process = make("audit", PYTHONPATH=str(tmp_path))
    assert process.returncode != 0
    assert "could not be audited" in process.stderr
    assert "NOT AUDITED: not every package could be looked up" in process.stderr
