# SPDX-License-Identifier: Apache-2.0
"""Imports of a server, for the process that all servers of the tests are forked from."""

from __future__ import annotations

import os

os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow  # noqa: F401

from serving import app, sampling, savedmodel, server  # noqa: F401
