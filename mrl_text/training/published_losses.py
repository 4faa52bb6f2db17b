"""Losses of sentence-transformers at several sizes, by their own names and with their own arguments."""

from __future__ import annotations

import copy
import functools
import inspect
import json
import math
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_type_hints

from pydantic import Field, TypeAdapter, ValidationError, field_validator, model_validator

from mrl_text.suggest import check_choice, did_you_mean
from mrl_text.training.columns import Needs
from mrl_text.training.losses import LossConfig
from mrl_text.training.section import PositiveInt

if TYPE_CHECKING:
    from torch import nn

    from mrl_text.encoder import MatryoshkaEncoder

_CLASSES = Needs(1, 1, "class", "classes")

INNER: dict[str, Needs] = {
    "CoSENTLoss": Needs(2, 2, "score", "compared"),
    "AnglELoss": Needs(2, 2, "score", "compared"),
    "CosineSimilarityLoss": Needs(2, 2, "similarity", "alone"),
    "ContrastiveLoss": Needs(2, 2, "binary", "alone"),
    "OnlineContrastiveLoss": Needs(2, 2, "binary", "compared"),
    "TripletLoss": Needs(3, 3, None, "alone"),
    "BatchAllTripletLoss": _CLASSES,
    "BatchHardTripletLoss": _CLASSES,
    "BatchHardSoftMarginTripletLoss": _CLASSES,
    "BatchSemiHardTripletLoss": _CLASSES,
    "MultipleNegativesRankingLoss": Needs(),
    "CachedMultipleNegativesRankingLoss": Needs(),
    "MegaBatchMarginLoss": Needs(2, 2),
    "GISTEmbedLoss": Needs(2, 3),
    "CachedGISTEmbedLoss": Needs(),
    "MSELoss": Needs(1, None, "vector", "alone"),
    "MarginMSELoss": Needs(3, None, "margins", "alone"),
    "DistillKLDivLoss": Needs(3, None, "scores", "alone"),
}
"""Loss that :class:`MatryoshkaConfig` may nest -> what its data must have."""

_NO_OPTIONS = ("self", "model", "guide", "projection_dim", "show_progress_bar")
_ABOVE_ZERO = ("scale", "temperature", "student_temperature", "teacher_temperature", "mini_batch_size")


class MatryoshkaConfig(LossConfig):
    """sentence-transformers' MatryoshkaLoss: one of its losses, ``inner``, summed over the sizes."""

    name: Literal["matryoshka"] = "matryoshka"
    instead: ClassVar[str] = ", give it under options where it is the inner loss's"
    inner: str  # class of sentence_transformers.losses
    options: dict[str, Any] = Field(default_factory=dict)
    """Arguments of the inner loss by its own names. Functions go by their names, such as ``similarity_fct:
    pairwise_dot_score`` or ``distance_metric: EUCLIDEAN``."""
    dims_per_step: PositiveInt | None = None  # train this many sizes per step, drawn at random; None trains all
    layers_per_step: PositiveInt | None = None
    """Train layers besides the last, too, this many per step, drawn at random (Matryoshka2dLoss); None trains the last
    alone."""
    guide: str | None = None  # of GISTEmbedLoss: ``base`` or another frozen model, which runs along in every step
    teacher: str | None = None
    """Of MSELoss: ``base`` or another frozen model of the same width, whose vectors are computed once; None takes those
    in the data."""

    @property
    def words(self) -> str:
        """Its name for messages."""
        return f"loss.inner {self.inner}"

    @property
    def needs(self) -> Needs:
        """What the inner loss needs; a teacher's vectors come from elsewhere."""
        needs = INNER[self.inner]
        return needs if self.teacher is None else needs._replace(label=None)

    @property
    def models(self) -> dict[str, tuple[str, ...]]:
        """The teacher."""
        return {} if self.teacher is None else {"teacher": (self.teacher,)}

    @property
    def along(self) -> dict[str, tuple[str, ...]]:
        """The guide."""
        return {} if self.guide is None else {"guide": (self.guide,)}

    @property
    def gathers(self) -> bool:
        """Whether several processes see each other's texts."""
        return bool(self.options.get("gather_across_devices"))

    @property
    def needs_layers(self) -> bool:
        """With ``layers_per_step`` it trains them, too."""
        return self.layers_per_step is not None

    def check_width(self, width: int, teacher: int | None = None) -> None:
        """A teacher whose vectors are compared number by number has as many."""
        if self.teacher in (None, "base"):
            return
        from mrl_text.models import find_model, peek_width

        theirs = teacher or peek_width(find_model(str(self.teacher)))
        if theirs not in (None, width):
            raise ValueError(
                f"loss.teacher: {self.teacher} has width {theirs}, the model {width}, and {self.inner} compares number"
                " by number: name one of that width, or let self_distillation compare neighbourhoods"
            )

    def build(self, model: MatryoshkaEncoder) -> nn.Module:
        """The loss over all sizes; ValueError as for every loss, and what the inner loss refuses."""
        from sentence_transformers.base.modules import Transformer
        from sentence_transformers.sentence_transformer.losses import Matryoshka2dLoss, MatryoshkaLoss
        from torch import nn

        options = {name: _argument(self.inner, name, value) for name, value in self.options.items()}
        if self.guide is not None:
            options["guide"] = _frozen(self.guide, model)
        # those of classes keep the model under another name, where the Trainer, which wraps models, does not find it
        embedder = nn.Sequential(OrderedDict(model=model)) if self.needs.rows == "classes" else model
        inner = _class(self.inner)(embedder, **options)
        sizes: tuple[Any, ...] = (model, inner, self.dims, self.weights)
        loss: nn.Module
        if self.layers_per_step is None:
            loss = MatryoshkaLoss(*sizes, n_dims_per_step=self.dims_per_step or -1)
            return loss
        if not isinstance(model[0], Transformer):
            raise ValueError(f"loss.layers_per_step: {type(model[0]).__name__} has no layers to train: leave it out")
        steps = {"n_layers_per_step": self.layers_per_step, "n_dims_per_step": self.dims_per_step or -1}
        loss = Matryoshka2dLoss(*sizes, **steps)
        return loss

    @field_validator("inner")
    @classmethod
    def _known(cls, inner: str) -> str:
        return check_choice("inner", inner, INNER)

    @model_validator(mode="after")
    def _options_fit(self) -> MatryoshkaConfig:
        for wrong, problem in (
            ("GIST" in self.inner and self.guide is None, "needs a guide: set guide to base, or to another model"),
            ("GIST" not in self.inner and self.guide is not None, "has no use for a guide: leave it out"),
            (self.inner != "MSELoss" and self.teacher is not None, "has no use for a teacher: leave it out"),
            (
                self.layers_per_step is not None and "mini_batch_size" in _arguments(self.inner),
                "caches gradients, which does not go with layers: leave layers_per_step out",
            ),
        ):
            if wrong:
                raise ValueError(f"{self.inner} {problem}")
        given: dict[str, Any] = {}
        for name, value in self.options.items():
            try:
                given[name] = _argument(self.inner, name, value)
            except ValueError as error:
                raise ValueError(f"options.{name}={value}: {error}") from None
        if self.guide is None:
            _try(self.inner, given)
        return self


def _try(inner: str, options: dict[str, Any]) -> None:
    """Build the loss on a model of nothing, so that what it refuses is refused before a model is loaded."""
    from torch import nn

    try:
        _class(inner)(nn.Sequential(nn.Identity()), **options)
    except ValueError as error:
        raise ValueError(f"options: {' '.join(str(error).split())}") from None


def _frozen(name: str, base: MatryoshkaEncoder) -> MatryoshkaEncoder:
    from mrl_text.loading import load
    from mrl_text.models import find_model

    trust = base.trust_remote_code  # as the recipe loaded the model
    guide = copy.deepcopy(base) if name == "base" else load(find_model(name, trust_remote_code=trust))
    guide.warn_when_cut = False
    guide.eval().requires_grad_(False)
    return guide


def _class(name: str) -> Any:
    from sentence_transformers.sentence_transformer import losses

    return getattr(losses, name)


@functools.cache
def _arguments(inner: str) -> dict[str, Any]:
    """Argument of a loss -> the type that a recipe gives, or the functions that it may name."""
    hints = get_type_hints(_class(inner).__init__)
    found: dict[str, Any] = {}
    for one in inspect.signature(_class(inner).__init__).parameters.values():
        kind = _functions(one.default) if callable(one.default) else hints.get(one.name)
        if kind and one.name not in _NO_OPTIONS:
            found[one.name] = kind
    return found


def _functions(default: Any) -> dict[str, Any]:
    """What may stand in the place of a function, by name: its neighbours where sentence-transformers has it."""
    from sentence_transformers import util
    from sentence_transformers.sentence_transformer import losses

    pairwise = "pairwise_" if getattr(default, "__name__", "").startswith("pairwise_") else ""
    names = [f"{pairwise}{kind}" for kind in ("cos_sim", "dot_score", "euclidean_sim", "manhattan_sim")]
    places: list[tuple[Any, list[str]]] = [(util, names)]
    for place in (losses.TripletDistanceMetric, losses.SiameseDistanceMetric):
        places += [(place, [name for name in vars(place) if name.isupper()])]
    places += [(losses.BatchHardTripletLossDistanceFunction, ["cosine_distance", "euclidean_distance"])]
    found = ({name: getattr(place, name) for name in names} for place, names in places)
    return next((functions for functions in found if default in functions.values()), {})


def _argument(inner: str, name: str, value: Any) -> Any:
    """An option as the loss takes it; ``ValueError`` says what is wrong with it."""
    known = _arguments(inner)
    if name not in known:
        raise ValueError(f"{inner} has no such argument{did_you_mean(name, known)}")
    if isinstance(known[name], dict):
        return known[name][check_choice("function", value, known[name])]
    try:
        found = TypeAdapter(known[name]).validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        raise ValueError(error.errors(include_url=False)[0]["msg"]) from None
    if isinstance(found, float) and not math.isfinite(found):
        raise ValueError("must be a finite number")
    if name in _ABOVE_ZERO and found is not None and found <= 0:
        raise ValueError("must be above 0")
    return found
