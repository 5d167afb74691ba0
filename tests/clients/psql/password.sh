#!/bin/sh
# Reads the token for each run of psql and hands it over in PGPASSWORD.
set -u
key() { cat "$DB_BINDING/$1"; }

PGSSLMODE=verify-full PGSSLROOTCERT=$DB_BINDING/certificates PGCONNECT_TIMEOUT=10
# psql 16 and newer may say `system`.
[ -e "$PGSSLROOTCERT" ] || PGSSLROOTCERT=/etc/ssl/certs/ca-certificates.crt
export PGSSLMODE PGSSLROOTCERT PGCONNECT_TIMEOUT

while sleep 1; do
  PGHOST=$(key host) PGPORT=$(key port) PGDATABASE=$(key database) \
    PGUSER=$(key username) PGPASSWORD=$(key password) \
    psql --no-psqlrc --no-password --tuples-only --no-align --command \
    "SELECT 'signed in as ' || current_user || ', connection ' || pg_backend_pid()"
done
