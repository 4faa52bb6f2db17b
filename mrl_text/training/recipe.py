"""Recipes: one YAML file that says how a model is trained, validated before anything is loaded."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ConfigDict, Field, StrictInt, ValidationError, field_validator, model_validator
from yaml import MarkedYAMLError, YAMLError

from mrl_text.suggest import did_you_mean
from mrl_text.truncation import check_dims

PositiveInt = Annotated[StrictInt, Field(ge=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelConfig(_Section):
    """The starting model."""

    name: str
    """Hub id, local folder or packaged model; a plain transformer such as BERT gets mean pooling."""
    max_seq_length: PositiveInt | None = None
    """Tokens per text in training and in the saved model; None keeps the model's own."""
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Dropout probability while training; None keeps the model's own."""
    freeze_embeddings: bool = False
    """Leave the token embeddings as they are: less memory, and the rare words keep what they know."""


class SourceConfig(_Section):
    """Where pairs or triplets come from."""

    source: str
    """Hub id, local CSV/TSV/JSONL/Parquet file, folder of such files, or ``docstrings``."""
    subset: str | None = None
    """Configuration name of a hub data set."""
    split: str = "train"
    """Split of a hub data set."""
    columns: list[str] | None = None
    """Columns to use, in the order anchor, positive, negative...; None takes the columns with these names."""
    limit: PositiveInt | None = None
    """At most this many rows, from the start."""
    packages: Annotated[list[str], Field(min_length=1)] | None = None
    """For ``docstrings``: top-level import names; None takes the whole environment. Held-out ones never count."""
    limit_per_package: PositiveInt | None = None
    """For ``docstrings``: at most this many pairs of each package."""

    @property
    def label(self) -> str:
        """Short name for logs and the model card."""
        if self.source == "docstrings" and self.packages:
            return f"docstrings of {', '.join(self.packages)}"
        return Path(self.source).stem if Path(self.source).suffix else self.source

    @model_validator(mode="after")
    def _options_fit_source(self) -> SourceConfig:
        if self.source != "docstrings" and (self.packages or self.limit_per_package):
            raise ValueError("packages and limit_per_package belong to source 'docstrings'")
        if self.columns is not None and len(self.columns) < 2:
            raise ValueError("columns needs at least two names: anchor and positive")
        return self


class DataConfig(_Section):
    """Training and validation data."""

    train: list[SourceConfig] = Field(min_length=1)
    validation: list[SourceConfig] = []


class LossConfig(_Section):
    """Contrastive loss at several prefix sizes at once."""

    name: Literal["nested_infonce"] = "nested_infonce"
    """Multiple negatives ranking loss (InfoNCE with in-batch negatives), summed over the sizes."""
    dims: list[StrictInt]
    """Sizes to train; the model's full width should be among them."""
    weights: list[Annotated[float, Field(ge=0, allow_inf_nan=False)]] | None = None
    """One weight per size, in the order of ``dims``; None is 1 for each."""
    scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 20.0
    """Inverse temperature of the softmax over cosine similarities."""
    mini_batch_size: PositiveInt | None = None
    """Encode the batch in pieces of this size with cached gradients: large batches in little memory."""

    @field_validator("dims")
    @classmethod
    def _sizes(cls, dims: list[int]) -> list[int]:
        check_dims(dims)
        if len(set(dims)) != len(dims):
            raise ValueError("dims names a size twice")
        return dims

    @model_validator(mode="after")
    def _one_weight_each(self) -> LossConfig:
        if self.weights is not None and len(self.weights) != len(self.dims):
            raise ValueError(f"weights has {len(self.weights)} values for {len(self.dims)} dims")
        if self.weights is not None and not any(self.weights):
            raise ValueError("weights are all zero: there would be nothing to train")
        return self


class EvalConfig(_Section):
    """What ``mrl-text eval RUN`` measures unless told otherwise."""

    tasks: list[str] = []
    dims: list[StrictInt] = []

    @field_validator("dims")
    @classmethod
    def _sizes(cls, dims: list[int]) -> list[int]:
        return list(check_dims(dims)) if dims else []


class Recipe(_Section):
    """A whole training run; see ``mrl-text recipes show NAME`` for examples."""

    description: str = ""
    model: ModelConfig
    data: DataConfig
    loss: LossConfig
    training: dict[str, Any] = {}
    """Passed to ``SentenceTransformerTrainingArguments`` unchanged."""
    eval: EvalConfig = EvalConfig()

    @field_validator("training")
    @classmethod
    def _known_arguments(cls, training: dict[str, Any]) -> dict[str, Any]:
        if unknown := set(training) - training_argument_names():
            word = sorted(unknown)[0]
            raise ValueError(f"{word}: unknown training argument{did_you_mean(word, training_argument_names())}")
        if "output_dir" in training:
            raise ValueError("output_dir: a run is one folder, chosen with --output")
        return training

    def to_yaml(self) -> str:
        """The recipe as YAML with every default written out, so that it means the same in a later version."""
        return OmegaConf.to_yaml(OmegaConf.create(self.model_dump(exclude_none=True)))


def training_argument_names() -> set[str]:
    """Names that the ``training`` section may use."""
    from sentence_transformers import SentenceTransformerTrainingArguments

    return {field.name for field in dataclasses.fields(SentenceTransformerTrainingArguments) if field.init}


def shipped_recipes() -> dict[str, Traversable]:
    """Recipes installed with the package: name -> file, sorted by name."""
    folder = files("mrl_text.recipes")
    found = {item.name.removesuffix(".yaml"): item for item in folder.iterdir() if item.name.endswith(".yaml")}
    return dict(sorted(found.items()))


def recipe_text(name: str) -> str:
    """The YAML text of a shipped recipe.

    Raises:
        ValueError: no such recipe; names the nearest.
    """
    shipped = shipped_recipes()
    if name not in shipped:
        raise ValueError(f"no recipe named {name!r}{did_you_mean(name, shipped)}")
    return shipped[name].read_text(encoding="utf-8")


def recipe_description(name: str) -> str:
    """The ``description`` of a shipped recipe, on one line; no validation, so a list of recipes is instant."""
    content = yaml.safe_load(recipe_text(name))
    return " ".join(str(content.get("description", "")).split())


def load_recipe(name_or_file: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read, override and validate a recipe. Loads no model and no data.

    Args:
        name_or_file: name of a shipped recipe, or a YAML file.
        overrides: ``section.key=value`` in YAML notation, for example ``training.learning_rate=1e-4``,
            ``loss.dims=[32,64]`` or ``data.train[0].source=pairs.csv``.

    Raises:
        FileNotFoundError: neither a file nor a shipped recipe.
        ValueError: not YAML, an unknown key (the nearest known one is named), or a wrong value.
    """
    file = Path(name_or_file)
    if file.is_file():
        try:
            text, label = file.read_text(encoding="utf-8"), name_or_file
        except UnicodeDecodeError:
            raise ValueError(f"{name_or_file}: not a text file in UTF-8") from None
    elif file.suffix in (".yaml", ".yml") or "/" in name_or_file:
        raise FileNotFoundError(f"no recipe file at {name_or_file}")
    else:
        text, label = recipe_text(name_or_file), name_or_file
    try:
        try:
            config = OmegaConf.create(text)
        except AssertionError:  # a bare number or truth value
            config = None
        if not isinstance(config, DictConfig):
            raise ValueError(f"{label}: a recipe is a mapping with model, data and loss")
        for override in overrides:
            _apply_override(config, override)
        return Recipe.model_validate(OmegaConf.to_container(config, resolve=True))
    except ValidationError as error:
        raise ValueError(f"{label}: {_first_problem(error)}") from None
    except (YAMLError, OmegaConfBaseException) as error:
        raise ValueError(f"{label}: {_first_line(error)}") from None


def _apply_override(config: DictConfig, override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key.strip():
        raise ValueError(f"override {override!r} is not of the form section.key=value")
    try:
        values: Any = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={value}"]))
        OmegaConf.update(config, key.strip(), values["value"], merge=False)
    except (YAMLError, OmegaConfBaseException, IndexError, AssertionError, TypeError, ValueError) as error:
        raise ValueError(f"override {override!r}: {_first_line(error)}") from None


def _first_line(error: BaseException) -> str:
    if isinstance(error, MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: {error.problem or error.context}"
    return (str(error).splitlines() or [type(error).__name__])[0]


_SECTIONS: dict[str, type[BaseModel]] = {
    "model": ModelConfig,
    "data": DataConfig,
    "loss": LossConfig,
    "eval": EvalConfig,
    "train": SourceConfig,
    "validation": SourceConfig,
}


def _first_problem(error: ValidationError) -> str:
    """The first complaint of a validation in one line, with the nearest known key where a key is unknown."""
    problems = error.errors(include_url=False)
    problem = next((item for item in problems if item["type"] == "extra_forbidden"), problems[0])
    path = [str(part) for part in problem["loc"]]
    where = ".".join(path)
    if problem["type"] == "extra_forbidden":
        parent = next((part for part in reversed(path[:-1]) if part in _SECTIONS), "")
        known = _SECTIONS.get(parent, Recipe).model_fields
        return f"{where}: unknown key{did_you_mean(path[-1], known)}"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{where}: {message}" if where else message
