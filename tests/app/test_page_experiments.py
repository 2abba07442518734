"""Experiments: empty, ready and bad input; what is drawn is what the store has."""

import json

import pytest

from app import kept
from app.shared import jobs, models
from rcpu.runs import STUDIES, gathered, open_store
from tests.pages import charts, click, finish, numbers, open_page, texts

QUICK = {"samples": 6, "window": 16, "held_out": 2, "study_ratios": "0.3", "study_limit": 8}


@pytest.fixture(autouse=True)
def _own_store(home):
    """A store that no other test writes."""


@pytest.fixture
def loaded(model, text_file) -> dict[str, str]:
    """Settings of a link to a loaded tiny model."""
    models().put((str(model.folder), "cpu", "fp32"), model)
    where = {"model": str(model.folder), "device": "cpu", "dtype": "fp32"}
    return {**where, "text": str(text_file), "eval_text": str(text_file), **QUICK}


def verdicts(at) -> str:
    return "".join(e.proto.body for e in at.get("html") if "<table class=" in e.proto.body)


def test_without_a_model_and_runs_it_says_what_to_do():
    at = open_page("experiments")
    assert not [b for b in at.button if b.label == "Run the study"]
    assert "Nothing of this study has been run here" in texts(at, "markdown")
    assert "python -m rcpu study table3" in texts(at, "code")
    assert "8 runs: 2 ratios, 1 seed; calibrated on 128 × 128 tokens" in texts(at, "caption")
    assert not charts(at)


def test_a_study_runs_and_is_there_after_a_restart(loaded, monkeypatch):
    at = finish(click(open_page("experiments", **loaded), "Run the study"), "experiment")
    assert "Repairing both is better than repairing o_proj alone." in verdicts(at)
    assert "<th>In print</th>" in verdicts(at)
    assert "<td>LLaMA-7B: holds</td>" in verdicts(at)
    assert "Not run: ratios 10 %, 20 %; seeds 1, 2" in texts(at, "caption").replace("\\", "")
    assert "stands in the calibration text" in texts(at, "warning")
    (figure,) = charts(at)
    names = [trace["name"] for trace in figure["data"]]
    assert names[:6] == ["dense", "nothing", "o_proj", "down_proj", "both", "LLaMA-7B, published"]
    assert "÷ dense" in figure["layout"]["yaxis"]["title"]["text"]
    at.toggle(key="set_study_relative").set_value(False).run()
    (figure,) = charts(at)
    (found,) = gathered(open_store(), "table3")
    dense = found.dense.answers["perplexity"]["answer"]["perplexity"]
    assert next(t["y"][0] for t in figure["data"] if t["name"] == "dense") == pytest.approx(dense)
    assert at.query_params["study_relative"] == "0"
    later = open_page("experiments", **{k: v for k, v in loaded.items() if k not in ("model", "text", "eval_text")})
    assert "Repairing both" in verdicts(later)
    assert numbers(later, "study-perplexity")["Compensated"].tolist() == [
        "dense",
        "nothing",
        "o_proj",
        "down_proj",
        "both",
    ]


def test_a_running_study_is_watched_and_cancelled(loaded):
    import threading

    hold = threading.Event()
    jobs().submit("other", "in the way", lambda job: hold.wait(30))
    at = click(open_page("experiments", **loaded), "Run the study")
    job = jobs().get(at.session_state["settings"].experiment)
    assert job.active
    next(b for b in at.button if b.key == f"cancel-{job.id}").click().run()
    hold.set()
    at = finish(at, "experiment")
    assert job.state == "cancelled"
    assert "cancelled after" in texts(at, "info")
    assert gathered(open_store()) == []


def test_several_quantities_and_facets(loaded):
    at = finish(click(open_page("experiments", study="geometry", **loaded), "Run the study"), "experiment")
    assert "Norms are off by" in charts(at)[0]["layout"]["yaxis"]["title"]["text"]
    at.segmented_control(key="set_study_quantity").set_value("cosine").run()
    assert "Cosine" in charts(at)[0]["layout"]["yaxis"]["title"]["text"]
    at = finish(click(open_page("experiments", study="fig2", **loaded), "Run the study"), "experiment")
    assert ["score WANDA-sp" in f["layout"]["title"]["text"] for f in charts(at)] == [True, False]


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        ({"study_ratios": "much"}, "Ratios must be numbers like 0.1,0.2,0.3; got 'much'"),
        ({"study_ratios": "1.5"}, "ratio must be at least 0 and below 1"),
        ({"study_seeds": "-1"}, "seed must not be negative"),
        ({"samples": 0}, "need at least 1 window"),
    ],
)
def test_bad_settings_are_said_and_nothing_can_be_run(loaded, bad, sentence):
    at = open_page("experiments", **{**loaded, **bad})
    assert sentence in texts(at, "error").replace("\\", "")
    assert not [b for b in at.button if b.label == "Run the study"]


def test_an_unknown_study_in_a_link_is_the_usual_one():
    at = open_page("experiments", study="table9")
    assert at.selectbox(key="set_study").value == "table3"


def test_what_goes_wrong_in_a_run_is_a_sentence(loaded):
    at = finish(
        click(open_page("experiments", **{**loaded, "eval_text": "/no/such.txt"}), "Run the study"), "experiment"
    )
    assert "no text '/no/such.txt'" in texts(at, "error").replace("\\", "")


def test_a_store_that_cannot_be_read_is_a_sentence_and_studies_last_as_long_as_the_process(home, loaded):
    kept._place.cache_clear()
    (home / "runs.sqlite").write_text("something else, and long enough to be looked at as a database" * 20)
    at = open_page("experiments", **loaded)
    assert "is not a run store" in texts(at, "warning")
    at = finish(click(at, "Run the study"), "experiment")
    assert "Repairing both" in verdicts(at)


def test_a_demo_runs_none_and_shows_nobody_elses(loaded, monkeypatch):
    finish(click(open_page("experiments", **loaded), "Run the study"), "experiment")
    monkeypatch.setenv("RCPU_DEMO", "1")
    at = open_page("experiments")
    assert "this public demo runs no studies" in texts(at, "error")
    assert not verdicts(at)
    assert not [b for b in at.button if b.label == "Run the study"]


def test_every_study_has_words_on_the_page():
    for name in STUDIES:
        at = open_page("experiments", study=name, eval_text="embedded")
        assert STUDIES[name].question.split(".")[0][:20] in texts(at, "markdown").replace("\\", "")
        json.dumps(STUDIES[name].definition)
