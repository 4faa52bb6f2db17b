"""Settings of a server."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass, field
from pathlib import Path

API_KEY_VARIABLE = "MRL_TEXT_API_KEY"  # environment variable that holds the token where no other is named


@dataclass(frozen=True)
class ServerSettings:
    """Address, limits and access of a server.

    Raises:
        ValueError: a limit that would refuse everything, an impossible port, an empty token.
    """

    host: str = "127.0.0.1"  # address to listen on. Only this machine reaches the default.
    port: int = 8080  # port; 0 takes any free one
    model_name: str | None = None  # what clients call the model; None is the name it was loaded by
    dims: tuple[int, ...] | None = None
    """Values of ``dimensions`` that are allowed beside the full width; None allows every size up to it."""
    max_batch_tokens: int | None = None
    """Padded tokens per forward pass; None is 1,536 on a processor, whose caches hold little more, 16,384 on a GPU."""
    max_wait_ms: float = 2.0  # how long an idle server waits for more texts after the first, milliseconds
    max_inputs: int = 2048  # texts per request (OpenAI's own limit)
    max_request_bytes: int = 8 * 2**20  # bytes of a request's body
    max_queue: int = 262_144  # tokens that may wait; a request beyond them gets 429. One alone may be larger.
    timeout: float = 60.0  # seconds from the headers of a request to its answer
    header_timeout: float = 10.0  # seconds that a connection may be open without the whole headers of a request
    max_connections: int | None = None  # open at once; None is what the limit of open files leaves room for
    grace: float = 30.0  # seconds that requests under way get after the first signal to stop
    api_key: str | None = field(default=None, repr=False)
    """Token that every request but ``/health`` must bring; None asks for none."""
    token_ids: bool = False  # take ids of the model's own tokenizer as input, too

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65_535:
            raise ValueError(f"port must be from 0 (any free one) to 65535, got {self.port}")
        if self.max_batch_tokens is not None and self.max_batch_tokens < 1:
            raise ValueError(f"max_batch_tokens must be above 0, got {self.max_batch_tokens}")
        for name in ("max_inputs", "max_request_bytes", "max_queue", "timeout", "header_timeout"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        for name in ("max_wait_ms", "grace"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be 0 or more, and finite, got {getattr(self, name)}")
        if self.max_connections is not None and self.max_connections < 1:
            raise ValueError(f"max_connections must be above 0, got {self.max_connections}")
        if self.model_name is not None and not self.model_name.strip():
            raise ValueError("the model's name is empty: name it for clients, or leave it out")
        if self.api_key is not None and not self.api_key.strip():
            raise ValueError("the API key is empty: set a long random one, or none at all")

    def batch_tokens(self, device: str) -> int:
        """Padded tokens per forward pass on a device."""
        return self.max_batch_tokens or (1536 if device.startswith("cpu") else 16_384)

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the address."""
        try:
            return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def read_api_key(variable: str | None = None, file: Path | None = None) -> str | None:
    """Read the token from a file or an environment variable. A command line is no place for it: others can read it.

    Args:
        variable: environment variable that must hold it; None takes :data:`API_KEY_VARIABLE` if that is set.
        file: file that holds it and nothing else; surrounding blanks are dropped.

    Raises:
        ValueError: both are named; the named variable is not set; nothing but blanks in it.
        FileNotFoundError: no such file.
    """
    if file is not None:
        if variable is not None:
            raise ValueError(f"the API key comes from the file {file} or from the variable {variable}: name one")
        if not file.is_file():
            raise FileNotFoundError(f"no file with an API key at {file}")
        key: str | None = file.read_text(encoding="utf-8").strip()
        where = f"the file {file}"
    else:
        where = f"the environment variable {variable or API_KEY_VARIABLE}"
        key = os.environ.get(variable or API_KEY_VARIABLE)
        if key is None and variable is not None:
            raise ValueError(f"{where} is not set: export it, or leave out --api-key-env to serve without a token")
    if key is not None and not key.strip():
        raise ValueError(f"{where} is empty: put a long random token there, or remove it")
    return key.strip() if key else None
