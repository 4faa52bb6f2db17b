"""What makes vectors of a corpus: a model that is computed here, or one behind an API."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, cast

from mrl_text.api.cache import PROBE, ApiCache
from mrl_text.choices import AutoBackend, AutoDtype
from mrl_text.dtypes import compute_dtype
from mrl_text.loading import cached, choose_backend, load
from mrl_text.long_texts import Shortener
from mrl_text.models import find_any_model
from mrl_text.streaming import EncodedWindow, encode_windows

if TYPE_CHECKING:
    from mrl_text.codes import Codec
    from mrl_text.encoder import MatryoshkaEncoder
    from mrl_text.encoding.job import Job


class Encoder(ABC):
    """Makes full-width vectors of the texts of a job."""

    codec: Codec | None = None
    """Of int4 and int2 codes, where the model has one."""

    def shorten(self, text: str) -> str:
        """A text without what the model does not read anyway."""
        return text

    @abstractmethod
    def announce(self, texts: Iterable[str]) -> None:
        """Say what these texts cost, where they cost anything; else they are not looked at.

        Raises:
            ValueError: more than may be spent.
        """

    @abstractmethod
    def facts(self, job: Job) -> tuple[int, dict[str, Any]]:
        """Numbers per vector, and the fields of the job that say how they are computed."""

    @abstractmethod
    def encode(self, lists: Iterable[list[str]], job: Job) -> Iterator[EncodedWindow]:
        """Vectors of lists of texts, in order."""

    @abstractmethod
    def report(self) -> None:
        """Say what was spent, where anything was."""


class ModelEncoder(Encoder):
    """A model that is computed here."""

    def __init__(self, model: MatryoshkaEncoder) -> None:
        self._model = model
        self._prompt = model.prompt_for("document")
        self._shortener = Shortener.of(model)
        self.codec = model.codec

    def shorten(self, text: str) -> str:
        """A text without its end, where that is far beyond what the model reads."""
        return self._shortener(text, self._prompt)

    def announce(self, texts: Iterable[str]) -> None:
        """Nothing: it costs time alone."""

    def facts(self, job: Job) -> tuple[int, dict[str, Any]]:
        """The width of a vector, the backend and the type of the numbers."""
        [window] = encode_windows(self._model, [["width"]], task="document")
        computed = {"backend": self._model.get_backend(), "dtype": compute_dtype(self._model, job.dtype)}
        return window.vectors.shape[1], computed

    def encode(self, lists: Iterable[list[str]], job: Job) -> Iterator[EncodedWindow]:
        """As :func:`~mrl_text.streaming.encode_windows`, texts as documents."""
        options: dict[str, Any] = {"dtype": job.dtype, "token_budget": job.token_budget}
        return encode_windows(self._model, lists, prompt=self._prompt, task="document", **options)

    def report(self) -> None:
        """Nothing: nothing was spent."""


class ApiEncoder(Encoder):
    """A model behind an API, which says itself what is too long."""

    def __init__(self, vectors: ApiCache) -> None:
        self._vectors = vectors

    def announce(self, texts: Iterable[str]) -> None:
        """As :meth:`~mrl_text.api.cache.ApiCache.announce`."""
        self._vectors.announce(texts)

    def facts(self, job: Job) -> tuple[int, dict[str, Any]]:
        """The width of a vector, which one short text tells."""
        return self._vectors.embed([PROBE]).shape[1], {"dtype": "float32"}

    def encode(self, lists: Iterable[list[str]], job: Job) -> Iterator[EncodedWindow]:
        """What is known, and answers for the rest."""
        return map(self._vectors.window, lists)

    def report(self) -> None:
        """As :meth:`~mrl_text.api.cache.ApiCache.report`."""
        self._vectors.report()


def load_encoder(job: Job) -> Encoder:
    """The encoder of a job; with torch in float32: fewer bits are a matter of computing."""
    source = find_any_model(job.model, trust_remote_code=job.trust_remote_code, api=job.api)
    if source.api is not None:
        return ApiEncoder(cast(ApiCache, cached(source)))
    backend, dtype = cast(AutoBackend, job.backend), cast(AutoDtype, job.dtype)
    if backend == "auto":
        backend = choose_backend(source, dtype=dtype, device=job.device)
    return ModelEncoder(
        load(source, dtype="float32" if backend == "torch" else dtype, device=job.device, backend=backend)
    )
