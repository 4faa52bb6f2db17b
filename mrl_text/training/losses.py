"""What the ``loss`` section of a recipe may say: one class for each loss, with its own fields, which builds it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeAlias, Union

from pydantic import Discriminator, StrictInt, Tag, field_validator, model_validator

from mrl_text.training.section import NotNegative, Positive, PositiveInt, Section
from mrl_text.truncation import check_dims

if TYPE_CHECKING:
    from torch import nn

    from mrl_text.encoder import MatryoshkaEncoder

DEFAULT_LOSS = "nested_infonce"  # where a recipe names none


class LossConfig(Section):
    """What all losses have. A subclass with a ``name`` of its own is a loss that recipes may name."""

    name: str
    dims: list[StrictInt]  # sizes to train; the model's full width should be among them
    weights: list[NotNegative] | None = None  # one weight per size, in the order of ``dims``; None is 1 for each

    needs_pairs: ClassVar[bool] = True
    """Whether a text alone, without its positive, teaches nothing."""
    steps: ClassVar[bool] = True
    """Whether the encoder is trained, step by step; else it stays as it is."""
    needs_layers: ClassVar[bool] = False
    """Whether it compares the output of lower layers, which therefore cannot be frozen."""

    @property
    def distills(self) -> bool:
        """Whether self-distillation is part of the loss."""
        return False

    @property
    def needs_teacher(self) -> bool:
        """Whether the base's vectors have to be computed."""
        return False

    @property
    def gathers(self) -> bool:
        """Whether several processes see each other's texts."""
        return False

    def build(self, model: MatryoshkaEncoder) -> nn.Module:
        """The loss for this model.

        Raises:
            ValueError: sizes or options that do not fit the model.
        """
        raise NotImplementedError

    def given(self, names: str) -> dict[str, Any]:
        """Fields by their names, separated by spaces."""
        return {name: getattr(self, name) for name in names.split()}

    @model_validator(mode="before")
    @classmethod
    def _of_this_loss(cls, given: Any) -> Any:
        """Refuse options of other losses by name; at their defaults, as older recipes wrote them out, they go."""
        if not isinstance(given, dict):
            return given
        others = {
            name: field.get_default(call_default_factory=True)
            for loss in losses().values()
            for name, field in loss.model_fields.items()
            if name not in cls.model_fields
        }
        if wrong := [name for name in given if name in others and given[name] != others[name]]:
            name = cls.model_fields["name"].default
            raise ValueError(f"{name} does not take {', '.join(wrong)}: leave it out, or change loss.name")
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
    teacher: Literal["base", "self"] = "base"
    """Of self-distillation: the frozen starting model, whose vectors are computed once, or the model's own full
    width as it trains."""

    @property
    def needs_teacher(self) -> bool:
        return self.distills and self.teacher == "base"

    def build(self, model: MatryoshkaEncoder) -> nn.Module:
        from mrl_text.losses import NestedLoss

        options = self.given("mini_batch_size dims_per_step")
        return NestedLoss(model, *self._objectives(), use_labels=self.needs_teacher, **options)

    def _objectives(self) -> Iterator[Any]:
        raise NotImplementedError

    def _distillation(self, strength: float) -> Any:
        from mrl_text.losses import SelfDistillation

        weights = self.distill_weights or self.weights
        options: dict[str, Any] = {"scale": self.distill_scale, "reduction": self.reduction, "strength": strength}
        return SelfDistillation(self.dims, weights=weights, **options)


class NestedInfoNCEConfig(_Nested):
    """Multiple negatives ranking loss at several prefix sizes, and self-distillation beside it where wanted."""

    name: Literal["nested_infonce"] = "nested_infonce"
    scale: Positive = 20.0  # inverse temperature of the softmax over cosine similarities in the contrastive loss
    symmetric: bool = False  # positives find their anchors, too
    gather_across_devices: bool = False  # with several processes: negatives from all of them
    distill_weight: NotNegative = 0.0  # weight of self-distillation beside it

    @property
    def distills(self) -> bool:
        """Whether self-distillation is part of the loss."""
        return self.distill_weight > 0

    @property
    def gathers(self) -> bool:
        """Whether several processes see each other's texts."""
        return self.gather_across_devices

    def _objectives(self) -> Iterator[Any]:
        from mrl_text.losses import InfoNCE

        yield InfoNCE(self.dims, **self.given("weights scale reduction symmetric gather_across_devices"))
        if self.distills:
            yield self._distillation(self.distill_weight)


class SelfDistillationConfig(_Nested):
    """Every size keeps the teacher's neighbourhoods; no labels."""

    name: Literal["self_distillation"] = "self_distillation"
    needs_pairs: ClassVar[bool] = False

    @property
    def distills(self) -> bool:
        """It is nothing else."""
        return True

    def _objectives(self) -> Iterator[Any]:
        yield self._distillation(1.0)


class NestedInfoNCE2dConfig(LossConfig):
    """Multiple negatives ranking over sizes and layers."""

    name: Literal["nested_infonce_2d"] = "nested_infonce_2d"
    needs_layers: ClassVar[bool] = True
    scale: Positive = 20.0  # inverse temperature of the softmax over cosine similarities
    layers_per_step: PositiveInt = 1  # layers besides the last per step, drawn at random
    dims_per_step: PositiveInt | None = None  # sizes per step, drawn at random; None trains all

    def build(self, model: MatryoshkaEncoder) -> nn.Module:
        """sentence-transformers' own loss; ValueError as for every loss, and for a model without layers."""
        from mrl_text.losses import nested_infonce_2d

        options = self.given("weights scale layers_per_step dims_per_step")
        loss: nn.Module = nested_infonce_2d(model, self.dims, **options)
        return loss


class RotationConfig(LossConfig):
    """The encoder stays as it is, and the numbers of its vectors are rotated (:mod:`mrl_text.adapt`)."""

    name: Literal["rotation"] = "rotation"
    needs_pairs: ClassVar[bool] = False
    steps: ClassVar[bool] = False


def losses() -> dict[str, type[LossConfig]]:
    """Every loss that recipes may name -> its class."""

    def below(kind: type[LossConfig]) -> Iterator[type[LossConfig]]:
        for one in kind.__subclasses__():
            yield one
            yield from below(one)

    found = (one for one in below(LossConfig) if one.model_fields and "name" in one.__annotations__)
    return {one.model_fields["name"].default: one for one in found}


def _name_of(given: Any) -> Any:
    return given.get("name", DEFAULT_LOSS) if isinstance(given, dict) else getattr(given, "name", None)


if TYPE_CHECKING:
    Loss: TypeAlias = LossConfig
else:
    _TAGGED = tuple(Annotated[one, Tag(name)] for name, one in losses().items())
    Loss = Annotated[Union[_TAGGED], Discriminator(_name_of)]  # noqa: UP007
