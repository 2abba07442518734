"""The field guide: a card for every recipe, and a picture that says what it shows."""

import pytest

import rcpu
from app.guide import CARDS, layer_picture
from app.guide.picture import PLACES, SIGNS
from tests.pages import open_page, texts


def test_every_recipe_has_a_card_and_runs_from_it(monkeypatch):
    at = open_page("guide")
    shown = [e.value.removeprefix("##### ") for e in at.markdown if e.value.startswith("##### ")][:-1]  # jobs
    assert shown == [CARDS[name].title for name in CARDS if name in rcpu.RECIPES]
    assert set(rcpu.RECIPES) <= set(CARDS), "a recipe without a card"
    assert all(published.source in texts(at, "caption") for published in rcpu.RECIPES.values())
    at.button(key="try-wanda-sp").click().run()
    assert not at.exception
    assert at.session_state["settings"].scorer == "wanda_sp"
    assert at.title[0].value == "Prune"


@pytest.mark.parametrize("name", CARDS)
def test_a_picture_says_what_it_shows(name):
    card = CARDS[name]
    assert set(card.leaves) <= set(PLACES)
    drawn = layer_picture(card.leaves, card.extras)
    assert all(f"{matrix}: {SIGNS[kind]}" in drawn for matrix, kind in card.leaves.items())
    assert drawn.count("<svg") == 1
    assert ("url(#rcpu-gone)" in drawn.partition("</defs>")[2]) == bool(
        {"rows", "columns", "both", "repaired", "turned", "gated"} & set(card.leaves.values())
    )
