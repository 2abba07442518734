"""Structured pruning of LLaMA models with rotation compensation (RCPU, arXiv 2510.07782).

    text → statistics → scoring → masking → compensation → compact model → evaluate, generate, export

Each of these is one file; prune.py runs them layer by layer. Nothing here knows of a user interface.
"""

import os

# OpenMP threads that spin while they wait lose their core to any busy neighbour: with one other process on two cores
# an SVD takes ten times as long. Must be set before torch is imported; a value of the user's own stays.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from rcpu.compensation import COMPENSATORS
from rcpu.config import ORDERS, SITES, PruneConfig, format_layers, format_ratios, parse_layers, parse_ratios
from rcpu.errors import Cancelled, RcpuError
from rcpu.evaluate import Cost, Perplexity, cost, perplexity
from rcpu.export import check_target, run_record, save
from rcpu.generate import Generated, generate, stream
from rcpu.masking import UNITS
from rcpu.models import DTYPES, Model, load_model
from rcpu.passes import Progress
from rcpu.planning import Plan, plan
from rcpu.prune import PruneResult, prune
from rcpu.scoring import SCORERS
from rcpu.solve import SiteResult
from rcpu.text import Text, Windows, calibration_windows, evaluation_windows, from_upload, load_text

__all__ = [
    "COMPENSATORS",
    "DTYPES",
    "ORDERS",
    "SCORERS",
    "SITES",
    "UNITS",
    "Cancelled",
    "Cost",
    "Generated",
    "Model",
    "Perplexity",
    "Plan",
    "Progress",
    "PruneConfig",
    "PruneResult",
    "RcpuError",
    "SiteResult",
    "Text",
    "Windows",
    "calibration_windows",
    "check_target",
    "cost",
    "evaluation_windows",
    "format_layers",
    "format_ratios",
    "from_upload",
    "generate",
    "load_model",
    "load_text",
    "parse_layers",
    "parse_ratios",
    "perplexity",
    "plan",
    "prune",
    "run_record",
    "save",
    "stream",
]
