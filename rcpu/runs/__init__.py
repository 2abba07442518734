"""What stays: the run store, and what is measured of a run."""

from rcpu.runs.records import STATES, Measure, Run, dense_subject, digest_of, plain_subject
from rcpu.runs.store import Store, UnderWay, home_folder, open_store

__all__ = [
    "STATES",
    "Measure",
    "Run",
    "Store",
    "UnderWay",
    "dense_subject",
    "digest_of",
    "home_folder",
    "open_store",
    "plain_subject",
]
