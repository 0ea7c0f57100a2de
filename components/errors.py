# SPDX-License-Identifier: Apache-2.0
"""The errors that a person is meant to read. Each carries the exit code of the process that it ends.

- `ProjectError`, 1
  - `BadInput`, 2: wrong usage, or input that is refused
  - `GateStopped`, 3: a gate closed; what it found was published by the stage before it

The message is one line: the rule, what was received, and the way out.
"""


class ProjectError(Exception):
    exit_code = 1


class BadInput(ProjectError):
    exit_code = 2


class GateStopped(ProjectError):
    exit_code = 3
