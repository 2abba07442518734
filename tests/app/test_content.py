"""Whatever the app keeps is found again by content: a text edited while it runs, weights with another tokenizer.

A test a cache; each edits what a name means, and asks the same question again.
"""

import json
import shutil
from dataclasses import replace

import pytest

import rcpu
from app import measuring, texts, work
from app.answers import rotation
from app.kept import opened
from app.lessons import work as lessons_work
from app.runs import dense
from app.shared import Projections, Windows, answers, current_collection, jobs, models, windows
from app.story import Evaluation
from rcpu.statistics import collect
from rcpu.statistics import collection_of as folder_of
from tests import tiny
from tests.pages import charts, click, finish, open_page, tiles
from tests.pages import texts as shown

COUNTS = {"samples": 6, "window": 16, "held_out": 2}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RCPU_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def text(tmp_path):
    """A text file that a test edits."""
    path = tmp_path / "mine.txt"
    path.write_text("the first text of this file " * 40)
    return path


@pytest.fixture
def edited(text):
    """Edits the file as an editor does: the same name and length, other words."""

    def edit() -> None:
        text.write_text(text.read_text().replace("first", "other"))

    return edit


@pytest.fixture(scope="module")
def retokenized(model, tmp_path_factory) -> rcpu.Model:
    """The same weights and configuration, and a tokenizer that gives every byte another token."""
    folder = tmp_path_factory.mktemp("models") / model.folder.name
    shutil.copytree(model.folder, folder)
    tokens = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = tokens["model"]["vocab"]
    tokens["model"]["vocab"] = dict(zip(vocabulary, reversed(vocabulary.values()), strict=True))
    (folder / "tokenizer.json").write_text(json.dumps(tokens))
    return rcpu.load_model(str(folder), device="cpu")


def config(text) -> rcpu.Recipe:
    return rcpu.Recipe(text=str(text), ratio=0.5, **COUNTS)


def done(job):
    assert job.finished.wait(60)
    assert job.state == "done", job.error
    return job.result


def test_a_text_is_what_its_file_holds_now(text, edited):
    before = texts.digest_now(str(text)), texts.content_of(str(text))
    assert before == (texts.load_text(str(text)).digest, texts.content_of(str(text)))
    edited()
    assert texts.digest_now(str(text)) != before[0]
    assert texts.content_of(str(text)) != before[1]


def test_a_settled_file_is_read_once_and_a_long_one_not_by_pages(text, edited, monkeypatch):
    monkeypatch.setattr(texts, "SETTLED", 0)
    texts.digest_now(str(text))
    read = []
    monkeypatch.setattr(
        rcpu, "load_text", lambda name, **_: read.append(name) or rcpu.from_upload(name, text.read_bytes())
    )
    texts.digest_now(str(text))
    assert not read
    edited()
    monkeypatch.setattr(texts, "INLINE", 0)
    assert texts.digest_now(str(text)) is None
    before = texts.content_of(str(text))
    texts.load_text(str(text))
    assert texts.content_of(str(text)) == before, "the same file is the same, read or not"
    text.write_text("a longer text than before " * 60)
    assert texts.content_of(str(text)) != before


def test_windows_follow_the_text_and_the_tokenizer(model, retokenized, text, edited):
    drawn = Windows()
    first = drawn.get(model, config(text))
    assert drawn.get(model, config(text)) is first
    assert not (drawn.get(retokenized, config(text)).calibration == first.calibration).all()
    edited()
    assert drawn.get(model, config(text)).digest != first.digest


def test_statistics_follow_the_text_the_tokenizer_and_the_code(model, retokenized, text, edited, monkeypatch):
    first = current_collection(model, config(text)).folder
    assert current_collection(model, config(text)).folder == first
    drawn = windows().get(model, config(text))
    assert folder_of(retokenized, drawn).folder != first, "other tokens, even where the numbers are the same"
    edited()
    second = current_collection(model, config(text)).folder
    monkeypatch.setattr("rcpu.statistics.kept.code_version", lambda *rooms: "another code")
    assert len({first, second, current_collection(model, config(text)).folder}) == 3


def test_projections_and_answers_follow_what_was_measured(model, text, edited):
    ready, seen = Projections(), []
    for _ in range(2):
        found = collect(model, windows().get(model, config(text)))
        seen.append(ready.get(model, found, 0, "o_proj"))
        answers().ask((found.folder, "a test"), lambda: len(seen))
        assert ready.get(model, found, 0, "o_proj") is seen[-1]
        assert answers().known((found.folder, "a test")) == len(seen)
        edited()
    assert seen[0] is not seen[1]
    assert not (seen[0].x.total == seen[1].x.total).all()


def test_jobs_are_joined_by_content(model, retokenized, text, edited, monkeypatch):
    asked = []
    monkeypatch.setattr(jobs(), "submit", lambda kind, title, work, asks=None, **how: asked.append(asks))

    def ask(of: rcpu.Model) -> None:
        c = config(text)
        work.collect_job(of, c)
        lessons_work.growth_job(of, c, 0, "o_proj")
        lessons_work.orders_job(of, c, "embedded")
        lessons_work.orders_job(of, replace(c, text="embedded"), str(text))
        chosen = {"dense": dense(of)}
        measuring.measure_job(of.tokenizer, chosen, str(text), 16, 4)
        measuring.generate_job(of.tokenizer, chosen, "abc", max_new_tokens=4)
        measuring.tokens_job(of.tokenizer, chosen, "abc", "abc")

    ask(model), ask(model), ask(retokenized)
    edited()
    ask(model)
    same, again, other, after = (asked[i : i + 7] for i in range(0, 28, 7))
    assert same == again
    assert not any(a == b for a, b in zip(same, other, strict=True)), "dense is another model there"
    differs = [a != b for a, b in zip(same, after, strict=True)]
    assert differs == [True, True, True, True, True, False, False], "what reads the text"


def test_perplexities_are_kept_by_their_tokens(model, retokenized, text, edited):
    def measure(of: rcpu.Model) -> rcpu.Perplexity:
        job = measuring.measure_job(of.tokenizer, {"dense": dense(of)}, str(text), 16, 4)
        return done(job).found["mine.txt"]["dense"]

    first = measure(model)
    assert measure(model) is first, "measured once"
    assert measure(retokenized).perplexity != first.perplexity
    edited()
    assert measure(model).digest != first.digest


def test_a_run_knows_what_it_was_calibrated_and_measured_on(model, text, edited):
    evaluation = Evaluation(text=str(text), window=16, windows=2, prompt="abc", tokens=2)
    first = opened().get(done(work.prune_job(model, config(text), evaluation=evaluation))).story
    assert first.content == measuring.contents(str(text), str(text))
    edited()
    second = opened().get(done(work.prune_job(model, config(text), evaluation=evaluation))).story
    assert second.content != first.content
    assert second.perplexity["dense"] != first.perplexity["dense"]


def test_token_texts_follow_the_tokenizer(model, retokenized):
    ids = tuple(tiny.ids(1, 8)[0].tolist())
    assert rotation._drawn_tokens(model, ids) != rotation._drawn_tokens(retokenized, ids)


def link(model: rcpu.Model, text) -> dict:
    models().put((str(model.folder), "auto", "auto"), model)
    small = {"eval_window": 16, "eval_windows": 2, "prompt": "abc", "tokens": 2}
    return {"model": model.folder, "text": text, "eval_text": text, "ratio": 0.5, **COUNTS, **small}


def test_pages_say_that_a_text_was_edited_since(model, text, edited):
    run = finish(click(open_page("prune", **link(model, text)), "Run"), "run")
    assert "edited" not in shown(run, "info")
    compared = open_page("compare", **run.query_params)
    assert len(charts(compared)) == 2, "the perplexity that the run measured"
    assert "edited" not in shown(compared, "info")
    edited()
    assert "was edited since" in shown(open_page("prune", **run.query_params), "info")
    assert "was edited since" in shown(open_page("compare", **run.query_params), "info")
    assert "was edited since" in shown(open_page("start", **run.query_params), "caption")


def test_dense_figures_of_another_model_are_not_shown_for_this_one(model, retokenized, text):
    first = finish(click(open_page("prune", **link(model, text)), "Run"), "run")
    measured = open_page("compare", **{**first.query_params, "eval_windows": "3"})
    measured = finish(click(measured, "Measure perplexity"), "measure")
    assert len(charts(measured)) == 2
    both = {**link(retokenized, text), "runs": first.query_params["runs"]}
    second = finish(click(open_page("prune", **both), "Run"), "run")
    then = {"eval_windows": "3", "measure": measured.query_params["measure"]}
    compared = open_page("compare", **{**second.query_params, **then})
    assert "None of the chosen models was measured" in shown(compared, "info")
    assert not charts(compared)


def test_a_model_whose_files_changed_says_so(retokenized, text, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(retokenized.folder, folder)
    at = open_page("prune", **link(rcpu.load_model(str(folder), device="cpu"), text))
    assert not at.warning
    assert tiles(at)
    (folder / "tokenizer_config.json").write_text("{}")
    assert "have changed since it was loaded" in shown(open_page("prune", **at.query_params), "warning")
