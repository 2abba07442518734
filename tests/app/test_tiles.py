"""Numbers in a row: whatever stands in them is text."""

import pytest
from streamlit.testing.v1 import AppTest

from app.tiles import difference, percent
from tests.pages import notes, tiles


def _three_tiles():
    from app.tiles import Tile, tiles

    tiles(
        Tile("<b>run</b> & more", "1 < 2", 'a "note"'),
        Tile("Rotation error", "7.1%", "−31.0%", better=True, help="of <i>what</i>"),
        Tile("Alone", "–", help="help"),
    )


def test_tiles_show_their_texts_as_they_are():
    at = AppTest.from_function(_three_tiles, default_timeout=60).run()
    assert not at.exception
    assert tiles(at) == {"<b>run</b> & more": "1 < 2", "Rotation error": "7.1%", "Alone": "–"}
    assert notes(at) == {"<b>run</b> & more": 'a "note"', "Rotation error": "−31.0%", "Alone": ""}
    drawn = at.get("html")[0].proto.body
    assert "<b>" not in drawn
    assert 'aria-label="of &lt;i&gt;what&lt;/i&gt;"' in drawn
    assert drawn.count("rcpu-better") == 1


@pytest.mark.parametrize(("after", "before", "text"), [(3, 4, "−25.0%"), (4, 3, "+33.3%"), (1, 1, "+0.0%"), (1, 0, "")])
def test_difference(after, before, text):
    assert difference(after, before) == text


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [(0.2, 1, "20.0%"), (0.0711, 1, "7.11%"), (1, 4, "25.0%"), (-0.01, 1, "−1.00%"), (1, 0, "–"), (1, -1, "–")],
)
def test_percent(part, whole, text):
    assert percent(part, whole) == text
