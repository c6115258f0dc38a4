"""`durus convert-py2`: a database that was written under Python 2, as a file for Python 3."""

from __future__ import annotations

from typing import Any

import click

from durus.backends import file_path
from durus.cli._output import count_text, one_line, print_json
from durus.cli._progress import progress
from durus.cli._target import DatabaseType, Target, open_target
from durus.tools.convert_py2 import Report, convert

__all__ = ["convert_py2"]

_MOST_EXAMPLES = 10
_MOST_EXAMPLE_BYTES = 40


@click.command(short_help="Make a database of Python 2 readable, as a new file.")
@click.argument("source", metavar="FROM", type=DatabaseType())
@click.argument("target", metavar="TO", type=click.Path())
@click.option("--encoding", default="utf-8", help="Encoding of the texts of Python 2. [utf-8]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for a program.")
def convert_py2(source: str, target: str, encoding: str, as_json: bool) -> None:
    """Write what FROM holds, a file or URL, to the new file TO, as Python 3 reads it.

    Text is decoded. What cannot be decoded stays bytes, and is told. FROM is only read; TO must not
    exist. No class is imported.
    """
    _check(target, encoding)
    with open_target(Target(source), readonly=True) as storage:
        total = storage.describe().object_count
        with progress(f"converting {source}", total) as show:
            report = convert(storage, target, encoding, show)
    if as_json:
        print_json("convert_py2", _as_json(report, source, target, encoding))
    else:
        _print(report, target)


def _check(target: str, encoding: str) -> None:
    if file_path(target) != target:
        raise click.UsageError(f"TO is the path of a new file, got {target!r}")
    try:
        b" ".decode(encoding, "replace")
    except LookupError as error:
        raise click.UsageError(f"there is no encoding {encoding!r} for text") from error


def _as_json(report: Report, source: str, target: str, encoding: str) -> dict[str, Any]:
    return {
        "from": source,
        "to": target,
        "encoding": encoding,
        "objects": report.objects,
        "converted": report.converted,
        "decoded": report.decoded,
        "undecoded": report.undecoded,
        "examples": [
            {"oid": int.from_bytes(oid, "big"), "bytes": value.hex()}
            for oid, value in report.examples
        ],
    }


def _print(report: Report, target: str) -> None:
    for oid, value in report.examples[:_MOST_EXAMPLES]:
        shown = repr(value[:_MOST_EXAMPLE_BYTES])
        more = "..." if len(value) > _MOST_EXAMPLE_BYTES else ""
        print(f"stays bytes: in oid {int.from_bytes(oid, 'big')} {shown}{more}")
    left = report.undecoded - _MOST_EXAMPLES
    if left > 0:
        print(f"stays bytes: {left:,} more (--json lists up to 1,000)")
    print(
        f"converted {count_text(report.converted, 'object')} of {report.objects:,} into"
        f" {one_line(target)}: {count_text(report.decoded, 'text')} decoded,"
        f" {report.undecoded:,} left as bytes"
    )
