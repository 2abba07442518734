"""What methods and options are called on every page; the keys are those of the library and the command line."""

from __future__ import annotations

from collections.abc import Callable

#: The source of most formulas, in Markdown.
PAPER = "RCPU, [arXiv 2510.07782](https://arxiv.org/abs/2510.07782)"
SCORERS = {
    "rcpu": "RCPU: ‖Wⱼ‖ · mean|xⱼ| · Var(xⱼ)",
    "wanda_sp": "WANDA-sp: Σ|Wᵢⱼ| · mean|xⱼ|",
    "flap": "FLAP: Var(xⱼ) · ‖Wⱼ‖²",
    "magnitude": "Magnitude: ‖Wⱼ‖",
    "random": "Random",
}
COMPENSATIONS = {
    "none": "None",
    "rotation": "Rotation (RCPU)",
    "rotation_scale": "Rotation and scale",
    "least_squares": "Least squares with ridge",
    "bias": "Bias (FLAP)",
}
UNITS = {
    "auto": "Automatic",
    "head": "Whole heads",
    "kv_group": "Whole KV groups",
    "channel": "Value channels per KV head",
}
ORDERS = {
    "paper": "Paper: measure both, then repair",
    "site": "Site: repair o_proj first",
}
SITES = {"o_proj,down_proj": "both", "o_proj": "o_proj", "down_proj": "down_proj"}


def called(labels: dict[str, str]) -> Callable[[str], str]:
    """For ``format_func``: what a key is called; a method that has no label yet goes by its key."""
    return lambda key: labels.get(key, key)


def short(labels: dict[str, str], key: str) -> str:
    """What a key is called, without what explains it."""
    return labels.get(key, key).partition(":")[0]
