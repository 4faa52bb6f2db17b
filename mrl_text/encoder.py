"""A sentence-transformers model whose vectors can be cut to any size."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Router, Transformer
from sentence_transformers.util.decorators import deprecated_kwargs

from mrl_text.choices import AutoDtype
from mrl_text.codes import CODEC_FILE, CODED, Codec, saved_codec, store
from mrl_text.files import write_atomically
from mrl_text.layers import truncate_backbone
from mrl_text.long_texts import Shortener
from mrl_text.models import METADATA_KEY, find_model, model_file, read_metadata
from mrl_text.server_files import write_server_files
from mrl_text.streaming import LONG, WINDOW, encode_windows, windows
from mrl_text.suggest import check_choice, did_you_mean
from mrl_text.truncation import Precision, check_dim, check_dims, quantize, truncate

logger = logging.getLogger(__name__)

_ROLE_PROMPTS = {"query": ("query",), "document": ("document", "passage", "corpus")}
"""Names of prompts by role, best first: the order of sentence-transformers."""


class MatryoshkaEncoder(SentenceTransformer):
    """A :class:`~sentence_transformers.SentenceTransformer` that encodes to any prefix size.

    It loads and saves ordinary sentence-transformers folders. Differences to the parent: :meth:`encode` takes
    ``dim``, returns unit vectors by default, checks its input first, and the trained sizes travel with the model
    (``matryoshka_dimensions`` and ``is_matryoshka`` in ``config.json``, where vLLM looks for them, and a block of
    our own in ``config_sentence_transformers.json``).

    Args:
        model_name_or_path: local folder, hub id, or the name of a packaged model
            (:data:`mrl_text.models.PACKAGED_MODELS`).
        matryoshka_dims: trained sizes. None reads them from the model; a model that does not tell counts as
            trained at full width only.
        **kwargs: as for ``SentenceTransformer``.

    Raises:
        FileNotFoundError: a local path without a model.
        ValueError: a trained size larger than the model.

    Example:
        >>> model = MatryoshkaEncoder("runs/quickstart/model")
        >>> model.encode(["one text", "another"], dim=64).shape
        (2, 64)
    """

    def __init__(
        self, model_name_or_path: str | None = None, *, matryoshka_dims: Sequence[int] | None = None, **kwargs: Any
    ) -> None:
        self._saved_metadata: dict[str, Any] = {}
        self._warned_dims: set[int] = set()
        self._measured_width: dict[int, int] = {}  # by number of modules: one may be added
        self.warn_when_cut = True  # about the first input that is too long; turned off by the warning itself
        if model_name_or_path is not None:
            model_name_or_path = find_model(model_name_or_path).path
        super().__init__(model_name_or_path, **kwargs)
        if model_name_or_path is not None:
            file = model_file(model_name_or_path, kwargs, "config_sentence_transformers.json")
            self._saved_metadata = dict(read_metadata(file.parent)) if file is not None else {}
        self._loaded_from = model_name_or_path, kwargs
        if matryoshka_dims is not None:
            self.matryoshka_dims = matryoshka_dims
        elif published := self._saved_metadata.get("matryoshka_dims") or getattr(
            self.config, "matryoshka_dimensions", None
        ):
            try:
                self.matryoshka_dims = published
            except ValueError as error:
                logger.warning("the model's own list of trained sizes is passed over: %s", error)

    @property
    def width(self) -> int | None:
        """Numbers per vector before any cut; of modules that do not tell, those of a short text. None without modules.

        A model that reads no text has to tell.
        """
        with self.truncate_embeddings(None):
            told: int | None = self.get_embedding_dimension()
            if told is not None or not len(self) or "text" not in self.modalities:
                return told
            if len(self) not in self._measured_width:
                self._measured_width[len(self)] = super().encode(["text"], show_progress_bar=False).shape[1]
            return self._measured_width[len(self)]

    @property
    def max_tokens(self) -> int | None:
        """Tokens of a text that the model reads; None for no limit, as static embeddings have it."""
        limit = self.max_seq_length
        return limit if isinstance(limit, int) else None

    @property
    def has_routes(self) -> bool:
        """Whether queries and documents go through different modules."""
        return any(isinstance(module, Router) for module in self.modules())

    @cached_property
    def codec(self) -> Codec | None:
        """What makes ``int4`` and ``int2`` codes, where it was saved with the model; None is :meth:`Codec.plain`."""
        return saved_codec(file.parent) if (file := model_file(*self._loaded_from, CODEC_FILE)) else None

    @property
    def matryoshka_dims(self) -> tuple[int, ...]:
        """Trained sizes, ascending; ``(width,)`` if unknown."""
        if dims := self._saved_metadata.get("matryoshka_dims"):
            return tuple(dims)
        return (self.width,) if self.width is not None else ()

    @matryoshka_dims.setter
    def matryoshka_dims(self, dims: Sequence[int]) -> None:
        checked = check_dims(dims, self.width)
        self._saved_metadata["matryoshka_dims"] = list(checked)
        if self.config is not None:  # serialised by transformers with the weights, wherever they are saved
            self.config.matryoshka_dimensions = list(checked)
            self.config.is_matryoshka = True

    @deprecated_kwargs(sentences="inputs")  # type: ignore[untyped-decorator]  # as the parent's
    def encode(
        self,
        inputs: str | Iterable[Any],
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        output_value: str | None = "sentence_embedding",
        precision: Precision | None = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: Any = None,
        normalize_embeddings: bool | None = True,
        truncate_dim: int | None = None,
        *,
        dim: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """Encode texts to vectors of ``dim`` numbers.

        Args:
            inputs: one text, or any iterable of texts (list, generator, numpy array, ``datasets`` column), of pairs of
                texts or of dictionaries, as sentence-transformers takes them. A text longer than ``max_seq_length``
                tokens is cut there; the first time this is certain, a warning says so.
            prompt_name: name of a prompt saved with the model, such as ``"query"``.
            prompt: text put before every input; wins over ``prompt_name``.
            batch_size: texts per forward pass.
            show_progress_bar: None shows it where the log level is INFO or lower.
            output_value: likewise; anything but ``"sentence_embedding"`` is what the parent returns.
            precision: ``float32`` (also None), ``float16``, ``int8``, ``uint8``, ``int4``, ``int2``, ``binary`` or
                ``ubinary``. int8 and uint8 take their ranges from these very inputs; for a corpus use
                :func:`mrl_text.truncation.quantize`. int4 and int2 are packed by :attr:`codec`, which decodes them.
            convert_to_numpy: numpy array (the default), otherwise a list of tensors.
            convert_to_tensor: one torch tensor; wins over ``convert_to_numpy``.
            device: a device, or a list of devices to spread the work over processes.
            normalize_embeddings: unit length after the cut.
            truncate_dim: sentence-transformers' name for ``dim``.
            dim: numbers to keep, 1 to the model's width; None keeps all, or what ``truncate_dim`` says that the model
                was made with. Sizes the model was not trained for are allowed (they interpolate) and warned about
                once.
            **kwargs: as for the parent (``pool``, ``chunk_size``, ``processing_kwargs``).

        Returns:
            float32 array (n, dim), C-contiguous, unit rows; (dim,) for one text; (0, dim) for an empty input.
            ``precision`` changes the dtype and, for four bits and less, the last axis: so many bytes
            (:func:`mrl_text.truncation.quantize`, :class:`mrl_text.codes.Codec`).

        Raises:
            ValueError: impossible ``dim``; ``dim`` and ``truncate_dim`` disagree; unknown precision; int8 or uint8
                of a single text, which has no range.
            TypeError: an input that is not a text, with its position.
        """
        precision = precision or "float32"
        if dim is not None and truncate_dim is not None and dim != truncate_dim:
            raise ValueError(f"dim={dim} and truncate_dim={truncate_dim} disagree: pass one of them")
        check_choice("precision", precision, Precision)
        cut = self._checked_dim(dim if dim is not None else truncate_dim)
        kept = self.width if precision in CODED else cut  # codes are made of all numbers
        batch, single = self._checked_inputs(inputs)
        if not kwargs.get("processing_kwargs"):  # which may change what is read
            batch = self._shortened(batch, self.prompt_for(None, prompt_name, prompt))
        if precision in ("int8", "uint8") and len(batch) == 1:
            raise ValueError(
                f"precision={precision!r} takes its ranges from the texts of the call, and one text has none: encode to"
                " float32 and use mrl_text.truncation.quantize with ranges measured on a corpus"
            )
        as_vectors = output_value == "sentence_embedding"
        as_array = convert_to_numpy and not convert_to_tensor
        embeddings: Any = super().encode(
            batch,
            prompt_name=prompt_name,
            prompt=prompt,
            batch_size=batch_size,
            show_progress_bar=show_progress_bar,
            output_value=output_value,
            precision="float32",
            convert_to_numpy=as_vectors and as_array,  # leaves the device batch by batch
            convert_to_tensor=as_vectors and not as_array,
            device=device,
            truncate_dim=kept,  # cuts batch by batch, so the full width is never held for the whole input
            **kwargs,
        )
        if not as_vectors:
            return embeddings[0] if single else embeddings
        if not len(batch):
            embeddings = embeddings.reshape(0, kept or self.width or 0)
        embeddings = embeddings.astype(np.float32, copy=False) if as_array else embeddings.float()
        if precision in CODED:
            plain = embeddings if as_array else embeddings.cpu().numpy()
            vectors: Any = store(plain, cut, precision, codec=self.codec)
        else:
            vectors = truncate(embeddings, normalize=bool(normalize_embeddings))
            if precision != "float32":
                vectors = quantize(vectors if as_array else vectors.cpu().numpy(), precision)
        if not as_array and not isinstance(vectors, torch.Tensor):
            vectors = torch.from_numpy(vectors)
        if not convert_to_numpy and not convert_to_tensor:
            vectors = list(vectors)
        return vectors[0] if single else vectors

    def encode_query(self, *args: Any, normalize_embeddings: bool | None = True, **kwargs: Any) -> Any:
        """:meth:`encode` with the model's ``query`` prompt and route; takes ``dim`` and everything else."""
        return super().encode_query(*args, normalize_embeddings=normalize_embeddings, **kwargs)

    def encode_document(self, *args: Any, normalize_embeddings: bool | None = True, **kwargs: Any) -> Any:
        """:meth:`encode` with the model's ``document`` prompt and route; takes ``dim`` and everything else."""
        return super().encode_document(*args, normalize_embeddings=normalize_embeddings, **kwargs)

    def encode_stream(
        self,
        texts: Iterable[str],
        prompt_name: str | None = None,
        prompt: str | None = None,
        *,
        dim: int | None = None,
        precision: Precision = "float32",
        ranges: np.ndarray | None = None,
        normalize_embeddings: bool = True,
        dtype: AutoDtype | None = None,
        task: str | None = None,
        token_budget: int | None = None,
        window: int | None = None,
    ) -> Iterator[np.ndarray]:
        """Encode texts that come one after the other; memory does not grow with their number.

        Texts are sorted by length inside a window, batched by tokens, and the next window is tokenised while one is
        computed: one window of ``texts`` is taken ahead of what has been yielded.

        Args:
            texts: any iterable of texts; read in the caller's thread.
            prompt_name: name of a prompt saved with the model, such as ``"query"``.
            prompt: text put before every input; wins over ``prompt_name``.
            dim: numbers to keep, as for :meth:`encode`.
            precision: likewise; int8 and uint8 need ``ranges``.
            ranges: float array (2, dim), smallest and largest value of each number, measured on a corpus.
            normalize_embeddings: unit length after the cut.
            dtype: what matrix products are computed in: None as in :meth:`encode`, the type of the weights; ``auto``
                bfloat16 where the device has it natively. The model itself is not changed.
            task: ``"query"`` or ``"document"``: the model's prompt of that name, unless one is given, and its route.
            token_budget: tokens per batch, padding included; None takes what suits the device.
            window: texts sorted together; None takes 4,096. A window ends early at four million characters.

        Yields:
            Arrays (n, dim), one per window, in the order of the texts; ``precision`` as for :meth:`encode`.

        Raises:
            ValueError: impossible ``dim``, ``dtype``, ``window`` or ``token_budget``; int8 or uint8 without ranges
                of that size.
            TypeError: an input that is not a text, with its position.

        Example:
            >>> for vectors in model.encode_stream(open("corpus.txt"), dim=64):
            ...     store(vectors)
        """
        cut = self._checked_dim(dim)
        check_choice("precision", precision, Precision)
        size = cut or self.width
        if precision in ("int8", "uint8") and (ranges is None or (size and np.shape(ranges) != (2, size))):
            raise ValueError(
                f"precision={precision!r} of a stream needs ranges measured on a corpus, of shape (2, {size or 'dim'}),"
                f" got {'none' if ranges is None else np.shape(ranges)}"
            )
        if window is not None and window < 1:
            raise ValueError(f"window must be at least 1 text, got {window}")
        codec = self.codec if precision in CODED else None
        lists = windows([texts] if isinstance(texts, str) else texts, window or WINDOW)
        prompt = self.prompt_for(task, prompt_name, prompt)
        encoded = encode_windows(self, lists, dtype=dtype, token_budget=token_budget, prompt=prompt, task=task)
        return (
            store(one.vectors, cut, precision, codec=codec, ranges=ranges, normalize=normalize_embeddings)
            for one in encoded
        )

    def prompt_for(
        self, role: str | None = None, prompt_name: str | None = None, prompt: str | None = None
    ) -> str | None:
        """The text that is put before an input: the rule of ``encode``, ``encode_query`` and ``encode_document``.

        Args:
            role: ``"query"`` takes the prompt of that name, ``"document"`` the first there is of ``document``,
                ``passage`` and ``corpus``; None, or a model without these, takes the model's default prompt.
            prompt_name: name of a prompt saved with the model; wins over ``role``.
            prompt: the text itself; wins over both.

        Returns:
            The prompt; None for none.

        Raises:
            ValueError: the model has no prompt of that name, or an unknown role.
        """
        if role is not None and role not in _ROLE_PROMPTS:
            raise ValueError(f"task must be query or document, got {role!r}")
        if prompt is not None:
            return prompt
        if prompt_name is None:
            candidates = (*_ROLE_PROMPTS[role], self.default_prompt_name) if role else (self.default_prompt_name,)
            prompt_name = next((name for name in candidates if name in self.prompts), None)
        elif prompt_name not in self.prompts:
            raise ValueError(f"the model has no prompt {prompt_name[:60]!r}{did_you_mean(prompt_name, self.prompts)}")
        return None if prompt_name is None else self.prompts[prompt_name]

    def truncate_layers(self, layers: int) -> MatryoshkaEncoder:
        """Keep the first ``layers`` transformer layers and drop the others: fewer parameters, faster, smaller file.

        In place, as ``half()`` and ``resize_token_embeddings`` are. The configuration follows, so that the saved model
        loads with that depth in plain sentence-transformers. What stands after the layers stays: pooling and, in
        ModernBERT and decoders, the final norm, which is then applied to layer ``layers``. Only a model trained for it
        (:func:`mrl_text.losses.nested_infonce_2d`; arXiv 2402.14776) keeps its quality.

        Args:
            layers: how many to keep, 1 to all of them.

        Returns:
            This model.

        Raises:
            ValueError: an impossible number, a model without layers (static embeddings), one with a backbone per
                route, or one whose list of layers is not certain.
        """
        backbones = [module for module in self.modules() if isinstance(module, Transformer)]
        if len(backbones) != 1:
            reason = "no transformer" if not backbones else f"{len(backbones)} transformers, one per route"
            raise ValueError(f"layers can be dropped from a model with one transformer; this one has {reason}")
        truncate_backbone(backbones[0].model, layers)
        self.codec = None  # it was of other vectors
        return self

    def save(self, path: str, *args: Any, **kwargs: Any) -> None:
        """Save as sentence-transformers does, with the trained sizes where plain readers and servers find them.

        Settings are in the words that servers have known longest (:mod:`mrl_text.server_files`).
        """
        super().save(path, *args, **kwargs)
        lower_case = bool(getattr(self[0], "do_lower_case", False)) if len(self) else False
        write_server_files(Path(path), max_seq_length=self.max_seq_length, do_lower_case=lower_case)
        if self.codec is not None:
            self.codec.save(Path(path) / CODEC_FILE)
        if self._saved_metadata:
            file = Path(path) / "config_sentence_transformers.json"
            config = json.loads(file.read_text(encoding="utf-8"))
            config[METADATA_KEY] = self._saved_metadata
            write_atomically(file, json.dumps(config, indent=2, sort_keys=True).encode())

    def describe(self, **facts: Any) -> None:
        """Record facts to be saved with the model, such as ``name`` and ``base_model`` (JSON values)."""
        self._saved_metadata.update(facts)

    def _checked_dim(self, dim: int | None) -> int | None:
        wanted = self.truncate_dim if dim is None else dim
        if wanted is None:
            return None
        checked = check_dim(wanted, self.width, self.matryoshka_dims)
        if checked not in self.matryoshka_dims and checked not in self._warned_dims:
            self._warned_dims.add(checked)
            trained = ", ".join(map(str, self.matryoshka_dims))
            logger.warning("%d is not a trained size of this model (trained: %s); quality may drop", checked, trained)
        return checked

    def _checked_inputs(self, inputs: Any) -> tuple[Any, bool]:
        """The inputs as a list, and whether there was just one."""
        if isinstance(inputs, np.ndarray) and inputs.ndim == 0:
            inputs = inputs.item()
        conversation = isinstance(inputs, list) and self.is_singular_input(inputs)
        single = conversation or isinstance(inputs, (str, bytes, dict)) or not isinstance(inputs, Iterable)
        batch = [inputs] if single else list(inputs.tolist() if isinstance(inputs, np.ndarray) else inputs)
        if list(self.modalities) == ["text"]:
            for position, text in enumerate(batch):
                pair = isinstance(text, (tuple, list)) and len(text) == 2 and all(isinstance(one, str) for one in text)
                if not isinstance(text, (str, dict)) and not pair:  # dictionaries are the parent's to read
                    where = "" if single else f" at position {position}"
                    raise TypeError(f"expected a text{where}, got {type(text).__name__}: {text!r:.60}")
            self._warn_about_long_texts([text for text in batch if isinstance(text, str)])
        return batch, single

    def _shortened(self, batch: list[Any], prompt: str | None) -> list[Any]:
        """The inputs, long texts without what the model would not read, so that it is not tokenised either."""
        limit = self.max_tokens
        if limit is None or not any(isinstance(one, str) and len(one) > LONG * limit for one in batch):
            return batch
        shorten = Shortener.of(self)
        return [shorten(one, prompt) if isinstance(one, str) else one for one in batch]

    def _warn_about_long_texts(self, texts: list[str]) -> None:
        limit = self.max_tokens
        if limit is None or not self.warn_when_cut:
            return
        # a word is at least one token, so these are certainly cut; tokenising twice to count exactly is not worth it
        long = sum(len(text) > 2 * limit and len(text.split(maxsplit=limit)) > limit for text in texts)
        if long:
            self.warn_when_cut = False
            logger.warning("%d of %d texts are longer than %d tokens and are cut there", long, len(texts), limit)
