# SPDX-License-Identifier: Apache-2.0
"""The size of a run of a package on the server.

Argo stores a workflow, its specification and the state of all its nodes, in one object of Kubernetes of at most 1 MiB.
Beyond that it compresses the nodes, and the server's agent, which reads them, misses the last tasks. The formula
follows kubeflow/pipelines 2.17 (backend/src/v2: `compiler/argocompiler`, `driver/driver.go`). A task has six nodes
there, because its driver and its executor have retry wrappers. Each node has the patch of the pod: executor input,
component and arguments, as JSON within JSON. The two nodes of the driver also have the task's specification. Older
servers have fewer wrappers, and so smaller runs.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

LIMIT = 1024 * 1024
# Key of the bytes that belong to no task.
WORKFLOW = "workflow"

Json = dict[str, Any]

# Bytes in recorded workflows: one without tasks, the fixed parts of a task's nodes and templates, and a retry policy.
_WORKFLOW, _NODES, _TEMPLATES, _RETRIES = 22_000, 6_200, 1_250, 1_050
# Nodes with a task's patch, and nodes with its specification.
_PATCHES, _DRIVERS = 6, 2
_UUID = "00000000-0000-0000-0000-000000000000"
_RUN = f"minio://mlpipeline/v2/artifacts/mnist-tfx/{_UUID}"
_DIGEST = "0" * 64
SESSION = json.dumps(
    {
        "Provider": "minio",
        "Params": {
            "accessKeyKey": "accesskey", "disableSSL": "true", "endpoint": "seaweedfs.kubeflow:9000",
            "fromEnv": "false", "maxRetries": "5", "region": "minio", "secretKeyKey": "secretkey",
            "secretName": "mlpipeline-minio-artifact",
        },
    },
    separators=(",", ":"),
)  # fmt: skip
# Large properties of artifacts, by type.
_PROPERTIES: Mapping[str, Json] = {
    "tfx.Examples": {
        "dataset": "mnist",
        "dataset_sha256": _DIGEST,
        "images": 70000,
        "payload_format": "FORMAT_TF_EXAMPLE",
        "span": 0,
        "split_names": json.dumps(["train", "val", "test"]),
    },
    "tfx.ExampleStatistics": {"span": 0, "split_names": json.dumps(["train", "val", "test"])},
}  # fmt: skip
_LAUNCHER = (
    "/kfp-launcher/launch", "--executor_type", "container", "--pipeline_name", "mnist-tfx", "--run_id", _UUID,
    "--execution_id", "31", "--pod_name", "$(KFP_POD_NAME)", "--pod_uid", "$(KFP_POD_UID)",
    "--ml_pipeline_server_address", "ml-pipeline.kubeflow.svc.cluster.local", "--ml_pipeline_server_port", "8887",
    "--mlmd_server_address", "metadata-grpc-service.kubeflow.svc.cluster.local", "--mlmd_server_port", "8080",
    "--publish_logs", "true", "--ml_pipeline_tls_enabled=false", "--metadata_tls_enabled=false", "--ca_cert_path", "",
    "--cache_disabled=false", "--log_level", "1", "--",
)  # fmt: skip


def estimate(documents: Sequence[Json], tasks: Collection[str] | None = None, session: str = "") -> dict[str, int]:
    """Estimates the bytes of the workflow after a run, without results from the cache.

    Args:
        documents: the package: PipelineSpec and, where it has one, the Kubernetes document.
        tasks: tasks that ran; default: all.
        session: the server's JSON of the store, which it adds to each artifact, see `launcher_adapter.blank_session`.

    Returns:
        Task -> bytes, and `WORKFLOW` -> bytes of no task; within a tenth of recorded workflows.
    """
    spec = documents[0]
    components, executors = spec.get("components", {}), spec["deploymentSpec"].get("executors", {})
    platforms = documents[1].get("platforms", {}) if len(documents) > 1 else {}
    pods = platforms.get("kubernetes", {}).get("deploymentSpec", {}).get("executors", {})
    sizes = {WORKFLOW: _WORKFLOW}
    parameters = spec["root"].get("inputDefinitions", {}).get("parameters", {})
    defaults = {name: parameter.get("defaultValue") for name, parameter in parameters.items()}
    dags = [component for component in (spec["root"], *components.values()) if "dag" in component]
    for dag in dags:
        # An argument of the workflow, and an input of both nodes of the graph's driver.
        sizes[WORKFLOW] += (1 + _DRIVERS) * _escaped(dag)
    for dag in dags:
        for name, task in dag["dag"].get("tasks", {}).items():
            component = components[task["componentRef"]["name"]]
            if "executorLabel" not in component:
                sizes[WORKFLOW] += (1 + _DRIVERS) * _escaped(task)
                continue
            label = component["executorLabel"]
            container, pod = executors[label].get("container", {}), pods.get(label, {})
            once = sum(map(_escaped, (component, container, task, pod)))
            sizes[name] = _TEMPLATES + once
            if tasks is None or name in tasks:
                executor_input = _executor_input(name, task, component, defaults, session)
                patch = _escaped(_patch(component, container, pod, executor_input))
                sizes[name] += _NODES + _DRIVERS * once + _PATCHES * patch + (_RETRIES if "retryPolicy" in task else 0)
    return sizes


def _patch(component: Json, container: Json, pod: Json, executor_input: Json) -> Json:
    """Returns the pod's patch as the driver writes it."""
    resources = container.get("resources", {})
    env = [
        *container.get("env", ()),
        *(
            {
                "name": key["envVar"],
                "valueFrom": {
                    "secretKeyRef": {"name": secret["secretName"], "key": key["secretKey"], "optional": False}
                },
            }
            for secret in pod.get("secretAsEnv", ())
            for key in secret["keyToEnv"]
        ),
    ]
    return {
        "containers": [
            {
                "name": "main",
                "image": container.get("image", ""),
                "command": [
                    *_LAUNCHER,
                    "--executor_input",
                    _text(executor_input),
                    "--component_spec",
                    _text(component),
                ],
                "args": [*container.get("command", ()), *container.get("args", ())],
                "env": env,
                "resources": {
                    "limits": {
                        "cpu": resources.get("resourceCpuLimit"),
                        "memory": resources.get("resourceMemoryLimit"),
                    },
                    "requests": {"cpu": "1", "memory": "1Gi"},
                },
            }
        ],
        **{kind: value for kind, value in pod.items() if kind != "secretAsEnv"},
    }


def _executor_input(name: str, task: Json, component: Json, defaults: Json, session: str) -> Json:
    inputs = task.get("inputs", {})
    artifacts = {}
    declared = component.get("inputDefinitions", {}).get("artifacts", {})
    for key, artifact in inputs.get("artifacts", {}).items():
        source = artifact.get("taskOutputArtifact") or {"producerTask": name, "outputArtifactKey": key}
        kind = declared.get(key, {}).get("artifactType", {})
        title = kind.get("schemaTitle") or kind.get("instanceSchema", "").partition("title: ")[2].partition("\n")[0]
        artifacts[key] = {
            "artifacts": [
                {
                    "name": "10",
                    "type": {"instanceSchema": ""},
                    "uri": f"{_RUN}/{source['producerTask']}/{_UUID}/{source['outputArtifactKey']}",
                    "metadata": {
                        "display_name": source["outputArtifactKey"], "store_session_info": session,
                        "tfx_version": "1.21.0", **_PROPERTIES.get(title, {}),
                    },
                }
            ]
        }  # fmt: skip
    values = {
        key: parameter["runtimeValue"].get("constant")
        if "runtimeValue" in parameter
        else defaults.get(parameter.get("componentInputParameter"))
        for key, parameter in inputs.get("parameters", {}).items()
    }
    produced = component.get("outputDefinitions", {}).get("artifacts", {})
    kinds = {key: artifact.get("artifactType", {}) for key, artifact in produced.items()}
    kinds["executor-logs"] = {"schemaTitle": "system.Artifact"}
    outputs = {
        key: {"artifacts": [{"name": key, "type": kind, "uri": f"{_RUN}/{name}/{_UUID}/{key}"}]}
        for key, kind in kinds.items()
    }
    return {
        "inputs": {"artifacts": artifacts, "parameterValues": values},
        "outputs": {"artifacts": outputs, "outputFile": f"{_RUN}/{name}/{_UUID}/output_metadata.json"},
    }


def _text(value: Any) -> str:
    """Returns JSON as the server writes it."""
    return json.dumps(value, ensure_ascii=False, separators=(", ", ":"))


def _escaped(value: Any) -> int:
    """Returns the bytes of a value as JSON in a string of JSON."""
    return len(json.dumps(json.dumps(value, ensure_ascii=False, separators=(",", ":")), ensure_ascii=False).encode())
