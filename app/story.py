"""What one run says: what it decided and left in every layer, what it cost in perplexity, and what the models write.

The same object is what a job shows as it goes on, what a finished run keeps, and what the example holds that a first
visit finds.
"""

from __future__ import annotations

import gzip
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import rcpu
from app.settings import Settings

log = logging.getLogger(__name__)

EXAMPLE = Path(__file__).parent.parent / "assets" / "example.json.gz"
ROLES = ("dense", "pruned", "compensated")  # keys of what is measured and written
DIGITS = 4  # that the numbers of an example keep


@dataclass(frozen=True)
class Evaluation:
    """On what a run is measured: a text in windows, and a prompt to continue."""

    text: str = "embedded"
    window: int = 128
    windows: int = 48
    prompt: str = "The old lighthouse keeper"
    tokens: int = 48
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    @property
    def sampling(self) -> dict[str, Any]:
        """The options of ``rcpu.stream``."""
        how = {"temperature": self.temperature, "top_p": self.top_p, "seed": self.seed}
        return {"max_new_tokens": self.tokens, **how}

    @classmethod
    def of(cls, s: Settings) -> Evaluation:
        """What the settings of Compare ask for."""
        how = (s.prompt, s.tokens, s.temperature, s.top_p, s.gen_seed)
        return cls(s.eval_text, s.eval_window, s.eval_windows, *how)


@dataclass(frozen=True, eq=False)
class SiteLook:
    """Of a projection what figures show: fields of ``rcpu.SiteResult`` by the same names, without weights."""

    layer: int
    site: str
    unit: str
    unit_scores: Tensor
    keep: Tensor
    singular_values: Tensor
    rank: int
    angles: Tensor
    channel_angles: Tensor
    determinant: int
    error_none: float
    error_compensated: float
    error_none_held_out: float | None
    error_compensated_held_out: float | None

    @classmethod
    def of(cls, site: rcpu.SiteResult) -> SiteLook:
        """Of a result of the library."""
        return cls(**{f.name: getattr(site, f.name) for f in fields(cls)})

    def to_dict(self) -> dict:
        """Plain values for JSON, tensors as rounded lists."""
        return {f.name: _plain(getattr(self, f.name)) for f in fields(self)}

    @classmethod
    def from_dict(cls, found: Mapping) -> SiteLook:
        """Back from :meth:`to_dict`."""
        return cls(**{k: torch.tensor(v) if isinstance(v, list) else v for k, v in found.items()})


@dataclass(frozen=True, eq=False)
class Story:
    """What is known of one run so far."""

    config: rcpu.Recipe
    sites: tuple[rcpu.SiteResult | SiteLook, ...] = ()
    perplexity: Mapping[str, rcpu.Perplexity] = field(default_factory=dict)  # by ROLES
    texts: Mapping[str, rcpu.Generated] = field(default_factory=dict)
    asked: Evaluation | None = None  # None: nothing is measured beside the errors
    content: tuple = ()  # of the text that was calibrated on, and of the one that was measured on
    notes: tuple[str, ...] = ()
    parameters: tuple[int, int] = (0, 0)  # before and after
    seconds: float = 0.0

    def to_dict(self) -> dict:
        """Plain values for JSON."""
        return {
            "config": self.config.to_dict(),
            "sites": [SiteLook.of(site).to_dict() for site in self.sites],
            "perplexity": {role: found.to_dict(losses=True) for role, found in self.perplexity.items()},
            "texts": {role: asdict(made) for role, made in self.texts.items()},
            "asked": self.asked and asdict(self.asked),
            "notes": self.notes,
            "parameters": self.parameters,
            "seconds": self.seconds,
        }

    @classmethod
    def from_dict(cls, found: Mapping) -> Story:
        """Back from :meth:`to_dict`."""
        return cls(
            rcpu.Recipe.from_dict(found["config"]),
            tuple(map(SiteLook.from_dict, found["sites"])),
            {role: rcpu.Perplexity.from_dict(one) for role, one in found["perplexity"].items()},
            {role: rcpu.Generated(**one) for role, one in found["texts"].items()},
            found["asked"] and Evaluation(**found["asked"]),
            (),
            tuple(found["notes"]),
            tuple(found["parameters"]),
            found["seconds"],
        )


@cache
def example() -> Story | None:
    """The run of the embedded model that ``python -m app.example`` wrote, read once; None while it was never run."""
    if not EXAMPLE.is_file():
        return None
    try:
        with gzip.open(EXAMPLE, "rt", encoding="utf-8") as file:
            return Story.from_dict(json.load(file))
    except rcpu.RcpuError as error:  # its recipe is of another version of the library
        log.warning("%s is not shown, write it again by python -m app.example: %s", EXAMPLE, error)
        return None


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        value = value.tolist()
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value
