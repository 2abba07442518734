"""What views find and draw for one projection, whoever asks: a page now, or ahead of it.

Answers stay with the projection. Widgets are the page's, and so are words.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import rcpu
from app.ahead import Call
from app.dense import RATIO_STEP, Dense
from app.labels import UNITS
from app.settings import Settings, settings
from app.shared import ahead
from rcpu.collect import SITES
from rcpu.whatif import Projection

Answer = Callable[[Dense, Projection, Settings], object]


def work_out_neighbours(answer: Answer, dense: Dense, projection: Projection) -> None:
    """Answer what the next move may ask for: a step of the ratio, then another score, unit or projection."""
    s, now = replace(settings()), dense.config  # as they are now: those of the session change

    def asked(site: str, config: rcpu.PruneConfig) -> None:
        moved = replace(dense, config=config)
        answer(moved, moved.projection(projection.layer, site), s)

    def call(site: str = projection.site, **moved) -> Call:
        return partial(asked, site, replace(now, **moved))

    near = (round(now.ratio + steps * RATIO_STEP, 2) for steps in (1, -1, 2))
    units = UNITS if projection.site == "o_proj" else ()
    ahead().work_out(
        [call(ratio=ratio) for ratio in near if 0 <= ratio <= 0.9],
        [
            *(call(site) for site in SITES if site != projection.site),
            *(call(scorer=scorer) for scorer in rcpu.SCORERS if scorer != now.scorer),
            *(call(unit=unit) for unit in units if unit != now.unit),
        ],
    )
