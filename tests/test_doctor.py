"""What ``mrl-text doctor`` tells."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from mrl_text import doctor
from mrl_text.versions import installed_version
from tests.conftest import invoke

pytestmark = pytest.mark.usefixtures("command_line")


def test_it_tells_versions_machine_and_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    told = invoke("doctor", "--json")
    found = json.loads(told.output)
    assert told.exit_code == 0
    assert found["problems"] == []
    assert found["mrl-text"] == version("mrl-text")
    assert found["versions"]["torch"] == version("torch")
    assert found["versions"]["sentence-transformers"] == version("sentence-transformers")
    assert found["machine"]["threads"] == torch.get_num_threads()
    assert {"search", "onnx", "postgres"} <= set(found["extras"])
    assert "dev" not in found["extras"]
    assert found["extras"]["search"] == {"there": True, "lacks": []}
    assert "pytest" not in found["versions"]
    assert found["backends"]["torch"]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    shown = invoke("doctor").output
    assert f"{torch.get_num_threads()} (OMP_NUM_THREADS=1)" in shown
    assert "No problem found." in shown
    assert version("torch") in shown


def test_what_is_missing_is_named_with_its_fix(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def pretended(package: str) -> str | None:
        made_up = {"numpy": "1.9.0", "peft": "0.1.0", "tqdm": None, "qdrant-client": None}
        return made_up[package] if package in made_up else installed_version(package)

    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MRL_TEXT_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(doctor, "installed_version", pretended)
    told = invoke("doctor", "--json")
    found = json.loads(told.output)
    assert told.exit_code == 1
    numpy, tqdm, cache = found["problems"]
    assert numpy == "numpy 1.9.0 is not what is needed: pip install 'numpy>=2'"
    assert tqdm.startswith("tqdm is not installed: pip install 'tqdm>=")
    assert "name another folder with MRL_TEXT_CACHE" in cache
    assert found["extras"]["qdrant"] == {"there": False, "lacks": ["qdrant-client>=1.18"]}
    assert found["extras"]["peft"] == {"there": False, "lacks": ["peft>=0.20"]}
    shown = invoke("doctor").output
    assert "pip install 'numpy>=2'" in shown
    assert "lacks peft>=0.20: pip install 'mrl-text[peft]'" in shown
