"""How good it is: perplexity, generation, predictions of single tokens, differences of texts."""

from rcpu.measure.differences import first_divergence, word_diff, words
from rcpu.measure.intervals import Difference, Interval, crossed_interval, mean_interval
from rcpu.measure.perplexity import difference, windows_digest
from rcpu.measure.predictions import NextToken, TokenView, compare_tokens, next_tokens
from rcpu.measure.shapes import geometry
from rcpu.measure.tasks import TaskProgress, check_numbers, run_tasks
from rcpu.measure.tasks_answers import answers_folder, net_digest
from rcpu.measure.tasks_published import PUBLISHED, Published
from rcpu.measure.tasks_results import (
    Comparison,
    Item,
    Score,
    TaskResult,
    compare_tasks,
    mean_accuracy,
    mean_difference,
    metric_of,
)
from rcpu.measure.tasks_sources import EMBEDDED, PAPER, SETS, expanded, folder_tasks
from rcpu.measure.tasks_tables import columns, is_share, latex, shown

__all__ = [
    "EMBEDDED",
    "PAPER",
    "PUBLISHED",
    "SETS",
    "Comparison",
    "Item",
    "Score",
    "Published",
    "columns",
    "is_share",
    "latex",
    "metric_of",
    "shown",
    "TaskProgress",
    "TaskResult",
    "answers_folder",
    "check_numbers",
    "compare_tasks",
    "expanded",
    "folder_tasks",
    "mean_accuracy",
    "mean_difference",
    "net_digest",
    "run_tasks",
    "Difference",
    "Interval",
    "NextToken",
    "TokenView",
    "compare_tokens",
    "crossed_interval",
    "difference",
    "first_divergence",
    "geometry",
    "mean_interval",
    "next_tokens",
    "windows_digest",
    "word_diff",
    "words",
]
