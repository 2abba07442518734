"""What the lessons say of their figures: sentences that depend on numbers, in every case that those can be in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from app.tiles import percent
from rcpu.explain import RUNGS, Rung, Step, crossing, squares


def about_size(ratio: float, before: int, after: int) -> str:
    """What a ratio means in parameters."""
    if after == before:
        return f"At a ratio of {ratio:.0%} nothing leaves: move the slider up."
    return (
        f"A ratio of {ratio:.0%} takes **{1 - after / before:.1%}** of the model's parameters. The question below asks "
        "why."
    )


def about_drift(errors: Mapping[str, Mapping[int, float]], ratio: float) -> str:
    """Which layer drifts most, and how that compares with the share that was removed."""
    site, layer = max(((s, i) for s, by in errors.items() for i in by), key=lambda k: errors[k[0]][k[1]])
    worst = errors[site][layer]
    if worst == 0:
        return "Nothing is removed, so nothing drifts: move the ratio up."
    low_site, low_layer = min(((s, i) for s, by in errors.items() for i in by), key=lambda k: errors[k[0]][k[1]])
    return (
        f"With {ratio:.0%} removed, `{site}` of layer {layer} drifts most: its output is off by **{worst:.1%}** of its "
        f"size. `{low_site}` of layer {low_layer} drifts least, by {errors[low_site][low_layer]:.1%}."
    )


def about_fit(determinant: int, angle: float, before: float, after: float, free: float) -> str:
    """What Q does and what it is worth."""
    turn = (
        f"$Q$ turns by **{angle:.0f}°** (counter-clockwise is positive)"
        if determinant > 0
        else f"$Q$ is a **mirror**: it flips the points over at the line that {'rises' if angle >= 0 else 'falls'} by "
        f"{abs(angle):.0f}°"
    )
    if before - after < 0.005 * max(before, 1e-9):
        worth = "and that helps little or nothing: what is wrong here is no turn"
    elif after < 0.005:
        worth = "and practically nothing of the error is left: the drift was a pure turn or mirror"
    elif before - after < 0.05 * before:
        worth = (
            f"but takes away only **{1 - after / before:.0%}** of the error: hardly anything here was turned, and $Q$ "
            "looks for the least error alone"
        )
    else:
        worth = f"and takes away **{1 - after / before:.0%}** of the error"
    rest = (
        ""
        if after - free < 0.005
        else f" The best of all matrices, free to stretch as well, would come down to {free:.2f}."
    )
    return f"{turn}, {worth}.{rest}"


def shown(perplexity: float) -> str:
    """A perplexity, or a difference of two, as tiles and sentences show it: about four figures."""
    digits = 2 if abs(perplexity) < 100 else 1 if abs(perplexity) < 1000 else 0
    return f"{perplexity:.{digits}f}"


def about_variance(changed: int, removed: int, errors: Mapping[str, Mapping[str, float]], held_out: bool) -> str:
    """How much the factor decides here; ``errors`` by score (with, without) and repair (none, bias)."""
    if not removed:
        return "Nothing is removed: move the ratio up."
    if not changed:
        return f"Here both scores remove the same {removed:,} channels: variance decides nothing at this ratio."
    with_, without = errors["with"], errors["without"]

    def better(repair: str) -> str:
        a, b = with_[repair], without[repair]
        if abs(a - b) < 0.01 * max(a, b):
            return "both scores lose the same within one percent"
        return f"the score {'with' if a < b else '*without*'} variance loses less"

    def numbers(repair: str) -> str:
        return f"{percent(with_[repair])} with, {percent(without[repair])} without"

    if better("none") == better("bias"):
        verdict = (
            f"Without repair ({numbers('none')}) and with a bias in place of the lost means ({numbers('bias')}) "
            f"{better('none')}. "
        )
    else:
        verdict = (
            f"Without repair {better('none')} ({numbers('none')}); with a bias in place of the lost means "
            f"{better('bias')} ({numbers('bias')}). "
        )
    return f"**{changed:,} of {removed:,}** removed channels differ between the two scores. {verdict}" + (
        "All on *held-out* windows, text that no score saw, and so a little different from the drift of lesson 2."
        if held_out
        else "All on the text that the scores saw: no windows are held out."
    )


def about_crossing(steps: Sequence[Step], ridge: float) -> str:
    """From where on the rotation helps, where least squares overtakes it, and what both are worth at the end."""
    key, last = squares(ridge), steps[-1]
    none, rotation, free = ([s.held_out[name] for s in steps] for name in ("none", "rotation", key))
    ahead = free[0] is not None and free[0] < rotation[0]
    said = [_from_where_it_helps([s.windows for s in steps], none, rotation)]
    if rotation[0] > none[0]:
        kept = free[0] is not None and free[0] <= none[0]
        said.append(
            "This ridge keeps least squares from it at the first point."
            if kept
            else "At the first point least squares is worse than none as well: both **over-fit**."
        )
    cross = crossing(steps, key)
    if cross is None and ahead:
        said.append(
            f"With a ridge of {ridge:g}, least squares starts **ahead** of the rotation, because it hardly leaves "
            f"$W_K$, and is behind at {last.windows} windows: so strong a pull also keeps it from what more text could "
            "teach it. Try a weaker ridge."
        )
    elif cross is None:
        said.append(
            f"With a ridge of {ridge:g}, least squares does **not** overtake the rotation up to {last.windows} windows."
        )
    elif cross[0] is None:
        said.append(
            f"With a ridge of {ridge:g}, least squares is better than the rotation **from the first point on**: so "
            "strong a pull toward $W_K$ keeps it from over-fitting more than the rotation does. Try a weaker ridge."
        )
    else:
        if ahead:
            said.append(
                "Least squares starts ahead of the rotation, because the ridge holds it at $W_K$ wherever so little "
                "text says nothing, and falls behind with more."
            )
        said.append(
            f"With a ridge of {ridge:g}, least squares overtakes the rotation **between {cross[0]} and {cross[1]} "
            "windows** and stays ahead: from there on there is text enough for its freedom."
        )
    if none[-1]:
        worth = [f"the rotation {_taken(rotation[-1] / none[-1])}"]
        if free[-1] is not None:
            worth.append(f"least squares {_taken(free[-1] / none[-1])}")
        said.append(f"With {last.windows} windows {' and '.join(worth)} of the error that is there without repair.")
    return " ".join(said)


def _from_where_it_helps(windows: Sequence[int], none: Sequence[float], rotation: Sequence[float]) -> str:
    """Up to how many windows the rotation is worse than no repair."""
    worse = [i for i, (a, b) in enumerate(zip(none, rotation, strict=True)) if b > a]
    if not worse:
        return "The rotation is never worse than no repair here."
    if worse[-1] == len(windows) - 1:
        return f"The rotation is still worse than no repair with {windows[-1]} windows."
    upto, then = windows[worse[-1]], windows[worse[-1] + 1]
    return f"The rotation is worse than no repair up to {upto} window{'s' * (upto > 1)}, and helps from {then} on."


def _taken(left: float) -> str:
    """What a repair does to an error of which so much is left."""
    return f"takes away **{1 - left:.0%}**" if left <= 1 else f"adds **{left - 1:.0%}**"


def about_orders(drift: Mapping[str, Sequence[float]], perplexity: Mapping[str, float], last: int) -> str:
    """What the second order brings on this model, beside what repairing brings; ``last`` is the last pruned layer."""
    repaired = drift["none"][last] - drift["paper"][last]
    gained = drift["paper"][last] - drift["site"][last]
    start = (
        f"After layer {last} the stream is off by {drift['none'][last]:.3f} without repair, "
        f"{drift['paper'][last]:.3f} in the paper's order and {drift['site'][last]:.3f} with `o_proj` repaired first. "
    )
    if abs(gained) < 0.02 * max(drift["paper"][last], 1e-12):
        start += (
            "The order makes **hardly a difference** there: the reason above holds, but on this model and in so few "
            "layers it weighs little. "
        )
    elif gained > 0:
        start += "The second order comes **nearer** to the dense model" + (
            ", by less than the repair itself brings. " if gained < repaired else ". "
        )
    else:
        start += "On this model and text the second order is **no better** there. "
    # As they are shown, so that differences are those of the numbers on the page.
    dense, none, a, b = (float(shown(perplexity[name])) for name in ("dense", "none", "paper", "site"))
    start += f"In perplexity, pruning costs {shown(none - dense)}, and repair in the paper's order "
    start += f"wins {shown(none - a)} of it back. " if a < none else "wins nothing back. "
    if abs(a - b) < 0.005 * a:
        return start + f"The order changes {shown(abs(a - b))}: the same within half a percent."
    return start + (
        f"With `o_proj` first it is **{'lower' if b < a else 'higher'}** by {shown(abs(a - b))} ({abs(a - b) / a:.1%})."
    )


def about_ladder(rungs: Sequence[Rung]) -> str:
    """What the ladder says of few and of many windows, in two sentences."""
    few, many = rungs[0], rungs[-1]

    def told(rung: Rung) -> str:
        order = sorted(rung.held_out, key=rung.held_out.get)
        best, turned, plain = order[0], rung.held_out["rotation"], rung.held_out["none"]
        name = RUNGS[best].lstrip("… ")
        if best == "none":
            return f"With {rung.windows} windows **nothing repaired** is best: every fit learns accidents of the text."
        if best == "rotation":
            return f"With {rung.windows} windows the **rotation** is best, {turned / plain - 1:+.0%} against no repair."
        against = rung.held_out[best] / turned - 1
        return (
            f"With {rung.windows} windows the lowest bar is **{name}**, {rung.held_out[best] / plain - 1:+.0%} against "
            f"no repair and {against:+.0%} against the rotation."
        )

    return " ".join(dict.fromkeys(told(rung) for rung in (few, many))).replace("-", "−")
