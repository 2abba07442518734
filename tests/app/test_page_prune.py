"""Prune's picker of recipe, method and options: made from what the library declares."""

import pytest

import rcpu
from app.methods import OWN, recipe_name, settings_of
from app.settings import Settings, field_of
from app.shared import models
from rcpu.base import options_of
from tests.pages import charts, click, finish, open_page, texts, tiles


@pytest.fixture
def loaded(model) -> dict[str, str]:
    """Settings of a link to a loaded tiny model."""
    models().put((str(model.folder), "cpu", "fp32"), model)
    return {"model": str(model.folder), "device": "cpu", "dtype": "fp32", "samples": 4, "window": 16, "held_out": 2}


def test_a_recipe_sets_method_options_and_windows(loaded):
    at = open_page("prune", **loaded, ratio=0.3)
    assert at.selectbox(key="recipe").value == OWN
    at.selectbox(key="recipe").select("wanda-sp").run()
    assert not at.exception
    assert at.selectbox(key="set_scorer").value == "wanda_sp"
    assert at.selectbox(key="set_compensation").value == "none"
    assert "samples" not in at.query_params, "128, as the recipe says and by default"
    assert at.query_params["ratio"] == "0.3", "a recipe leaves the ratio alone"
    assert "nothing repaired" in texts(at, "caption")
    at.selectbox(key="set_compensation").select("bias").run()
    assert at.selectbox(key="recipe").value == OWN


def test_options_appear_where_they_matter(loaded):
    at = open_page("prune", **loaded)
    labels = lambda kind: [w.label for w in getattr(at, kind)]  # noqa: E731
    assert any("Proper rotation" in label for label in labels("toggle"))
    assert not any("Ridge" in label for label in labels("text_input"))
    at.selectbox(key="set_compensation").select("least_squares").run()
    assert not any("Proper rotation" in label for label in labels("toggle"))
    assert any("Ridge" in label and "or auto" in label for label in labels("text_input"))


@pytest.mark.parametrize("bad", [{"ridge": "-1"}, {"ridge": "much"}, {"layers": "7-"}])
def test_a_bad_option_is_a_sentence(loaded, bad):
    at = open_page("prune", **loaded, compensation="least_squares", **bad)
    assert not at.exception
    assert next(iter(bad)) in texts(at, "error")
    assert not charts(at)


def test_an_unknown_method_in_a_link_is_the_usual_one(loaded):
    at = open_page("prune", **loaded, method="cake")
    assert at.selectbox(key="set_method").value == "columns"


@pytest.mark.parametrize("name", rcpu.RECIPES)
def test_every_named_recipe_becomes_settings_and_back(name):
    recipe = rcpu.RECIPES[name].recipe
    made = Settings(**settings_of(recipe, everything=True)).recipe()
    assert made == recipe
    assert recipe_name(made) == name


def test_every_option_of_every_method_has_a_setting():
    defaults = Settings()
    for name, method in rcpu.METHODS.items():
        assert all(hasattr(defaults, field_of(option)) for option in options_of(method.options))
        assert defaults.recipe(name).options == method.options()


WHOLE = [name for name, method in rcpu.METHODS.items() if method.run is not None]


@pytest.mark.parametrize("method", WHOLE)
def test_a_whole_method_runs_and_shows_what_it_found(loaded, text_file, method):
    small = {"eval_text": text_file, "eval_window": 16, "eval_windows": 4, "tokens": 4, "prompt": "abc", "evaluate": 0}
    small |= {field_of("steps"): 3, field_of("draws"): 2}  # of those that go round
    at = open_page("prune", **{**loaded, "text": text_file, "method": method, "ratio": 0.3}, **small)
    at = finish(click(at, "Run"), "run")
    assert not texts(at, "error")
    assert charts(at)
    label = rcpu.METHODS[method].label
    assert label in texts(at, "caption")

    at = finish(click(open_page("compare", **dict(at.query_params)), "Measure perplexity"), "measure")
    measured = at.dataframe[0].value
    assert list(measured["model"]) == ["dense", f"{label} 30%"]
    assert (measured["perplexity"] > 1).all()
    assert measured["more than dense"][1].endswith("]%")
    at = finish(click(at, "Generate"), "generate")
    assert texts(at, "caption").count("tokens/s") == 2
    assert not texts(at, "error")


@pytest.mark.parametrize("method", ["columns", "slicegpt"])
def test_a_share_of_parameters_finds_the_ratio(loaded, model, method):
    at = open_page("prune", **loaded, method=method, target=0.85)
    at = click(at, "Find the ratio")
    now = at.session_state["settings"]
    wanted = rcpu.with_target(model.net, now.recipe(), 0.85)
    assert now.ratio == pytest.approx(wanted.ratio, abs=1e-6)
    assert not texts(at, "error")


def test_a_share_that_cannot_be_reached_is_said(loaded):
    at = click(open_page("prune", **loaded, layers="0", target=0.1), "Find the ratio")
    assert "cannot be reached" in texts(at, "error")


def test_the_gradient_of_a_run_is_held_against_the_true_one(loaded, text_file):
    at = open_page(
        "prune", **{**loaded, "text": str(text_file), "method": "mini-llm", "ratio": 0.3, "measured": "0", "layer": 9}
    )
    at = finish(click(at, "Run"), "run")
    assert "A backward pass of 4 windows down to layer 2: about 1.7 bare forwards" in texts(at, "caption")
    before = len(charts(at))
    at = finish(click(at, "Work out the true gradient"), "gradients")
    assert not texts(at, "error")
    first, second = charts(at)[before:]
    drawn = first["data"]
    assert [t["name"] for t in drawn[:7]] == [f"{m}_proj" for m in ("q", "k", "v", "o", "gate", "up", "down")]
    assert len(drawn[0]["y"]) == 8
    assert second["data"][0]["error_y"]["array"]
    assert "Signs that agree" in tiles(at)
    at.segmented_control(key="set_matrix").set_value("q_proj").run()
    assert charts(at)[-1]["data"][0]["x"] != second["data"][0]["x"]
    at.select_slider(key="set_layer").set_value(0).run()
    assert "of another layer or run" in texts(at, "info")


def test_a_text_that_changed_has_another_gradient(loaded, text_file, tmp_path):
    own = tmp_path / "words.txt"  # the other one is shared by all tests
    own.write_text(text_file.read_text())
    at = open_page("prune", **{**loaded, "text": str(own), "method": "mini-llm", "measured": "0", "evaluate": 0})
    at = finish(click(at, "Run"), "run")
    own.write_text(own.read_text()[300:])
    at = finish(click(at, "Work out the true gradient"), "gradients")
    assert "has changed since this run" in texts(at, "error")
