#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Builds the image: `build_image.sh IMAGE [cpu|gpu]`, on the base that BASE in the environment names, else ARG BASE in the
# Dockerfile. Its digest is resolved once, where a registry can be reached, and recorded behind its name in
# deploy/base.image, so that the next build has the same; remove that file to take a newer one. A BASE with a digest is
# taken as it is.
set -eu
cd "$(dirname "$0")/.."

image=$1 target=${2:-cpu} recorded=deploy/base.image
base=${BASE:-$(sed -n 's/^ARG BASE=//p' deploy/Dockerfile)}
case $base in
*@sha256:*) digest=$base ;;
*) digest=$([ ! -f "$recorded" ] || awk -v base="$base" '$1 == base { print $2 }' "$recorded") ;;
esac
if [ -z "$digest" ]; then
    docker pull --quiet "$base" >/dev/null || {
        echo "error: $base cannot be pulled, and $recorded has no digest of it: build where a registry can be reached" >&2
        exit 2
    }
    digest=$(docker image inspect --format '{{index .RepoDigests 0}}' "$base")
    echo "$digest" | grep -Eq '@sha256:[0-9a-f]{64}$' || {
        echo "error: the registry gives no digest for $base" >&2
        exit 2
    }
    echo "$base $digest" >"$recorded"
fi
# The ignore file beside the Dockerfile is BuildKit's.
DOCKER_BUILDKIT=1 docker build --file deploy/Dockerfile --target "$target" --build-arg "BASE=$digest" \
    --tag "$image" .
