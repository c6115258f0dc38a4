"""Try the wiki: `python -m wiki DATABASE [PORT]`."""

from __future__ import annotations

import argparse
import sys
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIServer, make_server

from durus.database import Database
from durus.error import DurusError
from wiki.app import Application


class Server(ThreadingMixIn, WSGIServer):
    """Serves each request in a thread of its own."""


def main() -> None:
    """Serve a database at http://127.0.0.1:PORT/ until Control-C."""
    parser = argparse.ArgumentParser(prog="python -m wiki")
    parser.add_argument("database", help="a file, or the URL of a server")
    parser.add_argument("port", nargs="?", type=int, default=8000)
    options = parser.parse_args()
    try:
        database = Database(options.database)
    except DurusError as error:
        sys.exit(f"wiki: {error}")
    with database:
        application = Application(database)
        try:
            server = make_server("127.0.0.1", options.port, application, server_class=Server)
        except OSError as error:
            sys.exit(f"wiki: port {options.port}: {error.strerror}; give another port")
        with server:
            print(
                f"Serving {options.database} at http://127.0.0.1:{server.server_port}/", flush=True
            )
            try:
                server.serve_forever()
            except KeyboardInterrupt:
                print("Stopped")


if __name__ == "__main__":
    main()
