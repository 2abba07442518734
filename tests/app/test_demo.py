"""What a public host allows: the listed and the small pass, and nothing else, however it is spelled."""

from dataclasses import fields
from pathlib import Path

import pytest

from app import demo
from app.demo import DEMO, OPEN, limits
from app.settings import Settings
from rcpu import RcpuError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def public(monkeypatch, tmp_path):
    """A public host, in a folder of its own."""
    monkeypatch.setenv("RCPU_DEMO", "1")
    monkeypatch.delenv("RCPU_DEMO_MODELS", raising=False)
    monkeypatch.chdir(tmp_path)
    return monkeypatch


@pytest.fixture
def own(monkeypatch):
    """A person's own machine."""
    monkeypatch.delenv("RCPU_DEMO", raising=False)
    return monkeypatch


def refused(check, *arguments) -> str:
    with pytest.raises(RcpuError) as caught:
        check(*arguments)
    return str(caught.value)


@pytest.mark.parametrize(("switch", "expected"), [(None, OPEN), ("", OPEN), ("0", OPEN), ("1", DEMO), (" 1 ", DEMO)])
def test_the_switch(own, switch, expected):
    if switch is not None:
        own.setenv("RCPU_DEMO", switch)
    assert limits() == expected


@pytest.mark.parametrize("switch", ["true", "yes", "2", "on", "False"])
def test_an_unclear_switch_is_an_error_and_never_an_open_host(own, switch):
    own.setenv("RCPU_DEMO", switch)
    assert f"RCPU_DEMO is '{switch}'" in refused(limits)
    for check, arguments in ((demo.check_model, ["x"]), (demo.check_text, ["x"]), (demo.check_saving, [])):
        assert "RCPU_DEMO" in refused(check, *arguments)


def test_listed_models_are_offered_once_each_and_no_others(public):
    public.setenv("RCPU_DEMO_MODELS", " owner/a, embedded,owner/a ,")
    assert limits().models == ("owner/a", "embedded")
    assert limits().samples == DEMO.samples
    demo.check_model("owner/a")
    demo.check_model("embedded")
    assert "choose one of owner/a, embedded" in refused(demo.check_model, "owner/b")


@pytest.mark.parametrize(
    "listed", ["", " , ", "tiny", "/models/a", "../models", "a/..", "./a", "~/a", "a/b/c", "a b/c"]
)
def test_a_list_of_models_that_holds_none_or_a_path_is_an_error_at_the_start(public, listed):
    public.setenv("RCPU_DEMO_MODELS", f"embedded,{listed}" if listed.strip(" ,") else listed)
    assert "RCPU_DEMO_MODELS" in refused(limits)


def test_a_listed_model_that_is_a_folder_is_refused_at_the_start_and_whenever_it_appears(public, tmp_path):
    public.setenv("RCPU_DEMO_MODELS", "owner/a")
    demo.check_model("owner/a")
    (tmp_path / "owner" / "a").mkdir(parents=True)
    assert "'owner/a' is a file or folder" in refused(limits)
    assert "'owner/a' is a file or folder" in refused(demo.check_model, "owner/a")


@pytest.mark.parametrize(
    "name", ["", ".", "..", "/", "/etc", "~", "embedded/", "./embedded", "embedded ", "EMBEDDED", "owner/a", "a\0b"]
)
def test_other_models_are_refused(public, name):
    assert "is not offered by this public demo: choose one of embedded" in refused(demo.check_model, name)


@pytest.mark.parametrize(("device", "dtype"), [("cpu", "auto"), ("cuda:0", "auto"), ("auto", "fp32")])
def test_a_demo_loads_one_copy_of_a_model(public, device, dtype):
    assert "loads each model once" in refused(demo.check_model, "embedded", device, dtype)


@pytest.mark.parametrize("name", ["embedded", "wikitext2", "upload:0123abcd", "upload:a text.txt"])
def test_offered_texts_pass(public, name):
    demo.check_text(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/etc/passwd",
        "notes.txt",
        "owner/set",
        "owner/set:configuration",
        "embedded/../notes.txt",
        "~/notes.txt",
        "upload:",
        "upload:../notes.txt",
        "upload:/etc/passwd",
        "upload:..\\notes.txt",
        "upload:a\0",
        " upload:a",
    ],
)
def test_other_texts_are_refused(public, tmp_path, name):
    (tmp_path / "notes.txt").write_text("secret")
    (tmp_path / "upload:..").mkdir()
    refused(demo.check_text, name)


@pytest.mark.parametrize("name", ["wikitext2", "upload:a"])
def test_an_offered_text_that_is_a_file_is_refused(public, tmp_path, name):
    demo.check_text(name)
    (tmp_path / name).write_text("secret")
    assert "is a file or folder of this host" in refused(demo.check_text, name)


def test_embedded_stays_offered_where_a_folder_has_its_name(public, tmp_path):
    (tmp_path / "embedded").mkdir()
    demo.check_model("embedded")
    demo.check_text("embedded")


CAPS = [
    (lambda n: demo.check_calibration(n, 2, 0), "samples"),
    (lambda n: demo.check_calibration(1, n, 0), "window"),
    (lambda n: demo.check_calibration(1, 2, n), "held_out"),
    (lambda n: demo.check_evaluation(n, 2), "eval_windows"),
    (lambda n: demo.check_tasks((), "", n), "task_items"),
    (lambda n: demo.check_evaluation(1, n), "window"),
    (lambda n: demo.check_generation("a", n), "new_tokens"),
    (lambda n: demo.check_generation("é" * n, 1), "prompt_characters"),
    (lambda n: demo.check_shown("é" * n), "text_characters"),
    (demo.check_upload, "upload_bytes"),
]


@pytest.mark.parametrize("host", ["public", "own"])
@pytest.mark.parametrize(("check", "field"), CAPS)
def test_the_largest_passes_and_one_more_is_refused_with_both_numbers(request, host, check, field):
    request.getfixturevalue(host)
    most = getattr(limits(), field)
    check(most)
    said = refused(check, most + 1)
    assert f"{most + 1:,} " in said
    assert f"allows {most:,}: ask for less" in said
    assert ("public demo" in said) == (host == "public")


def test_every_number_is_smaller_in_a_demo_but_for_the_runs_that_are_kept():
    numbers = [f.name for f in fields(OPEN) if type(getattr(OPEN, f.name)) is int]
    assert [n for n in numbers if getattr(DEMO, n) >= getattr(OPEN, n)] == ["runs"]


def test_what_the_app_starts_with_passes_in_a_demo(public):
    s = Settings()
    demo.check_model(s.model, s.device, s.dtype)
    demo.check_text(s.text)
    demo.check_text(s.eval_text)
    demo.check_calibration(s.samples, s.window, s.held_out)
    demo.check_evaluation(s.eval_windows, s.eval_window)
    demo.check_tasks(s.tasks.split(","), s.tasks_folder, s.task_items)
    demo.check_generation(s.prompt, s.tokens)


def test_a_demo_saves_nothing(public):
    assert "saves no models" in refused(demo.check_saving)


def test_a_persons_own_machine_takes_any_model_and_text_and_saves(own):
    demo.check_model("/any/where", "cpu", "fp32")
    demo.check_text("/any/where.txt")
    demo.check_saving()


def test_a_novel_in_a_link_is_not_repeated(public):
    for check in (demo.check_model, demo.check_text):
        assert len(refused(check, "x" * 100_000)) < 300


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ("calibration windows", "samples"),
        ("tokens a window", "window"),
        ("held-out windows", "held_out"),
        ("evaluation windows", "eval_windows"),
        ("new tokens", "new_tokens"),
        ("characters in the prompt", "prompt_characters"),
        ("items a task", "task_items"),
        ("characters shown token by token", "text_characters"),
        ("bytes in an upload", "upload_bytes"),
        ("waiting jobs", "waiting"),
        ("finished prunings in memory", "runs"),
    ],
)
def test_the_readme_tells_the_caps(row, field):
    assert f"| {row} | {getattr(DEMO, field):,} | {getattr(OPEN, field):,} |" in (ROOT / "README.md").read_text("utf-8")
