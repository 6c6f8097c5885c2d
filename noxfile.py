"""The checks of recall-sdk. ``nox`` runs them all, ``nox -l`` lists them, ``nox -s tests-3.12`` runs one.

All sessions that run the library install the wheel, which ``build`` makes once, so that a file missing from the wheel is noticed here.
All output goes to ``.build``.
"""

import re
import shutil
import tarfile
import zipfile
from pathlib import Path

import nox

nox.needs_version = ">=2025.10.14"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.download_python = "never"
nox.options.error_on_missing_interpreters = False  # also if CI is set: nox skips the session and says so
nox.options.sessions = ["lint", "types", "docs", "examples", "package", "oldest", "tests", "coverage"]

PYPROJECT = nox.project.load_toml("pyproject.toml")
PYTHONS = nox.project.python_versions(PYPROJECT)
NEWEST_HERE = next((python for python in reversed(PYTHONS) if shutil.which(f"python{python}")), PYTHONS[-1])
FLOORS = [
    requirement.split(",")[0].replace(">=", "==")
    for requirement in [*PYPROJECT["project"]["dependencies"], *PYPROJECT["project"]["optional-dependencies"]["testing"]]
]

OUT = Path(".build").resolve()
DIST = OUT / "dist"
BUILD = ("python", "-m", "build", "--installer", "uv")
PYTEST = ("python", "-m", "pytest", "-n", "4", "--dist", "worksteal")  # mostly they wait, for servers and timeouts


def built(pattern: str) -> str:
    """Return the one built file that matches this pattern."""
    (path,) = DIST.glob(pattern)
    return str(path)


def run_tests(session: nox.Session, *requirements: str) -> None:
    """Run the tests with the installed wheel, and record their coverage in each process of pytest-xdist, from its start."""
    session.install(built("*.whl") + "[testing]", "-r", "tests/requirements.txt", *requirements)
    site_packages = session.run("python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", silent=True)
    Path(str(site_packages).strip(), "measure.pth").write_text("import coverage; coverage.process_startup()\n", encoding="utf-8")
    session.run(*PYTEST, *session.posargs, env={"COVERAGE_PROCESS_START": str(Path("pyproject.toml").resolve())})


@nox.session
def build(session: nox.Session) -> None:
    """Build the sdist, and from it the wheel."""
    session.install("build[uv]")
    shutil.rmtree(DIST, ignore_errors=True)
    session.run(*BUILD, "--outdir", str(DIST), silent=True)
    for stale in Path().glob(".coverage.*"):  # it belongs to another wheel
        stale.unlink()


@nox.session
def lint(session: nox.Session) -> None:
    """Check the style of all code; ``nox -s lint -- --fix`` fixes what can be fixed."""
    session.install(*nox.project.dependency_groups(PYPROJECT, "lint"))
    session.run("ruff", "check", *session.posargs)
    session.run("ruff", "format", *([] if "--fix" in session.posargs else ["--check"]))


@nox.session(requires=["build"])
def types(session: nox.Session) -> None:
    """Check the types of the code and of the documentation's blocks, and that every public name has one."""
    session.install(built("*.whl"), *nox.project.dependency_groups(PYPROJECT, "types"))
    for platform in ("linux", "darwin", "win32"):
        session.run("mypy", "--platform", platform)
    session.run("python", "tests/typing/blocks.py")
    session.run("pyright")
    session.run("pyright", "--verifytypes", "recall_sdk", "--ignoreexternal")


@nox.session(python=PYTHONS, requires=["build"])
def tests(session: nox.Session) -> None:
    """Run the tests on one Python, with the newest libraries."""
    run_tests(session)


@nox.session(python=PYTHONS[0], requires=["build"])
def oldest(session: nox.Session) -> None:
    """Run the tests on the oldest Python, with the oldest libraries."""
    run_tests(session, *FLOORS)


@nox.session(python=NEWEST_HERE, requires=["build"])
def newest(session: nox.Session) -> None:
    """Run the tests on the newest Python that is installed here, with the newest libraries."""
    run_tests(session)


@nox.session(python="pypy3.11", requires=["build"])
def pypy(session: nox.Session) -> None:
    """Run the tests on PyPy, without coverage, which would take minutes there."""
    session.install(built("*.whl") + "[testing]", "-r", "tests/requirements.txt")
    session.run(*PYTEST, *session.posargs)


@nox.session(python=["3.13t", "3.14t"], requires=["build"])
def free_threaded(session: nox.Session) -> None:
    """Run the tests on a build without a GIL, and keep the GIL off even if an extension module requests it."""
    lines = [line.partition("#") for line in Path("tests/requirements.txt").read_text(encoding="utf-8").splitlines()]
    # cryptography has no wheel for these builds, and no marker identifies them.
    requirements = [requirement.strip() for requirement, _, why in lines if requirement.strip() and "cryptography" not in why]
    session.install(built("*.whl") + "[testing]", *requirements)
    session.run(*PYTEST, *session.posargs, env={"PYTHON_GIL": "0"})


@nox.session
def coverage(session: nox.Session) -> None:
    """Combine the coverage of the previous test runs, and require all of it."""
    session.install("coverage[toml]")
    session.run("coverage", "combine")
    session.run("coverage", "report")


@nox.session(requires=["build"])
def docs(session: nox.Session) -> None:
    """Build the documentation into ``.build/docs``, and check its internal links and what only the built pages show."""
    session.install(built("*.whl") + "[testing]", "-r", "docs/requirements.txt")
    build_pages = ("sphinx-build", "--fail-on-warning", "--keep-going", "--quiet", "docs")
    session.run(*build_pages, str(OUT / "docs"))
    session.run("python", "docs/check.py", str(OUT / "docs"), PYPROJECT["project"]["urls"].get("Repository", ""))
    session.run(*build_pages, str(OUT / "linkcheck"), "-b", "linkcheck", "-D", "linkcheck_ignore=https?://")
    address = "https://example.org/recall-sdk"
    session.run(*build_pages, str(OUT / "docs-with-address"), "-D", f"repository={address}")
    session.run("python", "docs/check.py", str(OUT / "docs-with-address"), address)


@nox.session(requires=["build"])
def examples(session: nox.Session) -> None:
    """Run every example with the test server."""
    session.install(built("*.whl") + "[testing]", "-r", "tests/requirements.txt")
    for example in sorted(Path("examples").glob("*.py")):
        session.run("python", "-W", "error", str(example), env={"RECALL_API_KEY": None, "RECALL_BASE_URL": None})


@nox.session(requires=["build"], reuse_venv=False)
def package(session: nox.Session) -> None:
    """Check the distribution: it installs alone, is complete, has no dead link on the index, and a rebuild gives the same bytes."""
    wheel, sdist = built("*.whl"), built("*.tar.gz")

    session.install(wheel)
    session.run("python", "-W", "error", "-c", "from recall_sdk import *; print(RecallClient('key'), __version__)")
    session.install("pytest")
    with session.chdir(session.create_tmp()):
        session.run("python", "-m", "pytest", "-VV")  # loads our plugin without the extra

    session.install(*nox.project.dependency_groups(PYPROJECT, "package"))
    session.run("twine", "check", "--strict", wheel, sdist)

    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = (archive.read(name).decode() for name in names if name.endswith(".dist-info/METADATA"))
    links = re.findall(r'\]\(([^)\s]*)|^\[[^]]+\]: *(\S+)|(?:src|href)="([^"]*)', metadata, re.MULTILINE)
    dead = [link for link in map("".join, links) if not link.startswith("https://")]
    assert links, "the page on the package index has no links"
    assert not dead, f"the page on the package index has links to files that it lacks: {dead}"
    source = {path.relative_to("src").as_posix() for path in Path("src").rglob("*") if path.suffix in {".py", ".typed"}}
    assert {name for name in names if ".dist-info/" not in name} == source, "the wheel holds other files than src"
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names), "the wheel lacks the licence"

    again = OUT / "again"
    shutil.rmtree(again, ignore_errors=True)
    with tarfile.open(sdist) as archive:
        archive.extractall(again)  # noqa: S202 -- we have just built it
    (unpacked,) = again.iterdir()
    tops = {path.name for path in unpacked.iterdir()}
    wanted = {"LICENSE", "README.md", "docs", "examples", "noxfile.py", "pyproject.toml", "src", "tests"}
    assert tops == wanted | {".gitignore", "PKG-INFO"}, f"the sdist holds {sorted(tops)}"
    session.run(*BUILD, "--outdir", str(again / "dist"), str(unpacked), silent=True)
    for path in (wheel, sdist):
        assert (again / "dist" / Path(path).name).read_bytes() == Path(path).read_bytes(), f"{path} differs when rebuilt"


@nox.session(requires=["build"])
def soak(session: nox.Session) -> None:
    """Use one client in many threads against a hostile server, for two minutes; ``nox -s soak -- --seconds 3600`` for an hour."""
    session.install(built("*.whl"))
    session.run("python", "-m", "tests.soak", *session.posargs)


@nox.session(requires=["build"])
def bench(session: nox.Session) -> None:
    """Measure the SDK next to its peers; ``nox -s bench -- --check`` fails if a requirement is not met."""
    session.install(built("*.whl"), "-r", "tests/bench/requirements.txt")
    session.run("python", "-m", "tests.bench", *session.posargs)


@nox.session(python=PYTHONS[0], requires=["build"])
def bench_oldest(session: nox.Session) -> None:
    """Measure a call on the oldest Python, with the oldest libraries."""
    session.install(built("*.whl"), *FLOORS)
    session.run("python", "-m", "tests.bench", "--only", "call", *session.posargs)


@nox.session(python=NEWEST_HERE, requires=["build"])
def bench_newest(session: nox.Session) -> None:
    """Measure a call on the newest Python that is installed here, with the newest libraries."""
    session.install(built("*.whl"))
    session.run("python", "-m", "tests.bench", "--only", "call", *session.posargs)
