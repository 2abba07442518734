"""What stays: the run store, and what is measured of a run."""

from rcpu.runs.asks import ASKS, Ask, Bench, GeometryAsk, PerplexityAsk, ask_dict, ask_of
from rcpu.runs.loaded import (
    PREFIX,
    compact_model,
    keep_perplexity,
    keep_task,
    load_named,
    load_run,
    perplexities,
    task_results,
)
from rcpu.runs.pruned import (
    content_of,
    default_name,
    has_weights,
    load_result,
    prune_into,
    resume_into,
    sites_of,
)
from rcpu.runs.records import STATES, Measure, Run, dense_subject, digest_of, plain_subject
from rcpu.runs.running import Outcome, measure_dense, run_recipe
from rcpu.runs.store import Store, UnderWay, home_folder, new_id, open_store

__all__ = [
    "ASKS",
    "PREFIX",
    "STATES",
    "Ask",
    "Bench",
    "GeometryAsk",
    "Measure",
    "Outcome",
    "PerplexityAsk",
    "Run",
    "Store",
    "UnderWay",
    "ask_dict",
    "ask_of",
    "compact_model",
    "content_of",
    "default_name",
    "dense_subject",
    "digest_of",
    "has_weights",
    "home_folder",
    "keep_perplexity",
    "keep_task",
    "load_named",
    "load_result",
    "load_run",
    "measure_dense",
    "new_id",
    "open_store",
    "perplexities",
    "plain_subject",
    "prune_into",
    "resume_into",
    "run_recipe",
    "sites_of",
    "task_results",
]
