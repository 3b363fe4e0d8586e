#!/bin/sh
# Given: the image's entrypoint. PostgreSQL's client library takes the password from PGPASSWORD, which
# only the processes of this container get to see; DATABASE_URL needs none then.
set -eu
password=/run/secrets/POSTGRES_PASSWORD
if [ -e "$password" ]; then
    PGPASSWORD=$(cat "$password")
    export PGPASSWORD
fi
exec "$@"
