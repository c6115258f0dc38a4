"""`durus shell`: a Python console with the root of a database in it."""

from __future__ import annotations

import os
import sys
from importlib.metadata import version
from pprint import pprint
from typing import Any

import click

from durus.cli._at import Moment, as_of_text, at_option, past
from durus.cli._errors import EXIT_FAILURE
from durus.cli._interact import run_console, run_file, run_ipython, run_script
from durus.cli._output import count_text, one_line
from durus.cli._root import require_root
from durus.cli._target import Target, database_argument, open_target, server_options, target_of
from durus.connection import Connection
from durus.error import StorageMissingError
from durus.utils import int8_to_str, str_to_int8

__all__ = ["shell"]


@click.command(short_help="Open a Python console on a database.")
@database_argument(required=False)
@click.option("--create", is_flag=True, help="Make the database if there is no such file.")
@click.option("--readonly", is_flag=True, help="Open for reading; works beside a writer.")
@at_option
@click.option("--repair", is_flag=True, help="Keep of a damaged file what still proves itself.")
@click.option(
    "--startup",
    metavar="FILE",
    envvar="DURUSSTARTUP",
    show_envvar=True,
    type=click.Path(exists=True, dir_okay=False),
    help="Python file to run first, with the console's names.",
)
@click.option("--ipython/--no-ipython", default=False, help="Use IPython's console, or Python's.")
@click.option(
    "--cache-size",
    "--cache_size",
    metavar="N",
    type=click.IntRange(min=0),
    help="How many loaded objects to keep in memory.",
)
@server_options
def shell(
    database: str | None,
    create: bool,
    readonly: bool,
    at: Moment | None,
    repair: bool,
    startup: str | None,
    ipython: bool,
    cache_size: int | None,
    **place: Any,
) -> None:
    """Open a Python console on DATABASE: a file, or a URL such as file:app.durus.

    The console knows root, connection, commit, abort, get(oid), pp, os, sys, int8_to_str and
    str_to_int8. What you change is kept by commit(), and only by it. Your own classes are looked
    for in the folder you are in, too.

    A script on standard input is run in place of the console, and stops at its first error:

    \b
        echo 'pp(dict(root))' | durus shell app.durus --readonly
    """  # noqa: D301 - \b is click's mark for lines to leave alone
    if at is not None and (create or repair):
        raise click.UsageError("--at opens a past state for reading: not with --create or --repair")
    target = target_of(database, **place)
    # The folder of the application is where its classes are. At the end, so that no file there
    # stands in for an installed module; and not where Python was told to look nowhere by itself.
    if not sys.flags.safe_path:
        sys.path.append(os.getcwd())
    # A back-end that lacks an option is bothered only by those who ask for it.
    wanted = {"readonly": readonly, "repair": repair}
    options = past(at) | {name: True for name, is_wanted in wanted.items() if is_wanted}
    connection = _connect(target, create and not readonly, cache_size, options)
    try:
        banner = _banner(target, connection, is_past=at is not None)
        succeeded = _run(_namespace(connection), banner, startup, ipython)
    finally:
        _tell_uncommitted(connection)
        connection.close()
    if not succeeded:
        raise click.exceptions.Exit(EXIT_FAILURE)


def _connect(
    target: Target, create: bool, cache_size: int | None, options: dict[str, Any]
) -> Connection:
    try:
        storage = open_target(target, create=create, **options)
    except StorageMissingError as error:
        cure = (
            "" if options.keys() & {"readonly", "at"} else "; --create makes a new database there"
        )
        raise StorageMissingError(f"{error}{cure}", error.path) from error
    sizes: dict[str, Any] = {} if cache_size is None else {"cache_size": cache_size}
    try:
        if options.keys() & {"readonly", "at"}:
            require_root(storage, "show", target.name)
        # A tool shows what it cannot import, and must not lose it.
        return Connection(storage, **sizes, broken_objects=True)
    except BaseException:
        storage.close()
        raise


def _namespace(connection: Connection) -> dict[str, Any]:
    """Give the names of the console. Those of Durus 4.3, and commit and abort."""
    return {
        # Not __main__, which is ours. A class that is defined here cannot be imported again, and a
        # commit of its instances says so.
        "__name__": "__console__",
        "__doc__": None,
        "connection": connection,
        "root": connection.get_root(),
        "get": connection.get,
        "commit": connection.commit,
        "abort": connection.abort,
        "int8_to_str": int8_to_str,
        "str_to_int8": str_to_int8,
        "pp": pprint,
        "os": os,
        "sys": sys,
    }


def _banner(target: Target, connection: Connection, *, is_past: bool) -> str:
    storage = connection.get_storage()
    then = f", read-only as of {as_of_text(storage.describe())}" if is_past else ""
    return (
        f"Durus {version('durus-cli')}, {one_line(target.name)} ({type(storage).__name__}){then}\n"
        "    connection -> the Connection\n"
        "    root       -> the root instance\n"
        "    commit(), abort(), get(oid), pp, os, sys, int8_to_str, str_to_int8"
    )


def _run(namespace: dict[str, Any], banner: str, startup: str | None, ipython: bool) -> bool:
    """Run the startup file and then the console or the script; False if a script failed."""
    is_terminal = sys.stdin is not None and sys.stdin.isatty()
    if startup is not None and not run_file(startup, namespace) and not is_terminal:
        return False
    if not is_terminal:
        return sys.stdin is None or run_script(sys.stdin.buffer.read(), namespace)
    if ipython:
        run_ipython(namespace, banner)
    else:
        run_console(namespace, banner)
    return True


def _tell_uncommitted(connection: Connection) -> None:
    if connection.changed:
        changed = count_text(len(connection.changed), "changed object")
        print(f"durus: dropped {changed}, not committed", file=sys.stderr)
