"""What a run found and made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor
from transformers import LlamaForCausalLM

from rcpu.compact import assembly as compact
from rcpu.compact.edits import Edits
from rcpu.methods.subspace import narrow
from rcpu.models.compact_llama import CompactLlamaForCausalLM
from rcpu.models.families import architecture_of, consumer_of, layers_of
from rcpu.pruning.recipe import Recipe
from rcpu.pruning.site import SiteResult


@dataclass(frozen=True, eq=False)
class PruneResult:
    """The compact model, what was found at each site in the order it was solved, and how long it took."""

    net: CompactLlamaForCausalLM
    recipe: Recipe
    edits: Edits  # enough to rebuild the compact model from the dense one
    sites: tuple[SiteResult, ...]
    notes: tuple[str, ...]  # of the plan
    seconds: float
    found: Mapping[str, Tensor] = field(default_factory=dict)  # small results of the method to look at

    @property
    def cuts(self) -> dict[tuple[int, str], compact.Cut]:
        """Kept columns, weight and bias of every changed site, by layer and site."""
        return {(s.layer, s.site): s.cut for s in self.sites if s.changed}

    def uncompensated(self, dense: LlamaForCausalLM) -> CompactLlamaForCausalLM:
        """The same units removed and nothing repaired; only the consumers' weights are not shared with ``net``.

        They are the dense model's: what a step learned counts as repair.
        """
        arch = {site.name: site for site in architecture_of(dense).sites}
        plain = {}
        for (layer, name), cut in self.cuts.items():
            weight = consumer_of(layers_of(dense)[layer], arch[name]).weight.data
            plain[layer, name] = compact.Cut(cut.columns, narrow(weight, cut.columns))
        return compact.with_cuts(self.net, dense, plain)


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """How far a run is after a layer, or a whole method after a round, and what it goes on from."""

    layer: int  # -1 for a whole method
    stages: int  # of the loop that are done, or rounds
    sites: tuple[SiteResult, ...]  # of all layers so far
    hidden: Tensor | None  # (windows, tokens, d_model) what comes out of the layer, if anybody reads it; not a copy
    dense: Tensor | None = None  # the same of the dense model, where a target asks for it
    state: Mapping[str, Tensor] = field(default_factory=dict)  # of a whole method
