"""What is trained is what is used: the first loss of a run is that of the vectors that the model gives in use."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize
from torch import nn
from transformers import AutoModel, AutoTokenizer, BertTokenizerFast, ModernBertConfig, PretrainedConfig, Qwen3Config

from mrl_text.encoder import MatryoshkaEncoder
from mrl_text.training.recipe import Recipe
from mrl_text.training.run import RunFolder
from mrl_text.training.trainer import train

pytestmark = pytest.mark.slow

WIDE = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "vocab_size": 60, "pad_token_id": 0}
QWEN3 = Qwen3Config(**WIDE, num_hidden_layers=2, num_key_value_heads=1, head_dim=16)
MODERN_BERT = ModernBertConfig(**WIDE, num_hidden_layers=3, reference_compile=False, local_attention=4)
Vectors = Callable[[Path, list[str], str], np.ndarray]


def of_sentence_transformers(folder: Path, texts: list[str], prompt: str) -> np.ndarray:
    return np.asarray(SentenceTransformer(str(folder), device="cpu").encode(texts, prompt=prompt, batch_size=7))


def layer_normed(folder: Path, texts: list[str], prompt: str) -> np.ndarray:
    """As the card of nomic-embed-text-v1.5 says."""
    vectors = torch.from_numpy(of_sentence_transformers(folder, texts, prompt)).double()
    return nn.functional.layer_norm(vectors, normalized_shape=(vectors.shape[1],)).numpy()


def token(place: int) -> Vectors:
    """The hidden state of one token of each text, which is alone and so without padding."""

    def vectors(folder: Path, texts: list[str], prompt: str) -> np.ndarray:
        model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
        with torch.no_grad():
            states = [model(**tokenizer(prompt + text, return_tensors="pt")).last_hidden_state for text in texts]
        return np.stack([state[0, place].numpy() for state in states])

    return vectors


@dataclass
class Kind:
    """A starting model, what the recipe says of it, and its vectors by hand."""

    vectors: Vectors = of_sentence_transformers
    vectors_after: Vectors = of_sentence_transformers  # of the trained model
    config: PretrainedConfig | None = None  # of another model than the tiny BERT
    tokenizer: dict[str, Any] = field(default_factory=dict)
    modules: list[Callable[[], nn.Module]] = field(default_factory=list)  # behind the pooling
    include_prompt: bool = True
    model: dict[str, Any] = field(default_factory=dict)
    last: str = "Pooling"  # module of the trained model
    width: int = 32


PROMPTS = {"prompts": {"query": "the cat in: ", "document": "a "}}
LAST_TOKEN = {"pooling": "lasttoken"}
LEFT = {"padding_side": "left"}
UNPADDED = {"pad_token": None, "eos_token": "[SEP]"}
KINDS = {
    "prompts": Kind(model=PROMPTS),
    "prompts left out of the pooling": Kind(include_prompt=False, model=PROMPTS),
    "layer norm": Kind(layer_normed, model={"layer_norm": True}, last="Normalize"),
    "layer norm and prompts on unit vectors": Kind(
        layer_normed, modules=[Normalize], model={"layer_norm": True, **PROMPTS}, last="Normalize"
    ),
    "dense": Kind(modules=[lambda: Dense(32, 24)], last="Dense", width=24),
    "dense and unit length": Kind(modules=[lambda: Dense(32, 24), Normalize], last="Normalize", width=24),
    "decoder padded on the right": Kind(token(-1), token(-1), QWEN3, model=LAST_TOKEN),
    "decoder padded on the left": Kind(token(-1), token(-1), QWEN3, LEFT, model=LAST_TOKEN),
    "decoder without a token for padding": Kind(token(-1), token(-1), QWEN3, UNPADDED, model=LAST_TOKEN),
    "decoder with prompts and adapters": Kind(
        token(-1), token(-1), QWEN3, LEFT, model={**LAST_TOKEN, **PROMPTS, "peft": {"r": 2}}
    ),
    "ModernBERT": Kind(token(0), token(0), MODERN_BERT, model={"pooling": "cls", "peft": {"r": 2}}),
}


@pytest.fixture(scope="module", params=KINDS)
def run(
    request: pytest.FixtureRequest,
    tiny_bert: Path,
    triplets: list[dict[str, str]],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Kind, Path, RunFolder]:
    """A kind of model, the folder of a base of that kind, and a run that trained it for two steps."""
    kind, folder = KINDS[request.param], tmp_path_factory.mktemp("kind")
    base = folder / "base"
    if kind.config is None:
        model = SentenceTransformer(str(tiny_bert), device="cpu")
        model[1].include_prompt = kind.include_prompt
        for module in kind.modules:
            model.append(module())
        model.save(str(base))
    else:
        torch.manual_seed(1)
        backbone = AutoModel.from_config(kind.config)
        for weight in backbone.parameters():
            nn.init.normal_(weight, std=0.3)
        backbone.save_pretrained(base)
        BertTokenizerFast.from_pretrained(tiny_bert, **kind.tokenizer).save_pretrained(base)
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in triplets), encoding="utf-8")
    recipe = {
        "model": {"name": str(base), "dropout": 0, **kind.model},
        "data": {"train": [{"source": str(folder / "pairs.jsonl")}]},
        "loss": {"dims": [8, kind.width], "distill_weight": 1.0},
        "training": {"max_steps": 2, "per_device_train_batch_size": len(triplets), "learning_rate": 1e-3}
        | {"logging_steps": 1, "use_cpu": True, "bf16": False, "warmup_steps": 0},
    }
    made = RunFolder(folder / "run")
    with pytest.MonkeyPatch.context() as patch:  # of the teacher
        patch.setattr("mrl_text.dtypes.fastest_dtype", lambda device=None: "float32")
        train(Recipe.model_validate(recipe), made.path)
    return kind, base, made


def cut(vectors: np.ndarray, dim: int) -> np.ndarray:
    prefix = vectors[:, :dim].astype(np.float64)
    return np.asarray(prefix / np.linalg.norm(prefix, axis=1, keepdims=True))


def test_the_first_loss_is_that_of_the_vectors_in_use(
    run: tuple[Kind, Path, RunFolder], triplets: list[dict[str, str]]
) -> None:
    kind, base, made = run
    prompts = kind.model.get("prompts", {})
    anchors, *others = (
        kind.vectors(base, [row[name] for row in triplets], prompts.get(role, ""))
        for name, role in (("anchor", "query"), ("positive", "document"), ("negative", "document"))
    )
    first = json.loads(made.metrics.read_text(encoding="utf-8").splitlines()[0])
    assert first["step"] == 1
    for dim in (8, kind.width):
        scores = 20 * cut(anchors, dim) @ cut(np.concatenate(others), dim).T
        expected = -log_softmax(scores, axis=1).diagonal().mean()
        assert first[f"infonce_dim{dim}"] == pytest.approx(expected, abs=1e-4)  # the Trainer rounds to four digits
    assert first[f"distill_dim{kind.width}"] < 1e-4, "the teacher reads as the model does"
    assert first["distill_dim8"] > 1e-3


def test_the_saved_model_gives_these_vectors_to_everybody(
    run: tuple[Kind, Path, RunFolder], triplets: list[dict[str, str]]
) -> None:
    kind, base, made = run
    texts = [row["positive"] for row in triplets] + ["cat", "the large man with a small train in the red city"]
    plain, ours = (one(str(made.model), device="cpu") for one in (SentenceTransformer, MatryoshkaEncoder))
    prompts = kind.model.get("prompts", {})
    assert {role: plain.prompts.get(role, "") for role in prompts} == prompts
    for role, encode, plainly in (
        ("query", ours.encode_query, plain.encode_query),
        ("document", ours.encode_document, plain.encode_document),
    ):
        expected = kind.vectors_after(made.model, texts, prompts.get(role, ""))
        streamed = np.concatenate(list(ours.encode_stream(texts, dim=8, task=role, token_budget=40)))
        for found in (
            encode(texts, dim=8, batch_size=5),
            plainly(texts, truncate_dim=8, normalize_embeddings=True),
            streamed,
        ):
            np.testing.assert_allclose(found, cut(expected, 8), atol=2e-6)
    untrained = cut(kind.vectors(base, texts, ""), 8)
    assert np.abs(plain.encode(texts, truncate_dim=8, normalize_embeddings=True) - untrained).max() > 1e-4
    assert type(plain[-1]).__name__ == kind.last


@pytest.mark.parametrize("run", ["layer norm"], indirect=True)
def test_layer_norm_is_a_layer_that_servers_know_and_no_training_changes(run: tuple[Kind, Path, RunFolder]) -> None:
    _, _, made = run
    modules = json.loads((made.model / "modules.json").read_text(encoding="utf-8"))
    names = "Transformer", "Pooling", "Dense", "Normalize"
    assert [module["type"] for module in modules] == [f"sentence_transformers.models.{name}" for name in names]
    layer = SentenceTransformer(str(made.model), device="cpu")[2].linear
    assert layer.bias is None
    np.testing.assert_allclose(layer.weight.detach().numpy(), np.eye(32) - 1 / 32, atol=1e-7)
