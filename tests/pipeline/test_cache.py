# SPDX-License-Identifier: Apache-2.0
"""Clean-up of artifacts before a run; tests of whole runs cover their reuse."""

import pathlib

from ml_metadata.metadata_store import metadata_store
from ml_metadata.proto import metadata_store_pb2
from tfx.orchestration import metadata

from pipeline.local import cache


def test_what_no_finished_stage_has_published_goes_also_where_the_output_folder_was_moved(
    tmp_path: pathlib.Path,
) -> None:
    connection = metadata.sqlite_metadata_connection_config(str(tmp_path / "metadata.db"))
    store = metadata_store.MetadataStore(connection)
    kind = store.put_artifact_type(metadata_store_pb2.ArtifactType(name="Model"))
    root = tmp_path / "pipeline_root"
    for folder, at in (("train/model/3", root), ("train/model/4", pathlib.Path("/elsewhere/pipeline_root"))):
        store.put_artifacts([metadata_store_pb2.Artifact(type_id=kind, uri=str(at / folder))])
    runs = store.put_execution_type(metadata_store_pb2.ExecutionType(name="train"))
    running = metadata_store_pb2.Execution(type_id=runs, last_known_state=metadata_store_pb2.Execution.RUNNING)
    store.put_executions([running])
    for folder in ("train/model/3", "train/model/4", "train/model/5", "train/.system/executor_execution/5"):
        (root / folder).mkdir(parents=True)

    cache.remove_leftovers(metadata.Metadata(connection), tmp_path)
    assert {path.name for path in root.glob("train/model/*")} == {"3", "4"}
    assert not (root / "train" / ".system" / "executor_execution" / "5").exists()
    assert [artifact.uri for artifact in store.get_artifacts()] == [str(root / "train/model" / name) for name in "34"]
    [execution] = store.get_executions()
    assert execution.last_known_state == metadata_store_pb2.Execution.CANCELED
