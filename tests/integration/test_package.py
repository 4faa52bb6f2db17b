"""The built wheel, installed away from the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder that holds the unpacked wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # a copy, so that leftovers of older builds in the checkout do not get in
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("mrl_text", "eval", "recipes"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    # no isolation and no index: setuptools is here already, and the test must not depend on the network
    wheel_options = ["--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "wheel", *wheel_options, "--wheel-dir", folder, source], check=True, cwd=folder)
    (wheel,) = folder.glob("mrl_text-*.whl")
    target = folder / "site"
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--target", target, wheel], check=True, cwd=folder)
    return target


def _python(installed: Path, cwd: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    command = [sys.executable, *arguments]
    return subprocess.run(command, check=True, cwd=cwd, env=environment, capture_output=True, text=True).stdout


def test_the_wheel_holds_every_part_and_the_recipes(installed: Path, tmp_path: Path) -> None:
    code = "import mrl_text, mrl_text.eval, mrl_text.recipes as r; print(mrl_text.__file__, mrl_text.eval.__file__)"
    assert all(Path(file).is_relative_to(installed) for file in _python(installed, tmp_path, "-c", code).split())
    listing = _python(installed, tmp_path, "-c", "from mrl_text.cli import app; app(['recipes'])")
    shipped = sorted(file.stem for file in (ROOT / "recipes").glob("*.yaml"))
    assert [line.split()[0] for line in listing.splitlines()] == shipped
    assert (installed / "mrl_text" / "py.typed").exists()
    for name in ("report.html", "site.html", "page.css", "page.js", "published/nomic-embed-text-v1.5.csv"):
        assert (installed / "mrl_text" / "eval" / name).exists()


def test_the_wheel_encodes_outside_the_checkout(installed: Path, tmp_path: Path, tiny_bert: Path) -> None:
    code = f"import mrl_text; print(mrl_text.encode(['the cat', 'a dog'], dim=8, model={str(tiny_bert)!r}).shape)"
    assert _python(installed, tmp_path, "-c", code).strip() == "(2, 8)"
