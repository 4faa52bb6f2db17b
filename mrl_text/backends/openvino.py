"""OpenVINO."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import torch

from mrl_text.backends.base import CompiledBackbone, Trace
from mrl_text.choices import BackendDtype
from mrl_text.dtypes import fastest_dtype

_FILE = "model.xml"
_PRECISION = {"float32": "f32", "bfloat16": "bf16"}


class OpenVinoBackbone(CompiledBackbone):
    """A transformer in OpenVINO, in bfloat16 where the processor has it."""

    backend = "openvino"
    packages = ("openvino",)

    @classmethod
    def dtypes(cls) -> tuple[BackendDtype, ...]:
        """float32, and bfloat16 where the processor has it."""
        return ("float32", "bfloat16") if fastest_dtype("cpu") == "bfloat16" else ("float32",)

    def make(self, trace: Trace, folder: Path) -> None:
        """Write ``model.xml``, with plain attention where the engine's own leaves padding without a number.

        Its attention divides by zero for a token that may look at none, as tokens of padding may not in a sliding
        window or in a decoder, and the next layer spreads that.
        """
        for attention in (None, "eager"):
            program = trace(attention)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of torch, at its own words that the converter uses
                graph = openvino.convert_model(program)
            self._compile(graph)
            example, _ = program.example_inputs
            if np.isfinite(self.run([tensor.numpy() for tensor in example])).all():
                break
        openvino.save_model(graph, folder / _FILE, compress_to_fp16=False)

    def open(self, folder: Path) -> None:
        """Read it; threads are torch's."""
        self._compile(folder / _FILE)

    def _compile(self, graph: Any) -> None:
        settings = {
            "INFERENCE_PRECISION_HINT": _PRECISION[self.computes_in],
            "PERFORMANCE_HINT": "LATENCY",  # one batch at a time, by all threads
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        self.engine = openvino.Core().compile_model(graph, "CPU", settings).create_infer_request()

    def run(self, inputs: list[np.ndarray]) -> np.ndarray:
        """One forward pass."""
        outputs = self.engine.infer(dict(enumerate(inputs)), share_inputs=True)
        return np.array(outputs[0])  # the engine's own memory is written again by the next batch
