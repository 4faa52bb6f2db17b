"""What a recipe may say: sections, keys and values, checked before anything is loaded."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, Union

from omegaconf import OmegaConf
from pydantic import Discriminator, Field, StrictInt, Tag, field_validator, model_validator

from mrl_text.suggest import did_you_mean
from mrl_text.training.columns import LABEL_NAMES, Needs
from mrl_text.training.losses import DEFAULT_LOSS, LossConfig, losses
from mrl_text.training.published_losses import MatryoshkaConfig
from mrl_text.training.section import Positive, PositiveInt, Section
from mrl_text.truncation import check_dims

DEFAULT_SEED = 42
PoolingMode = Literal["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]
"""sentence-transformers' ``pooling_mode``."""


def _loss_name(given: Any) -> Any:
    return given.get("name", DEFAULT_LOSS) if isinstance(given, dict) else getattr(given, "name", None)


if TYPE_CHECKING:
    from torch import nn
    from transformers import TrainerCallback

    from mrl_text.encoder import MatryoshkaEncoder

    Loss: TypeAlias = LossConfig
else:
    _TAGGED = tuple(Annotated[one, Tag(name)] for name, one in losses().items())
    Loss = Annotated[Union[_TAGGED], Discriminator(_loss_name)]  # noqa: UP007


class ModelConfig(Section):
    """The starting model."""

    name: str  # hub id, local folder or packaged model; a plain transformer such as BERT gets mean pooling
    trust_remote_code: bool = False  # allow code that comes with it, or with a teacher, to run
    max_seq_length: PositiveInt | None = None
    """Tokens per text in training and in the saved model; None keeps the model's own."""
    train_seq_length: PositiveInt | None = None
    """Tokens per text while training, where that is less: what is saved keeps the longer limit."""
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Dropout probability while training; None keeps the model's own."""
    freeze_embeddings: bool = False
    """Leave the token embeddings as they are: less memory, and the rare words keep what they know."""
    freeze_layers: PositiveInt | None = None
    """Leave the embeddings and this many lower layers as they are; a step computes the upper ones only
    (:mod:`mrl_text.training.frozen_layers`)."""
    activations: Literal["float32", "float16", "bfloat16", "none"] = "float16"
    """What the output of frozen layers is kept in, each text once; ``none`` computes it in each step."""
    activations_gb: Positive = 20.0  # of disk that they may take; what goes beyond is computed in each step
    prompts: dict[Literal["query", "document"], str] = {}
    """Text put before anchors (``query``) and before positives and negatives (``document``), in training and, as they
    are saved with the model, afterwards."""
    pooling: PoolingMode | None = None
    """How the vectors of tokens become one, such as ``lasttoken`` for decoders; None keeps the model's own way, which
    for a plain transformer is ``mean``."""
    layer_norm: bool = False
    """Layer norm without weights before the cut, in training and, as it is saved with the model, afterwards: what
    nomic-embed-text-v1.5 asks of its users."""
    width: PositiveInt | None = None
    """Narrow the model to this many numbers by a linear layer that begins as the plain cut; None keeps its width."""
    static: PositiveInt | None = None
    """Train a table of token vectors of this width from scratch instead, over the model's vocabulary."""
    rotation: bool = False
    """Begin with an orthogonal rotation that gathers what matters in the first numbers, fitted on the training texts
    (:mod:`mrl_text.adapt`); the full width's similarities stay as they are."""
    peft: dict[str, Any] | None = None
    """Train adapters in place of the weights, and merge them into these at the end: ``peft_type`` (LORA unless told
    otherwise) and the arguments of its configuration in peft, such as ``r``, ``lora_alpha``, ``target_modules``
    (:mod:`mrl_text.training.adapters`)."""
    blend: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the trained weights in the saved model, the rest being the starting model's (WiSE-FT, arXiv
    2109.01903). Below 1 a strong base keeps more of what it could do."""

    @model_validator(mode="after")
    def _static_stands_alone(self) -> ModelConfig:
        options = "max_seq_length train_seq_length pooling layer_norm width rotation peft".split()
        options += ["freeze_embeddings", "freeze_layers"]
        given = [name for name in options if getattr(self, name) not in (None, False)]
        if self.static is not None and given:
            raise ValueError(f"static begins from nothing and has no use for {', '.join(given)}: leave it out")
        return self

    @model_validator(mode="after")
    def _activations_of_frozen_layers(self) -> ModelConfig:
        told = [name for name in ("activations", "activations_gb") if name in self.model_fields_set]
        fields = type(self).model_fields
        if self.freeze_layers is None and any(getattr(self, name) != fields[name].default for name in told):
            raise ValueError(f"{', '.join(told)} would have no effect: give freeze_layers, too, or leave it out")
        return self


class MiningConfig(Section):
    """Hard negatives: positives of other rows that the starting model places near the anchor."""

    num: PositiveInt = 3  # negatives per row; rows with fewer candidates are left out
    range_min: Annotated[StrictInt, Field(ge=0)] = 10
    """Pass over this many of the nearest, which may well be right answers."""
    range_max: PositiveInt = 50  # look no further than this many
    relative_margin: Annotated[float, Field(ge=0, lt=1)] | None = 0.05
    """Leave out what comes closer to the anchor than the positive's similarity less this part of it."""
    max_score: Annotated[float, Field(gt=-1, le=1)] | None = None
    """Leave out what has a higher cosine similarity to the anchor than this."""

    @model_validator(mode="after")
    def _enough_candidates(self) -> MiningConfig:
        if self.num > self.range_max - self.range_min:
            between = f"range_min={self.range_min} and range_max={self.range_max}"
            raise ValueError(f"num={self.num} negatives cannot be found between {between}: widen the range")
        return self


class SourceConfig(Section):
    """Where pairs or triplets come from."""

    source: str  # hub id, local CSV/TSV/JSONL/Parquet file, folder of such files, or ``docstrings``
    subset: str | None = None  # configuration name of a hub data set
    split: str = "train"  # split of a hub data set
    columns: list[str] | None = None
    """Columns to use, in the order anchor, positive, negative... and, for a loss that needs numbers, these last; None
    takes the columns with these names. One name is enough for a loss that needs texts only (``self_distillation``,
    ``rotation``)."""
    limit: PositiveInt | None = None  # at most this many rows, from the start
    packages: Annotated[list[str], Field(min_length=1)] | None = None
    """For ``docstrings``: top-level import names; None takes the whole environment. Held-out ones never count."""
    limit_per_package: PositiveInt | None = None  # for ``docstrings``: at most this many pairs of each package
    weight: Positive | None = None
    """Share of the batches, relative to the other sources; None for all of them goes by their numbers of rows."""
    mine_negatives: MiningConfig | None = None  # find hard negatives for pairs with the starting model
    loss: Loss | None = None  # of this source alone; None takes that of the recipe, and so do ``dims`` left out

    @property
    def label(self) -> str:
        """Short name for logs and the model card."""
        if self.source == "docstrings" and self.packages:
            return f"docstrings of {', '.join(self.packages)}"
        path = Path(self.source)
        return path.stem if path.suffix else path.name if path.is_absolute() else self.source

    @model_validator(mode="after")
    def _options_fit_source(self) -> SourceConfig:
        if self.source != "docstrings" and (self.packages or self.limit_per_package):
            raise ValueError("packages and limit_per_package belong to source 'docstrings'")
        if self.columns is not None and not self.columns:
            raise ValueError("columns is empty: name anchor and positive, or leave it out")
        if self.mine_negatives is not None and self.columns is not None and len(self.columns) != 2:
            found = "a negative already" if len(self.columns) > 2 else "one column only"
            raise ValueError(f"mine_negatives is for pairs: columns names {found}")
        return self


class DataConfig(Section):
    """Training and validation data."""

    train: list[SourceConfig] = Field(min_length=1)
    validation: list[SourceConfig] = []
    batches: Literal["no_duplicates", "neighbours", "by_length"] = "no_duplicates"
    """``no_duplicates``: rows in random order. ``neighbours``: rows whose anchors are near each other. ``by_length``:
    rows of similar length, for less padding. A batch never has a text twice, and its rows are of one source."""
    stream: bool = False
    """Read the sources while training, for data that does not fit on the disk or in memory; needs
    ``training.max_steps``."""
    deduplicate: bool = True
    """Leave out rows that were there before, in the same source or another; case and spacing ignored."""
    check_against: list[str] | None = None
    """Evaluation data whose texts must not be trained on: mteb tasks, files, BEIR folders; None is ``eval.tasks``."""
    mirror: str | None = None
    """Folder that ``mrl-text mirror`` made, for the tasks of ``check_against``; None asks the hub."""
    on_leak: Literal["refuse", "drop", "allow"] = "refuse"
    """What to do about training rows with a text of the evaluation data."""

    @model_validator(mode="after")
    def _sources_fit(self) -> DataConfig:
        weighted = [source.weight is not None for source in self.train]
        if any(weighted) and not all(weighted):
            missing = self.train[weighted.index(False)].label
            raise ValueError(f"train: {missing} has no weight, but others have: give it to all sources or to none")
        for source in self.validation:
            if source.columns is not None and len(source.columns) < 2:
                raise ValueError(f"validation: {source.label} names one column: validation finds positives by anchors")
            if source.loss is not None:
                raise ValueError(f"validation: {source.label}: loss belongs to a source of data.train: leave it out")
        if not self.stream:
            return self
        if self.batches != "no_duplicates":
            raise ValueError(f"batches: {self.batches} needs all rows at once: leave it out, or stream")
        if any(source.source == "docstrings" for source in self.train):
            raise ValueError("stream: docstrings are read at once: leave stream out, or the source")
        if any(source.mine_negatives for source in self.train):
            raise ValueError("stream: mine_negatives needs all rows at once: leave one of the two out")
        return self


EARLY_STOPPING = {"early_stopping_patience": None, "early_stopping_threshold": 0.0}
"""Arguments of transformers' ``EarlyStoppingCallback``, which the ``training`` section takes besides the Trainer's."""

_NOT_TAKEN = {
    "output_dir": "a run is one folder, chosen with --output",
    "resume_from_checkpoint": "leave it out, and continue a run with --resume",
    "prompts": "name them in model.prompts, with which they are saved, too",
    "warmup_ratio": "give the share as training.warmup_steps, such as 0.1",
    "disable_tqdm": "a run shows one progress bar: leave it out",
    "neftune_noise_alpha": "sentence-transformers cannot add noise to token embeddings: leave it out",
    "use_liger_kernel": "sentence-transformers has no use for its kernels: leave it out",
    "auto_find_batch_size": "another batch would be another training: choose training.per_device_train_batch_size, and"
    " where memory is short loss.mini_batch_size",
    "enable_jit_checkpoint": "an interrupted run saves a checkpoint anyway: leave it out",
    "debug": "its hooks break on the attention masks of sentence encoders: leave it out",
    "ignore_data_skip": "a run that is continued would see the same rows again: leave it out",
    "data_seed": "training.seed decides the order of the rows, too: leave it out",
    **dict.fromkeys(
        "push_to_hub hub_token hub_private_repo hub_model_id hub_strategy hub_always_push hub_revision".split(),
        "share the finished model, with its card, by mrl-text push: leave it out",
    ),
    **dict.fromkeys(
        "label_smoothing_factor label_names include_for_metrics batch_eval_metrics eval_do_concat_batches"
        " eval_use_gather_object eval_accumulation_steps prediction_loss_only bf16_full_eval fp16_full_eval"
        " include_num_input_tokens_seen average_tokens_across_devices use_cache remove_unused_columns"
        " train_sampling_strategy length_column_name liger_kernel_config do_train do_eval do_predict"
        " local_rank".split(),
        "has no effect on a sentence encoder: leave it out",
    ),
}
"""Training arguments that are not passed on -> why, and what to do instead."""


class EvalConfig(Section):
    """What ``mrl-text eval RUN`` measures unless told otherwise."""

    tasks: list[str] = []
    dims: list[StrictInt] = []
    layers: list[PositiveInt] = []  # numbers of layers besides all of them

    @field_validator("dims")
    @classmethod
    def _sizes(cls, dims: list[int]) -> list[int]:
        return list(check_dims(dims)) if dims else []


class Recipe(Section):
    """A whole training run; see ``mrl-text recipes show NAME`` for examples."""

    description: str = ""
    model: ModelConfig
    data: DataConfig
    loss: Loss
    training: dict[str, Any] = {}
    """``SentenceTransformerTrainingArguments`` and :data:`EARLY_STOPPING`; what would have no effect is refused."""
    eval: EvalConfig = EvalConfig()

    @field_validator("training")
    @classmethod
    def _known_arguments(cls, training: dict[str, Any]) -> dict[str, Any]:
        defaults = _training_defaults()
        for name, value in training.items():
            if name not in defaults:
                raise ValueError(f"{name}: unknown training argument{did_you_mean(name, defaults)}")
            if name in _NOT_TAKEN and value != defaults[name]:
                raise ValueError(f"{name}={value}: {_NOT_TAKEN[name]}")
        return training

    @model_validator(mode="before")
    @classmethod
    def _same_sizes(cls, given: Any) -> Any:
        """Give a source's own loss the sizes and weights of the recipe where it names none."""

        def filled(source: Any) -> Any:
            own = source.get("loss") if isinstance(source, dict) else None
            return source | {"loss": sizes | own} if isinstance(own, dict) and "dims" not in own else source

        try:
            sizes = {name: given["loss"][name] for name in ("dims", "weights") if name in given["loss"]}
            return given | {"data": given["data"] | {"train": [filled(source) for source in given["data"]["train"]]}}
        except (KeyError, TypeError):  # something is wrong, which is told below
            return given

    @model_validator(mode="after")
    def _sources_fit_loss(self) -> Recipe:
        of_the_base = any(name == "base" for loss in self.losses for _, name in loss.frozen)
        if self.model.static is not None and (of_the_base or not self.loss.steps):
            raise ValueError("model.static begins from nothing, so there is no base to distil from or to rotate")
        if self.model.peft is not None and not self.loss.steps:
            raise ValueError(f"model.peft: {self.loss.words} trains no encoder: leave it out")
        if self.model.rotation and any(
            isinstance(one, MatryoshkaConfig) and one.inner == "MSELoss" for one in self.losses
        ):
            raise ValueError("model.rotation: MSELoss compares vectors number by number, which it turns: leave it out")
        for source, loss in zip(self.data.train, self.losses, strict=True):
            self._check_source(source, loss)
        needs = self.validation_needs
        for source in self.data.validation:
            if source.columns and (problem := needs.problem(len(needs.split(source.columns)[0]))):
                raise ValueError(f"data.validation: {source.label} has {_columns(source)}, and validation {problem}")
        return self

    def _check_source(self, source: SourceConfig, loss: LossConfig) -> None:
        """Refuse what a source has, or asks for, and its loss does not take."""
        needs, own, words = loss.needs, source.loss is not None, loss.words
        texts, _ = needs.split(source.columns or ())
        mined = source.mine_negatives.num if source.mine_negatives else 0
        named = needs.problem((len(texts) if source.columns else 2) + mined) if source.columns or mined else None
        pairs = needs.problem(2) if source.source == "docstrings" else None
        larger = sorted(set(loss.dims) - set(self.loss.dims))
        for wrong, problem in (
            (named, f" has {_columns(source)}, and {words} {named}"),
            (pairs, f" has pairs, and {words} {pairs}"),
            (mined and not loss.steps, f": {words} has no use for mine_negatives"),
            (mined and needs.label, f": mine_negatives is for pairs without numbers, and {words} needs numbers"),
            (
                own and self.data.stream,
                ": a stream mixes the rows of all sources: leave stream out, or its own loss",
            ),
            (
                own and not (loss.steps and self.loss.steps),
                ": a rotation is for all sources: leave its own loss out",
            ),
            (larger, f": its loss has dims {larger}, which loss.dims has not: add them there"),
            (
                needs.rows == "classes" and self.data.stream,
                f": {words} groups all rows by their classes: leave stream out",
            ),
        ):
            if wrong:
                raise ValueError(f"data.train: {source.label}{problem}")

    @property
    def losses(self) -> list[LossConfig]:
        """The loss of each training source."""
        return [source.loss or self.loss for source in self.data.train]

    def build_loss(self, model: MatryoshkaEncoder, names: Sequence[str] = ()) -> nn.Module | dict[str, nn.Module]:
        """The loss, or one for each source, by its name, where they differ; errors as :meth:`LossConfig.build`.

        Args:
            model: the model to train.
            names: of the sources. Dots in them, which no module's name may have, become underscores.
        """
        losses = self.losses
        first = [losses.index(loss) for loss in losses]
        built = {number: losses[number].build(model) for number in dict.fromkeys(first)}
        if len(built) == 1:
            return built[0]
        return {name.replace(".", "_"): built[number] for name, number in zip(names, first, strict=True)}

    def callbacks(self, loss: nn.Module | dict[str, nn.Module]) -> list[TrainerCallback]:
        """What accompanies the steps of training with :meth:`build_loss`'s losses."""
        built = list(loss.values()) if isinstance(loss, dict) else [loss]
        each = {id(one): config.callbacks(one) for config, one in zip(self.losses, built, strict=False)}
        return [callback for callbacks in each.values() for callback in callbacks]

    @property
    def validation_needs(self) -> Needs:
        """Pairs to find again, or, of scored or labelled ones, texts and numbers.

        The last of ``columns`` is read as a number where the loss goes by numbers of pairs, or where it is the third
        and has a name that sentence-transformers gives to numbers.
        """
        own = self.loss.needs.label
        if own in ("score", "similarity", "binary"):
            return Needs(2, 2, "binary" if own == "binary" else "score", "alone")
        last = [(source.columns or [""])[2:] for source in self.data.validation]
        return Needs(2, 2, "score", "alone") if any(one and one[0] in LABEL_NAMES for one in last) else Needs()

    @model_validator(mode="after")
    def _frozen_layers_fit(self) -> Recipe:
        if self.model.freeze_layers is None:
            return self
        told = f"model.freeze_layers={self.model.freeze_layers}"
        for loss in self.losses:
            if loss.needs_layers or not loss.steps:
                does = "trains lower layers, too" if loss.steps else "trains no layer"
                raise ValueError(f"{told}: {loss.words} {does}: leave one of the two out")
        if (self.training.get("gradient_checkpointing_kwargs") or {}).get("use_reentrant"):
            raise ValueError(f"{told}: reentrant checkpoints need gradients of frozen layers: set use_reentrant=false")
        if compiled := [name for name in self.training if name.startswith("torch_compile") and self.training[name]]:
            raise ValueError(
                f"{told}: compiled models keep their lower layers: leave it out, or training.{compiled[0]}"
            )
        return self

    @property
    def seed(self) -> int:
        """Of everything that is drawn in the run."""
        return int(self.training.get("seed", DEFAULT_SEED))

    def to_yaml(self) -> str:
        """The recipe as YAML with every default written out, so that it means the same in a later version."""
        return OmegaConf.to_yaml(OmegaConf.create(self.model_dump()))


def _columns(source: SourceConfig) -> str:
    mined = f" and {source.mine_negatives.num} mined" if source.mine_negatives else ""
    return f"columns {', '.join(source.columns or ('anchor', 'positive'))}{mined}"


def _training_defaults() -> dict[str, Any]:
    """What the ``training`` section may name, and what the Trainer takes where it does not."""
    from sentence_transformers import SentenceTransformerTrainingArguments

    fields = [field for field in dataclasses.fields(SentenceTransformerTrainingArguments) if field.init]
    unset = dataclasses.MISSING
    defaults = {one.name: one.default if one.default_factory is unset else one.default_factory() for one in fields}
    return {**defaults, **EARLY_STOPPING}
