"""Every recipe's run in a real browser: opened from the store, measured and read beside others."""

from dataclasses import replace

import pytest
from playwright.sync_api import expect

import rcpu
from rcpu.runs import open_store, prune_into
from tests import serve
from tests.app.browsing import BROWSER

pytestmark = BROWSER
QUICK = {"flop": {"steps": 3}, "mini-llm": {"draws": 2}}
ASKED = "eval_window=16&eval_windows=6&prompt=a&tokens=6"


@pytest.fixture(scope="module")
def place(tmp_path_factory, model_folder, text_file):
    """A store with a run by every recipe, of a tiny model with grouped KV heads; and their ids, by recipe."""
    home, model = tmp_path_factory.mktemp("home"), rcpu.load_model(str(model_folder), "cpu")
    amount = {"samples": 6, "window": 16, "held_out": 2, "seed": 0}
    drawn = rcpu.calibration_windows(rcpu.load_text(str(text_file)), model.tokenizer, **amount)
    settings = {"model": str(model_folder), "text": str(text_file), "ratio": 0.3, **amount}
    store, found = open_store(home), {}
    for name in rcpu.RECIPES:
        recipe = replace(rcpu.load_recipe(name), **settings, **QUICK.get(name, {}))
        found[name] = prune_into(store, model, drawn, recipe, name=name)[0].id
    return home, found


@pytest.fixture(scope="module")
def address(place, tmp_path_factory):
    with serve.app(tmp_path_factory.mktemp("app") / "log.txt", RCPU_HOME=str(place[0]), RCPU_PREPARE="0") as url:
        yield url


@pytest.mark.parametrize("first", range(0, len(rcpu.RECIPES), 4))
def test_four_recipes_side_by_side(first, address, place, visit, model_folder, text_file):
    names = list(rcpu.RECIPES)[first : first + 4]
    ids = ",".join(place[1][name] for name in names)
    visitor = visit()
    page = visitor.page
    page.goto(f"{address}/compare?model={model_folder}&runs={ids}&compare={ids}&eval_text={text_file}&{ASKED}")
    page.get_by_role("button", name="Measure perplexity").click()
    visitor.figures()
    measured = page.locator(".rcpu-tiles").last
    for name in names:
        expect(page.locator(".rcpu-tiles").first).to_contain_text(f"{name}: parameters")
        expect(measured).to_contain_text(name)
    page.get_by_role("button", name="Generate").click()
    expect(page.get_by_text("tokens/s decoding")).to_have_count(len(names))
    visitor.is_well()
