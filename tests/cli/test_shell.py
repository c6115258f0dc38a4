"""`durus shell` with a script on standard input: what the console knows, opens, keeps and tells."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from durus.connection import Connection
from durus.persistent_dict import PersistentDict

Look = Callable[[Path], dict[str, Any]]


def test_the_names_of_durus_43(durus: Any, database: Path) -> None:
    """The console has what 4.3's has, and commit and abort."""
    script = """
assert connection.get_root() is root
assert get(0) is root
assert str_to_int8(int8_to_str(7)) == 7
assert sys.maxsize and os.getcwd()
assert pp is __import__("pprint").pprint
assert commit == connection.commit and abort == connection.abort
print("all there")
"""
    assert durus("shell", database, input=script).stdout == "all there\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ("shell", "app.durus"),
        ("shell", "--file", "app.durus"),
        ("shell", "file:app.durus"),
        ("shell", "--storage-class", "durus.file_storage.FileStorage", "app.durus"),
        ("shell", "--storage-class", "file", "app.durus"),
        ("-c", "--file", "app.durus"),
        ("-c", "--file=app.durus"),
        ("-c", "--file", "app.durus", "--cache_size", "77"),
        ("-c", "--file", "app.durus", "--storage-class", "durus.file_storage.FileStorage"),
    ],
    ids=" ".join,
)
def test_the_ways_to_name_a_file(durus: Any, database: Path, arguments: tuple[str, ...]) -> None:
    """An existing file opens without a server in every spelling, 4.3's too."""
    assert durus(*arguments, input="sorted(root)").stdout == "['ann', 'bob', 'cid']\n"


def test_the_cache_size(durus: Any, database: Path) -> None:
    """--cache-size reaches the Connection; without it the Connection's own default holds."""
    script = "connection.get_cache_size()"
    assert durus("shell", database, "--cache-size", "77", input=script).stdout == "77\n"
    assert durus("shell", database, input=script).stdout == "100000\n"


def test_values_are_shown_as_in_a_console(durus: Any, database: Path) -> None:
    """Blocks in a script need no empty line, and values of expressions are shown."""
    script = "for n in 1, 2:\n    n * 10\nlen(root)\nNone\n_ = 5\nprint(_)\n"
    assert durus("shell", database, input=script).stdout == "10\n20\n3\n5\n"


def test_a_script_commits(durus: Any, database: Path, look: Look) -> None:
    """What a script commits is in the file."""
    durus("shell", database, input="root['n'] = 1\ncommit()\n")
    assert look(database)["n"] == 1


def test_nothing_is_committed_silently(durus: Any, database: Path, look: Look) -> None:
    """What is changed and not committed is dropped, and stderr says so."""
    done = durus("shell", database, input="root['n'] = 1\nroot['ann']['x'] = 2\n")
    assert done.stderr == "durus: dropped 2 changed objects, not committed\n"
    assert "n" not in look(database)
    assert durus("shell", database, input="len(root)").stderr == ""


def test_an_error_ends_a_script(durus: Any, database: Path, look: Look) -> None:
    """At its first error a script stops with status 1 and the traceback of its own lines alone."""
    script = "def f():\n    return 1 / 0\n\nroot['n'] = 1\nf()\ncommit()\n"
    done = durus("shell", database, input=script, status=1)
    lines = done.stderr.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[1].strip() == 'File "<stdin>", line 5, in <module>'
    assert "    return 1 / 0" in lines
    assert "ZeroDivisionError: division by zero" in lines
    assert lines[-1] == "durus: dropped 1 changed object, not committed"
    assert "site-packages" not in done.stderr
    assert "_interact" not in done.stderr
    assert "n" not in look(database)


def test_a_script_that_is_no_python(durus: Any, database: Path) -> None:
    """A syntax error anywhere is found before the first line runs."""
    done = durus("shell", database, input="print('ran')\nif:\n", status=1)
    assert done.stdout == ""
    assert "SyntaxError" in done.stderr


def test_a_script_chooses_its_status(durus: Any, database: Path) -> None:
    """sys.exit() in a script is the exit status of the command."""
    assert durus("shell", database, input="sys.exit(7)", status=7).stderr == ""


def test_a_script_may_look_into_the_future(durus: Any, database: Path) -> None:
    """A `from __future__` holds for the lines after it, and none of ours for a script without."""
    script = "def f(x: undefined_name): pass\n"
    durus("shell", database, input=script, status=1)
    durus("shell", database, input="from __future__ import annotations\n" + script)


def test_an_empty_script(durus: Any, database: Path) -> None:
    """No script at all is no error, and changes nothing."""
    before = database.read_bytes()
    assert durus("shell", database).stdout == ""
    assert database.read_bytes() == before


def test_bytes_that_are_no_text(durus: Any, database: Path) -> None:
    """A script is read as Python reads a file: UTF-8, or what its first line says."""
    for source, status in ((b"print('\xff')\n", 1), (b"# coding: latin-1\nprint('\xff')\n", 0)):
        done = subprocess.run(
            [*durus.words, "shell", str(database)],
            env=durus.environment | {"PYTHONUTF8": "1"},
            input=source,
            capture_output=True,
            check=False,
        )
        assert done.returncode == status
        assert (b"SyntaxError" in done.stderr) == bool(status)


@pytest.mark.parametrize(
    "arguments", [("-c", "--file", "typo.durus"), ("shell", "file:typo.durus")]
)
def test_a_misspelt_name_makes_no_file(durus: Any, arguments: tuple[str, ...]) -> None:
    """Where no file is none is made, and the error tells how to make one."""
    said = durus.error(*arguments)
    assert said == "there is no file 'typo.durus'; --create makes a new database there"
    assert not (durus.folder / "typo.durus").exists()


def test_create(durus: Any, look: Look) -> None:
    """--create makes a new database, and opens one that is there as it is."""
    path = durus.folder / "new.durus"
    for _ in range(2):
        durus("shell", "new.durus", "--create", input="root['n'] = root.get('n', 0) + 1; commit()")
    assert look(path) == {"n": 2}


def test_create_of_another_back_end(durus: Any) -> None:
    """The URL or --storage-class says which format a new file has."""
    durus("shell", "file2:a.durus", "--create", input="root['n'] = 1; commit()")
    durus("shell", "b.durus", "--create", "--storage-class", "file2", input="commit()")
    assert (durus.folder / "a.durus").read_bytes().startswith(b"DFS20\0")
    assert (durus.folder / "b.durus").read_bytes().startswith(b"DFS20\0")
    assert durus("shell", "a.durus", input="dict(root)").stdout == "{'n': 1}\n"


def test_readonly(durus: Any, database: Path) -> None:
    """--readonly works beside a writer, and refuses a commit."""
    before = database.read_bytes()
    with Connection(database):
        shown = durus("shell", database, "--readonly", input="sorted(root)").stdout
    assert shown == "['ann', 'bob', 'cid']\n"
    done = durus("shell", database, "--readonly", input="root['n'] = 1\ncommit()", status=1)
    assert "StorageReadOnlyError" in done.stderr
    assert database.read_bytes() == before


def test_readonly_makes_no_file(durus: Any) -> None:
    """A missing file is missing, whatever else is asked for."""
    for arguments in (("--readonly",), ("--readonly", "--create")):
        assert durus.error("shell", "typo.durus", *arguments) == "there is no file 'typo.durus'"
    assert not (durus.folder / "typo.durus").exists()


def test_startup(durus: Any, database: Path) -> None:
    """--startup, or DURUSSTARTUP, runs a file in the console's namespace, before all else."""
    startup = durus.folder / "startup.py"
    startup.write_text("names = sorted(root)\n")
    expected = "['ann', 'bob', 'cid']\n"
    assert durus("-c", "--file", database, "--startup", startup, input="names").stdout == expected
    durus.environment["DURUSSTARTUP"] = str(startup)
    assert durus("shell", database, input="names").stdout == expected


def test_a_failing_startup_ends_a_script(durus: Any, database: Path) -> None:
    """A script does not run without what its startup file was to prepare."""
    startup = durus.folder / "startup.py"
    startup.write_text("first = 1\nraise RuntimeError('not ready')\n")
    done = durus("shell", database, "--startup", startup, input="print('ran')", status=1)
    assert done.stdout == ""
    assert f'File "{startup}", line 2' in done.stderr
    assert "RuntimeError: not ready" in done.stderr


def test_a_missing_startup_file(durus: Any, database: Path) -> None:
    """A startup file that is not there is wrong usage."""
    assert "startup.py" in durus.error("shell", database, "--startup", "startup.py", status=2)


def test_classes_beside_the_application(durus: Any) -> None:
    """Classes of modules in the current folder are found; with PYTHONSAFEPATH they are not."""
    (durus.folder / "shop.py").write_text(
        "from durus.persistent import Persistent\n\nclass Order(Persistent):\n    price = 3\n"
    )
    script = "import shop\nroot['order'] = shop.Order()\ncommit()\n"
    durus("shell", "shop.durus", "--create", input=script)
    assert durus("shell", "shop.durus", input="root['order'].price").stdout == "3\n"
    durus.environment["PYTHONSAFEPATH"] = "1"
    assert "<broken shop.Order" in durus("shell", "shop.durus", input="root['order']").stdout


def test_an_unknown_class_is_kept(durus: Any) -> None:
    """An object whose class is missing shows as broken, and outlives a commit around it."""
    (durus.folder / "shop.py").write_text(
        "from durus.persistent import Persistent\n\nclass Order(Persistent):\n    pass\n"
    )
    script = "import shop\nroot['order'] = shop.Order()\nroot['order'].n = 5\ncommit()\n"
    durus("shell", "shop.durus", "--create", input=script)
    (durus.folder / "shop.py").rename(durus.folder / "shop.txt")
    script = "root['order']\nroot['more'] = 1\nroot['order']._p_note_change()\ncommit()\n"
    assert durus("shell", "shop.durus", input=script).stdout.startswith("<broken shop.Order ")
    (durus.folder / "shop.txt").rename(durus.folder / "shop.py")
    assert durus("shell", "shop.durus", input="root['order'].n, root['more']").stdout == "(5, 1)\n"


def test_a_class_of_the_console_is_not_stored(durus: Any, database: Path) -> None:
    """A class that only this console knows cannot be committed: nobody could load it again."""
    script = (
        "from durus.persistent import Persistent\n"
        "class Local(Persistent): pass\n"
        "root['local'] = Local()\ncommit()\n"
    )
    done = durus("shell", database, input=script, status=1)
    assert "PersistentDict.data['local'] is a __console__.Local, which" in done.stderr
    assert "; define its class at the top level of a module that can be imported" in done.stderr


def test_a_commit_after_a_conflict_of_writers(durus: Any, database: Path) -> None:
    """A second writer is told who has the file, and touches nothing."""
    with Connection(database) as connection:
        said = durus.error("shell", database, input="root['n'] = 1; commit()")
        assert str(database) in said
        assert str(os.getpid()) in said
        connection.get_root()["n"] = PersistentDict()
        connection.commit()


def test_repair(durus: Any, database: Path) -> None:
    """--repair keeps of a damaged file what still proves itself; without it nothing is changed."""
    content = bytearray(database.read_bytes())
    with Connection(database) as connection:
        connection.get_root()["later"] = 1
        connection.commit()
    content = bytearray(database.read_bytes())
    middle = content.index(b"cid")
    content[middle] ^= 0xFF
    database.write_bytes(content)
    said = durus.error("shell", database)
    assert str(database) in said
    assert database.read_bytes() == bytes(content)
    done = durus("-c", "--file", database, "--repair", input="root.get('later')")
    assert done.returncode == 0
