"""Methods as data: one line for each. What a method is called, where it comes from, its options and how it is run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rcpu.methods import flop, minillm, modegpt, olica, slicegpt, svdllm, twossp, zpruner
from rcpu.methods.columns import ColumnOptions, check_columns
from rcpu.methods.walk import whole_model
from rcpu.models.compact_llama import CompactLlamaConfig


@dataclass(frozen=True)
class Method:
    """A way to make a model smaller."""

    label: str
    summary: str  # one sentence
    source: str  # the paper
    options: type  # a frozen dataclass whose fields are options, see base/options.py
    run: Callable[..., Any] | None = None  # None: the layer loop of pruning/, which chooses columns
    check: Callable[[Any], None] = lambda recipe: None  # raises RcpuError for settings that do not combine
    #: The sizes it will give a model, from a configuration of the dense sizes and a recipe; None: see pruning/plan.py.
    sizes: Callable[[CompactLlamaConfig, Any], CompactLlamaConfig] | None = None
    zeros: Callable[[CompactLlamaConfig, Any], int] | None = None  # weights that will be zero in place, where some are
    #: The option that says how many times it goes round, where its ``run`` has ``checkpoint`` and ``resume``.
    rounds: str = ""
    notes: Callable[[Any, Any], tuple[str, ...]] = lambda net, recipe: ()  # what to know of a recipe before it runs


METHODS = {
    "columns": Method(
        "Columns by a score",
        "Columns of o_proj and down_proj go by a score, layer by layer, and the kept ones are repaired.",
        "RCPU (arXiv 2510.07782), WANDA-sp, FLAP (AAAI 2024)",
        ColumnOptions,
        check=check_columns,
    ),
    "slicegpt": Method(
        "SliceGPT",
        "The residual stream is turned to its principal components and the last of them are sliced off.",
        "Ashkboos et al., ICLR 2024 (arXiv 2401.15024)",
        slicegpt.SliceOptions,
        slicegpt.run,
        whole_model,
        slicegpt.sizes,
    ),
    "olica": Method(
        "Olica",
        "Values are turned and cut, queries and keys factored, and a linear branch helps MLPs that lost channels.",
        "He & Lin, ICML 2025 (arXiv 2506.08436)",
        olica.OlicaOptions,
        olica.run,
        whole_model,
        olica.sizes,
    ),
    "modegpt": Method(
        "MoDeGPT",
        "Each pair of matrices is made narrower by its own decomposition; layers that matter less lose more.",
        "Lin et al., ICLR 2025 (arXiv 2408.09632)",
        modegpt.ModeOptions,
        modegpt.run,
        whole_model,
        modegpt.sizes,
    ),
    "z-pruner": Method(
        "Z-Pruner",
        "Single weights of low standardised magnitude times activation become zero; the model gets no smaller.",
        "arXiv 2508.15828",
        zpruner.ZOptions,
        zpruner.run,
        whole_model,
        zpruner.sizes,
        zpruner.zeros,
        notes=zpruner.notes,
    ),
    "flop": Method(
        "FLOP",
        "Gates on ranks or inputs learn on the calibration text which of them close; the weights stay as they are.",
        "Wang, Wohlwend & Lei, EMNLP 2020 (arXiv 1910.04732)",
        flop.FlopOptions,
        flop.run,
        whole_model,
        flop.sizes,
        rounds="steps",
        notes=flop.notes,
    ),
    "mini-llm": Method(
        "MINI-LLM",
        "Heads and channels go by magnitude, activation and a gradient found by forwards alone.",
        "arXiv 2407.11681",
        minillm.MiniOptions,
        minillm.run,
        whole_model,
        minillm.sizes,
        rounds="draws",
    ),
    "svd-llm": Method(
        "SVD-LLM",
        "Every matrix becomes two factors, the nearest to it on the calibration inputs.",
        "Wang et al., ICLR 2025 (arXiv 2403.07378)",
        svdllm.WhitenOptions,
        svdllm.run,
        whole_model,
        svdllm.sizes,
    ),
    "2ssp": Method(
        "2SSP",
        "MLP neurons go by the size of what they give, then whole attention blocks by the perplexity without them.",
        "Sandri et al., 2025 (arXiv 2501.17771)",
        twossp.TwoStageOptions,
        twossp.run,
        whole_model,
        twossp.sizes,
    ),
}
