#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Builds the image: `build_image.sh IMAGE [cpu|gpu]`. The base's digest is resolved once, where a registry can be reached,
# and recorded in deploy/base.image, so that the next build has the same base; remove that file to take a newer one.
set -eu
cd "$(dirname "$0")/.."

image=$1 target=${2:-cpu} recorded=deploy/base.image
if [ ! -s "$recorded" ]; then
    base=$(sed -n 's/^ARG BASE=//p' deploy/Dockerfile)
    docker pull --quiet "$base" >/dev/null || {
        echo "error: $base cannot be pulled, and $recorded names no digest: build where a registry can be reached" >&2
        exit 2
    }
    docker image inspect --format '{{index .RepoDigests 0}}' "$base" >"$recorded.new"
    grep -Eq '@sha256:[0-9a-f]{64}$' "$recorded.new" || {
        echo "error: the registry gives no digest for $base" >&2
        exit 2
    }
    mv "$recorded.new" "$recorded"
fi
# The ignore file beside the Dockerfile is BuildKit's.
DOCKER_BUILDKIT=1 docker build --file deploy/Dockerfile --target "$target" --build-arg "BASE=$(cat "$recorded")" \
    --tag "$image" .
