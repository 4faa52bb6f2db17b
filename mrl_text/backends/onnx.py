"""ONNX Runtime."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic

from mrl_text.backends.base import CompiledBackbone, Trace
from mrl_text.choices import BackendDtype
from mrl_text.lanes import Share

_FILE = "model.onnx"


class OnnxBackbone(CompiledBackbone):
    """A transformer in ONNX Runtime.

    ``int8`` multiplies by weights of seven bits per output channel, and rounds activations to eight bits as they come
    (ONNX Runtime's dynamic quantisation with ``reduce_range``, without which sums overflow on processors before
    AVX-512 VNNI). Attention scores, norms and sums stay in float32.
    """

    backend = "onnx"
    packages = ("onnx", "onnxruntime", "onnxscript")

    @classmethod
    def dtypes(cls) -> tuple[BackendDtype, ...]:
        """float32 and int8."""
        return "float32", "int8"

    def make(self, trace: Trace, folder: Path) -> None:
        """Write ``model.onnx``."""
        exact = folder / ("exact.onnx" if self.computes_in == "int8" else _FILE)
        with _without_advice():
            exported = torch.onnx.export(
                trace(None), dynamo=True, verbose=False, input_names=list(self.inputs), output_names=["vectors"]
            )
            if exported is None:
                raise ValueError("torch exported nothing")
            exported.save(exact)
            if self.computes_in == "int8":
                quantize_dynamic(
                    exact,
                    folder / _FILE,
                    op_types_to_quantize=["MatMul", "Gemm"],
                    per_channel=True,
                    reduce_range=True,
                    weight_type=QuantType.QInt8,
                )
                for file in folder.glob("exact.onnx*"):
                    file.unlink()

    def open(self, folder: Path, given: Share) -> Any:
        """Read it. Of lanes with one thread each computes in its own, others have their threads in common."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1 if given.threads == 1 else given.lanes * given.threads
        options.log_severity_level = 3
        return onnxruntime.InferenceSession(folder / _FILE, options, providers=["CPUExecutionProvider"])

    def run(self, engine: Any, inputs: list[np.ndarray]) -> np.ndarray:
        """One forward pass."""
        vectors: np.ndarray = engine.run(None, dict(zip(self.inputs, inputs, strict=True)))[0]
        return vectors


@contextlib.contextmanager
def _without_advice() -> Iterator[None]:
    """While exporter and quantiser work, which name packages that are not needed and preparations that are made."""
    exporter, root = logging.getLogger("torch.onnx"), logging.getLogger()
    level = exporter.level

    def refuse(record: logging.LogRecord) -> bool:
        return False  # of what went to the root logger itself, as the quantiser's does: all else passes

    exporter.setLevel(logging.ERROR)
    root.addFilter(refuse)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.removeFilter(refuse)
        exporter.setLevel(level)
