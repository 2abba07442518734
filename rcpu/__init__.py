"""Structured pruning of LLaMA models with rotation compensation (RCPU, arXiv 2510.07782).

    base → text, models → statistics → compact → methods → pruning → measure → explain → cli

Each of these is a folder that imports only those before it. Nothing here knows of a user interface.
"""

import os

__version__ = "0.2.0"

# OpenMP threads that spin while they wait lose their core to any busy neighbour: with one other process on two cores
# an SVD takes ten times as long. Must be set before torch is imported; a value of the user's own stays.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from rcpu.base.errors import Cancelled, RcpuError
from rcpu.compact.export import check_target
from rcpu.measure.generation import Generated, generate, stream
from rcpu.measure.perplexity import Perplexity, perplexity
from rcpu.methods.catalog import METHODS
from rcpu.methods.columns import ORDERS
from rcpu.methods.compensation import COMPENSATORS
from rcpu.methods.scoring import SCORERS
from rcpu.methods.units import UNITS
from rcpu.models.devices import DTYPES
from rcpu.models.families import SITES
from rcpu.models.loading import Model, load_model
from rcpu.models.sizes import Cost, cost
from rcpu.pruning.exports import export_problems
from rcpu.pruning.library import RECIPES, load_recipe
from rcpu.pruning.lists import format_layers, format_ratios, parse_layers, parse_ratios
from rcpu.pruning.loop import prune
from rcpu.pruning.plan import Plan, plan
from rcpu.pruning.recipe import Recipe
from rcpu.pruning.result import Checkpoint, PruneResult
from rcpu.pruning.saving import run_record, save
from rcpu.pruning.site import SiteResult
from rcpu.pruning.target import planned_share, with_target
from rcpu.statistics.passes import Progress
from rcpu.text.texts import Text, from_upload, load_text
from rcpu.text.windows import Windows, calibration_windows, evaluation_windows

__all__ = [
    "COMPENSATORS",
    "DTYPES",
    "METHODS",
    "ORDERS",
    "RECIPES",
    "SCORERS",
    "SITES",
    "UNITS",
    "Cancelled",
    "Checkpoint",
    "Cost",
    "Generated",
    "Model",
    "Perplexity",
    "Plan",
    "Progress",
    "Recipe",
    "PruneResult",
    "RcpuError",
    "SiteResult",
    "Text",
    "Windows",
    "calibration_windows",
    "check_target",
    "cost",
    "evaluation_windows",
    "export_problems",
    "format_layers",
    "format_ratios",
    "from_upload",
    "generate",
    "load_model",
    "load_recipe",
    "load_text",
    "parse_layers",
    "parse_ratios",
    "perplexity",
    "plan",
    "planned_share",
    "prune",
    "run_record",
    "save",
    "stream",
    "with_target",
]
