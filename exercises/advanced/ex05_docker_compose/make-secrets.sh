#!/bin/sh
# Given: make each secret that is not there yet, in the folder beside this file. Once for each host.
set -eu
here=$(unset CDPATH && cd -- "$(dirname -- "$0")" && pwd)
exec sh "$here/../../../advanced/deploy/make-secrets.sh" "$here/secrets" \
    SECRET_KEY REDIS_PASSWORD METRICS_TOKEN GRAFANA_PASSWORD POSTGRES_PASSWORD
