"""Start: six parts of one run on one page, from an example to one's own; what a link may bring does not break it."""

from dataclasses import replace

import pytest

from app import story
from app.kept import opened
from app.settings import Settings
from app.shared import jobs, models
from app.story import Evaluation, SiteLook, Story
from app.turns import turned
from app.work import prune_job
from rcpu import Recipe, load_model
from tests import tiny
from tests.pages import charts, click, finish, open_page, texts

PARTS = ["Scores and the cut", "Spectrum of YZᵀ", "Angles of the rotation", "Error over layers", "Perplexity", "Text"]
ORDER = ["start", "model", "calibration", "importance", "rotation", "prune", "compare", "learn"]
SMALL = {"samples": 8, "window": 16, "held_out": 2, "ratio": 0.5, "eval_window": 16, "eval_windows": 4, "tokens": 4}


@pytest.fixture
def link(model, model_folder, text_file) -> dict:
    models().put((str(model_folder), "auto", "auto"), model)
    return {**SMALL, "model": model_folder, "text": text_file, "eval_text": text_file, "prompt": "abc"}


def titles(at) -> list[str]:
    return [b.label for b in at.button if b.label in PARTS]


def written(at) -> str:
    return "\n".join(e.proto.body for e in at.get("html") if 'class="rcpu-told"' in e.proto.body)


def test_a_first_visit_finds_the_example_with_its_settings():
    at = open_page("start")
    assert titles(at) == PARTS
    assert len(charts(at)) == 5
    assert written(at).count("<dt") == 3
    said = texts(at, "caption")
    assert "Example" in said
    assert "20% by RCPU, Rotation (RCPU), 128 × 128 tokens, seed 0" in said
    assert "python -m app.example" in said


def test_the_example_is_a_run_of_the_embedded_model_as_the_app_begins():
    found = story.example()
    assert found.config == Settings().recipe("columns")
    assert found.asked == Evaluation.of(Settings()) == Evaluation()
    assert len(found.sites) == 60
    assert found.parameters[0] == 134_515_008
    assert found.perplexity["dense"].perplexity < found.perplexity["compensated"].perplexity
    assert all(p.interval.low < p.perplexity < p.interval.high for p in found.perplexity.values())
    assert all(made.tokens for made in found.texts.values())


def test_without_an_example_the_parts_say_that_they_are_to_come(monkeypatch):
    monkeypatch.setattr(story, "EXAMPLE", story.EXAMPLE.with_name("none"))
    story.example.cache_clear()
    at = open_page("start")
    story.example.cache_clear()
    assert titles(at) == PARTS
    assert not charts(at)
    assert texts(at, "caption").count("comes with the run") == 6


def test_one_press_brings_all_six_parts(link):
    at = finish(click(open_page("start", **link), "Run"), "run")
    assert "Your run" in texts(at, "caption")
    assert len(charts(at)) == 5
    assert written(at).count("<dt") == 3
    scores = charts(at)[0]
    at.segmented_control(key="set_site").set_value("down_proj").run()
    at.select_slider(key="set_layer").set_value(2).run()
    assert not at.exception
    assert charts(at)[0] != scores
    at.slider(key="set_ratio").set_value(0.3).run()
    assert "settings above have changed" in texts(at, "caption")
    again = open_page("start", **at.query_params)
    assert len(charts(again)) == 5, "a link finds the run"
    compared = open_page("compare", **at.query_params)
    assert len(charts(compared)) == 2, "the same run, without a press"
    assert "tokens/s decoding" in texts(compared, "caption")
    pruned = open_page("prune", **at.query_params)
    assert len(charts(pruned)) == 6


def test_each_part_leads_to_its_page_with_the_same_settings(link):
    for part, heading, setting in (
        (PARTS[0], "Importance", {"view": "cut"}),
        (PARTS[2], "Spectrum and rotation", {"spectrum": "angles"}),
        (PARTS[5], "Compare", {}),
    ):
        at = click(open_page("start", **link), part)
        assert at.title[0].value == heading
        now = at.session_state["settings"]
        assert now.ratio == 0.5
        assert all(getattr(now, name) == value for name, value in setting.items())


def test_a_model_that_is_not_loaded_is_loaded_by_the_run(model_folder, link):
    models().drop((str(model_folder), "auto", "auto"))
    at = finish(click(open_page("start", **link), "Run"), "run")
    assert models().get((str(model_folder), "auto", "auto"))
    assert len(charts(at)) == 5


def test_without_measuring_there_are_no_perplexities(link):
    at = finish(click(open_page("start", **link, evaluate=0), "Run"), "run")
    assert len(charts(at)) == 4
    assert not written(at)


def test_what_cannot_be_measured_does_not_cost_the_run(link):
    at = finish(click(open_page("start", **{**link, "prompt": ""}), "Run"), "run")
    assert len(charts(at)) == 5, "perplexity was measured before"
    assert "the prompt is empty" in texts(at, "caption")


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"layers": "first"}, "layers must be"),
        ({"layers": "0-9"}, "layer 9 does not exist"),
        ({"ridge": "much", "compensation": "least_squares"}, "ridge"),
    ],
)
def test_bad_settings_are_said_and_set_back(link, bad, words):
    at = open_page("start", **link, **bad)
    assert words in texts(at, "error")
    assert titles(at) == PARTS
    at = click(at, "Set back what is pruned and how")
    assert not at.error


def test_too_little_text_is_said_when_the_run_has_found_out(link):
    at = finish(click(open_page("start", **{**link, "samples": 4000}), "Run"), "run")
    assert "too little text" in texts(at, "error")


@pytest.mark.parametrize(
    "page", ["start", "model", "calibration", "importance", "rotation", "prune", "compare", "learn"]
)
def test_a_model_with_a_long_name_and_jobs_of_other_kinds_break_no_page(page, link):
    done = jobs().submit("other", "another kind", lambda _: "a text")
    assert done.finished.wait(10)
    ids = dict.fromkeys(
        ("load", "collect", "run", "runs", "measure", "generate", "view_tokens", "drift", "save"), done.id
    )
    at = open_page(page, **{**link, **ids})
    assert not at.exception
    at = open_page(page, model="m" * 200)
    assert not at.exception
    at = open_page(page, model="o/" + "m" * 200)
    assert not at.exception


def test_the_story_is_told_once_by_the_links_to_what_comes_next():
    pages, at = ["start"], open_page("start")
    while follow := [e.proto for e in at.get("page_link") if e.proto.label.startswith("Next: ")]:
        pages.append(follow[0].page)
        at = open_page(pages[-1])
    assert [page for page in pages if page in ORDER] == ORDER
    assert len(set(pages)) == len(pages)


def test_a_story_survives_its_file(link, model, text_file):
    evaluation = Evaluation(text=str(text_file), window=16, windows=4, prompt="abc", tokens=3)
    job = prune_job(model, Recipe(text=str(text_file), samples=4, window=16, held_out=2), evaluation=evaluation)
    assert job.finished.wait(60)
    made = opened().get(job.result).story
    made = replace(made, sites=tuple(turned(job.result, site) for site in made.sites))
    back = Story.from_dict(made.to_dict())
    assert (back.config, back.asked) == (made.config, evaluation)
    assert (back.perplexity, back.texts) == (made.perplexity, made.texts)
    assert [type(site) for site in back.sites] == [SiteLook] * len(made.sites)
    assert back.sites[1].singular_values.double().allclose(made.sites[1].singular_values.double(), rtol=1e-3)
    assert (back.sites[1].keep == made.sites[1].keep).all()
    assert back.to_dict() == made.to_dict()


def test_the_server_prepares_the_default_model_and_what_pages_need(monkeypatch, tmp_path):
    from app import warm

    folder = tiny.save(tiny.net("gqa"), tmp_path / "default")
    monkeypatch.setattr("rcpu.load_model", lambda name, *how, **_: load_model(str(folder), "cpu"))
    monkeypatch.setenv("RCPU_CACHE", str(tmp_path / "cache"))
    key, kept = ("embedded", "auto", "auto"), models().get(("embedded", "auto", "auto"))
    models().drop(key)
    monkeypatch.setenv("RCPU_PREPARE", "0")
    warm.prepare()
    assert not any(job.active for job in jobs().all())
    monkeypatch.delenv("RCPU_PREPARE")
    warm.prepare()
    at = open_page("importance")
    at = finish(at, "collect")
    assert charts(at), "nothing was clicked"
    models().drop(key)
    if kept:
        models().put(key, kept)
