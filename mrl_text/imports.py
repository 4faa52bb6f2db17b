"""Import the big libraries below us without the garbage collector looking on.

They make some hundred thousand objects that all stay, and the collector looks through them again and again. Python's
documentation of :func:`gc.freeze` describes the practice.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

_BIG = frozenset({"torch", "transformers", "datasets", "sklearn", "sentence_transformers", "mteb"})


class _WithoutCollection(MetaPathFinder):
    """Finds what Python would find, and pauses the collector while that is executed."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in _BIG:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            vars(spec.loader)["exec_module"] = _paused(spec.loader.exec_module)
        return spec


def _paused(execute: Callable[[ModuleType], None]) -> Callable[[ModuleType], None]:
    def run(module: ModuleType) -> None:
        collecting = gc.isenabled()
        gc.disable()
        try:
            execute(module)
        finally:
            if collecting:  # not where a bigger one is under way, or whoever runs this program wants none
                gc.freeze()
                gc.enable()

    return run


def pause_collection() -> None:
    """Pause the collector during each import of a big library from now on. To be called by a program, once."""
    if not any(isinstance(finder, _WithoutCollection) for finder in sys.meta_path):
        sys.meta_path.insert(0, _WithoutCollection())
