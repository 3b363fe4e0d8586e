#!/bin/sh
# What the official image's entrypoint does, as far as the tests see it.
set -eu
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    mkdir -p "$PGDATA"
    initdb -U "$POSTGRES_USER" --pwfile="$POSTGRES_PASSWORD_FILE" --encoding=UTF8 --locale=C.UTF-8 \
        --auth-host=scram-sha-256 --auth-local=trust >/dev/null
    echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
    pg_ctl -w -s start -o "-c listen_addresses="
    createdb -U "$POSTGRES_USER" "$POSTGRES_DB"
    pg_ctl -w -s stop
fi
exec "$@"
