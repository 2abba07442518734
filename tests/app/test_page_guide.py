"""The field guide: a card for every recipe, and a picture that says what it shows."""

import json

import pytest

import rcpu
from app.figures.guide import apart
from app.guide import CARDS, layer_picture, measured, read_measured
from app.guide.picture import PLACES, SIGNS
from tests.pages import charts, numbers, open_page, texts


def row(recipe: str, less: float, perplexity: float) -> dict:
    """As ``python -m tests.compare --json`` writes it."""
    rest = {"ratio": less, "decoder": 1 - less, "tokens_per_second": 1.25, "parameters": 118_492_992}
    ends = [perplexity - 1, perplexity + 1]
    return {"recipe": recipe, "less": less, "perplexity": perplexity, "interval": ends, "forwards": 3.5, **rest} | {
        "peak_mib": 512.0
    }


@pytest.fixture
def compare(tmp_path, monkeypatch):
    """The file that the guide reads, in a folder of this test."""
    file = tmp_path / "compare.json"
    monkeypatch.setattr(measured, "COMPARE", file)
    return file


def test_where_nothing_was_measured_nothing_is_said(compare):
    for text in (None, "[]", "{", '[{"recipe": "olica"}]'):
        if text is not None:
            compare.write_text(text)
        at = open_page("guide")
        assert not charts(at)
        assert "Perplexity" not in texts(at, "markdown")


def test_cards_show_what_was_measured_of_them(compare):
    dense = row("dense", 0.0, 24.5) | {"forwards": None, "peak_mib": None, "of": "4 × 128 tokens"}
    rows = [row("olica", 0.2, 40.5), dense, row("olica", 0.1, 30.25), row("flap", 0.1, 33.0)]
    compare.write_text(json.dumps(rows))
    at = open_page("guide")
    (drawn,) = charts(at)
    lines = [t for t in drawn["data"] if t.get("meta") != "again"]
    assert [t["name"] for t in lines] == ["flap", "olica", "dense"]
    assert [list(lines[1][axis]) for axis in "xy"] == [[0.9, 0.8], [30.25, 40.5]]
    assert {t["text"][1] for t in drawn["data"] if t.get("meta") == "again"} == {"olica", "flap"}
    cards = [e.value for e in at.markdown if "Perplexity" in e.value]
    assert len(cards) == 2
    assert "| Less | 10% | 20% |" in cards[1]
    assert "| Perplexity | **30.25** | **40.50** |" in cards[1]
    assert "| Peak MiB | 512 | 512 |" in cards[1]
    assert "| Tokens/s ÷ dense | 1.25 |" in cards[0]
    assert len(numbers(at, "compare")) == 3
    compare.write_text(json.dumps([r for r in rows if r is not dense]))  # of a version that did not keep it
    assert "dense" not in [t.get("name") for t in charts(open_page("guide"))[0]["data"]]
    assert read_measured().recipes["olica"][0].interval == (29.25, 31.25)


def test_names_at_the_ends_of_lines_lie_apart():
    assert apart([1.0, 1.2, 3.0], 0.5) == pytest.approx([0.85, 1.35, 3.0])
    assert apart([1.0, 1.1, 1.45, 4.0], 0.5) == pytest.approx([0.6833, 1.1833, 1.6833, 4.0], abs=1e-4)
    assert apart([], 0.5) == []


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
