"""The model card of an export: what it is, how it was made, what was measured, whose licence, how to load it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from rcpu.compact.loaders import how_to_load
from rcpu.compact.shapes import SHAPES

CARD = "README.md"
LICENCE = re.compile(r"\A---\n(?:.*\n)*?license: *(\S+)\n(?:.*\n)*?---\n")


def licence_of(folder: Path, name: str) -> str:
    """The licence that a base model's own card names, or an empty string."""
    if name == "embedded":
        return "apache-2.0"
    try:
        found = LICENCE.match((folder / CARD).read_text(encoding="utf-8"))
    except (OSError, UnicodeError):
        return ""
    return found[1].strip("'\"") if found else ""


def model_card(
    *,
    base: str,  # as people call it, no path
    on_hub: bool,
    licence: str,
    shape: str,
    recipe: str,  # YAML
    record: Mapping,
    loads: Mapping[str, str],
    numbers: Sequence[str] = (),
) -> str:
    """Markdown with the block that the hub reads at its top."""
    head = [f"license: {licence or 'other'}", *([f"base_model: {base}"] if on_hub else [])]
    head += ["library_name: transformers", "pipeline_tag: text-generation", "tags:", "- pruned", "- rcpu"]
    lines = ["---", *head, "---", "", f"# {base}, pruned", ""]
    lines += [f"Structured pruning by RCPU Explorer {record['versions'].get('rcpu', '')}".rstrip() + "; shape:"]
    lines += [f"{SHAPES[shape]}.", "", "| | before | after |", "| --- | --- | --- |"]
    for name, label in (("parameters", "parameters"), ("flops_per_token", "FLOPs a token"), ("file_bytes", "bytes")):
        if (before := record.get(f"{name}_before")) is not None:
            lines.append(f"| {label} | {before:,} | {record[f'{name}_after']:,} |")
    lines += ["", *(f"- {number}" for number in numbers), *([""] if numbers else [])]
    lines += ["## Loads in", "", "| | |", "| --- | --- |"]
    lines += [f"| {program} | {f'no: {reason}' if reason else 'yes'} |" for program, reason in loads.items()]
    lines += ["", "```python", how_to_load(shape), "```", "", "## Recipe", "", "```yaml", recipe.rstrip(), "```", ""]
    whose = licence or "the base model's, which its card does not name"
    return "\n".join([*lines, f"Licence: {whose}; the weights are made of that model's.", ""])
