"""What the ``loss`` section of a recipe may say: one class for each loss, with its own fields, which builds it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, StrictInt, field_validator, model_validator

from mrl_text.codes import trained_precisions
from mrl_text.training.columns import Needs
from mrl_text.training.section import NotNegative, Positive, PositiveInt, Section
from mrl_text.truncation import check_dims

if TYPE_CHECKING:
    from torch import nn
    from transformers import TrainerCallback

    from mrl_text.encoder import MatryoshkaEncoder

DEFAULT_LOSS = "nested_infonce"  # where a recipe names none


class LossConfig(Section):
    """What all losses have. A subclass with a ``name`` of its own is a loss that recipes may name."""

    name: str
    dims: list[StrictInt]  # sizes to train; the model's full width should be among them
    weights: list[NotNegative] | None = None  # one weight per size, in the order of ``dims``; None is 1 for each

    steps: ClassVar[bool] = True
    """Whether the encoder is trained, step by step; else it stays as it is."""
    instead: ClassVar[str] = ""
    """What else to do with an option that it does not take."""

    @property
    def words(self) -> str:
        """Its name for messages."""
        return f"loss.name {self.name}"

    @property
    def needs(self) -> Needs:
        """What columns its data must have: pairs, unless a loss says otherwise."""
        return Needs()

    @property
    def needs_layers(self) -> bool:
        """Whether it compares the output of lower layers, which therefore cannot be frozen."""
        return False

    @property
    def distills(self) -> bool:
        """Whether self-distillation is part of the loss."""
        return False

    @property
    def models(self) -> dict[str, tuple[str, ...]]:
        """Field -> the frozen models that it names, ``base`` or others, whose vectors have to be computed."""
        return {}

    @property
    def along(self) -> dict[str, tuple[str, ...]]:
        """Field -> the frozen model that it names, ``base`` or another, which runs along in every step."""
        return {}

    @property
    def frozen(self) -> list[tuple[str, str]]:
        """All frozen models, each with the field that names it: (field, name)."""
        return [(field, name) for field, names in (self.models | self.along).items() for name in names]

    @property
    def needs_teacher(self) -> bool:
        """Whether a frozen model teaches, with vectors computed before the first step."""
        return "teacher" in self.models

    @property
    def gathers(self) -> bool:
        """Whether several processes see each other's texts."""
        return False

    def check_width(self, width: int, teacher: int | None = None) -> None:
        """Refuse, by ``ValueError``, what does not fit a model of this width and, where it is known, a teacher's."""

    def build(self, model: MatryoshkaEncoder) -> nn.Module:
        """The loss for this model.

        Raises:
            ValueError: sizes or options that do not fit the model.
        """
        raise NotImplementedError

    def callbacks(self, loss: Any) -> list[TrainerCallback]:
        """What accompanies the steps of training with :meth:`build`'s loss."""
        return []

    def given(self, names: str) -> dict[str, Any]:
        """Fields by their names, separated by spaces."""
        return {name: getattr(self, name) for name in names.split()}

    @model_validator(mode="before")
    @classmethod
    def _of_this_loss(cls, given: Any) -> Any:
        """Refuse options of other losses by name; at their defaults, as older recipes wrote them out, they go."""
        if not isinstance(given, dict):
            return given
        others: dict[str, list[Any]] = {}
        for loss in losses().values():
            for name, field in loss.model_fields.items():
                if name not in cls.model_fields:
                    others.setdefault(name, []).append(field.get_default(call_default_factory=True))
        if wrong := [name for name in given if name in others and given[name] not in others[name]]:
            name = cls.model_fields["name"].default
            raise ValueError(f"{name} does not take {', '.join(wrong)}: leave it out{cls.instead}, or change loss.name")
        return {name: value for name, value in given.items() if name not in others}

    @field_validator("dims")
    @classmethod
    def _sizes(cls, dims: list[int]) -> list[int]:
        check_dims(dims)
        if len(set(dims)) != len(dims):
            raise ValueError("dims names a size twice")
        return dims

    @model_validator(mode="after")
    def _weights_fit(self) -> LossConfig:
        for name in ("weights", "distill_weights"):
            weights = getattr(self, name, None)
            if weights is not None and len(weights) != len(self.dims):
                raise ValueError(f"{name} has {len(weights)} values for {len(self.dims)} dims")
            if weights is not None and not any(weights):
                raise ValueError(f"{name} are all zero: there would be nothing to train")
        return self


class _Nested(LossConfig):
    """What our own losses of sizes share."""

    reduction: Literal["sum", "mean"] = "sum"  # over the sizes
    mini_batch_size: PositiveInt | None = None
    """Encode the batch in pieces of this size with cached gradients: large batches in little memory."""
    dims_per_step: PositiveInt | None = None  # train this many sizes per step, drawn at random; None trains all
    distill_scale: Positive = 10.0  # inverse temperature of self-distillation
    distill_weights: list[NotNegative] | None = None
    """One weight per size for self-distillation; None takes ``weights``."""
    embed_weight: NotNegative = 0.0
    """Weight of embedding distillation: every size is to say, through an affine map, what the teacher's vector says."""
    teacher: str | list[str] = "base"
    """Of distillation: ``base`` is the frozen starting model, ``self`` the model's own full width as it trains; any
    other name is that of another model (hub id, folder, packaged model) of any width and any tokenizer, with its own
    prompts and its own length. A list of frozen models, ``base`` among them or not, teaches the mean of their cosine
    similarities. A frozen model's vectors are computed once."""
    precisions: list[Literal["float32", "int8", "int4", "int2", "binary"]] = ["float32"]
    """Documents are compared in these, too, as codes keep them, each query staying float32. One of the codes a step."""
    precision_weights: list[Positive] | None = None  # one per precision; None is 1 for each
    codes_from: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Share of the steps that train plain numbers alone, before codes join: they harm a model that is still far off."""
    spread_out: NotNegative = 0.0  # weight of the mean squared cosine of different texts, which keeps texts apart

    @property
    def models(self) -> dict[str, tuple[str, ...]]:
        taught = self.distills or self.embed_weight > 0
        names = (self.teacher,) if isinstance(self.teacher, str) else tuple(self.teacher)
        return {"teacher": names} if taught and names != ("self",) else {}

    @field_validator("teacher", mode="before")
    @classmethod
    def _names(cls, given: Any) -> Any:
        names = given if isinstance(given, list) else [given]
        if not names or not all(isinstance(name, str) for name in names):
            raise ValueError(f"name a model, or several in a list, not {given!r}")
        if len(names) > 1 and "self" in names:
            raise ValueError("self changes as it trains and stands alone: name frozen models, or self")
        if len(set(names)) < len(names):
            raise ValueError("a model is named twice")
        return given[0] if isinstance(given, list) and len(given) == 1 else given

    @model_validator(mode="after")
    def _teaches(self) -> _Nested:
        if self.teacher not in ("base", "self") and not self.models:
            names = [self.teacher] if isinstance(self.teacher, str) else self.teacher
            raise ValueError(
                f"teacher {', '.join(names)}: none is needed at distill_weight 0: raise that, or leave it out"
            )
        if self.teacher == "self" and self.embed_weight:
            raise ValueError("embed_weight needs a teacher other than self, which every size is a part of")
        return self

    def callbacks(self, loss: Any) -> list[TrainerCallback]:
        """Codes join late."""
        from mrl_text.training.callbacks import CodesJoin

        return [CodesJoin(loss, self.codes_from)] if len(self.precisions) > 1 else []

    @model_validator(mode="after")
    def _codes_fit(self) -> _Nested:
        trained_precisions(self.dims, self.precisions, self.precision_weights)
        return self

    def build(self, model: MatryoshkaEncoder) -> nn.Module:
        from mrl_text.losses import NestedLoss, SpreadOut

        objectives = list(self._objectives())
        if self.spread_out:
            objectives.append(SpreadOut(self.dims, **self.given("weights reduction"), strength=self.spread_out))
        options = self.given("mini_batch_size dims_per_step")
        objectives += self._embedding_distillation()
        return NestedLoss(model, *objectives, use_labels=self.needs_teacher, **options)

    def _objectives(self) -> Iterator[Any]:
        raise NotImplementedError

    def _distillation(self, strength: float) -> Any:
        from mrl_text.losses import SelfDistillation

        weights = self.distill_weights or self.weights
        options = self.given("reduction precisions precision_weights")
        return SelfDistillation(self.dims, weights=weights, scale=self.distill_scale, strength=strength, **options)

    def _embedding_distillation(self) -> Iterator[Any]:
        from mrl_text.losses import EmbeddingDistillation

        if self.embed_weight:
            weights = self.distill_weights or self.weights
            options: dict[str, Any] = {"reduction": self.reduction, "strength": self.embed_weight}
            yield EmbeddingDistillation(self.dims, weights=weights, **options)


class _Contrastive(_Nested):
    """What losses share that compare anchors with the positives and negatives of a batch."""

    scale: Positive = 20.0  # inverse temperature of the softmax over cosine similarities in the contrastive loss
    symmetric: bool = False  # positives find their anchors, too
    gather_across_devices: bool = False  # with several processes: negatives from all of them
    guide: str | None = None
    """Mask what may be no negative (GISTEmbed, arXiv 2402.16829): candidates that this frozen model, ``base`` or
    another by name, finds nearer to the anchor than the positive, less ``margin``."""
    margin: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    margin_strategy: Literal["absolute", "relative"] = "absolute"
    """Whether ``margin`` is a cosine similarity or a share of the positive's."""
    distill_weight: NotNegative = 0.0  # weight of self-distillation beside it

    @property
    def distills(self) -> bool:
        """Whether self-distillation is part of the loss."""
        return self.distill_weight > 0

    @property
    def gathers(self) -> bool:
        """Whether several processes see each other's texts."""
        return self.gather_across_devices

    @property
    def models(self) -> dict[str, tuple[str, ...]]:
        """Teacher and guide."""
        return super().models | ({"guide": (self.guide,)} if self.guide is not None else {})

    @model_validator(mode="after")
    def _guides(self) -> _Contrastive:
        if self.guide is None and (self.margin or self.margin_strategy != "absolute"):
            raise ValueError("margin and margin_strategy are a guide's: name one with guide, or leave them out")
        return self

    def _contrast(self, strength: float) -> Any:
        from mrl_text.losses import InfoNCE

        options = self.given("weights scale reduction symmetric gather_across_devices margin_strategy")
        options |= self.given("precisions precision_weights")
        margin = None if self.guide is None else self.margin
        return InfoNCE(self.dims, **options, margin=margin, strength=strength)


class NestedInfoNCEConfig(_Contrastive):
    """Multiple negatives ranking loss at several prefix sizes, and self-distillation beside it where wanted."""

    name: Literal["nested_infonce"] = "nested_infonce"

    def _objectives(self) -> Iterator[Any]:
        yield self._contrast(1.0)
        if self.distills:
            yield self._distillation(self.distill_weight)


class ScoreDistillationConfig(_Contrastive):
    """Every size ranks the positive and the negatives of a row as a cross-encoder does; contrast where wanted."""

    name: Literal["score_distillation"] = "score_distillation"
    cross_encoder: str | None = None
    """Model (hub id or folder) whose scores of anchor with positive and negatives are computed once; None takes those
    in the data's last column."""
    divergence: Literal["kl", "margin_mse"] = "kl"
    """Between the scores and ``scale`` times the cosines: of their softmax, or of the margins over each negative."""
    score_scale: Positive = 1.0  # multiplies the scores
    contrast_weight: NotNegative = 0.0  # weight of nested_infonce beside it

    @property
    def needs(self) -> Needs:
        """A negative at least, and scores where no model gives them."""
        compares = self.contrast_weight or self.distills
        return Needs(3, None, None if self.cross_encoder else "scores", "negatives" if compares else "alone")

    @property
    def models(self) -> dict[str, tuple[str, ...]]:
        """Teacher, guide and cross-encoder."""
        return super().models | ({"cross_encoder": (self.cross_encoder,)} if self.cross_encoder is not None else {})

    @model_validator(mode="after")
    def _scores(self) -> ScoreDistillationConfig:
        given = [name for name in ("guide", "symmetric", "gather_across_devices") if getattr(self, name)]
        if given and not self.contrast_weight:
            raise ValueError(f"{', '.join(given)} change nothing at contrast_weight 0: raise it, or leave them out")
        if len(self.precisions) > 1 and not (self.contrast_weight or self.distills):
            raise ValueError("precisions are of contrast and distillation: give contrast_weight or distill_weight")
        if self.cross_encoder == "base":
            raise ValueError("cross_encoder base: the starting model embeds texts: name a model that scores pairs")
        return self

    def _objectives(self) -> Iterator[Any]:
        from mrl_text.losses import ScoreDistillation

        yield ScoreDistillation(self.dims, **self.given("weights scale reduction divergence score_scale"))
        if self.contrast_weight:
            yield self._contrast(self.contrast_weight)
        if self.distills:
            yield self._distillation(self.distill_weight)


class SelfDistillationConfig(_Nested):
    """Every size keeps the teacher's neighbourhoods; no labels."""

    name: Literal["self_distillation"] = "self_distillation"

    @property
    def needs(self) -> Needs:
        """Texts alone."""
        return Needs(texts=1)

    @property
    def distills(self) -> bool:
        """It is nothing else."""
        return True

    def _objectives(self) -> Iterator[Any]:
        yield self._distillation(1.0)


class NestedInfoNCE2dConfig(LossConfig):
    """Multiple negatives ranking over sizes and layers."""

    name: Literal["nested_infonce_2d"] = "nested_infonce_2d"
    scale: Positive = 20.0  # inverse temperature of the softmax over cosine similarities
    layers_per_step: PositiveInt = 1  # layers besides the last per step, drawn at random
    dims_per_step: PositiveInt | None = None  # sizes per step, drawn at random; None trains all

    @property
    def needs_layers(self) -> bool:
        """It is about them."""
        return True

    def build(self, model: MatryoshkaEncoder) -> nn.Module:
        """sentence-transformers' own loss; ValueError as for every loss, and for a model without layers."""
        from mrl_text.losses import nested_infonce_2d

        options = self.given("weights scale layers_per_step dims_per_step")
        loss: nn.Module = nested_infonce_2d(model, self.dims, **options)
        return loss


class RotationConfig(LossConfig):
    """The encoder stays as it is, and the numbers of its vectors are rotated (:mod:`mrl_text.adapt`)."""

    name: Literal["rotation"] = "rotation"
    steps: ClassVar[bool] = False

    @property
    def needs(self) -> Needs:
        """Texts alone."""
        return Needs(texts=1)


def losses() -> dict[str, type[LossConfig]]:
    """Every loss that recipes may name -> its class."""

    def below(kind: type[LossConfig]) -> Iterator[type[LossConfig]]:
        for one in kind.__subclasses__():
            yield one
            yield from below(one)

    found = (one for one in below(LossConfig) if one.model_fields and "name" in one.__annotations__)
    return {one.model_fields["name"].default: one for one in found}
