"""Reads each format of a mounted Secret as psycopg does, and signs in with what it read."""

import json
import sys
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict

folder = Path(sys.argv[1])


def read(key: str) -> str:
    return (folder / key).read_text()


def login(what: str, *conninfo: str, **keywords: str) -> None:
    with psycopg.connect(*conninfo, connect_timeout=10, **keywords) as db:
        print(what, db.execute("SELECT current_user").fetchone()[0])


plain = {
    "host": read("host"),
    "port": read("port"),
    "dbname": read("database"),
    "user": read("username"),
}
tls = {"sslmode": "verify-full", "sslrootcert": str(folder / "certificates")}
for key in ("uri", "conninfo"):
    found = conninfo_to_dict(read(key))
    for keyword, value in {**plain, "password": read("password")}.items():
        # No value is shown: one of them is the token.
        assert found[keyword] == value, f"{keyword} of {key} is another"
    login(key, read(key))
login("ServiceBinding", **plain, password=read("password"), **tls)
login("PgPass", **plain, passfile=str(folder / "pgpass"), **tls)
login("Json", **plain, password=json.loads(read("token.json"))["accessToken"], **tls)
