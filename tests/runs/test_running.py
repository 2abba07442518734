"""One recipe from end to end: what is there is not done again, and nothing depends on names."""

from dataclasses import replace
from pathlib import Path

import pytest

import rcpu
from rcpu import Cancelled, RcpuError, Recipe
from rcpu.runs import Bench, GeometryAsk, PerplexityAsk, Store, ask_dict, ask_of, measure_dense, open_store, run_recipe
from tests import tiny


@pytest.fixture
def store(tmp_path) -> Store:
    return open_store(tmp_path / "home")


@pytest.fixture
def recipe(text_file) -> Recipe:
    return Recipe(text=str(text_file), samples=6, window=16, held_out=2, ratio=0.3)


@pytest.fixture
def ask(text_file) -> PerplexityAsk:
    return PerplexityAsk(str(text_file), window=16, limit=8)


def bench(**more) -> Bench:
    model = rcpu.Model("tiny", tiny.net("gqa"), tiny.tokenizer(), Path("/nowhere"), "fingerprint-gqa")
    return Bench(model, **more)


def test_a_recipe_is_pruned_and_measured_as_by_hand(store, recipe, ask):
    told = []
    outcome = run_recipe(bench(), recipe, [ask], store, name="cell", progress=lambda p: told.append(p.fraction))
    assert (outcome.pruned, outcome.run.name, outcome.run.state) == (True, "cell", "done")
    at = bench()
    result = rcpu.prune(at.model.net, at.windows(recipe), recipe)
    by_hand = rcpu.perplexity(result.net, at.evaluation(ask.text, 16, 8), text="words.txt")
    assert outcome.answers[0]["perplexity"] == by_hand.perplexity
    assert outcome.answers[0]["by_window"] == list(by_hand.by_window)
    assert told == sorted(told)
    assert told[-1] == 1.0
    assert "stands in the calibration text words.txt too" in outcome.notes[0]
    other = PerplexityAsk("embedded", window=16, limit=8)
    (note,) = run_recipe(at, recipe, [ask, other], store).notes
    assert note == outcome.notes[0], "another text has nothing of it"


def test_what_is_there_is_not_done_again(store, recipe, ask, monkeypatch):
    first = run_recipe(bench(), recipe, [ask], store)
    monkeypatch.setattr("rcpu.runs.running.prune_into", None)
    monkeypatch.setattr("rcpu.runs.asks.perplexity", None)
    again = run_recipe(bench(), replace(recipe, model="by another name"), [ask], open_store(store.folder))
    assert (again.run.id, again.answers, again.pruned) == (first.run.id, first.answers, False)


def test_what_was_never_asked_is_measured_of_the_rebuilt_model(store, recipe, ask, monkeypatch):
    first = run_recipe(bench(), recipe, [ask], store)
    monkeypatch.setattr("rcpu.runs.running.prune_into", None)
    monkeypatch.setattr("rcpu.runs.running.prune", None)
    longer = replace(ask, limit=12)
    again = run_recipe(bench(), recipe, [ask, longer], store)
    assert again.answers[0] == first.answers[0]
    assert again.answers[1]["by_window"][:8] == pytest.approx(first.answers[0]["by_window"])
    assert len(again.answers[1]["by_window"]) == 12


def test_without_weights_the_store_stays_small_and_the_cell_can_still_be_asked_more(store, recipe, ask):
    kept = run_recipe(bench(), replace(recipe, ratio=0.2), [], store)
    slim = run_recipe(bench(), recipe, [], store, keep_weights=False)
    assert store.bytes_of(slim.run.id) < store.bytes_of(kept.run.id) / 2
    with pytest.raises(RcpuError, match="were not kept: prune again"):
        rcpu.runs.load_result(store, slim.run, bench().model)
    asked = run_recipe(bench(), recipe, [ask], store, keep_weights=False)
    assert asked.run.id == slim.run.id
    whole = run_recipe(bench(), recipe, [ask], open_store(store.folder / "other"))
    assert asked.answers == whole.answers


@pytest.mark.parametrize("keep_weights", [True, False])
def test_a_cell_that_ended_early_goes_on(store, recipe, ask, keep_weights):
    done = []
    with pytest.raises(Cancelled):
        run_recipe(
            bench(),
            recipe,
            [ask],
            store,
            keep_weights=keep_weights,
            progress=lambda p: done.append(p.site),
            cancelled=lambda: sum(s is not None for s in done) > 2,
        )
    again = run_recipe(bench(), recipe, [ask], store, keep_weights=keep_weights)
    assert [run.state for run in store.runs()] == ["done"]
    assert ("resumed_after_layer" in again.run.about) == keep_weights
    assert again.answers == run_recipe(bench(), recipe, [ask], open_store(store.folder / "other")).answers


def test_the_dense_model_is_measured_once(store, ask, monkeypatch):
    first = measure_dense(bench(), [ask], store)
    assert first[0]["windows"] == 8
    monkeypatch.setattr("rcpu.runs.asks.perplexity", None)
    assert measure_dense(bench(), [ask], store) == first


def test_another_precision_of_measuring_is_another_answer(store, recipe, ask):
    exact = run_recipe(bench(), recipe, [ask], store).answers[0]["perplexity"]
    coarse = run_recipe(bench(measure_in="bf16"), recipe, [ask], store).answers[0]["perplexity"]
    assert coarse != exact
    assert coarse == pytest.approx(exact, rel=0.05)
    with pytest.raises(RcpuError, match="unknown precision 'int3': choose one of fp32"):
        bench(measure_in="int3")


def test_geometry_is_asked_of_the_same_windows(store, recipe, text_file):
    ask = GeometryAsk(str(text_file), window=16, limit=3)
    (found,) = run_recipe(bench(), recipe, [ask], store).answers
    assert len(found["by_window"]["cosine"]) == 3
    assert 0 < found["by_window"]["cosine"][0] < 1


def test_asks_are_plain_values_and_back():
    for ask in (PerplexityAsk("wikitext2", limit=4), GeometryAsk()):
        assert ask_of(ask_dict(ask)) == ask
    with pytest.raises(RcpuError, match="unknown measure 'speed': choose one of perplexity"):
        ask_of({"kind": "speed"})
    with pytest.raises(RcpuError, match="measure 'perplexity' has no setting 'windows': it has text, window, limit"):
        ask_of({"kind": "perplexity", "windows": 3})
