#!/usr/bin/env bash
# Starts MongoDB with a key file, without which a replica set has no authentication (MongoDB, "Keyfiles").
# Members know each other by it; this set has one member, which makes its own and keeps it in its volume.
set -euo pipefail

keyfile=/data/configdb/keyfile
if [[ ! -s $keyfile ]]; then
    umask 077
    head -c 96 /dev/urandom | base64 -w 0 >"$keyfile.new"
    mv "$keyfile.new" "$keyfile"
fi

# docker-compose.tls.yml mounts a certificate; from then on nobody is heard who does not speak TLS.
certificate=/run/secrets/server-with-key.pem
tls=()
if [[ -s $certificate ]]; then
    tls=(--tlsMode requireTLS --tlsCertificateKeyFile "$certificate" --tlsCAFile /run/secrets/ca.pem
        --tlsAllowConnectionsWithoutCertificates)
fi

# What a killed accounting consumer had locked is free after seconds, not after MongoDB's default of a minute.
exec docker-entrypoint.sh mongod --replSet rs0 --keyFile "$keyfile" --bind_ip_all "${tls[@]}" \
    --setParameter transactionLifetimeLimitSeconds=10
