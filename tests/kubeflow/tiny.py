# SPDX-License-Identifier: Apache-2.0
"""Two executors that are picky: each thing that the launcher gives and they do not expect makes one of them fail."""

from __future__ import annotations

import pathlib
import time

from tfx.dsl.components.base import base_executor
from tfx.dsl.io import fileio
from tfx.types import artifact_utils, standard_artifacts

from components import errors
from components.errors import GateStopped


class Produce(base_executor.BaseExecutor):
    def Do(self, input_dict, output_dict, exec_properties):
        artifact = artifact_utils.get_single_instance(output_dict["model"])
        with fileio.open(f"{artifact.uri}/weights", "w") as file:
            file.write("some")
        artifact.set_string_custom_property("source", f"trained in {artifact.uri}/weights")
        artifact.set_json_value_custom_property("layers", [3, 5])
        artifact.set_json_value_custom_property("shapes", {"image": [28, 28]})
        artifact.mlmd_artifact.custom_properties["nothing"].Clear()  # an entry without a value
        artifact.set_int_custom_property("version", 7)


class Consume(base_executor.BaseExecutor):
    def Do(self, input_dict, output_dict, exec_properties):
        artifact = artifact_utils.get_single_instance(input_dict["model"])
        assert isinstance(artifact, standard_artifacts.Model)
        with fileio.open(f"{artifact.uri}/weights") as file:
            assert file.read() == "some"
        assert artifact.get_json_value_custom_property("layers") == [3, 5]
        assert artifact.get_json_value_custom_property("shapes") == {"image": [28, 28]}
        assert artifact.get_int_custom_property("version") == 7
        assert artifact.get_string_custom_property("source").startswith("trained in minio://")
        assert not artifact.has_custom_property("nothing")
        assert not artifact.has_custom_property("display_name")
        assert not artifact.has_custom_property("store_session_info")
        assert exec_properties == {"steps": 3}


class Tell(base_executor.BaseExecutor):
    def Do(self, input_dict, output_dict, exec_properties):
        artifact = artifact_utils.get_single_instance(output_dict["model"])
        for name, value in exec_properties.items():
            artifact.set_json_value_custom_property(name, value)


class Stop(base_executor.BaseExecutor):
    def Do(self, input_dict, output_dict, exec_properties):
        raise GateStopped("The candidate must be good, it is not.\nTrain it longer.")


class Fail(base_executor.BaseExecutor):
    """Leaves half an output and raises what it is told, as often as it is told; then succeeds."""

    def Do(self, input_dict, output_dict, exec_properties):
        artifact = artifact_utils.get_single_instance(output_dict["model"])
        assert fileio.listdir(artifact.uri) == []
        with fileio.open(f"{artifact.uri}/half", "w") as file:
            file.write("half")
        attempts = pathlib.Path("attempts")
        attempts.write_text(attempts.read_text() + "." if attempts.exists() else ".")
        if len(attempts.read_text()) <= exec_properties["times"]:
            try:
                raise getattr(errors, exec_properties["error"])("the store is away")
            except errors.ProjectError as error:
                raise RuntimeError("in a library's words") from error


class Starve(base_executor.BaseExecutor):
    """A process of its container is killed for want of memory, which the kernel counts."""

    def Do(self, input_dict, output_dict, exec_properties):
        pathlib.Path("memory.events").write_text("low 0\noom 3\noom_kill 3\n")
        raise OSError("a process ended")


class Sleep(base_executor.BaseExecutor):
    def Do(self, input_dict, output_dict, exec_properties):
        pathlib.Path("asleep").write_text("")
        time.sleep(60)


class Break(base_executor.BaseExecutor):
    def Do(self, input_dict, output_dict, exec_properties):
        raise ZeroDivisionError("division by zero")
