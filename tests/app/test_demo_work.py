"""A public host refuses what is not allowed where work is queued and texts are taken, whatever widgets offered."""

from pathlib import Path

import pytest

import rcpu
from app import measuring, shared, work
from app import texts as app_texts
from app.demo import DEMO
from app.lessons import work as lessons_work
from app.story import Evaluation
from rcpu import RcpuError, Recipe

PASSWORDS = Recipe(text="/etc/passwd", samples=4, held_out=0)
MANY = Recipe(samples=DEMO.samples + 1)
WIDE = Recipe(window=DEMO.window + 1)
ON_A_FILE = Evaluation(text="/etc/passwd")
WIDELY = Evaluation(window=DEMO.window + 1)
LONG = "x" * (DEMO.prompt_characters + 1)
ELSEWHERE = ("/some/folder", "auto", "auto")
CHOSEN = ("embedded", "auto", "auto")


@pytest.fixture
def public(monkeypatch, tmp_path):
    """A public host on which nothing may be queued."""

    def queued(*_):
        pytest.fail("it was queued")

    monkeypatch.setenv("RCPU_DEMO", "1")
    monkeypatch.delenv("RCPU_DEMO_MODELS", raising=False)
    monkeypatch.chdir(tmp_path)
    for module in (work, measuring, lessons_work):
        monkeypatch.setattr(module, "jobs", queued)


CALLS = {
    "load a folder": lambda m: work.load_model_job(ELSEWHERE),
    "prune a folder": lambda m: work.prune_job(ELSEWHERE, Recipe()),
    "prune, and measure on a file": lambda m: work.prune_job(m, Recipe(), evaluation=Evaluation(text="/etc/passwd")),
    "prune, and measure long windows": lambda m: work.prune_job(CHOSEN, Recipe(), evaluation=WIDELY),
    "prune, and continue a long prompt": lambda m: work.prune_job(m, Recipe(), evaluation=Evaluation(prompt=LONG)),
    "measure on a file": lambda m: work.collect_job(m, PASSWORDS),
    "measure many windows": lambda m: work.collect_job(m, MANY),
    "prune on a file": lambda m: work.prune_job(m, PASSWORDS),
    "prune on many windows": lambda m: work.prune_job(m, MANY),
    "save": lambda m: work.save_job(None, "kept", "compact"),
    "upload": lambda m: work.push_job(Path("kept"), "me/model", True),
    "prune layer by layer": lambda m: work.stream_job(CHOSEN, Recipe(), "kept", 4),
    "perplexity of a file": lambda m: measuring.measure_job(m.tokenizer, {}, "/etc/passwd", 128, 4),
    "perplexity of many windows": lambda m: measuring.measure_job(
        m.tokenizer, {}, "embedded", 128, DEMO.eval_windows + 1
    ),
    "perplexity of long windows": lambda m: measuring.measure_job(m.tokenizer, {}, "embedded", DEMO.window + 1, 4),
    "a long prompt": lambda m: measuring.generate_job(m.tokenizer, {}, LONG, max_new_tokens=4),
    "a long text": lambda m: measuring.generate_job(m.tokenizer, {}, "x", max_new_tokens=DEMO.new_tokens + 1),
    "many tokens to look at": lambda m: measuring.tokens_job(m.tokenizer, {"dense": None}, LONG * 3, "x"),
    "a long prompt to look at": lambda m: measuring.tokens_job(m.tokenizer, {"dense": None}, "x", LONG),
    "grow on a file": lambda m: lessons_work.growth_job(m, PASSWORDS, 0, "o_proj"),
    "grow on long windows": lambda m: lessons_work.growth_job(m, WIDE, 0, "o_proj"),
    "orders on long windows": lambda m: lessons_work.orders_job(m, WIDE, "embedded"),
    "orders on a file": lambda m: lessons_work.orders_job(m, PASSWORDS, "embedded"),
    "orders measured on a file": lambda m: lessons_work.orders_job(m, Recipe(), "/etc/passwd"),
    "an upload": lambda m: app_texts.TextStore().put("x", b"x" * (DEMO.upload_bytes + 1)),
    "a file as text": lambda m: app_texts.load_text("/etc/passwd"),
    "windows of a file": lambda m: shared.Windows().get(m, PASSWORDS),
    "windows of a file, in time": lambda m: shared.Windows().get(m, PASSWORDS, patient=True),
    "many windows at once": lambda m: shared.Windows().get(m, MANY),
}


@pytest.mark.parametrize("call", CALLS)
def test_it_is_refused_before_anything_is_queued(public, model, call):
    with pytest.raises(RcpuError, match=r"demo|this host"):
        CALLS[call](model)


def test_what_is_allowed_is_queued(public, model, monkeypatch):
    queued = []
    monkeypatch.undo()
    monkeypatch.setenv("RCPU_DEMO", "1")
    monkeypatch.setattr(work.jobs(), "submit", lambda *call, **_: queued.append(call))
    work.collect_job(model, rcpu.Recipe(samples=4))
    assert len(queued) == 1
