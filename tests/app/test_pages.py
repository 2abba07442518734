"""Each page in Streamlit's own test runner: empty, ready, and with bad input. The model is a tiny LLaMA on disk."""

import shutil

import pytest
from streamlit.testing.v1 import AppTest

import rcpu
from tests.pages import charts, click, finish, notes, open_page, texts, tiles


@pytest.fixture
def settings(model_folder, text_file) -> dict:
    return {
        "model": model_folder,
        "text": text_file,
        "eval_text": text_file,
        "samples": 8,
        "window": 16,
        "held_out": 2,
        "ratio": 0.5,
        "eval_window": 16,
        "eval_windows": 4,
        "tokens": 6,
        "prompt": "abc",
    }


@pytest.fixture
def loaded(settings) -> dict:
    at = open_page(**settings)
    if any(b.label == "Load model" and not b.disabled for b in at.button):
        finish(click(at, "Load model"), "load")
    return settings


@pytest.fixture
def pruned(loaded) -> AppTest:
    return finish(click(open_page("prune", **loaded), "Run"), "run")


@pytest.fixture
def with_run(pruned) -> dict:
    """The URL of a session with a finished run."""
    return dict(pruned.query_params)


def test_model_page_is_empty_then_ready_then_unloaded(settings):
    at = open_page(**{**settings, "dtype": "bf16"})
    assert "No model is loaded yet" in texts(at, "markdown")
    finish(click(at, "Load model"), "load")
    found = tiles(at)
    assert found["Layers"] == "3"
    assert found["Query / KV heads"] == "6 / 2"
    assert "bf16" in str(at.dataframe[0].value)
    click(at, "Unload")
    assert "No model is loaded yet" in texts(at, "markdown")


def test_model_page_says_what_is_wrong_with_a_model():
    at = finish(click(open_page(model="/no/such/folder"), "Load model"), "load")
    assert "no model '/no/such/folder'" in texts(at, "error")
    assert "Traceback" not in texts(at, "error")


def test_model_page_lives_with_a_model_that_cannot_be_read(model_folder, tmp_path, modes_hold):
    folder = shutil.copytree(model_folder, tmp_path / "model")
    (folder / "config.json").chmod(0)
    at = open_page(model=str(folder))
    assert f"cannot read {folder}/config.json: permission denied" in texts(at, "error").replace("\\", "")
    (folder / "config.json").chmod(0o644)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").mkdir()
    at = finish(click(open_page(model=str(folder)), "Load model"), "load")
    assert "model.safetensors: is a directory" in texts(at, "error").replace("\\", "")
    folder.chmod(0)
    assert "permission denied" in texts(open_page(model=str(folder)), "error")
    folder.chmod(0o755)
    folder.parent.chmod(0)
    assert "permission denied" in texts(open_page(model=str(folder)), "error")
    folder.parent.chmod(0o755)


@pytest.mark.parametrize("page", ["prune", "compare"])
def test_pages_without_a_model_point_to_the_way_there(page):
    at = open_page(page, model="/nothing/loaded")
    assert not tiles(at)
    assert any("#### " in m.value for m in at.markdown)


def test_prune_page_says_what_will_go_before_it_runs(loaded):
    at = open_page("prune", **loaded)
    found = {label: (value, notes(at)[label]) for label, value in tiles(at).items()}
    assert found["o_proj, all layers"] == ("−24", "of 48 value channels")
    assert found["down_proj, all layers"] == ("−108", "of 216 channels")
    assert "It can be exported as compact, padded; not as stock: layer 0 has values 4 wide" in texts(at, "caption")
    before = found["Parameters after"]
    at.slider[0].set_value(0.0).run()
    assert tiles(at)["Parameters after"] != before


@pytest.mark.parametrize(
    ("setting", "value", "words", "what", "kept"),
    [
        ("layers", "0-9", "layer 9 does not exist", "what is pruned and how", "samples"),
        ("layers", "first", "layers must be", "what is pruned and how", "samples"),
        ("unit", "head", "unit 'head' needs one KV head", "what is pruned and how", "samples"),
        ("window", 100_000, "window", "the windows", "ratio"),
    ],
)
def test_prune_page_refuses_bad_settings_before_it_runs_and_sets_them_back(loaded, setting, value, words, what, kept):
    at = open_page("prune", **{**loaded, setting: value})
    assert words in texts(at, "error")
    assert not any(b.label == "Run" for b in at.button)
    at = click(at, f"Set back {what}")
    assert not at.error
    assert any(b.label == "Run" for b in at.button)
    assert at.query_params[kept] == str(loaded[kept]), "what was not wrong stays as it was chosen"


def test_prune_page_warns_of_a_ratio_that_removes_nothing(loaded):
    at = open_page("prune", **{**loaded, "unit": "kv_group", "ratio": 0.3})
    assert "rounds down to none" in texts(at, "warning")


def test_prune_page_reports_too_little_text_with_the_counts(loaded):
    at = finish(click(open_page("prune", **{**loaded, "samples": 4000}), "Run"), "run")
    assert "too little text" in texts(at, "error")
    assert "64,032" in texts(at, "error")


def test_a_run_shows_its_figures_for_every_site_and_is_found_again(pruned, loaded):
    at = pruned
    assert len(charts(at)) == 6
    assert "all layers, 50% by RCPU, Rotation (RCPU)" in texts(at, "caption")
    at.segmented_control(key="set_site").set_value("down_proj").run()
    assert not at.exception
    assert len(charts(at)) == 6
    again = open_page("prune", **{**dict(at.query_params)})
    assert len(charts(again)) == 6
    assert not texts(again, "info")
    at.slider[0].set_value(0.25).run()
    assert "have changed since this run" in texts(at, "info")


def test_settings_are_in_the_url_and_a_link_brings_them_back(loaded):
    at = open_page("prune", **loaded)
    at.selectbox(key="set_scorer").select("flap").run()
    assert at.query_params["scorer"] == "flap"
    assert at.query_params["ratio"] == "0.5"
    assert "order" not in at.query_params, "defaults stay out of the URL"
    other = open_page("prune", **dict(at.query_params))
    assert other.selectbox(key="set_scorer").value == "flap"


def test_unreadable_values_in_a_link_fall_back_to_defaults(loaded):
    wrong = {"seed": "x", "scorer": "best", "compensation": "glue", "ratio": "7", "sites": "q_proj"}
    at = open_page("prune", **{**loaded, **wrong})
    assert at.selectbox(key="set_scorer").value == "rcpu"
    assert at.selectbox(key="set_compensation").value == "rotation"
    assert at.slider[0].value == 0.2
    said = " ".join(toast.value for toast in open_page("model", **wrong).toast).replace("\\", "")
    assert all(f"asks for {name}={value}, which cannot be used" in said for name, value in wrong.items())


def test_layers_picked_on_the_map_are_in_the_link(loaded):
    at = open_page("prune", **loaded, picked="0,2,99")
    at.number_input(key="set_picked_ratio").set_value(0.25).run()
    assert at.query_params["picked_ratio"] == "0.25"
    click(at, "Give them this ratio")
    assert at.query_params["ratios"] == "0=0.25,2=0.25"
    assert "picked" not in at.query_params
    at = open_page("prune", **loaded, picked="1-x")
    assert "layers must be" in texts(at, "error")
    assert any(b.label == "Run" for b in at.button)


def test_a_run_that_is_gone_is_said(loaded):
    assert "A run that this link names cannot be opened" in texts(
        open_page("compare", **loaded, runs="nothing"), "error"
    )


def test_compare_measures_generates_and_looks_at_tokens_for_every_model(with_run):
    at = open_page("compare", **with_run)
    assert len(tiles(at)) == 3
    finish(click(at, "Measure perplexity"), "measure")
    table = at.dataframe[0].value
    assert list(table["model"]) == ["dense", "rotation 50% rcpu, not repaired", "rotation 50% rcpu"]
    assert table["more than dense"][0] == ""
    assert table["more than dense"][2].endswith("]%")
    assert (table["perplexity"] > 1).all()
    finish(click(at, "Generate"), "generate")
    assert texts(at, "caption").count("tokens/s") == 3
    finish(click(at, "Look at the tokens"), "view_tokens")
    assert len(charts(at)) == 3  # perplexity, by position, next token
    shown = "".join(h.body for h in at.get("html"))
    assert "KL from the reference" in shown
    at.segmented_control(key="set_colour").set_value("divergence").run()
    assert not at.exception
    assert "KL divergence in nats" in "".join(h.body for h in at.get("html"))
    assert at.query_params["colour"] == "divergence"


def test_results_say_what_they_are_of_when_settings_have_moved_on(with_run):
    at = open_page("compare", **with_run)
    for label, kind in (
        ("Measure perplexity", "measure"),
        ("Generate", "generate"),
        ("Look at the tokens", "view_tokens"),
    ):
        finish(click(at, label), kind)
    assert "have changed" not in texts(at, "info")
    at.number_input(key="set_eval_windows").set_value(3).run()
    assert "measured on" in texts(at, "info")
    assert "at most 4 windows of 16 tokens" in texts(at, "info")
    at.text_area(key="set_prompt").set_value("*another*").run()
    said = texts(at, "info").replace("\\", "")
    assert "the continuation of “abc” with max new tokens 6, temperature 0, top p 1, seed 0" in said
    assert "of the token after “abc”" in said


def test_several_texts_are_measured_at_once_and_leaks_are_said(with_run):
    at = open_page("compare", **with_run, eval_more="held-out,embedded")
    finish(click(at, "Measure perplexity"), "measure")
    table = at.dataframe[0].value
    assert list(table["text"].unique()) == [
        "words.txt",
        "words.txt, held out",
        rcpu.load_text("embedded").name,
    ]
    assert len(table) == 9
    assert all(" – " in interval for interval in table["95% interval"])
    assert all(gap == "" or gap.endswith("%") for gap in table["more than dense"])
    assert len(charts(at)) == 3
    (said,) = [w for w in at.warning if "stands in the calibration text" in w.value]
    assert said.value.startswith("100% of words.txt")
    at.multiselect(key="set_eval_more").set_value(["held-out"]).run()
    assert at.query_params["eval_more"] == "held-out"
    assert "measured on" in texts(at, "info")


def test_models_without_a_text_and_runs_that_are_gone_are_said(with_run):
    at = open_page("compare", **with_run)
    at.multiselect(key="set_compare").set_value(["dense"]).run()
    finish(click(at, "Generate"), "generate")
    assert "Not every chosen model" not in texts(at, "info")
    at.multiselect(key="set_compare").set_value(at.multiselect(key="set_compare").options[:2]).run()
    assert "Not every chosen model wrote a text" in texts(at, "info")
    link = {**dict(at.query_params), "runs": f"gone,{with_run['runs']}"}
    assert "A run that this link names cannot be opened" in texts(open_page("compare", **link), "error")


def test_what_a_model_writes_is_never_markup(with_run, monkeypatch):
    made = rcpu.Generated("<script>alert(1)</script> **bold**", 5, 1.0, 5.0, True)
    monkeypatch.setattr(rcpu, "stream", lambda *_, **__: iter([made]))
    at = finish(click(open_page("compare", **with_run), "Generate"), "generate")
    shown = "".join(h.body for h in at.get("html"))
    assert "&lt;script&gt;" in shown
    assert "<script" not in shown
    assert "**bold**" not in texts(at, "markdown")


def test_compare_takes_other_models_and_keeps_them_in_the_url(with_run):
    at = open_page("compare", **with_run)
    everything = at.multiselect(key="set_compare").value
    assert len(everything) == 3
    at.multiselect(key="set_compare").set_value(["dense"]).run()
    assert at.query_params["compare"] == "dense"
    assert len(tiles(at)) == 1
    at.multiselect(key="set_compare").set_value([]).run()
    assert not at.exception
    assert "Choose at least one model" in texts(at, "info")
    at.multiselect(key="set_compare").set_value(everything).run()
    assert "compare" not in at.query_params, "what is usual needs no word in the link"


def test_a_prompt_can_be_picked(with_run):
    at = open_page("compare", **with_run)
    next(b for b in at.selectbox if b.label == "Prompts").select_index(1).run()
    assert at.text_area(key="set_prompt").value == "The sea is salty because"


@pytest.mark.parametrize(
    ("changes", "button", "kind", "words"),
    [
        ({"eval_text": "/no/such/file"}, "Measure perplexity", "measure", "no text '/no/such/file'"),
        ({"eval_window": 4096}, "Measure perplexity", "measure", "positions"),
        ({"prompt": ""}, "Generate", "generate", "the prompt is empty"),
        ({"tokens": 1024}, "Generate", "generate", "positions"),
        ({"probe": ""}, "Look at the tokens", "view_tokens", "the text is empty"),
    ],
)
def test_compare_says_what_is_wrong(with_run, changes, button, kind, words):
    at = open_page("compare", **{**with_run, **changes})
    finish(click(at, button), kind)
    assert words in texts(at, "error")


def test_a_pruned_model_is_saved_and_never_over_something(with_run, tmp_path):
    at = open_page("compare", **with_run)
    at.text_input[-1].set_value(str(tmp_path / "kept")).run()
    at.selectbox(key="set_shape").set_value("padded").run()
    assert all(f":green-badge[{name}]" in texts(at, "markdown") for name in ("vLLM", "llama.cpp", "transformers 4"))
    link = dict(at.query_params)
    at = open_page("compare", **link)
    assert at.selectbox(key="set_shape").value == "padded"
    at.selectbox(key="set_shape").set_value("stock").run()
    assert "Not as stock: layer 0 has values" in texts(at, "caption")
    assert next(b for b in at.button if b.label == "Save").disabled
    at.selectbox(key="set_shape").set_value("compact").run()
    assert "vLLM: its layers differ in size" in texts(at, "markdown")
    finish(click(at, "Save"), "save")
    assert "Saved to" in texts(at, "success")
    assert rcpu.load_model(str(tmp_path / "kept"), "cpu").net.config.model_type == "rcpu_compact_llama"
    click(at, "Save")
    assert "exists" in texts(at, "error")
    assert not texts(at, "success")


def test_runs_have_names_and_are_forgotten(with_run):
    at = open_page("prune", **with_run)
    at.text_input(key="set_name").set_value("my run").run()
    finish(click(at, "Run"), "run")
    assert list(at.dataframe[0].value["run"]) == ["rotation 50% rcpu", "my run"]
    compare = open_page("compare", **dict(at.query_params))
    assert "my run, not repaired" in compare.multiselect(key="set_compare").options
    finish(click(at, "Run"), "run")  # once more, under the name of the first
    compare = open_page("compare", **dict(at.query_params))
    assert "rotation 50% rcpu (2)" in compare.multiselect(key="set_compare").options
    for left in (["rotation 50% rcpu", "my run"], ["rotation 50% rcpu"]):
        click(at, "Forget")
        assert list(at.dataframe[0].value["run"]) == left
    click(at, "Forget")
    assert not at.dataframe
    assert not texts(at.run(), "info")
    assert "run" not in at.query_params


def test_layers_can_have_ratios_of_their_own(loaded):
    at = open_page("prune", **{**loaded, "ratios": "1=0"})
    found = tiles(at)
    assert found["down_proj, all layers"] == "−72"
    few = tiles(open_page("prune", **{**loaded, "layers": "1"}))
    assert few["down_proj, 1 layer"] == "−36"
    assert "layers must be" in texts(open_page("prune", **{**loaded, "layers": "x"}), "error")
    assert "ratios of single layers" in texts(open_page("prune", **{**loaded, "ratios": "x"}), "error")


def test_jobs_are_shown_on_every_page(with_run):
    at = open_page("model", **with_run)
    labels = [link.label for link in at.sidebar.get("page_link")]
    assert any(label.startswith("Done") and "Prune" in label for label in labels)


def test_two_sessions_share_the_model_and_not_their_settings(loaded):
    one, two = open_page("prune", **loaded), open_page("prune", **loaded)
    one.slider[0].set_value(0.75).run()
    two.run()
    assert two.slider[0].value == 0.5
    assert len(tiles(one)) == len(tiles(two)) == 5


@pytest.mark.parametrize("value", ["nan", "inf", "many", ""])
def test_a_number_that_is_none_in_a_link_leaves_the_default(value):
    at = open_page("model", ratio=value, samples=value)
    assert at.session_state["settings"].ratio == 0.2
    assert at.session_state["settings"].samples == 128
    assert "ratio" not in at.query_params
    assert [toast.value for toast in at.toast] == [
        f"The link asks for {name}={value}, which cannot be used\\: it is {default} here."
        for name, default in (("samples", 128), ("ratio", 0.2))
    ]
    assert not at.run().toast  # said once


@pytest.mark.parametrize(("value", "proper", "said"), [("1", True, 0), ("0", False, 0), ("true", False, 1)])
def test_a_switch_in_a_link_is_one_or_zero(value, proper, said):
    at = open_page("model", proper=value)
    assert at.session_state["settings"].proper == proper
    assert len(at.toast) == said


def test_what_a_link_says_is_not_read_as_markdown():
    (toast,) = open_page("model", ratio="**[x](y)").toast
    assert "\\*\\*\\[x\\](y)" in toast.value


@pytest.mark.parametrize("method", [name for name, method in rcpu.METHODS.items() if method.run])
def test_a_method_that_has_no_sites_is_planned_run_and_compared(method, loaded):
    at = open_page("prune", **{**loaded, "method": method, "ratio": 0.25})
    assert "Parameters after" in tiles(at)
    at = finish(click(at, "Run"), "run")
    assert rcpu.METHODS[method].label in texts(at, "caption")
    at = open_page("compare", **dict(at.query_params))
    finish(click(at, "Measure perplexity"), "measure")
    assert len(at.dataframe[0].value) == 2
    assert not at.error


def test_a_model_that_does_not_fit_is_offered_as_a_stream(settings, tmp_path, monkeypatch):
    monkeypatch.setattr("rcpu.models.loading.free_memory", lambda _: 1000)
    name, folder = settings["model"], tmp_path / "pruned"
    at = open_page("model", **settings, device="cpu", folder=folder)
    assert "it does not fit" in texts(at, "markdown")
    for told in ("a layer at a time", "of memory", "of disk", "How long it takes is told"):
        assert told in texts(at, "info")
    assert f"python -m rcpu prune --model {name} --stream --out pruned" in texts(at, "code")
    at = finish(click(at, "Prune it layer by layer"), "stream")
    assert f"Saved to {folder}: perplexity" in texts(at, "success").replace("\\", "")
    monkeypatch.undo()
    dense, pruned = (rcpu.load_model(str(f), "cpu").net for f in (name, folder))
    assert rcpu.cost(pruned).parameters < rcpu.cost(dense).parameters
    again = finish(
        click(open_page("model", **settings, device="cpu", dtype="fp16", folder=folder), "Load model"), "load"
    )
    assert not any(b.label == "Prune it layer by layer" for b in again.button), "it fits"


def test_an_export_is_shown_before_it_is_uploaded(with_run, tmp_path, monkeypatch):
    sent = {}

    class Api:
        def create_repo(self, repo, **options):
            sent["repo"] = repo, options

        def upload_folder(self, **options):
            sent.update(options)
            return type("Done", (), {"commit_url": "https://hub/commit"})

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    folder = tmp_path / "out"
    at = open_page("compare", **with_run, folder=folder)
    assert not any(b.label == "Upload" for b in at.button)
    at = finish(click(at, "Save"), "save")
    assert "95 % interval" in (folder / "README.md").read_text()
    (folder / "diary.txt").write_text("mine")
    at.session_state["dry-run"] = True
    at.run()
    files = next(d.value for d in at.dataframe if "file" in d.value)["file"].tolist()
    assert (
        {"README.md", "config.json", "model.safetensors"}
        < set(files)
        == {p.name for p in folder.iterdir()} - {"diary.txt"}
    )
    assert "# " in texts(at, "code")
    assert next(b for b in at.button if b.label == "Upload").disabled
    at.text_input(key="set_repository").set_value("no-owner").run()
    assert "give OWNER/NAME" in texts(click(at, "Upload"), "error")
    at.text_input(key="set_repository").set_value("me/model").run()
    at = finish(click(at, "Upload"), "push")
    assert "cannot reach the hub" in texts(at, "error").replace("\\", "")
    assert not sent
    monkeypatch.setattr("rcpu.compact.uploading.unreachable", lambda: "")
    at = finish(click(at, "Upload"), "push")
    assert "It is at https" in texts(at, "success").replace("\\", "")
    assert sent["repo"] == ("me/model", {"private": False, "exist_ok": True})
    assert sorted(sent["allow_patterns"]) == sorted(files)
