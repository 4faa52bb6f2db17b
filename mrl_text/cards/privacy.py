"""What is taken out of files and cards, or refused in them, before they are public."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

_NAMES = ("_name_or_path", "name_or_path", "base_model")  # cut to its last part it would name another model
_UNREAD = {"tokenizer.json", "vocab.json"}  # what looks like a path there is a token
_PATH = re.compile(r"(?:~?/|[A-Za-z]:[\\/])(?:[^\s\\/]+[\\/])+[^\s\\/]+")
_TOKEN = re.compile(rb"\bhf_[A-Za-z0-9]{30,}\b")
_IN_TEXT = re.compile(rf"(?<![\w/.:~]){_PATH.pattern}")
_PRIVATE = re.compile(r"(?<![\w/.:~])(?:/home/|/root/|/Users/|~/|[A-Za-z]:\\Users\\)[^\s`'\")]+")


def public_json(name: str, content: bytes) -> bytes:
    """A configuration file without the folders of this machine.

    The name of a model that is a path (``_name_or_path``, ``base_model``) goes, of other paths the last part stays.
    A file that names none is returned byte for byte. ``name``, its path in the repository, is for the ValueError that
    says it is not JSON.
    """
    if Path(name).name in _UNREAD:
        return content
    try:
        before = json.loads(content)
    except ValueError as error:
        raise ValueError(f"{name} is not JSON ({error}): save the model again") from None
    after = _without_paths(before)
    return content if after == before else (json.dumps(after, indent=2, ensure_ascii=False) + "\n").encode()


def public_text(text: str) -> str:
    """Text that we wrote ourselves (a recipe, facts of a run), every absolute path cut to its last part."""
    return _IN_TEXT.sub(lambda match: re.split(r"[\\/]", match[0])[-1], text)


def check_words(text: str) -> None:
    """Refuse with ValueError a card that names a home folder, or shows a token of the hub."""
    check_secrets("README.md", text.encode())
    if found := _PRIVATE.search(text):
        raise ValueError(f"README.md names {found[0]}: take the folder out before it is public")


def check_secrets(name: str, content: bytes) -> None:
    """Refuse a file that holds an access token of the hub; the ValueError has the file's name, not the token."""
    if _TOKEN.search(content):
        raise ValueError(f"{name} holds an access token of the hub: take it out, and revoke it")


def _without_paths(value: Any) -> Any:
    if isinstance(value, dict):
        own = {key: one for key, one in value.items() if not (key in _NAMES and _local(one))}
        return {key: _without_paths(one) for key, one in own.items()}
    if isinstance(value, list):
        return [_without_paths(one) for one in value]
    return re.split(r"[\\/]", value)[-1] if _local(value) else value


def _local(value: object) -> bool:
    if not isinstance(value, str):
        return False
    with_blanks = value.startswith("/") and value.count("/") > 1 and Path(value).exists()
    return with_blanks or bool(_PATH.fullmatch(value))
