"""The options of a choice of columns: a score says what stays, the consumer of what goes is repaired."""

from __future__ import annotations

from dataclasses import dataclass

from rcpu.base.errors import RcpuError
from rcpu.base.options import check_options, joined, option
from rcpu.methods.allocation import ALLOCATIONS
from rcpu.methods.compensation import COMPENSATORS
from rcpu.methods.scoring import FROM_GRAM, SCORERS
from rcpu.methods.units import UNITS

#: ``paper`` captures both sites in one pass of the dense layer; ``site`` repairs o_proj before down_proj is captured.
ORDERS = {"paper": "Paper: measure both, then repair", "site": "Site: repair o_proj first"}
#: Where what stays is repaired; columns leave every chosen site all the same.
REPAIRED = {"both": "o_proj and down_proj", "o_proj": "o_proj alone", "down_proj": "down_proj alone"}
PATHS = {"pruned": "Pruned: inputs come from the layers already pruned", "dense": "Dense: inputs of the dense model"}
ENOUGH = 10  # tokens an input of a projection
#: Repairs that can have centred moments and a bias; ``bias`` is what that leaves where nothing else is repaired.
CENTRED = ("rotation", "rotation_scale", "least_squares", "two_sided")


@dataclass(frozen=True)
class _Columns:
    """Options of a choice of columns, those of every score, repair and allocation included."""

    scorer: str = option("rcpu", "Importance score", "What decides which columns stay.", choices=SCORERS)
    compensation: str = option("rotation", "Compensation", "How what stays is repaired.", choices=COMPENSATORS)
    repaired: str = option("both", "Repaired sites", "The others lose their columns, too.", choices=REPAIRED)
    unit: str = option("auto", "Unit of o_proj", "What leaves as one; down_proj always loses channels.", choices=UNITS)
    order: str = option("paper", "Order", "When inputs of down_proj are measured.", choices=ORDERS)
    path: str = option("pruned", "Path", "Where the inputs that are measured come from.", choices=PATHS)
    allocation: str = option("uniform", "Allocation", "How layers and sites share what goes.", choices=ALLOCATIONS)
    centred: bool = option(
        False,
        "Centred, with a bias",
        "Moments about the mean, and a bias that carries the means: the joint optimum of both.",
        when=("compensation", CENTRED),
    )
    target: float = option(
        0.0, "Target α", "Share of the residual stream's error against the dense model that is repaired.", low=0, high=1
    )
    metric: bool = option(
        False,
        "Gradients as metric",
        "Errors count as the loss's gradients by the outputs have it when units are chosen; one backward.",
    )
    step: float = option(
        0.0,
        "Step along the gradient",
        "Nats a token that weights move along the calibration loss's natural gradient before anything leaves; 0: none.",
        low=0,
        high=1,
    )
    gradient_windows: int = option(
        32, "Windows for gradients", "As many, at most, are gone through backward; 0: all.", low=0
    )
    careful: bool = option(
        False,
        "Careful with few tokens",
        "With fewer than ten tokens an input, damping grows as they get fewer, and target and allocation shrink.",
    )

    def __post_init__(self) -> None:
        check_options(self)


ColumnOptions = joined(
    "ColumnOptions",
    __name__,
    _Columns,
    {"scorer": SCORERS, "compensation": COMPENSATORS, "allocation": ALLOCATIONS},
)


def compensation_at(recipe, site: str) -> str:
    """How what stays of this site is repaired."""
    return recipe.compensation if recipe.repaired in ("both", site) else "none"


def care(recipe, tokens: int, d_in: int) -> float:
    """How many times more damping so few tokens ask for: the best ridge is proportional to inputs over tokens."""
    return max(1.0, ENOUGH * d_in / tokens) if recipe.careful else 1.0


def has_bias(recipe, site: str) -> bool:
    """Whether this site gets a bias."""
    repair = compensation_at(recipe, site)
    return repair == "bias" or (recipe.centred and repair in CENTRED)


def check_columns(recipe) -> None:
    """Raise ``RcpuError`` for settings of a choice of columns that do not combine."""
    squares = recipe.compensation == "least_squares"
    if squares and recipe.ridge is None and recipe.choose == "held_out" and not recipe.held_out:
        raise RcpuError("ridge auto is chosen on held-out windows: ask for at least one, or give a number")
    if recipe.target and recipe.path == "dense":
        raise RcpuError("a target needs path 'pruned': on the dense path the residual stream carries no error")
    if recipe.target and (recipe.compensation in ("none", "two_sided") or (squares and recipe.choose == "gcv")):
        raise RcpuError(
            "a target is met by 'rotation', 'rotation_scale', 'least_squares' or 'bias', with a λ that is given or "
            "chosen on held-out windows"
        )
    if recipe.metric and recipe.scorer not in FROM_GRAM and recipe.unit != "subspace":
        raise RcpuError("gradients as metric are used by scores 'obs' and 'greedy' and by unit 'subspace'")
    if recipe.ratios and recipe.allocation != "uniform":
        raise RcpuError("ratios of single layers are an allocation by hand: choose allocation 'uniform' with them")
    if recipe.allocation == "flap" and recipe.unit == "subspace":
        raise RcpuError("allocation 'flap' compares scores of columns, and a subspace has none: choose another unit")
    if recipe.allocation in ("heads", "flap_heads", "flap") and len(recipe.sites) < 2:
        raise RcpuError(f"allocation {recipe.allocation!r} shares what goes between o_proj and down_proj: choose both")
    if recipe.allocation in ("heads", "flap_heads") and recipe.unit in ("channel", "subspace"):
        raise RcpuError(f"allocation {recipe.allocation!r} counts heads: choose unit 'head' or 'kv_group'")
