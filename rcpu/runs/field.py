"""What the field has published, as points of size against quality: to orient by, never to rank against.

Models, windows and texts differ, so a point means something only beside its own dense model; each names its model.
"""

from __future__ import annotations

from dataclasses import dataclass

from rcpu.runs.studies import load_study


@dataclass(frozen=True)
class Published:
    """One published result of one system: perplexity on WikiText-2, and mean zero-shot accuracy in percent."""

    system: str
    source: str
    model: str
    window: int  # tokens
    share: float  # of the dense parameters that stay, or 1 minus the ratio where only that was published
    perplexity: float
    dense_perplexity: float
    accuracy: float | None = None
    dense_accuracy: float | None = None


#: Parameters in billions at the ratios of the RCPU paper, LLaMA-7B.
_RCPU_SHARES = {0.1: 6.10 / 6.73, 0.2: 5.47 / 6.73, 0.3: 4.84 / 6.73}
_RCPU_ACCURACY = {0.1: 64.01, 0.2: 61.57, 0.3: 55.50}
_OTHERS = (
    Published("FLAP", "An et al., AAAI 2024", "LLaMA-7B", 128, 0.8, 14.62, 12.62),
    Published("FLAP", "An et al., AAAI 2024", "LLaMA-7B", 128, 0.7, 17.62, 12.62),
    Published("LLM-Pruner", "in An et al., AAAI 2024", "LLaMA-7B", 128, 0.8, 19.77, 12.62),
    Published("SliceGPT", "arXiv 2401.15024", "Llama-2-7B", 2048, 0.8, 6.64, 5.47),
    Published("SliceGPT", "arXiv 2401.15024", "Llama-2-7B", 2048, 0.7, 8.12, 5.47),
)


def published() -> tuple[Published, ...]:
    """All points: RCPU's from its Table 1 and 2, the others from their papers."""
    found = []
    for block in load_study("table1").published:
        if block["at"] != {"samples": "128"}:
            continue
        large = block["model"] != "LLaMA-7B"
        for ratio, perplexity in ((float(r), p) for r, p in block["rows"]["RCPU rotation"].items()):
            found.append(
                Published(
                    "RCPU",
                    "arXiv 2510.07782",
                    block["model"],
                    128,
                    1 - ratio if large else _RCPU_SHARES[ratio],
                    perplexity,
                    block["dense"],
                    None if large else _RCPU_ACCURACY[ratio],
                    None if large else 66.00,
                )
            )
    return (*found, *_OTHERS)
