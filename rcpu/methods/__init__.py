"""What is decided: one idea a file. Scores of columns, units that leave together, repairs of what stays."""

from rcpu.methods.procrustes import Rotation
from rcpu.methods.scoring import AT_ONCE, column_scores
from rcpu.methods.units import UNIT_NAMES, Removal, keep_units, remove, removed_count, resolve_unit, units_of

__all__ = [
    "AT_ONCE",
    "UNIT_NAMES",
    "Removal",
    "Rotation",
    "column_scores",
    "keep_units",
    "remove",
    "removed_count",
    "resolve_unit",
    "units_of",
]
