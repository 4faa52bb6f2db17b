"""Keep other libraries' chatter away from what a user should read."""

from __future__ import annotations

import logging
import os
import sys
import warnings

_CHATTY = ("datasets", "httpx", "huggingface_hub", "matplotlib", "mteb", "sentence_transformers", "transformers")


def quiet_libraries() -> None:
    """Silence progress bars, notices and warnings of the libraries below us, errors excepted.

    To be called by a program before it does any work; our own loggers stay as they are. Libraries read the environment
    variables on import, so nothing is imported here; those that are there already are told.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.filterwarnings("ignore")
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)
    if "datasets" in sys.modules:
        sys.modules["datasets"].disable_progress_bars()
    if "transformers" in sys.modules:
        from transformers.utils import logging as their_logging

        their_logging.disable_progress_bar()
        their_logging.set_verbosity_error()


def work_offline() -> None:
    """Tell Hugging Face libraries that are yet to be imported to make no network call."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["HF_DATASETS_OFFLINE"] = "1"
