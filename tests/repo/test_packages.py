"""Each distribution carries what it must, and they agree with each other and with the documents."""

from __future__ import annotations

import configparser
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = sorted(path.parent for path in ROOT.glob("packages/*/pyproject.toml"))
NAMES = [path.name for path in PACKAGES]

each_package = pytest.mark.parametrize("package", PACKAGES, ids=NAMES)


def _project(package: Path) -> dict[str, Any]:
    project: dict[str, Any] = _toml(package / "pyproject.toml")["project"]
    return project


def _toml(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text(encoding="utf-8"))


def _documents() -> str:
    """Give the text of all that a user may read about the packages together."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return "\n".join(page.read_text(encoding="utf-8") for page in pages)


@each_package
def test_a_package_has_its_files(package: Path) -> None:
    """README, changelog and fragments are there, and the licence is the one licence."""
    for name in ("README.md", "LICENSE", "CHANGELOG.md"):
        assert (package / name).read_text(encoding="utf-8").strip(), name
    assert (package / "changes").is_dir()
    assert (package / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


@each_package
def test_a_package_is_typed(package: Path) -> None:
    """The root of the namespace has one marker, in durus-core, and every folder has its own."""
    namespace = package / "src" / "durus"
    assert (namespace / "py.typed").exists() == (package.name == "durus-core")
    for folder in namespace.iterdir():
        if (folder / "__init__.py").exists():
            assert (folder / "py.typed").is_file(), f"{folder.name} has no py.typed"


@each_package
def test_a_package_says_the_same_as_its_siblings(package: Path) -> None:
    """Name, licence and the Pythons are those of the others."""
    project = _project(package)
    assert project["name"] == package.name
    assert project["license"] == "MIT"
    assert project["license-files"] == ["LICENSE"]
    assert project["requires-python"] == ">=3.11"
    assert project["readme"] == "README.md"


@each_package
def test_a_sibling_is_asked_for_in_the_versions_that_fit(package: Path) -> None:
    """What a package asks of a sibling, the sibling in this tree fulfils, up to its next major."""
    versions = {path.name: _project(path)["version"] for path in PACKAGES}
    for requirement in _project(package)["dependencies"]:
        name = re.match(r"[\w-]+", requirement)
        assert name is not None
        if name[0] not in versions:
            continue
        major = int(versions[name[0]].split(".")[0])
        assert requirement == f"{name[0]}>={versions[name[0]]},<{major + 1}"


@each_package
def test_a_fragment_has_a_name_that_towncrier_takes(package: Path) -> None:
    """Each fragment is `NAME.TYPE.md`, its type is declared, and it says something."""
    types = {
        entry["directory"]
        for entry in _toml(package / "pyproject.toml")["tool"]["towncrier"]["type"]
    }
    for fragment in (package / "changes").iterdir():
        stem, kind, suffix = fragment.name.rsplit(".", 2)
        assert stem, fragment
        assert (kind in types, suffix) == (True, "md"), fragment
        assert fragment.read_text(encoding="utf-8").strip(), fragment


@each_package
def test_every_entry_point_is_in_the_documents(package: Path) -> None:
    """README or docs have each command, as `durus NAME`, and each URL scheme, as `NAME:`."""
    documents = _documents()
    points = _project(package).get("entry-points", {})
    for name in points.get("durus.commands", {}):
        assert f"durus {name}" in documents, f"durus {name} is in no document"
    for name in points.get("durus.storages", {}):
        assert f"`{name}:" in documents, f"the scheme {name}: is in no document"


@each_package
def test_entry_points_name_what_is_there(package: Path) -> None:
    """Each entry point's module is a file of the distribution that declares it."""
    project = _project(package)
    groups = [*project.get("entry-points", {}).values(), project.get("scripts", {})]
    for group in groups:
        for value in group.values():
            module = value.split(":")[0].replace(".", "/")
            candidates = [
                package / "src" / f"{module}.py",
                package / "src" / module / "__init__.py",
            ]
            assert any(path.is_file() for path in candidates), value


def _tox() -> configparser.ConfigParser:
    tox = configparser.ConfigParser(interpolation=None)
    tox.read(ROOT / "tox.ini", encoding="utf-8")
    return tox


def test_the_tools_are_pinned_alike() -> None:
    """pre-commit runs the releases of ruff, codespell and mypy that tox runs."""
    tox = _tox()
    hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    tools = {"ruff": "testenv:lint", "codespell": "testenv:lint", "mypy": "testenv:types"}
    for tool, environment in tools.items():
        pins = re.findall(rf"^{tool}==.+$", tox[environment]["deps"], flags=re.MULTILINE)
        assert len(pins) == 1
        assert set(re.findall(rf"{tool}==[\d.]+", hooks)) == set(pins)


def test_what_py312_leaves_out_is_run_on_3_12_elsewhere() -> None:
    """Each folder that the environment of 3.12 ignores is the whole of another, on 3.12 too.

    But for the command and the documents, which nothing compiled is in: 3.11 and 3.13 try them.
    """
    tox = _tox()
    line = next(line for line in tox["testenv"]["commands"].splitlines() if "py312-!pure:" in line)
    ignored = set(re.findall(r"--ignore(?:-glob)?=tests/(\w+)", line))
    ignored -= {"compat", "crash", "cli", "docs"}
    assert ignored == {"core", "filestorage", "sqlite", "server"}
    for name in ignored:
        environment = tox[f"testenv:{name}"]
        assert environment["base_python"].split()[0] == "python3.12"
        assert environment["commands"].strip() == f"pytest {{posargs:tests/{name}}}"
        assert "set_env" not in environment, "it would not be compiled"


def test_the_tools_know_every_source_folder() -> None:
    """The settings of ruff and mypy list every `src`: neither finds a namespace by itself."""
    settings = _toml(ROOT / "pyproject.toml")["tool"]
    sources = [f"packages/{name}/src" for name in NAMES]
    assert sorted(settings["ruff"]["src"]) == sources
    assert sorted(settings["ruff"]["namespace-packages"]) == [f"{src}/durus" for src in sources]
    examples = ["docs/examples/storage-plugin/src", "docs/examples/wiki"]
    assert sorted(settings["mypy"]["mypy_path"]) == [
        f"$MYPY_CONFIG_FILE_DIR/{src}" for src in [*examples, *sources]
    ]


def test_links_between_documents_lead_somewhere() -> None:
    """Every relative link of a document names a file that is there."""
    pages = [*ROOT.glob("*.md"), *ROOT.glob("packages/*/*.md"), *(ROOT / "docs").rglob("*.md")]
    missing = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in pages
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
        if not (page.parent / target).exists()
    ]
    assert missing == []


def test_ci_runs_the_command_of_the_readme() -> None:
    """.ci/run takes the test command from the README: there is one line that starts tox."""
    lines = [
        line
        for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("    ") and "bin/tox" in line
    ]
    assert len(lines) == 1
    assert "README.md" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
