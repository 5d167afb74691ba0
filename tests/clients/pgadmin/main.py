"""Drives pgAdmin 4 through its own HTTP interface, as the browser does: registers the server twice
without "Connect now", once with the mounted password file and once with a password exec command, then
connects to both, asks and disconnects, again and again."""

import atexit
import http.cookiejar
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from importlib.util import find_spec
from pathlib import Path

BINDING = Path(os.environ["DB_BINDING"])
PATIENCE = 200


def read(key: str) -> str:
    return (BINDING / key).read_text()


class PgAdmin:
    """pgAdmin in desktop mode, with settings of its own in `home`."""

    def __init__(self, home: Path):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.key = secrets.token_hex(16)
        self.csrf = ""
        cookies = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
        # No proxy, whatever the environment says.
        self.opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), cookies)
        self.log = home / "pgadmin.log"
        program = Path(find_spec("pgadmin4").submodule_search_locations[0]) / "pgAdmin4.py"
        environment = os.environ | {
            "HOME": str(home),
            "PGADMIN_SERVER_MODE": "OFF",
            "PGADMIN_INT_PORT": str(port),
            "PGADMIN_INT_KEY": self.key,
        }
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(program)], env=environment, stdout=log, stderr=log
            )
        atexit.register(self.process.terminate)

    def wait(self):
        """Until it answers; then takes the key that every later call needs."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                script = self.call("GET", f"/browser/js/utils.js?key={self.key}")
                break
            except (urllib.error.URLError, ConnectionError):
                if self.process.poll() is not None or time.monotonic() > deadline:
                    sys.exit(f"pgAdmin does not start:\n{self.log.read_text()[-3000:]}")
                time.sleep(0.2)
        self.csrf = re.search(r"\['csrf_token'\] = '([^']+)'", script).group(1)
        # It would encrypt saved passwords. There are none, but pgAdmin wants it.
        master = {"password": secrets.token_hex(16), "submit_password": True}
        self.call("POST", "/browser/master_password", master)

    def call(self, method: str, path: str, body=None):
        request = urllib.request.Request(
            self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json", "X-pgA-CSRFToken": self.csrf},
        )
        try:
            with self.opener.open(request, timeout=60) as response:
                text = response.read().decode()
                is_json = "json" in response.headers.get("Content-Type", "")
        except urllib.error.HTTPError as error:
            if method == "GET" and not self.csrf:
                raise
            raise RuntimeError(f"{method} {path}: {error.code}: {error.read().decode()[:500]}") from error
        return json.loads(text) if is_json else text


def register(pgadmin: PgAdmin, name: str, more: dict, parameters: dict) -> int:
    """The dialog "Register - Server"."""
    ca = BINDING / "certificates"
    parameters = parameters | {
        "sslmode": "verify-full",
        "sslrootcert": str(ca) if ca.exists() else "/etc/ssl/certs/ca-certificates.crt",
        "connect_timeout": 10,
    }
    server = more | {
        "name": name,
        "host": read("host"),
        "port": int(read("port")),
        "db": read("database"),
        "username": read("username"),
        "role": None,
        "connect_now": False,
        "connection_params": [{"name": name, "value": value} for name, value in parameters.items()],
    }
    made = pgadmin.call("POST", "/browser/server/obj/1/", server)
    if made["node"]["connected"]:
        sys.exit("pgAdmin connected although it was not to")
    return made["node"]["_id"]


def ask(pgadmin: PgAdmin, server: int) -> str:
    """"Connect Server", a query in the query tool, "Disconnect"."""
    connected = pgadmin.call("POST", f"/browser/server/connect/1/{server}", {})
    if not connected["success"]:
        raise RuntimeError(connected["errormsg"])
    database = connected["data"]["did"]
    tool = secrets.randbelow(9_000_000) + 1_000_000
    place = f"{tool}/1/{server}/{database}"
    pgadmin.call("POST", f"/sqleditor/initialize/sqleditor/{place}", {"dbname": read("database")})
    sql = "SELECT 'signed in as ' || current_user || ', connection ' || pg_backend_pid()"
    pgadmin.call("POST", f"/sqleditor/query_tool/start/{tool}", {"sql": sql, "explain_plan": None})
    deadline = time.monotonic() + PATIENCE
    while True:
        answer = pgadmin.call("GET", f"/sqleditor/poll/{tool}")["data"]
        if answer["status"] == "Success":
            break
        if answer["status"] != "Busy" or time.monotonic() > deadline:
            raise RuntimeError(f"the query tool says {answer['status']}: {answer.get('result')}")
        time.sleep(0.1)
    pgadmin.call("DELETE", f"/sqleditor/close/{tool}", {})
    pgadmin.call("DELETE", f"/browser/server/connect/1/{server}")
    return answer["result"][0][0]


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with tempfile.TemporaryDirectory() as home:
        pgadmin = PgAdmin(Path(home))
        pgadmin.wait()
        servers = [
            register(pgadmin, "by file", {}, {"passfile": str(BINDING / "pgpass")}),
            register(
                pgadmin,
                "by command",
                {"passexec_cmd": f"cat {BINDING}/password", "passexec_expiration": 0},
                {},
            ),
        ]
        while True:
            try:
                # Nothing is printed before all have answered.
                print("\n".join([ask(pgadmin, server) for server in servers]), flush=True)
            except (RuntimeError, urllib.error.URLError) as error:
                print(f"not now: {error}", file=sys.stderr, flush=True)
            time.sleep(1)


if __name__ == "__main__":
    main()
