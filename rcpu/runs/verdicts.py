"""What a study says about each claim on this model: holds, does not hold, or not decided, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rcpu.measure.intervals import Difference
from rcpu.runs.printed import in_print
from rcpu.runs.readings import QUANTITIES, Point, Reading, paired, readings
from rcpu.runs.studies import MEASURED, Claim, Labels, Study

STATES = {"holds": "holds", "fails": "does not hold", "open": "not decided"}


@dataclass(frozen=True)
class Setting:
    """The claim at one set of labels: who is compared, by how much the first exceeds the other, and what that says."""

    labels: Labels
    first: float
    than: float
    difference: Difference
    state: str


@dataclass(frozen=True)
class Verdict:
    """A claim with its state over all settings."""

    claim: Claim
    state: str
    sentence: str
    settings: tuple[Setting, ...]
    in_print: str = ""  # what published numbers say of it

    def to_dict(self) -> dict:
        """Plain values for JSON."""
        rows = [
            {"at": s.labels, "first": s.first, "than": s.than, "difference": s.difference.to_dict(), "state": s.state}
            for s in self.settings
        ]
        told = {"claim": self.claim.says, "state": STATES[self.state], "sentence": self.sentence}
        return {**told, "in_print": self.in_print, "settings": rows}


def verdicts(study: Study, points: Sequence[Point]) -> list[Verdict]:
    """A verdict for every claim of a study."""
    found = {quantity: readings(points, quantity) for quantity in {claim.quantity for claim in study.claims}}
    return [_verdict(study, claim, found[claim.quantity]) for claim in study.claims]


def _verdict(study: Study, claim: Claim, known: Sequence[Reading]) -> Verdict:
    settings = []
    for first in known:
        if not _has(first.labels, claim.first):
            continue
        wanted = {**first.labels, **claim.than}
        for than in known:
            gap = paired(claim.quantity, than, first) if than.labels == wanted and than is not first else None
            if gap is not None:
                settings.append(Setting(dict(first.labels), first.value, than.value, gap, _state(claim, gap)))
    state = _over_all(claim, settings)
    return Verdict(claim, state, _sentence(study, claim, state, settings), tuple(settings), in_print(study, claim))


def _has(labels: Labels, asked: Labels) -> bool:
    return all(labels.get(axis) == label for axis, label in asked.items() if axis != MEASURED or axis in labels)


def _state(claim: Claim, gap: Difference) -> str:
    if gap.low is None:
        return "open"
    if claim.relation == "same":
        if -claim.margin <= gap.low and gap.high <= claim.margin:
            return "holds"
        return "fails" if gap.low > claim.margin or gap.high < -claim.margin else "open"
    low, high = (gap.low, gap.high) if claim.relation == "higher" else (-gap.high, -gap.low)
    if low > claim.margin:
        return "holds"
    return "fails" if high < claim.margin else "open"


def _over_all(claim: Claim, settings: Sequence[Setting]) -> str:
    """Everywhere it must hold, and one setting that says otherwise is enough; along ``some`` one that holds is."""
    groups: dict[tuple, list[str]] = {}
    for s in settings:
        rest = tuple(sorted((k, v) for k, v in s.labels.items() if k != claim.some))
        groups.setdefault(rest, []).append(s.state)
    if claim.some:
        states = ["holds" if "holds" in g else "open" if "open" in g else "fails" for g in groups.values()]
    else:
        states = [state for g in groups.values() for state in g]
    if not states:
        return "open"
    return "fails" if "fails" in states else "holds" if set(states) == {"holds"} else "open"


def _sentence(study: Study, claim: Claim, state: str, settings: Sequence[Setting]) -> str:
    if not settings:
        return "Not run yet: the cells that this claim compares are not there."
    own, other = _told(claim.first, claim.than), _told(claim.than)
    shown = list(settings)
    if claim.some:  # of each group the one that speaks most for the claim
        sign = -1 if claim.relation == "higher" else 1
        best: dict[tuple, Setting] = {}
        for s in sorted(shown, key=lambda s: sign * s.difference.value, reverse=True):
            best[tuple(sorted((k, v) for k, v in s.labels.items() if k != claim.some))] = s
        shown = list(best.values())
    decided = [s for s in shown if s.state == state] or shown
    parts = [
        f"{_at(study, claim, s)}{QUANTITIES[claim.quantity].label.split(',')[0].lower()} {told(s.difference)}"
        for s in decided[:4]
    ]
    more = f", and {len(decided) - 4} more settings" if len(decided) > 4 else ""
    words = {"holds": "", "fails": "to the contrary, ", "open": "the interval decides neither way: "}[state]
    if state != "holds" and len(decided) < len(shown):
        more += f" (in {len(decided)} of {len(shown)} settings)"
    return f"{own} against {other}: {words}{'; '.join(parts)}{more}.".replace(" %", "\N{NO-BREAK SPACE}%")


def told(gap: Difference) -> str:
    """A difference as sentences have it."""
    digits = 2 if gap.unit in ("%", "points") else 3
    unit = {"%": " %", "": ""}.get(gap.unit, f" {gap.unit}")
    between = "" if gap.low is None or gap.low == gap.high else f" [{gap.low:+.{digits}f}, {gap.high:+.{digits}f}]"
    return f"{gap.value:+.{digits}f}{unit}{between}".replace("-", "−")


def _told(labels: Labels, beside: Labels | None = None) -> str:
    keep = [v for k, v in labels.items() if beside is None or k in beside] or list(labels.values())
    return ", ".join(keep)


def _at(study: Study, claim: Claim, setting: Setting) -> str:
    """Where a setting lies, as far as the claim does not say so itself; a number says what it is of."""
    rest = {k: v for k, v in setting.labels.items() if k not in claim.first and k not in claim.than}
    parts = []
    for axis, label in rest.items():
        number = label[:1].isdigit() and axis in study.axes
        parts.append(f"{study.axes[axis].label[:1].lower()}{study.axes[axis].label[1:]} {label}" if number else label)
    return f"at {', '.join(parts)} " if parts else ""
