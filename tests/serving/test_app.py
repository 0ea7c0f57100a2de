# SPDX-License-Identifier: Apache-2.0
"""Health, metrics, pages and the API documentation."""

from __future__ import annotations

PREDICT = "/v1/models/mnist:predict"


def test_health(server):
    assert server.call("/healthz").json == {"status": "ok"}
    assert server.call("/readyz").json == {"ready": True, "versions": [1], "labels": {"stable": 1}}


def test_about(server):
    about = server.call("/about").json
    assert (about["model"], about["version"], about["image_shape"]) == ("mnist", 1, [28, 28])
    assert (about["dataset"], about["metrics"]) == ({"name": "digits"}, {"accuracy": 0.9})


def test_metrics_count_requests_and_predictions(server, digits):
    def figures() -> dict[str, float]:
        lines = server.call("/metrics").body.decode().splitlines()
        return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if not line.startswith("#")}

    before = figures()
    body = {"signature_name": "serving_pixels", "instances": digits[0][:1].tolist()}
    label = server.call(PREDICT, body).json["predictions"][0]["classes"]
    server.call(PREDICT, b"{")
    after = figures()

    def increase(name: str) -> float:
        return after[name] - before.get(name, 0)

    assert increase('serving_requests_total{method="predict",protocol="v1",status="200"}') == 1
    assert increase('serving_requests_total{method="predict",protocol="v1",status="400"}') == 1
    assert increase('serving_request_seconds_count{method="predict",protocol="v1"}') == 2
    assert increase("serving_batch_images_sum") == 1
    assert increase(f'serving_predicted_class_total{{class="{label}",version="1"}}') == 1
    assert increase('serving_confidence_count{version="1"}') == 1
    assert 0.1 <= after['serving_mean_confidence{version="1"}'] <= 1
    assert after['serving_version{label="stable"}'] == 1
    assert after["serving_waiting_images"] == 0


def test_pages_load_nothing_from_other_hosts(server):
    for path in ("/", "/docs"):
        page = server.call(path)
        assert page.status == 200
        assert b"http://" not in page.body
        assert b"https://" not in page.body
        assert "default-src 'self'" in page.headers["content-security-policy"]
    paths = server.call("/openapi.json").json["paths"]
    assert "/v1/models/{name}:predict" in paths
    assert "/v2/models/{name}/infer" in paths
