"""Accuracies that papers of the field print, for orientation: of other models, so that only ratios can be likened.

RCPU, Haruta et al., arXiv 2510.07782 v2, zero-shot, LLaMA-7B, 128 calibration windows; its FLAP and WANDA-sp rows are
that paper's own runs.
"""

from __future__ import annotations

from dataclasses import dataclass

from rcpu.measure.tasks_sources import PAPER

SOURCE = "RCPU (Haruta et al., arXiv 2510.07782), 128 calibration windows, zero-shot"


@dataclass(frozen=True)
class Published:
    """One row of a table: percent by task, and their mean as printed."""

    model: str
    method: str
    ratio: float  # of units removed
    accuracies: dict[str, float]
    mean: float
    source: str = SOURCE


def _row(method: str, percent: int, *values: float) -> Published:
    *accuracies, mean = values
    return Published("LLaMA-7B", method, percent / 100, dict(zip(PAPER, accuracies, strict=True)), mean)


PUBLISHED = (
    _row("dense", 0, 75.10, 78.67, 76.18, 70.01, 72.85, 44.79, 44.40, 66.00),
    _row("FLAP", 10, 73.33, 77.37, 72.81, 68.59, 70.54, 41.13, 42.80, 63.80),
    _row("WANDA-sp", 10, 75.17, 76.82, 74.43, 67.01, 69.53, 43.43, 39.60, 63.71),
    _row("least squares", 10, 72.75, 75.19, 71.03, 68.19, 64.65, 39.93, 39.60, 61.62),
    _row("rotation", 10, 74.89, 76.71, 74.20, 69.53, 69.99, 42.32, 40.40, 64.01),
    _row("rotation and scale", 10, 74.22, 76.44, 74.33, 69.69, 69.99, 42.15, 40.20, 63.86),
    _row("FLAP", 20, 70.45, 74.91, 67.42, 67.64, 66.79, 39.00, 43.00, 61.32),
    _row("WANDA-sp", 20, 69.57, 75.08, 69.88, 65.74, 65.95, 40.44, 38.80, 60.78),
    _row("least squares", 20, 67.83, 71.71, 64.40, 64.56, 58.71, 34.81, 35.80, 56.83),
    _row("rotation", 20, 71.50, 74.81, 70.32, 68.43, 66.58, 39.93, 39.40, 61.57),
    _row("rotation and scale", 20, 71.77, 74.97, 70.25, 68.03, 66.71, 39.93, 38.80, 61.49),
    _row("FLAP", 30, 66.67, 71.49, 59.53, 61.56, 59.76, 34.81, 39.60, 56.20),
    _row("WANDA-sp", 30, 65.29, 67.74, 58.09, 59.12, 58.63, 34.56, 34.60, 54.00),
    _row("least squares", 30, 62.54, 67.08, 55.55, 60.77, 50.13, 31.06, 35.00, 51.73),
    _row("rotation", 30, 61.25, 70.46, 62.76, 62.67, 58.59, 34.98, 37.80, 55.50),
    _row("rotation and scale", 30, 65.14, 70.46, 62.95, 64.25, 58.21, 34.98, 38.40, 56.34),
)
