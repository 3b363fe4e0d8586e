#!/bin/sh
# advanced/deploy/make-secrets.sh [FOLDER [NAME...]]: make each secret that is not there yet, and
# change none.
# The containers' users must be able to read the files, so those are open and their folder is not.
set -eu
unset CDPATH
folder=${1:-$(dirname -- "$0")/secrets}
[ $# -gt 0 ] && shift
[ $# -gt 0 ] || set -- SECRET_KEY REDIS_PASSWORD METRICS_TOKEN GRAFANA_PASSWORD
umask 077
mkdir -p -- "$folder"
chmod 700 -- "$folder"
for name do
    file=$folder/$name
    if [ -s "$file" ]; then
        echo "kept $file"
        continue
    fi
    openssl rand -hex 32 >"$file.new" # moved only when whole
    chmod 444 -- "$file.new"
    mv -- "$file.new" "$file"
    echo "made $file"
done
