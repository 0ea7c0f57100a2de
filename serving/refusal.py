# SPDX-License-Identifier: Apache-2.0
"""What a request is answered when it is not served: an HTTP status and one sentence."""

from __future__ import annotations


class Refusal(Exception):
    """A request that is refused.

    Attributes:
        status: HTTP status, 400 to 599.
        message: what the client reads under `error`.
    """

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status
        self.message = message
