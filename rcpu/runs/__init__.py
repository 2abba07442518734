"""What stays: the run store, and what is measured of a run."""

from rcpu.runs.pruned import content_of, default_name, load_result, prune_into, resume_into, sites_of
from rcpu.runs.records import STATES, Measure, Run, dense_subject, digest_of, plain_subject
from rcpu.runs.store import Store, UnderWay, home_folder, open_store

__all__ = [
    "STATES",
    "Measure",
    "Run",
    "Store",
    "UnderWay",
    "content_of",
    "default_name",
    "dense_subject",
    "digest_of",
    "home_folder",
    "load_result",
    "open_store",
    "plain_subject",
    "prune_into",
    "resume_into",
    "sites_of",
]
