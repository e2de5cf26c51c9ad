"""The wheel holds `maitre` alone, complete, and its commands work from any folder."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.tiny_inputs import write_adapters, write_model, write_tasks

REPOSITORY = Path(__file__).resolve().parent.parent
PROFILE = "h100-64gb/llama-3.1-8b-instruct"
ROOMS = ("assets", "resources", "sensors", "pipelines", "tests", "benchmarks")
# The unpacked wheel comes first on the path; the rooms of the checkout must not be needed.
RUN = f"""
import sys
sys.path.insert(0, sys.argv.pop(1))
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {ROOMS!r}:
            raise ImportError(f"the wheel needs {{name}}")
sys.meta_path.insert(0, Refuse())
import maitre
assert maitre.__file__.startswith(sys.path[0]), maitre.__file__
from maitre.cli.main import main
sys.argv[0] = "maitre"
main()
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's content, unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    # A build leaves files behind: not in the checkout.
    for name in ("maitre", "pyproject.toml", "README.md", "LICENSE"):
        (source / name).symlink_to(REPOSITORY / name)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "--wheel-dir", str(folder), str(source)], check=True)
    [made] = folder.glob("*.whl")
    with zipfile.ZipFile(made) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def run(wheel: Path, cwd: Path, *arguments: str) -> str:
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(cwd),
        "MAITRE_HOME": str(cwd / "home"),
        "MAITRE_BASE_MODEL": str(cwd / "model"),
    }
    ended = subprocess.run(
        [sys.executable, "-c", RUN, str(wheel), *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_it_holds_the_package_and_nothing_else(wheel: Path) -> None:
    [info] = wheel.glob("maitre-*.dist-info")
    assert {path.name for path in wheel.iterdir()} == {"maitre", info.name}
    shipped = {p.relative_to(wheel).as_posix() for p in wheel.rglob("*") if p.is_file()}
    tracked = subprocess.run(
        ["git", "ls-files", "maitre"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout.split()
    assert set(tracked) <= shipped
    assert "maitre = maitre.cli.main:main" in (info / "entry_points.txt").read_text()


def test_its_commands_work_from_any_folder(wheel: Path, tmp_path: Path) -> None:
    assert "place" in run(wheel, tmp_path, "--help")
    assert PROFILE in run(wheel, tmp_path, "twin", "profiles")
    adapters = str(write_adapters(tmp_path / "adapters.csv", "llama-3.1-8b-instruct"))
    plan = json.loads(run(wheel, tmp_path, "place", adapters, "--profile", PROFILE, "--json"))
    assert len({a["adapter"] for s in plan["servers"] for a in s["adapters"]}) == 24
    said = run(wheel, tmp_path, "twin", "simulate", "--profile", PROFILE, "--catalogue", adapters,
               "--duration", "60", "--json")  # fmt: skip
    assert json.loads(said)["completed"] > 0


def test_it_tunes_here_and_now(wheel: Path, tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    tasks = write_tasks(tmp_path / "tasks", ("first",))
    said = run(wheel, tmp_path, "tune", str(tasks / "first"), "--local", "--init", "random",
               "--max-iterations", "2", "--json")  # fmt: skip
    assert json.loads(said)["iterations"] <= 2
