"""What is built from each package, tried as somebody has it who has no checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("build", reason="tox -e wheels has what builds the packages")

ROOT = Path(__file__).parents[2]
PACKAGES = sorted(path.parent for path in ROOT.glob("packages/*/pyproject.toml"))

# What a new user's shell does not have: our checkout, and switches of ours.
CLEAN_ENVIRONMENT = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith(("DURUS", "PYTHON", "VIRTUAL_ENV", "TOX", "COV"))
}

ROUND_TRIP = """
import sys
from durus.connection import Connection
from durus import persistent
connection = Connection("app.durus")
connection.get_root()["n"] = 1
connection.commit()
connection.close()
assert Connection("app.durus").get_root()["n"] == 1
print(persistent.PersistentBase.__module__)
"""


def _run(*command: str | Path, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=CLEAN_ENVIRONMENT | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done


def _build(package: Path, target: Path, *options: str, **variables: str) -> str:
    """Build sdist and wheel (or what `options` say) of `package`; give what the build printed."""
    command = [sys.executable, "-m", "build", "--outdir", target, *options, package]
    done = _run(*command, cwd=target, **variables)
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist and the wheel of every package; each wheel is made from its sdist."""
    target = tmp_path_factory.mktemp("built")
    for package in PACKAGES:
        _build(package, target)
    return target


@pytest.fixture(scope="module")
def pure_wheel(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The wheel of durus-core where the compiler does not work, and what the build printed."""
    target = tmp_path_factory.mktemp("pure")
    printed = _build(ROOT / "packages" / "durus-core", target, "--wheel", CC="/bin/false")
    (wheel,) = target.glob("*.whl")
    return wheel, printed


@pytest.fixture
def empty_environment(tmp_path: Path) -> Iterator[Path]:
    """A new virtual environment; gives the folder of its commands."""
    venv.create(tmp_path / "venv", with_pip=True)
    yield tmp_path / "venv" / "bin"
    shutil.rmtree(tmp_path / "venv")


def _files(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_no_two_wheels_share_a_file(built: Path) -> None:
    """Each file of an installed Durus belongs to one distribution."""
    seen: dict[str, str] = {}
    for wheel in built.glob("*.whl"):
        for name in _files(wheel):
            assert name not in seen, f"{name} is in {wheel.name} and in {seen[name]}"
            seen[name] = wheel.name
    assert "durus/__init__.py" not in seen
    assert "durus/py.typed" in seen


def test_a_wheel_holds_its_modules_and_its_licence_and_nothing_else(built: Path) -> None:
    """Every module of src is there; no C source, no tests, no compiled module of another Python."""
    for package in PACKAGES:
        (wheel,) = built.glob(f"{package.name.replace('-', '_')}-*.whl")
        src = package / "src"
        modules = {str(path.relative_to(src)) for path in src.rglob("*.py")}
        modules |= {str(path.relative_to(src)) for path in src.rglob("py.typed")}
        files = {name for name in _files(wheel) if ".dist-info/" not in name}
        extra = files - modules
        assert modules <= files
        assert all(name.startswith("durus/_speedups.") and "so" in name for name in extra), extra
        assert len(extra) <= 1
        assert any(name.endswith(".dist-info/licenses/LICENSE") for name in _files(wheel))


def test_the_compiled_module_is_in_the_wheel_of_this_python(built: Path) -> None:
    """The wheel of durus-core says which Python and system it is for; the others fit all."""
    tags = {wheel.name.split("-")[0]: wheel.stem.split("-", 2)[2] for wheel in built.glob("*.whl")}
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    assert tags.pop("durus_core").startswith(f"{python}-{python}-")
    assert set(tags.values()) == {"py3-none-any"}


def test_an_sdist_holds_what_a_build_needs(built: Path) -> None:
    """The source archive has the C source, the build hook and the licence, and nothing compiled."""
    for sdist in built.glob("*.tar.gz"):
        with tarfile.open(sdist) as archive:
            names = {name.partition("/")[2] for name in archive.getnames()}
        assert {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md"} <= names
        assert not any(name.endswith((".so", ".pyd", ".pyc")) for name in names)
        if sdist.name.startswith("durus_core"):
            sources = {
                "_speedups.c",
                "_btree_speedups.c",
                "_plain_reader.c",
                "_plain_writer.c",
                "_plain_states.c",
                "_plain_states.h",
            }
            assert {"hatch_build.py", *(f"src/durus/{name}" for name in sources)} <= names


def test_the_demonstration_runs_from_the_wheels(
    built: Path, empty_environment: Path, tmp_path: Path
) -> None:
    """In an empty environment, without the checkout, `durus demo` and `durus --version` work."""
    wheels = sorted(built.glob("*.whl"))
    _run(empty_environment / "pip", "install", "-q", *wheels, cwd=tmp_path)
    demo = _run(empty_environment / "durus", "demo", cwd=tmp_path)
    assert "commit" in demo.stdout
    version = _run(empty_environment / "durus", "--version", cwd=tmp_path)
    assert "5.0.0a1" in version.stdout
    assert (
        version.stdout
        == _run(empty_environment / "python", "-m", "durus", "--version", cwd=tmp_path).stdout
    )
    done = _run(empty_environment / "python", "-c", ROUND_TRIP, cwd=tmp_path)
    assert done.stdout == "durus._speedups\n"


def test_users_code_type_checks_against_the_wheels(
    built: Path, empty_environment: Path, tmp_path: Path
) -> None:
    """mypy finds the types of what is installed: the markers are where it looks for them."""
    _run(empty_environment / "pip", "install", "-q", *sorted(built.glob("*.whl")), cwd=tmp_path)
    for sample in (ROOT / "tests" / "typing").glob("users_*.py"):
        shutil.copy(sample, tmp_path)
    samples = sorted(tmp_path.glob("users_*.py"))
    python = f"--python-executable={empty_environment / 'python'}"
    _run(sys.executable, "-m", "mypy", "--strict", python, *samples, cwd=tmp_path)


def test_durus_works_without_a_compiler(
    built: Path, pure_wheel: tuple[Path, str], empty_environment: Path, tmp_path: Path
) -> None:
    """Where the compiler fails, the build warns, and what it made works on any Python."""
    wheel, printed = pure_wheel
    assert wheel.name.endswith("-py3-none-any.whl")
    assert "WARNING: durus._speedups could not be compiled" in printed
    siblings = [path for path in built.glob("*.whl") if not path.name.startswith("durus_core")]
    _run(empty_environment / "pip", "install", "-q", wheel, *siblings, cwd=tmp_path)
    done = _run(empty_environment / "python", "-c", ROUND_TRIP, cwd=tmp_path)
    assert done.stdout == "durus._pure\n"
    _run(empty_environment / "durus", "demo", cwd=tmp_path)
