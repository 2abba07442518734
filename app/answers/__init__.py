"""What views find and draw, whoever asks: a page now, or ahead of it.

Answers stay with the projection, or with the statistics if they are of all layers. Widgets are the page's, and so are
words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from app.ahead import Call
from app.dense import RATIO_STEP, Dense
from app.labels import UNITS
from app.settings import Settings, settings
from app.shared import ahead
from rcpu.explain import Projection
from rcpu.methods import AT_ONCE
from rcpu.models import SITES

#: What a view shows of a projection, and what one shows of a site in all layers.
Answer = Callable[[Dense, Projection, Settings], object]
SiteAnswer = Callable[[Dense, str, Settings], object]


def work_out_neighbours(
    answer: Answer, dense: Dense, projection: Projection, others: Sequence[dict[str, object]] = ()
) -> None:
    """Answer what the next move may ask for, in the layer of this projection; ``others``: settings of the view."""

    def asked(moved: Dense, site: str, s: Settings) -> None:
        answer(moved, moved.projection(projection.layer, site), s)

    work_out_sites(asked, dense, projection.site, others)


def work_out_sites(answer: SiteAnswer, dense: Dense, site: str, others: Sequence[dict[str, object]] = ()) -> None:
    """Answer what the next move may ask for: a step of the ratio, then another score, unit, projection or setting."""
    s, now = replace(settings()), dense.config  # as they are now: those of the session change

    def call(site: str = site, **moved) -> Call:
        return partial(answer, replace(dense, config=replace(now, **moved)), site, s)

    near = (round(now.ratio + steps * RATIO_STEP, 2) for steps in (1, -1, 2))
    units = UNITS if site == "o_proj" else ()
    ahead().work_out(
        [call(ratio=ratio) for ratio in near if 0 <= ratio <= 0.9],
        [
            *(call(other) for other in SITES if other != site),
            *(call(scorer=scorer) for scorer in AT_ONCE if scorer != now.scorer),
            *(call(unit=unit) for unit in units if unit != now.unit),
            *(partial(answer, dense, site, replace(s, **other)) for other in others),
        ],
    )
