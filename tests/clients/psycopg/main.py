"""A pool that reads the mounted Secret for each new connection."""

import os
import sys
import time
from pathlib import Path

import psycopg
from psycopg_pool import ConnectionPool

BINDING = Path(os.environ["DB_BINDING"])
SYSTEM_ROOTS = "/etc/ssl/certs/ca-certificates.crt"


def read(key: str) -> str:
    return (BINDING / key).read_text()


def connection() -> dict:
    """Called by the pool for each new connection: a renewed token is taken up here."""
    ca = BINDING / "certificates"
    return {
        "host": read("host"),
        "port": read("port"),
        "dbname": read("database"),
        "user": read("username"),
        "password": read("password"),
        "sslmode": "verify-full",
        "sslrootcert": str(ca) if ca.exists() else SYSTEM_ROOTS,
        "connect_timeout": 10,
    }


# check: a connection that the server has closed is replaced before it is handed out.
with ConnectionPool(
    kwargs=connection,
    min_size=1,
    max_size=4,
    timeout=10,
    check=ConnectionPool.check_connection,
) as pool:
    while True:
        try:
            with pool.connection() as db:
                user, pid = db.execute("SELECT current_user, pg_backend_pid()").fetchone()
                print(f"signed in as {user}, connection {pid}", flush=True)
        except psycopg.Error as error:
            print(f"not now: {error}", file=sys.stderr, flush=True)
        time.sleep(1)
