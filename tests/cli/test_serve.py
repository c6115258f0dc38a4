"""`durus serve` and `durus -s`: real servers, real clients, real signals."""

from __future__ import annotations

import fcntl
import grp
import json
import os
import pwd
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

storage_server = pytest.importorskip(
    "durus.storage_server", reason="durus-server is not installed here"
)

Look = Callable[[Path], dict[str, Any]]


def free_port() -> int:
    """Give a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def test_a_file_is_served_and_kept(durus: Any, serve: Any, look: Look) -> None:
    """What clients commit is in the file that was named, which is made if it is new."""
    server = serve("app.durus").ready()
    server.shell("root['n'] = 1; commit()")
    assert server.shell("root['n']") == "1\n"
    # Nobody takes a name that was misspelt for a database that was there.
    assert " INFO made app.durus (FileStorage)" in server.stop()[1]
    assert look(durus.folder / "app.durus")["n"] == 1


@pytest.mark.parametrize("words", [("-s", "my.durus"), ("-s", "--file", "my.durus")], ids=" ".join)
def test_the_old_spelling(durus: Any, look: Look, words: tuple[str, ...]) -> None:
    """`durus -s my.durus` serves my.durus, as `durus -s --file my.durus` does."""
    process = durus.start(*words, "--address", "a.sock")
    durus("-c", "--address", "a.sock", input="root['n'] = 1; commit()")
    assert durus("-s", "--stop", "--address", "a.sock").stdout == ""
    assert process.communicate(timeout=300)[0] == ""
    assert look(durus.folder / "my.durus")["n"] == 1


def test_a_temporary_file(durus: Any, serve: Any) -> None:
    """Without a file the first line says that it is temporary, and it goes with the server."""
    server = serve().ready()
    server.shell("root['n'] = 1; commit()")
    line = server.process.stdout.readline()
    assert line.startswith("Serving a temporary file that goes with the server: ")
    path = Path(line.split(": ")[1].split(" (")[0])
    assert path.exists()
    server.stop()
    assert not path.exists()
    assert not path.parent.exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_signals_end_it_in_good_order(durus: Any, serve: Any, number: int) -> None:
    """SIGTERM and Ctrl-C end the server with status 0; the socket is gone and the file is free."""
    server = serve("app.durus").ready()
    server.process.send_signal(number)
    server.ended(0)
    assert not (durus.folder / "a.sock").exists()
    durus("shell", "app.durus", input="root['n'] = 1; commit()")


def test_stop(durus: Any, serve: Any) -> None:
    """--stop returns when the server is gone, with status 0: its socket too, and its lock."""
    server = serve("app.durus").ready()
    done = durus("serve", "--stop", "--address", "a.sock")
    assert not (durus.folder / "a.sock").exists()
    assert done.stdout == done.stderr == ""
    durus("shell", "app.durus", input="root['n'] = 1; commit()")
    server.ended(0)


def test_stop_where_nobody_serves(durus: Any) -> None:
    """--stop without a server is one line and status 1, at once."""
    assert "a.sock" in durus.error("serve", "--stop", "--address", "a.sock")
    assert "127.0.0.1" in durus.error("-s", "--stop", "--port", str(free_port()))


def test_over_tcp(durus: Any, serve: Any) -> None:
    """--host and --port say where to listen, and to clients where the server is."""
    port = str(free_port())
    server = serve("app.durus", "--host", "127.0.0.1", "--port", port).ready("--port", port)
    server.shell("root['n'] = 1; commit()")
    assert server.shell("root['n']", "--host", "127.0.0.1") == "1\n"
    assert durus("shell", f"durus://127.0.0.1:{port}", input="root['n']").stdout == "1\n"
    durus("serve", "--stop", "--port", port)
    server.ended(0)


def test_an_abstract_socket(durus: Any, serve: Any) -> None:
    """An address that starts with @ leaves no file."""
    name = f"@durus-test-{os.getpid()}"
    server = serve("app.durus", "--address", name).ready("--address", name)
    assert server.shell("root['n'] = 1; commit(); root['n']") == "1\n"
    assert not (durus.folder / name).exists()
    server.stop()


def test_the_place_when_none_is_given(durus: Any) -> None:
    """Host and port are those of Durus 4.3, in the help and for the server itself."""
    assert (storage_server.DEFAULT_HOST, storage_server.DEFAULT_PORT) == ("127.0.0.1", 2972)
    text = " ".join(durus("serve", "--help").stdout.split())
    assert "[127.0.0.1]" in text
    assert "[2972]" in text
    said = durus.error("status", "--address", "nobody.sock")
    assert "nobody.sock" in said


def test_permissions_of_the_socket(durus: Any, serve: Any) -> None:
    """--umask, --owner and --group are those of the socket's file; 007 is octal."""
    me, mine = pwd.getpwuid(os.getuid()).pw_name, grp.getgrgid(os.getgid()).gr_name
    server = serve("app.durus", "--umask", "007", "--owner", me, "--group", mine).ready()
    status = (durus.folder / "a.sock").stat()
    assert stat.S_IMODE(status.st_mode) == 0o770
    assert (status.st_uid, status.st_gid) == (os.getuid(), os.getgid())
    server.stop()


def test_a_umask_without_a_leading_zero_is_decimal(durus: Any, serve: Any) -> None:
    """As in Durus 4.3: --umask 63 is 0o77."""
    server = serve("app.durus", "--umask", "63").ready()
    assert stat.S_IMODE((durus.folder / "a.sock").stat().st_mode) == 0o700
    server.stop()


@pytest.mark.skipif(os.getuid() != 0, reason="only root may give a file away")
def test_a_socket_for_another_user(durus: Any, serve: Any) -> None:
    """--owner and --group take numbers too, and give the socket away."""
    server = serve("app.durus", "--owner", "1234", "--group", "4321").ready()
    status = (durus.folder / "a.sock").stat()
    assert (status.st_uid, status.st_gid) == (1234, 4321)
    server.stop()


def test_a_socket_left_behind(durus: Any, serve: Any) -> None:
    """A socket at which nobody listens is replaced."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(durus.folder / "a.sock"))
    server = serve("app.durus").ready()
    assert server.shell("root['n'] = 1; commit(); root['n']") == "1\n"
    server.stop()


def test_a_live_socket(durus: Any, serve: Any) -> None:
    """A socket at which somebody listens is left alone: one line, status 1."""
    server = serve("app.durus").ready()
    said = _refused(durus, "serve", "other.durus", "--address", "a.sock")
    assert "a.sock" in said
    assert not (durus.folder / "other.durus").exists()
    assert server.shell("root['n'] = 1; commit(); root['n']") == "1\n"
    server.stop()


def test_something_else_at_the_address(durus: Any) -> None:
    """A file that is no socket is never removed."""
    (durus.folder / "a.sock").write_text("precious")
    assert "a.sock" in _refused(durus, "serve", "app.durus", "--address", "a.sock")
    assert (durus.folder / "a.sock").read_text() == "precious"


def test_a_busy_port(durus: Any) -> None:
    """A port that is taken is one line that names it, and status 1."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        said = _refused(durus, "serve", "app.durus", "--port", port)
    assert port in said
    assert "in use; stop what listens there" in said
    assert "'durus status'" in said
    assert not (durus.folder / "app.durus").exists()


def test_a_locked_file(durus: Any, database: Path) -> None:
    """A file that another program writes to is one line, and status 1; no socket is made."""
    with database.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        said = durus.error("serve", database, "--address", "a.sock")
    assert str(database) in said
    assert not (durus.folder / "a.sock").exists()


def test_readonly(durus: Any, serve: Any, database: Path) -> None:
    """--readonly serves beside a writer, and refuses commits with a reason."""
    with database.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        server = serve(database, "--readonly").ready()
        assert server.shell("sorted(root)") == "['ann', 'bob', 'cid']\n"
        done = durus("shell", *server.place, input="root['n'] = 1; commit()", status=1)
    assert "read-only" in done.stderr.splitlines()[-2]
    assert f" INFO opened {database} (FileStorage)" in server.stop()[1]


def test_readonly_makes_nothing(durus: Any) -> None:
    """--readonly of a file that is not there is an error, and makes no file."""
    said = durus.error("serve", "none.durus", "--readonly", "--address", "a.sock")
    assert "none.durus" in said
    assert not (durus.folder / "none.durus").exists()


def test_other_machines(durus: Any, serve: Any) -> None:
    """Beyond the loopback interface it listens only with credentials, or with --insecure."""
    port = str(free_port())
    said = _refused(durus, "serve", "app.durus", "--host", "0.0.0.0", "--port", port)
    assert "insecure" in said
    assert not (durus.folder / "app.durus").exists()
    server = serve("app.durus", "--host", "0.0.0.0", "--port", port, "--insecure")
    server.ready("--port", port).stop()


def test_a_secret(durus: Any, serve: Any) -> None:
    """--secret-file lets in who knows the secret, and nobody else."""
    _secret(durus, "right", "r" * 32)
    _secret(durus, "wrong", "w" * 32)
    server = serve("app.durus", "--secret-file", "right")
    server.ready("--address", "a.sock", "--secret-file", "right")
    assert server.shell("root['n'] = 1; commit(); root['n']") == "1\n"
    for command in ("shell", "pack", "status"):
        said = durus.error(command, "--address", "a.sock", "--secret-file", "wrong")
        assert "the server at a.sock" in said
        assert "refused" in said
        assert "the secret in 'wrong'" in said
        assert "secret" in durus.error(command, "--address", "a.sock")
    durus("serve", "--stop", "--address", "a.sock", "--secret-file", "wrong", status=1)
    durus("serve", "--stop", "--address", "a.sock", "--secret-file", "right")
    server.ended(0)


def test_pack_through_the_server(durus: Any, serve: Any, database: Path) -> None:
    """`durus pack` without a file packs what the server serves, while it goes on."""
    server = serve(database).ready()
    said = durus("pack", *server.place).stdout
    assert said.startswith("packed durus+unix:a.sock")
    assert server.shell("sorted(root)") == "['ann', 'bob', 'cid']\n"
    assert (database.parent / "app.durus.prepack").exists()
    server.stop()


def test_the_log(durus: Any, serve: Any) -> None:
    """Events go to stderr, a line each; or to --logfile, and then stderr stays empty."""
    server = serve("app.durus").ready()
    _, err = server.stop()
    assert all(" INFO " in line for line in err.splitlines()), err
    assert "a.sock" in err
    server = serve("app.durus", "--logfile", "app.log").ready()
    _, err = server.stop()
    assert err == ""
    assert "a.sock" in (durus.folder / "app.log").read_text()


def test_a_quiet_log(durus: Any, serve: Any) -> None:
    """--logginglevel takes the numbers of Durus 4.3, and the names of `logging`."""
    for level in ("30", "warning"):
        server = serve("app.durus", "--logginglevel", level).ready()
        assert server.stop() == ("", "")


def test_no_sync(durus: Any, serve: Any) -> None:
    """--no-sync opens the storage with durable=False; one that cannot says so."""
    durus.plug_in(
        "fast-storage",
        "[durus.storages]\nfast = fast_storage:Fast\n",
        fast_storage="""
        from durus.storage import MemoryStorage

        class Fast(MemoryStorage):
            def __init__(self, name, durable=True):
                super().__init__()
                print("durable is", durable, flush=True)
        """,
    )
    server = serve("fast:x", "--no-sync")
    server.ready()
    assert server.stop()[0] == "durable is False\n"
    assert "durable" in durus.error("serve", "memory:", "--no-sync", "--address", "b.sock")


def test_an_inherited_socket(durus: Any, serve: Any) -> None:
    """A socket that is handed down as systemd does it is the one that is served."""
    path = str(durus.folder / "a.sock")
    start = (
        "import os, sys; os.environ['LISTEN_PID'] = str(os.getpid()); os.dup2(int(sys.argv[1]), 3)"
    )
    start += "; os.execv(sys.argv[2], sys.argv[2:])"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        words = durus.words
        durus.words = [sys.executable, "-c", start, str(listener.fileno()), *words]
        durus.environment["LISTEN_FDS"] = "1"
        process = durus.start("serve", "app.durus", pass_fds=[listener.fileno()])
        durus.words = words
        del durus.environment["LISTEN_FDS"]
    assert (
        durus("shell", "--address", path, input="root['n'] = 1; commit(); root['n']").stdout
        == "1\n"
    )
    process.terminate()
    process.communicate(timeout=300)
    assert process.returncode == 0
    # It belongs to whoever made it.
    assert os.path.exists(path)


def test_a_client_waits_for_its_server(durus: Any, serve: Any) -> None:
    """`durus -c` says that it waits, and goes on when the server is there."""
    child = durus.on_terminal("-c", "--address", "a.sock")
    child.expect_exact(
        "durus: waiting for durus+unix:a.sock to be started with 'durus serve' (Ctrl-C ends it)"
    )
    server = serve("app.durus")
    child.expect_exact(">>> ")
    server.stop()


def test_waiting_says_why(durus: Any) -> None:
    """Where somebody answers who hangs up, the line says so, as waiting may be of no use."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up() -> None:
            with suppress(OSError):
                while True:
                    listener.accept()[0].close()

        hanging_up = threading.Thread(target=hang_up)
        hanging_up.start()
        port = str(listener.getsockname()[1])
        said = durus("shell", "--port", port, "--wait", "0.1", input="", status=1).stderr
        listener.shutdown(socket.SHUT_RDWR)
        hanging_up.join()
    assert ": the connection to the server at" in said.splitlines()[0]


def test_a_shell_says_that_it_waits_for_a_lost_server(durus: Any, serve: Any) -> None:
    """When the server has gone, abort() says at once on stderr that it waits, and for how long."""
    server = serve("app.durus").ready()
    child = durus.on_terminal("shell", *server.place)
    child.expect_exact(">>> ")
    server.stop()
    child.sendline("abort()")
    child.expect_exact("durus: warning: the server at a.sock is gone; waiting up to 10 s for it")
    again = serve("app.durus").ready()
    child.expect_exact(">>> ")
    child.sendline("len(root) + 41")
    child.expect_exact("41")
    child.close(force=True)
    again.stop()


def test_waiting_ends_with_ctrl_c(durus: Any) -> None:
    """Ctrl-C ends the waiting, with status 130."""
    child = durus.on_terminal("-c", "--address", "a.sock")
    child.expect_exact("Ctrl-C ends it)")
    child.sendintr()
    child.expect_exact("durus: error: interrupted")
    child.wait()
    assert child.exitstatus == 130


@pytest.mark.parametrize("command", ["shell", "pack"])
def test_waiting_has_a_limit(durus: Any, command: str) -> None:
    """--wait 0 does not wait: one line, status 1."""
    assert "a.sock" in durus.error(command, "--address", "a.sock", "--wait", "0")


def test_info_through_the_server(durus: Any, serve: Any, database: Path) -> None:
    """`durus info` of a server's URL counts what the root reaches."""
    server = serve(database).ready()
    told = json.loads(durus("info", "--json", "durus+unix:a.sock").stdout)
    assert (told["objects"], told["format"]) == (4, "SHELF-1")
    server.stop()


def test_a_client_that_only_reads(durus: Any, serve: Any, database: Path) -> None:
    """`durus shell --readonly` changes nothing on a server that others change."""
    server = serve(database).ready()
    assert server.shell("sorted(root)", "--readonly") == "['ann', 'bob', 'cid']\n"
    script = "root['n'] = 1; commit()"
    done = durus("shell", "--readonly", *server.place, input=script, status=1)
    assert "read-only" in done.stderr
    server.shell(script)
    server.stop()


def test_what_a_server_cannot_be_told(durus: Any) -> None:
    """A file is repaired by the server, when it is started; a client cannot ask for it."""
    said = durus.error("shell", "--repair", "--address", "a.sock", status=2)
    assert "--repair is for files" in said


def test_a_server_of_a_server(durus: Any) -> None:
    """What a server serves already is not served once more."""
    said = durus.error("serve", "durus://127.0.0.1:1", status=2)
    assert "is served already" in said


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("a.durus", "--file", "b.durus"), "DATABASE and --file"),
        (("--port", "70000"), "70000"),
        (("--port", "many"), "many"),
        (("--address", "a.sock", "--port", "2972"), "not both"),
        (("--address", "a.sock", "--umask", "9z"), "9z"),
        (("--address", "a.sock", "--umask", "08"), "octal"),
        (("--address", "a.sock", "--umask", "4096"), "0777"),
        (("--address", "a.sock", "--owner", "no such user"), "no such user"),
        (("--address", "a.sock", "--group", "no such group"), "no such group"),
        (("--owner", "0"), "--address"),
        (("--group", "0", "--address", "@abstract"), "--address"),
        (("--gcbytes", "-1"), "-1"),
        (("--logginglevel", "loud"), "loud"),
        (("--tls-key", "a.key"), "--tls-cert"),
        (("--tls-client-ca", "ca.pem"), "--tls-cert"),
        (("--tls-ca", "ca.pem"), "--stop"),
        (("--wait", "3"), "--stop"),
        (("a.durus", "--stop"), "name no database"),
        (("--file", "a.durus", "--stop"), "name no database"),
        (("--readonly",), "no database"),
        (("--storage-class", "file2"), "no database"),
        (("a.durus", "b.durus"), "b.durus"),
        (("--no-such-option",), "--no-such-option"),
    ],
    ids=" ".join,
)
def test_wrong_usage(durus: Any, arguments: tuple[str, ...], part: str) -> None:
    """A mistake in the options is one line that names it, and status 2; nothing is made."""
    assert part in durus.error("serve", *arguments, status=2)
    assert sorted(path.name for path in durus.folder.iterdir()) == ["home"]


def test_a_key_of_another_certificate(durus: Any) -> None:
    """A certificate is refused with the key of another one, and without its own."""
    for name in ("a", "b"):
        subprocess.run(
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc"
            f" -subj /CN={name} -keyout {name}.key -out {name}.pem".split(),
            cwd=durus.folder,
            check=True,
            capture_output=True,
        )
    said = durus.error("serve", "a.durus", "--tls-cert", "a.pem", "--tls-key", "b.key")
    assert "'a.pem' with the key in 'b.key': the key is that of another certificate" in said
    assert "give --tls-key" in durus.error("serve", "a.durus", "--tls-cert", "a.pem")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("folder",), "directory"),
        (("letter.txt",), "letter.txt"),
        (("none/app.durus",), "none/app.durus"),
        (("mongo:app",), "mongo:"),
        (("a.durus", "--storage-class", "no.such.Class"), "no.such.Class"),
        (("a.durus", "--logfile", "none/app.log"), "none/app.log"),
        (("a.durus", "--secret-file", "none"), "none"),
        (("a.durus", "--secret-file", "short"), "too short"),
        (("a.durus", "--secret-file", "open"), "chmod o-rw"),
        (("a.durus", "--tls-cert", "none.pem"), "none.pem"),
        (("a.durus", "--tls-cert", "letter.txt"), "letter.txt': PEM with a certificate"),
    ],
    ids=" ".join,
)
def test_what_cannot_be_served(durus: Any, arguments: tuple[str, ...], part: str) -> None:
    """What is wrong with a file is one line that names it, and status 1; no socket is made."""
    (durus.folder / "folder").mkdir()
    (durus.folder / "letter.txt").write_text("this is a letter\n")
    _secret(durus, "short", "too short")
    _secret(durus, "open", "o" * 32)
    (durus.folder / "open").chmod(0o644)
    assert part in durus.error("serve", *arguments, "--address", "a.sock")
    assert not (durus.folder / "a.sock").exists()


def test_what_a_file_cannot_be_told(durus: Any, database: Path) -> None:
    """What is for servers is refused where a file is named."""
    assert "--tls-ca" in durus.error("shell", database, "--tls-ca", "ca.pem", status=2)
    assert "--wait" in durus.error("pack", database, "--wait", "1", status=2)


def _secret(durus: Any, name: str, text: str) -> None:
    path = durus.folder / name
    path.touch(mode=0o600)
    path.write_text(text + "\n")


def _refused(durus: Any, *arguments: str) -> str:
    """Run a server that must not start; give the one line that is no line of the log."""
    done: subprocess.CompletedProcess[str] = durus(*arguments, status=1)
    errors = [line for line in done.stderr.splitlines() if " INFO " not in line]
    assert len(errors) == 1, done.stderr
    assert errors[0].startswith("durus: error: ")
    return errors[0]
