#!/bin/sh
# psql finds the token in the mounted password file, which it reads at each connect.
set -u
key() { cat "$DB_BINDING/$1"; }

PGPASSFILE=$DB_BINDING/pgpass PGHOST=$(key host) PGPORT=$(key port)
PGDATABASE=$(key database) PGUSER=$(key username)
export PGPASSFILE PGHOST PGPORT PGDATABASE PGUSER

PGSSLMODE=verify-full PGSSLROOTCERT=$DB_BINDING/certificates PGCONNECT_TIMEOUT=10
[ -e "$PGSSLROOTCERT" ] || PGSSLROOTCERT=/etc/ssl/certs/ca-certificates.crt
export PGSSLMODE PGSSLROOTCERT PGCONNECT_TIMEOUT

while sleep 1; do
  psql --no-psqlrc --no-password --tuples-only --no-align --command \
    "SELECT 'signed in as ' || current_user || ', connection ' || pg_backend_pid()"
done
