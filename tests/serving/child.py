"""What a server's own process runs. It imports nothing of pytest."""

from __future__ import annotations

import logging
import os
import resource
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from mrl_text.serving import ServerSettings, serve


def run(model: str | None, options: dict[str, Any], log: Path, ready: Connection) -> None:
    """Serve a model in one thread of computing; standard error goes to ``log``, the address to ``ready``."""
    with log.open("wb") as stream:
        os.dup2(stream.fileno(), sys.stderr.fileno())
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, force=True)
    torch.set_num_threads(1)
    if files := options.pop("files", None):
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    dtype = options.pop("dtype", "float32")
    index = options.pop("index", None)
    serve(model, ServerSettings(port=0, **options), index=index, dtype=dtype, on_ready=ready.send)
