"""What a store is made for, and how that is written down beside its rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mrl_text.search.plan import SearchPlan
from mrl_text.truncation import check_dim, check_dims


@dataclass(frozen=True)
class StoreSettings:
    """What a store is made for.

    Raises:
        ValueError: a width that is none, or sizes or a plan beyond it.
    """

    width: int  # numbers of the full vectors
    plan: SearchPlan | None = None  # how to search; None compares with every full vector
    model: str | None = None  # name or folder of the model that made the vectors; None where it was not told
    dims: tuple[int, ...] = ()  # sizes the model may be cut to; kept ascending, with the width

    def __post_init__(self) -> None:
        object.__setattr__(self, "width", check_dim(self.width, None))
        object.__setattr__(self, "dims", check_dims([*self.dims, self.width], self.width))
        if self.plan is not None:
            self.plan.check(self.width)

    def to_json(self) -> dict[str, Any]:
        """The settings as JSON values."""
        plan = self.plan.to_json() if self.plan is not None else None
        return {"width": self.width, "model": self.model, "dims": list(self.dims), "plan": plan}

    @classmethod
    def from_json(cls, values: Any, where: str) -> StoreSettings:
        """What :meth:`to_json` gave; ValueError that names ``where`` it was kept, if it is not whole any more."""
        try:
            plan = SearchPlan.from_json(values["plan"]) if values["plan"] else None
            return cls(values["width"], plan, values["model"], tuple(values["dims"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            reason = f"it lacks {error}" if isinstance(error, KeyError) else error
            raise ValueError(f"{where} is damaged ({reason}): restore it, or fill a new store") from None
