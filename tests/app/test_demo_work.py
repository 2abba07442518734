"""A public host refuses what is not allowed where work is queued and texts are taken, whatever widgets offered."""

import pytest

import rcpu
from app import shared, work
from app.demo import DEMO
from app.lessons import work as lessons_work
from rcpu import RcpuError, Recipe

PASSWORDS = Recipe(text="/etc/passwd", samples=4, held_out=0)
MANY = Recipe(samples=DEMO.samples + 1)
WIDE = Recipe(window=DEMO.window + 1)
LONG = "x" * (DEMO.prompt_characters + 1)
ELSEWHERE = ("/some/folder", "auto", "auto")
CHOSEN = ("embedded", "auto", "auto")


class Patient(shared.Windows):
    """Takes every file for one that a page does not wait for."""

    INLINE = 0


@pytest.fixture
def public(monkeypatch, tmp_path):
    """A public host on which nothing may be queued."""

    def queued(*_):
        pytest.fail("it was queued")

    monkeypatch.setenv("RCPU_DEMO", "1")
    monkeypatch.delenv("RCPU_DEMO_MODELS", raising=False)
    monkeypatch.chdir(tmp_path)
    for module in (work, lessons_work):
        monkeypatch.setattr(module, "jobs", queued)


CALLS = {
    "load a folder": lambda m: work.load_model_job(ELSEWHERE),
    "prepare a folder": lambda m: lessons_work.prepare_job(ELSEWHERE, Recipe()),
    "prepare on a file": lambda m: lessons_work.prepare_job(CHOSEN, PASSWORDS),
    "prepare on many windows": lambda m: lessons_work.prepare_job(CHOSEN, MANY),
    "measure on a file": lambda m: work.collect_job(m, PASSWORDS),
    "measure many windows": lambda m: work.collect_job(m, MANY),
    "prune on a file": lambda m: work.prune_job(m, PASSWORDS),
    "prune on many windows": lambda m: work.prune_job(m, MANY),
    "save": lambda m: work.save_job(None, "kept", padded=False),
    "perplexity of a file": lambda m: work.measure_job(m.tokenizer, {}, "/etc/passwd", 128, 4),
    "perplexity of many windows": lambda m: work.measure_job(m.tokenizer, {}, "embedded", 128, DEMO.eval_windows + 1),
    "perplexity of long windows": lambda m: work.measure_job(m.tokenizer, {}, "embedded", DEMO.window + 1, 4),
    "a long prompt": lambda m: work.generate_job(m.tokenizer, {}, LONG, max_new_tokens=4),
    "a long text": lambda m: work.generate_job(m.tokenizer, {}, "x", max_new_tokens=DEMO.new_tokens + 1),
    "many tokens to look at": lambda m: work.tokens_job(m.tokenizer, {"dense": None}, LONG * 3, "x"),
    "a long prompt to look at": lambda m: work.tokens_job(m.tokenizer, {"dense": None}, "x", LONG),
    "grow on a file": lambda m: lessons_work.growth_job(m, PASSWORDS, 0, "o_proj"),
    "grow on long windows": lambda m: lessons_work.growth_job(m, WIDE, 0, "o_proj"),
    "orders on long windows": lambda m: lessons_work.orders_job(m, WIDE, "embedded"),
    "orders on a file": lambda m: lessons_work.orders_job(m, PASSWORDS, "embedded"),
    "orders measured on a file": lambda m: lessons_work.orders_job(m, Recipe(), "/etc/passwd"),
    "an upload": lambda m: shared.TextStore().put("x", b"x" * (DEMO.upload_bytes + 1)),
    "a file as text": lambda m: shared.load_text("/etc/passwd"),
    "windows of a file": lambda m: shared.Windows().get(m, PASSWORDS),
    "windows of a large file": lambda m: Patient().get(m, PASSWORDS),
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
    monkeypatch.setattr(work.jobs(), "submit", lambda *call: queued.append(call))
    work.collect_job(model, rcpu.Recipe(samples=4))
    assert len(queued) == 1
