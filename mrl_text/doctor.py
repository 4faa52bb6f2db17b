"""What a bug report needs to know of a machine, and what on it is missing."""

from __future__ import annotations

import os
import platform
import shutil
from importlib.metadata import metadata, requires
from typing import Any, get_args

from packaging.requirements import Requirement

from mrl_text.choices import Backend
from mrl_text.files import cache_dir, check_writable
from mrl_text.models import PACKAGED_MODELS
from mrl_text.versions import installed_version

_DEVELOPMENT = "dev"  # the extra that only developers need
_GB = 1e9


def examine() -> dict[str, Any]:
    """Look at versions, processor, GPU, compute backends, extras and cache folder. No model is loaded, nothing is sent.

    Returns:
        What JSON can hold: ``versions`` of this package's requirements, ``machine``, ``backends`` (what each computes
        in, None where it is not installed), ``extras`` (whether each is ``there``, and what it ``lacks``), ``cache``
        and ``problems``, a list of sentences, each with its fix; empty where all is well.
    """
    import torch
    from sentence_transformers.util import get_device_name

    from mrl_text.backends.base import engine_of
    from mrl_text.dtypes import fastest_dtype

    versions, extras, problems = _packages()
    backends: dict[str, list[str] | None] = {}
    for backend in get_args(Backend):
        try:
            known = ("float32", "bfloat16", "float16") if backend == "torch" else engine_of(backend).dtypes()
            backends[backend] = list(known)
        except ModuleNotFoundError:
            backends[backend] = None
    cache = cache_dir()
    try:
        check_writable(cache, "name another folder with MRL_TEXT_CACHE")
    except OSError as error:
        problems.append(str(error))
    files = [file.stat().st_size for file in cache.rglob("*") if file.is_file()] if cache.is_dir() else []
    place = next(folder for folder in (cache, *cache.parents) if folder.exists())
    return {
        "mrl-text": installed_version("mrl-text"),
        "python": platform.python_version(),
        "machine": {
            "system": platform.platform(),
            "processors": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "threads": torch.get_num_threads(),
            "instructions": torch.backends.cpu.get_cpu_capability(),
            "device": get_device_name(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "fastest dtype": fastest_dtype(),
        },
        "backends": backends,
        "extras": {name: {"there": not lacks, "lacks": lacks} for name, lacks in extras.items()},
        "cache": {
            "folder": str(cache),
            "gb": round(sum(files) / _GB, 2),
            "gb free": round(shutil.disk_usage(place).free / _GB, 1),
        },
        "packaged models": {
            name: installed_version(package.replace("_", "-")) for name, (package, _) in PACKAGED_MODELS.items()
        },
        "offline": os.environ.get("HF_HUB_OFFLINE") == "1",
        "versions": versions,
        "problems": problems,
    }


def _packages() -> tuple[dict[str, str | None], dict[str, list[str]], list[str]]:
    """Versions of what this package requires, what each extra lacks, and what is too old or not there."""
    versions: dict[str, str | None] = {}
    extras: dict[str, list[str]] = {}
    problems: list[str] = []
    known = metadata("mrl-text").get_all("Provides-Extra") or []
    for line in requires("mrl-text") or ():
        needed = Requirement(line)
        extra = next((name for name in known if needed.marker and needed.marker.evaluate({"extra": name})), None)
        if needed.name == "mrl-text" or extra == _DEVELOPMENT or (needed.marker and extra is None):
            continue  # of other systems, or tools of developers
        found, wanted = installed_version(needed.name), f"{needed.name}{needed.specifier}"
        fits = found is not None and needed.specifier.contains(found, prereleases=True)
        if extra is not None:
            extras.setdefault(extra, []).extend([] if fits else [wanted])
        elif not fits:
            state = f"{found} is not what is needed" if found else "is not installed"
            problems.append(f"{needed.name} {state}: pip install '{wanted}'")
        if extra is None or found:
            versions[needed.name] = found
    return dict(sorted(versions.items())), dict(sorted(extras.items())), problems
