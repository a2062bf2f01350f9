"""A wheel has all that `reval` needs: it works where this repository is not."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.helpers.command import ROOT

pytestmark = pytest.mark.slow
PACKAGES = ("flows", "pipeline", "reval", "schemas")
NEEDED = {".py", ".sql", ".toml"}
PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
# Prints where each package was found, and then the output of the command.
HELP = f"import sys, {', '.join(PACKAGES)}; print({', '.join(f'{name}.__file__' for name in PACKAGES)}); "
HELP += "from flows.cli import main; sys.argv = ['reval', '--help']; main()"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy, because setuptools leaves files in the folder where it builds."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, folder / "copy" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "copy")
    command = [*PIP, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(folder), str(folder / "copy")]
    subprocess.run(command, check=True, timeout=300)
    (made,) = folder.glob("*.whl")
    return made


def test_it_has_every_module_query_and_recipe(wheel) -> None:
    here = {
        str(path.relative_to(ROOT)) for name in PACKAGES for path in (ROOT / name).rglob("*") if path.suffix in NEEDED
    }
    with zipfile.ZipFile(wheel) as opened:
        there = {name for name in opened.namelist() if ".dist-info/" not in name}
        (metadata,) = (opened.read(name).decode() for name in opened.namelist() if name.endswith("/METADATA"))
        assert any(name.endswith("/licenses/LICENSE") for name in opened.namelist())
    assert there == here
    assert "License-Expression: Apache-2.0" in metadata.splitlines()


def test_installed_from_it_the_command_works(wheel, tmp_path) -> None:
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    command = [*PIP, "install", "--no-deps", "--no-index", "--no-compile", "--target", str(site), str(wheel)]
    subprocess.run(command, check=True, timeout=300)
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PREFECT_", "REVAL_"))}

    def said(*words: str) -> list[str]:
        command, env = [sys.executable, *words], {**kept, "PYTHONPATH": str(site)}
        done = subprocess.run(command, cwd=elsewhere, env=env, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.splitlines()

    found, *help_ = said("-c", HELP)
    assert found.split() == [str(site / name / "__init__.py") for name in PACKAGES]
    assert any("iterate" in line for line in help_)
    assert said(str(site / "bin" / "reval"), "plan")[0].startswith("arithmetic: 15 iterations of 32 × 8 = 256 rollouts")
    assert list(elsewhere.iterdir()) == []
