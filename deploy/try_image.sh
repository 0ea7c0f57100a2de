#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Tries, without Docker, what the Dockerfile's target cpu holds: `sudo deploy/try_image.sh DIR`. Two Debian roots are made
# in DIR, one to install in and one that gets the result, by the same install.sh and the Dockerfile's own list of files;
# Debian's Python 3.13 stands in for the base image's. Then, as the image's user: the code is the one of this checkout, the
# entrypoint refuses other code and runs a task, and a whole pipeline runs on the digits. It takes 8 GB, a quarter of an
# hour, and the package mirror that apt is set up for.
set -eu
cd "$(dirname "$0")/.."

[ "$(id -u)" = 0 ] && command -v debootstrap >/dev/null || {
    echo "error: this needs root and debootstrap (apt-get install debootstrap)" >&2
    exit 2
}
mkdir -p "$1"
dir=$(cd "$1" && pwd) mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | head -n 1)
root=$dir/image build=$dir/build
packages=$(sed -n '/AS project/,$s/.*--no-install-recommends \([a-z0-9 -]*\) \\$/\1/p' deploy/Dockerfile | tr ' ' ,)
mounted=

unmount() {
    for place in $mounted; do umount --recursive --lazy "$place"; done
    mounted=
}
trap unmount EXIT

bare() { # a Debian with Python, as the base image is, that reaches what this machine reaches
    [ -e "$1/opt/made" ] && return
    rm -rf "$1"
    debootstrap --variant=minbase --include="python3,ca-certificates,$2" trixie "$1" "$mirror" >"$dir/debootstrap.log"
    install -m 644 /etc/resolv.conf "$1/etc/resolv.conf"
    install -m 644 /etc/ssl/certs/ca-certificates.crt "$1/etc/ssl/certs/ca-certificates.crt"
    touch "$1/opt/made"
}

within() { # ROOT USER COMMAND…: with the Dockerfile's environment and nothing of this one but where packages are
    place=$1 user=$2
    shift 2
    for kernel in proc dev; do
        mountpoint -q "$place/$kernel" || {
            mount --rbind "/$kernel" "$place/$kernel" # with /dev/shm, which a container has too
            mount --make-rslave "$place/$kernel"
            mounted="$place/$kernel $mounted"
        }
    done
    chroot --userspec="$user" "$place" env -i ${PIP_INDEX_URL+PIP_INDEX_URL="$PIP_INDEX_URL"} \
        ${UV_DEFAULT_INDEX+UV_DEFAULT_INDEX="$UV_DEFAULT_INDEX"} PATH=/opt/venv/bin:/usr/bin:/bin:/usr/sbin:/sbin \
        PYTHONPATH=/opt/project PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/home/mnist \
        sh -c 'cd /opt/project 2>/dev/null || cd /; exec "$@"' sh "$@"
}

say() { printf '%s  %s\n' "$(date +%T)" "$*"; }

say "making the root to install in"
bare "$build" g++,python3-dev,python3-venv
if [ ! -e "$build/opt/installed" ]; then
    say "installing requirements/run.lock"
    mkdir -p "$build/locks" && cp requirements/build.lock requirements/run.lock deploy/install.sh "$build/locks"
    within "$build" 0:0 sh -c 'cd /locks && sh install.sh run.lock'
    touch "$build/opt/installed"
fi

say "making the root of the image, with $packages"
bare "$root" "$packages"
grep -q ^mnist: "$root/etc/passwd" || within "$root" 0:0 useradd --uid 10001 --user-group --create-home mnist
rm -rf "$root/opt/venv" "$root/opt/project" "$root/tmp/output" && cp -a "$build/opt/venv" "$root/opt/venv"
mkdir -p "$root/opt/project"
sed -n '/AS project/,/^USER/s/^COPY //p' deploy/Dockerfile | while read -r copied; do
    target=${copied##* }
    case $target in */) mkdir -p "$root/opt/project/$target" ;; esac
    for source in ${copied% *}; do cp -r "$source" "$root/opt/project/$target"; done
done
find "$root/opt/project" -name __pycache__ -prune -exec rm -rf {} +
say "size: $(du -sm --exclude=proc --exclude=dev "$root" | cut -f1) MB, of which packages $(du -sm "$root/opt/venv" | cut -f1) MB"

as_user() { within "$root" 10001:10001 "$@"; }
fail() {
    echo "error: $*" >&2
    exit 1
}
if as_user sh -c 'command -v cc || command -v g++ || command -v uv'; then fail "a compiler or installer is left"; fi
if as_user touch /opt/project/x 2>/dev/null; then fail "the user may change the project"; fi
say "user $(as_user id -u), Python $(as_user python -c 'import platform; print(*platform.python_version_tuple(), sep=".")')"

digest='from pipeline import code_digest; print(code_digest.of_project())'
held=$(as_user python -c "$digest")
[ "$held" = "$(python3 -c "$digest")" ] || fail "the image holds other code than this checkout"
say "code $held"

code=0
as_user python -m pipeline.kubeflow.entrypoint --executor none --input '{}' \
    --task ingest --code_digest 0000 2>"$dir/refusal.log" || code=$?
[ "$code" = 1 ] && grep -q '^error: The image must hold the code' "$dir/refusal.log" || fail "other code is not refused"
say "the entrypoint refuses other code: $(cat "$dir/refusal.log")"

as_user sh -c 'cd /opt/project && python runner_kfp.py compile --image mnist:1 --output /tmp/pipeline.yaml' >"$dir/compile.log"
cp deploy/try_task.py "$root/tmp/try_task.py"
as_user python /tmp/try_task.py /tmp/pipeline.yaml >"$dir/task.log" 2>&1 || fail "the task failed: $dir/task.log"
say "the entrypoint ran a task: $(tail -n 1 "$dir/task.log")"

as_user python runner_local.py --dataset digits --output /tmp/output || fail "the pipeline failed"
say "done"
