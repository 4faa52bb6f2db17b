"""Big libraries are imported with the garbage collector paused, and all else is as it was."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import gc, importlib, sys
from mrl_text.imports import pause_collection
{before}
pause_collection()
try:
    import mteb
    print(mteb.collecting, mteb.inner.collecting, mteb.__spec__.name)
except ImportError as error:
    print("failed", error)
print(gc.isenabled(), gc.get_freeze_count() > 0)
import other
print(other.collecting)
"""


def _run(folder: Path, before: str = "", package: str = "") -> list[str]:
    (folder / "mteb").mkdir()
    seen = "import gc\ncollecting = gc.isenabled()\n"
    (folder / "mteb/__init__.py").write_text(f"{seen}from mteb import inner\n{package}")
    (folder / "mteb/inner.py").write_text(seen)
    (folder / "other.py").write_text(seen)
    code = f"import sys\nsys.path.insert(0, {str(folder)!r})\n{PROGRAM.format(before=before)}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=folder)
    return done.stdout.splitlines()


def test_paused_for_big_libraries_alone(tmp_path: Path) -> None:
    assert _run(tmp_path) == ["False False mteb", "True True", "True"]


def test_a_program_without_collection_stays_without(tmp_path: Path) -> None:
    assert _run(tmp_path, before="gc.disable()") == ["False False mteb", "False False", "False"]


def test_on_again_after_a_failed_import(tmp_path: Path) -> None:
    found = _run(tmp_path, package="raise ImportError('as its part')")
    assert found == ["failed as its part", "True True", "True"]


@pytest.mark.parametrize("package", ["torch", "sklearn"])
def test_sources_and_files_of_a_package_are_still_found(package: str) -> None:
    code = f"""
import importlib.resources, inspect
from mrl_text.imports import pause_collection
pause_collection(); pause_collection()
import {package}
assert "import" in inspect.getsource({package})
assert importlib.resources.files({package!r}).joinpath("__init__.py").is_file()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
