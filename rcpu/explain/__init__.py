"""What a person looks at: what-if, turning, growth, drift, channels, plane, outline, gradients."""

from rcpu.explain.bothsides import TwoSides, two_sides
from rcpu.explain.channels import (
    OUTLIER,
    QUANTITIES,
    Outlier,
    activations,
    exciting,
    inflation,
    kept_inputs,
    outliers,
    ranked,
    ranks,
    relative,
)
from rcpu.explain.drift import constant_error, drift_curve, stream_drift
from rcpu.explain.growth import RIDGES, Step, crossing, grow, squares
from rcpu.explain.ladder import RUNGS, Rung, climb
from rcpu.explain.outline import Matrix, outline
from rcpu.explain.paths import Paths, ValueSpectrum, paths, value_spectra
from rcpu.explain.plane import fit
from rcpu.explain.pricing import Pricing, price_model
from rcpu.explain.spsa import Likeness, backward_cost, likeness, true_gradient
from rcpu.explain.turns import Overview, Turning, overview, turning
from rcpu.explain.whatif import (
    FACTORS,
    Errors,
    Projection,
    carried,
    effective_rank,
    factors,
    key_of,
    numerical_rank,
    overlap,
    rank_correlations,
    shares,
    spectra,
    values_for,
    without,
)

__all__ = [
    "TwoSides",
    "two_sides",
    "Pricing",
    "price_model",
    "Likeness",
    "backward_cost",
    "likeness",
    "true_gradient",
    "RUNGS",
    "Rung",
    "climb",
    "Paths",
    "ValueSpectrum",
    "paths",
    "value_spectra",
    "FACTORS",
    "OUTLIER",
    "QUANTITIES",
    "RIDGES",
    "Errors",
    "Matrix",
    "Outlier",
    "Overview",
    "Projection",
    "Step",
    "Turning",
    "activations",
    "carried",
    "constant_error",
    "crossing",
    "drift_curve",
    "effective_rank",
    "exciting",
    "factors",
    "fit",
    "grow",
    "inflation",
    "kept_inputs",
    "key_of",
    "numerical_rank",
    "outliers",
    "outline",
    "overlap",
    "overview",
    "rank_correlations",
    "ranked",
    "ranks",
    "relative",
    "shares",
    "spectra",
    "squares",
    "stream_drift",
    "turning",
    "values_for",
    "without",
]
