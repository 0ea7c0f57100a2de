#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Installs a lock into /opt/venv, which it makes where it is missing: `install.sh LOCK`, with build.lock
# beside it. The Dockerfile and try_image.sh share it, so that what was tried is what is built.
set -eu

export UV_NO_CACHE="${UV_NO_CACHE-1}" UV_SYSTEM_CERTS=1 UV_LINK_MODE=copy
# Each task starts a Python that may not write beside its modules: compiled once, it starts in half the time.
export UV_COMPILE_BYTECODE=1

if [ ! -d /opt/uv ]; then
    python3 -m venv /opt/uv
    /opt/uv/bin/pip install --quiet --no-cache-dir --disable-pip-version-check --require-hashes -r build.lock
    /opt/uv/bin/uv venv --quiet --no-python-downloads --python python3 /opt/venv
fi
/opt/uv/bin/uv pip install --quiet --python /opt/venv/bin/python --no-deps --require-hashes \
    --build-constraints build.lock --require-build-hashes --preview-features build-dependency-hashes -r "$1"

# A third of the size that nothing opens at run time: headers to compile against, tests, clients of Vertex AI, models of
# Amazon's other services, libclang, stubs for completion in notebooks, and
# symbols for a debugger.
cd "$(/opt/venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
rm -rf tensorflow/include nvidia/*/include pyarrow/include clang jedi/third_party
rm -rf vertexai agentplatform google/genai google/cloud/aiplatform google/cloud/aiplatform_*
find botocore/data -mindepth 1 -maxdepth 1 -type d ! -name s3 ! -name sts ! -name 'sso*' ! -name signin \
    -exec rm -rf {} +
find numpy pandas pyarrow scipy sklearn -name tests -type d -prune -exec rm -rf {} +
# Not what auditwheel has patched, which strip may break, and not CUDA's.
find . -type f -name '*.so*' ! -path '*.libs/*' ! -path './nvidia/*' -exec strip --strip-unneeded {} \;
