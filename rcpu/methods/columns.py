"""The options of a choice of columns: a score says what stays, the consumer of what goes is repaired."""

from __future__ import annotations

from dataclasses import dataclass

from rcpu.base.errors import RcpuError
from rcpu.base.options import check_options, joined, option
from rcpu.methods.compensation import COMPENSATORS
from rcpu.methods.scoring import SCORERS
from rcpu.methods.units import UNITS

#: ``paper`` captures both sites in one pass of the dense layer; ``site`` repairs o_proj before down_proj is captured.
ORDERS = {"paper": "Paper: measure both, then repair", "site": "Site: repair o_proj first"}
#: Where what stays is repaired; columns leave every chosen site all the same.
REPAIRED = {"both": "o_proj and down_proj", "o_proj": "o_proj alone", "down_proj": "down_proj alone"}


@dataclass(frozen=True)
class _Columns:
    """Options of a choice of columns, those of every score and repair included."""

    scorer: str = option("rcpu", "Importance score", "What decides which columns stay.", choices=SCORERS)
    compensation: str = option("rotation", "Compensation", "How what stays is repaired.", choices=COMPENSATORS)
    repaired: str = option("both", "Repaired sites", "The others lose their columns, too.", choices=REPAIRED)
    unit: str = option("auto", "Unit of o_proj", "What leaves as one; down_proj always loses channels.", choices=UNITS)
    order: str = option("paper", "Order", "When inputs of down_proj are measured.", choices=ORDERS)

    def __post_init__(self) -> None:
        check_options(self)


ColumnOptions = joined("ColumnOptions", __name__, _Columns, {"scorer": SCORERS, "compensation": COMPENSATORS})


def compensation_at(recipe, site: str) -> str:
    """How what stays of this site is repaired."""
    return recipe.compensation if recipe.repaired in ("both", site) else "none"


def check_columns(recipe) -> None:
    """Raise ``RcpuError`` for settings of a choice of columns that do not combine."""
    if recipe.ridge is None and recipe.compensation == "least_squares" and not recipe.held_out:
        raise RcpuError("ridge auto is chosen on held-out windows: ask for at least one, or give a number")
