"""What goes in: model families as data, loading, the embedded model, what fits, the compact modelling file."""

from rcpu.models.devices import DTYPES, accelerators, free_memory, resolve_device
from rcpu.models.families import SITES, heads_of, site_named, weight_of
from rcpu.models.loading import HUB_ID, Footprint, footprint
from rcpu.models.sizes import bytes_needed, parts

__all__ = [
    "DTYPES",
    "SITES",
    "HUB_ID",
    "Footprint",
    "accelerators",
    "bytes_needed",
    "footprint",
    "free_memory",
    "heads_of",
    "parts",
    "resolve_device",
    "site_named",
    "weight_of",
]
