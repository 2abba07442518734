"""What stays: the run store, and what is measured of a run."""

from rcpu.runs.asks import ASKS, Ask, Bench, GeometryAsk, PerplexityAsk, ask_dict, ask_of
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
from rcpu.runs.store import Store, UnderWay, home_folder, open_store

__all__ = [
    "ASKS",
    "Ask",
    "Bench",
    "GeometryAsk",
    "Measure",
    "Outcome",
    "PerplexityAsk",
    "Run",
    "STATES",
    "Store",
    "UnderWay",
    "ask_dict",
    "ask_of",
    "content_of",
    "default_name",
    "dense_subject",
    "digest_of",
    "has_weights",
    "home_folder",
    "load_result",
    "measure_dense",
    "open_store",
    "plain_subject",
    "prune_into",
    "resume_into",
    "run_recipe",
    "sites_of",
]
