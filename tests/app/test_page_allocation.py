"""Allocation: empty, priced, and with settings that make no sense."""

import pytest

from app.shared import models
from tests.pages import charts, click, finish, open_page, texts, tiles


@pytest.fixture
def loaded(model, text_file) -> dict[str, str]:
    """Settings of a link to a loaded tiny model."""
    models().put((str(model.folder), "cpu", "fp32"), model)
    windows = {"samples": 6, "window": 16, "held_out": 2, "text": str(text_file)}
    return {"model": str(model.folder), "device": "cpu", "dtype": "fp32", **windows}


def test_an_empty_page_says_what_comes(loaded):
    at = open_page("allocation", **loaded)
    assert "Nothing priced yet" in texts(at, "caption")
    assert not charts(at)


def test_prices_and_the_allocation_that_follows(loaded):
    at = finish(click(open_page("allocation", **loaded, ratio=0.3), "Price the model"), "prices")
    assert {"Predicted, all alike", "Predicted, shared", "Loses most", "Loses least"} <= set(tiles(at))
    curves, shares = charts(at)
    assert len(curves["data"]) == 2 * 3, "a line and a dot for each of three layers"
    assert [trace["name"] for trace in shares["data"]] == ["o_proj", "down_proj"]
    assert not texts(at, "info")
    at.slider(key="set_ratio").set_value(0.5).run()
    assert "have changed since" in texts(at, "info")


@pytest.mark.parametrize(
    ("bad", "words"), [({"layers": "9"}, "layer 9 does not exist"), ({"unit": "head"}, "KV heads")]
)
def test_bad_settings_are_a_sentence(loaded, bad, words):
    at = open_page("allocation", **loaded, **bad)
    assert words in texts(at, "error")
    assert not charts(at)
