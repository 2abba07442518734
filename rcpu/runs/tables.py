"""What a study found as rows: for the terminal, the page, the report and the README."""

from __future__ import annotations

from collections.abc import Sequence

from rcpu.runs.readings import QUANTITIES, Quantity, Reading, readings
from rcpu.runs.studying import Findings
from rcpu.runs.verdicts import STATES


def dense_readings(found: Findings, quantity: str) -> list[Reading]:
    """The dense model's, one for each text that is measured."""
    return readings([found.dense], quantity)


def against_dense(found: Findings, quantity: str, reading: Reading) -> float | None:
    """A value as a multiple of the dense model's on the same windows."""
    measured = reading.labels.get("measured")
    for dense in dense_readings(found, quantity):
        if dense.unit == reading.unit and dense.labels.get("measured") == measured and dense.value:
            return reading.value / dense.value
    return None


def result_rows(found: Findings, quantity: str) -> dict[str, list[str]]:
    """Columns of a table: labels, the value with its interval, that of the dense model as 1, and seeds."""
    q, study = QUANTITIES[quantity], found.study
    known = in_order(found, readings(found.points, quantity))
    axes = [axis for axis in (*study.axes, "ratio", "measured") if any(axis in r.labels for r in known)]
    called = {axis: row.label for axis, row in study.axes.items()}
    called |= {"ratio": "Fewer parameters" if study.equal else "Ratio", "measured": "Measured on"}
    columns: dict[str, list[str]] = {called[axis]: [r.labels.get(axis, "") for r in known] for axis in axes}
    columns[q.label] = [f"{r.value:.{q.digits}f}" for r in known]
    if not q.exact:
        columns["95 % interval"] = [
            "" if r.interval is None else f"{r.interval.low:.{q.digits}f} to {r.interval.high:.{q.digits}f}"
            for r in known
        ]
    multiples = [against_dense(found, quantity, r) for r in known]
    if any(m is not None for m in multiples):
        columns["÷ dense"] = ["" if m is None else f"{m:.3f}" for m in multiples]
    columns["Seeds"] = [", ".join(r.seeds) for r in known]
    for dense in dense_readings(found, quantity):
        row = {called["measured"]: dense.labels.get("measured", ""), q.label: f"{dense.value:.{q.digits}f}"}
        row["95 % interval"] = _between(dense, q)
        first = next(iter(columns))
        for name, cells in columns.items():
            cells.insert(0, row.get(name, "dense" if name == first else "1" if name == "÷ dense" else ""))
    return columns


def _between(reading: Reading, q: Quantity) -> str:
    ends = reading.interval
    return "" if ends is None else f"{ends.low:.{q.digits}f} to {ends.high:.{q.digits}f}"


def in_order(found: Findings, known: Sequence[Reading]) -> list[Reading]:
    """Readings in the order in which the study declares its labels."""
    places = {axis: {label: i for i, label in enumerate(row.values)} for axis, row in found.study.axes.items()}

    def place(reading: Reading) -> tuple:
        labels = reading.labels
        of_axes = [places[axis].get(labels.get(axis, ""), 99) for axis in places]
        return (labels.get("measured", ""), *of_axes, float(labels["ratio"].removesuffix(" %")))

    return sorted(known, key=place)


def verdict_rows(found: Findings) -> dict[str, list[str]]:
    """Columns of a table: the claim, what became of it here, and why."""
    known = found.verdicts
    return {
        "Claim": [v.claim.says for v in known],
        "Here": [STATES[v.state] for v in known],
        "Why": [v.sentence for v in known],
        **({"In print": [v.in_print for v in known]} if any(v.in_print for v in known) else {}),
    }


def setup(found: Findings) -> str:
    """One sentence on what a series was run on."""
    series = found.series
    recipe, seeds = series["recipe"], sorted({point.seed for point in found.points}, key=lambda s: (len(s), s))
    asks = [ask for ask in series["asks"].values() if ask["kind"] != "tasks"]
    said = [f"{series['model']} ({series['dtype']}, {series['device']})"]
    samples = "windows of " if "samples" in found.study.axes else f"{recipe['samples']} × "
    said.append(f"calibrated on {samples}{recipe['window']} tokens of {series['text']}")
    if asks:
        answer = next((a["answer"] for a in found.dense.answers.values() if a["kind"] == "perplexity"), None)
        windows = f"{answer['windows']} × " if answer else ""
        precision = "" if series["precision"] == series["dtype"] else f" in {series['precision']}"
        said.append(f"measured on {windows}{asks[0]['window']} tokens of {series['evaluation']}{precision}")
    for ask in (ask for ask in series["asks"].values() if ask["kind"] == "tasks"):
        said.append(f"tasks {', '.join(ask['tasks'])}")
    said.append(f"seed{'s' * (len(seeds) > 1)} {', '.join(seeds)}")
    return ", ".join(said)


def markdown(found: Findings) -> str:
    """The verdicts of a study as a section of a README."""
    study = found.study
    lines = [f"**{study.title}** ({study.source}). {study.question} {setup(found)[:1].upper()}{setup(found)[1:]}."]
    if found.cut:
        lines[0] += f" Cut: {'; '.join(found.cut)}."
    lines += ["", *markdown_table(verdict_rows(found))]
    lines += [line for note in study.notes for line in ("", note)]
    for quantity in study.quantities:
        lines += ["", *markdown_table(result_rows(found, quantity))]
    return "\n".join(lines) + "\n"


def markdown_table(columns: dict[str, list[str]]) -> list[str]:
    """The lines of a table."""
    rows = [list(columns), ["---"] * len(columns), *map(list, zip(*columns.values(), strict=True))]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
