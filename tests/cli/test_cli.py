"""The command line in process, and once as a process that is interrupted."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import rcpu
from rcpu.cli import main
from tests import tiny

SMALL = ["--samples", "6", "--held-out", "2", "--window", "16"]


@pytest.fixture
def base(model_folder, text_file) -> dict[str, list[str]]:
    """Arguments of each command that make a quick run."""
    model, text = ["--model", str(model_folder), "--device", "cpu"], ["--text", str(text_file)]
    return {
        "prune": ["prune", *model, *text, *SMALL],
        "perplexity": ["perplexity", *model, *text, "--window", "16"],
        "generate": ["generate", *model],
    }


@pytest.mark.parametrize("shape", [[], ["--padded"]], ids=["compact", "padded"])
def test_prune_writes_a_model_and_a_record(base, tmp_path, model, capsys, shape):
    out, record = tmp_path / "out", tmp_path / "record.json"
    assert main([*base["prune"], "--ratio", "0.3", "--out", str(out), "--json", str(record), *shape]) == 0
    written, pruned = json.loads(record.read_text()), rcpu.load_model(str(out), device="cpu")
    assert written["parameters_before"] == rcpu.cost(model.net).parameters
    assert 0 < written["parameters_after"] < written["parameters_before"]
    assert rcpu.cost(pruned.net).parameters == written["parameters_before" if shape else "parameters_after"]
    assert written["seconds"] > 0
    assert written["out"] == str(out)
    assert [(s["layer"], s["site"], s["kept"], s["units"]) for s in written["sites"]] == [
        (layer, site, kept, units)
        for layer in range(3)
        for site, kept, units in (("o_proj", 12, 16), ("down_proj", 51, 72))
    ]
    assert all(0 < s["error_compensated"] < s["error_none"] < 1.5 for s in written["sites"])
    assert {p.name for p in tmp_path.iterdir()} == {"out", "record.json"}
    output = capsys.readouterr()
    assert f"saved to {out}" in output.out
    assert "parameters: 0.1 → 0.1 M" in output.out
    assert "Traceback" not in output.err


def test_prune_does_as_the_library_with_every_option(base, tmp_path, model, text_file):
    options = [
        "--seed",
        "3",
        "--ratio",
        "0.5",
        "--scorer",
        "flap",
        "--compensation",
        "least_squares",
        "--ridge",
        "auto",
    ]
    options += ["--sites", "down_proj, o_proj", "--layers", "0,2", "--unit", "kv_group", "--order", "site"]
    config = rcpu.Recipe(
        model=str(model.folder),
        text=str(text_file),
        samples=6,
        held_out=2,
        window=16,
        seed=3,
        ratio=0.5,
        scorer="flap",
        compensation="least_squares",
        ridge=None,
        sites=("down_proj", "o_proj"),
        layers=(0, 2),
        unit="kv_group",
        order="site",
        proper=True,
    )
    windows = rcpu.calibration_windows(
        rcpu.load_text(str(text_file)), model.tokenizer, samples=6, window=16, held_out=2, seed=3
    )
    assert main([*base["prune"], *options, "--proper-rotation", "--out", str(tmp_path / "out")]) == 0
    pruned = rcpu.load_model(str(tmp_path / "out"), device="cpu")
    record = json.loads((tmp_path / "out" / "rcpu_run.json").read_text())
    assert rcpu.Recipe.from_dict(record["recipe"]) == config
    assert tiny.logits(pruned.net).equal(tiny.logits(rcpu.prune(model.net, windows, config).net))


def test_a_flag_that_changes_nothing_is_told(capsys):
    flags = ["prune", "--print-recipe", "--heads-removed", "3", "--step", "0.01", "--pull", "zero"]
    assert main(flags) == 0
    pull, heads = capsys.readouterr().err.splitlines()
    assert pull == "note: --pull changes nothing: it belongs to --compensation least_squares, and that is rotation here"
    assert heads.endswith("it belongs to --allocation heads or flap_heads, and that is uniform here")


def test_help_says_what_an_option_is_to_each_method(capsys):
    with pytest.raises(SystemExit):
        main(["prune", "--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert "0: none. (default: 0.0, 0 to 1) mini-llm: Step ε (default: 0.001)" in told
    assert "svd-llm: Damping (default: 1e-06)" in told


def test_a_note_is_printed(base, tmp_path, capsys):
    assert main([*base["prune"], "--ratio", "0.1", "--out", str(tmp_path / "out")]) == 0
    assert "note: o_proj: 0.1 of 8 channels rounds down to none" in capsys.readouterr().err


def test_an_export_is_replaced_on_request(base, tmp_path, capsys):
    out = tmp_path / "out"
    assert main([*base["prune"], "--out", str(out)]) == 0
    capsys.readouterr()
    before = (out / "rcpu_run.json").read_text()
    assert main([*base["prune"], "--seed", "1", "--out", str(out)]) == 2
    assert capsys.readouterr().err == (
        f"error: {out} exists: choose another name, or allow it to be overwritten (--overwrite)\n"
    )
    assert (out / "rcpu_run.json").read_text() == before
    assert main([*base["prune"], "--seed", "1", "--out", str(out), "--overwrite"]) == 0
    assert json.loads((out / "rcpu_run.json").read_text())["recipe"]["seed"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_perplexity_is_the_librarys(base, tmp_path, model, text_file, capsys):
    file = tmp_path / "result.json"
    assert main([*base["perplexity"], "--max-windows", "9", "--json", str(file)]) == 0
    text = rcpu.load_text(str(text_file))
    windows = rcpu.evaluation_windows(text, model.tokenizer, window=16, max_windows=9)
    expected = rcpu.perplexity(model.net, windows, text="words.txt")
    assert json.loads(file.read_text()) == {
        "model": str(model.folder),
        "dtype": "fp32",
        "perplexity": pytest.approx(expected.perplexity),
        "tokens": 9 * 15,
        "window": 16,
        "windows": 9,
        "text": "words.txt",
        "digest": expected.digest,
        "interval": pytest.approx([expected.interval.low, expected.interval.high]),
    }
    assert f"{expected.perplexity:.3f}" in capsys.readouterr().out


def test_generate_prints_the_prompt_and_what_follows(base, tmp_path, model, capsys):
    file = tmp_path / "result.json"
    options = {"max_new_tokens": 7, "seed": 3, "temperature": 0.9, "top_p": 0.8}
    arguments = [part for k, v in options.items() for part in (f"--{k.replace('_', '-')}", str(v))]
    assert main([*base["generate"], "--prompt", "Once upon", *arguments, "--json", str(file)]) == 0
    expected = rcpu.generate(model.net, model.tokenizer, "Once upon", **options)
    assert capsys.readouterr().out == f"Once upon{expected.text}\n"
    written = json.loads(file.read_text())
    assert (written["text"], written["tokens"]) == (expected.text, expected.tokens)
    assert (written["prompt"], written["finished"]) == ("Once upon", expected.finished)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "arguments are required: COMMAND"),
        (["polish"], "invalid choice: 'polish'"),
        (["prune", "--name", "a", "--no-store"], "leave it out, or --no-store"),
        (["prune", "--resume", "gone"], "no run is called 'gone'"),
        (["prune", "--resume", "gone", "--no-store"], "leave out --no-store, --name and --recipe"),
        (["prune", "--target-parameters", "0.8", "--ratio", "0.2"], "leave out one of them"),
        (["prune", "--target-parameters", "0.8", "--print-recipe"], "leave out one of them"),
        (["prune", "--target-of", "cake"], "unknown target 'cake'"),
        (["prune", "--round-to", "64"], "give --out DIR, too"),
        (["prune", "--export", "stock"], "give --out DIR, too"),
        (["runs", "show", "gone"], "no run is called 'gone'"),
        (["runs", "delete", "gone"], "no run is called 'gone'"),
        (["runs", "delete"], "which runs?"),
        (["runs", "save", "gone", "--out", "{tmp}/out"], "no run is called 'gone'"),
        (["generate", "--prompt", "x", "--model", "run:gone"], "no run is called 'gone'"),
        (["generate"], "arguments are required: --prompt"),
        (["prune", "--out", "{tmp}/out", "--colour"], "unrecognized arguments: --colour"),
        (["prune", "--out", "{tmp}/out", "--ratio", "half"], "--ratio must be a number, got 'half'"),
        (["prune", "--out", "{tmp}/out", "--ratio", "1.5"], "ratio must be at least 0 and below 1"),
        (["prune", "--out", "{tmp}/out", "--ratio", "nan"], "ratio must be at least 0 and below 1"),
        (["prune", "--out", "{tmp}/out", "--samples", "0"], "need at least 1 window"),
        (["prune", "--out", "{tmp}/out", "--seed", "-1"], "seed must not be negative"),
        (["prune", "--out", "{tmp}/out", "--seed", "99999999999999999999"], "seed"),
        (["prune", "--out", "{tmp}/out", "--scorer", "best"], "unknown scorer 'best'"),
        (["prune", "--out", "{tmp}/out", "--compensation", "magic"], "unknown compensation 'magic'"),
        (["prune", "--out", "{tmp}/out", "--sites", "q_proj"], "unknown site 'q_proj'"),
        (["prune", "--out", "{tmp}/out", "--sites", ""], "unknown site ''"),
        (["prune", "--out", "{tmp}/out", "--layers", "3-1"], "layers '3-1' name none"),
        (["prune", "--out", "{tmp}/out", "--layers", "²"], "layers must be 'all' or like '0-3,7'"),
        (["prune", "--out", "{tmp}/out", "--unit", "row"], "unknown unit 'row'"),
        (["prune", "--out", "{tmp}/out", "--order", "any"], "unknown order 'any'"),
        (["prune", "--out", "{tmp}/out", "--ridge", "much"], "ridge must be a number or auto, got 'much'"),
        (["prune", "--out", "{tmp}/out", "--recipe", "cake"], "no recipe 'cake': give one of "),
        (["prune", "--out", "{tmp}/out", "--recipe", "{tmp}/file"], "expected settings with a value each"),
        (["prune", "--recipe", "{tmp}/no.yaml"], "there is no file {tmp}/no.yaml: give a YAML file, or one of 2ssp"),
        (["prune", "--recipe", "bset"], "did you mean 'best'?"),
        (["prune", "--scorer", "rcpuu"], "did you mean 'rcpu'?"),
        (["prune", "--samples", "1.5"], "--samples must be a whole number, got '1.5'"),
        (["prune", "--model", "run:nobody", "--target-parameters", "80"], "a target is the share of parameters"),
        (["prune", "--model", "run:nobody", "--round-to", "7"], "a multiple of 64 or 128: 7"),
        (["perplexity", "--model", "{tmp}", "run:nobody"], "no run is called 'nobody'"),  # before {tmp} is looked into
        (["tasks", "--model", "{tmp}", "run:nobody"], "no run is called 'nobody'"),
        (["perplexity", "--model", "run:nobody", "--window", "1"], "a window needs at least 2 tokens"),
        (["perplexity", "--model", "run:nobody", "--max-windows", "0"], "need at least one window"),
        (["study", "table3", "--seeds", "a", "--show"], "--seeds must be numbers like 0,1,2"),
        (["prune", "--out", "{tmp}/out", "--method", "cake"], "unknown method 'cake': choose one of columns"),
        (["prune", "--out", "{tmp}/out", "--text", "{tmp}/no.txt"], "no text '{tmp}/no.txt'"),
        (["prune", "--out", "{tmp}/out", "--text", "{tmp}"], "is a folder, expected a text file"),
        (["prune", "--out", "{tmp}/out", "--text", "long" * 99], "no text 'long"),
        (["prune", "--out", "{tmp}/out", "--model", "no such model"], "no model 'no such model'"),
        (["prune", "--out", "{tmp}/out", "--model", "nobody/nothing"], "cannot get 'nobody/nothing' from the hub"),
        (["prune", "--out", "{tmp}/out", "--device", "gpu"], "unknown device 'gpu'"),
        (["prune", "--out", "{tmp}/out", "--dtype", "int8"], "unknown dtype 'int8'"),
        (["prune", "--out", "{tmp}/out", "--json", "{tmp}"], "--json {tmp} is a folder, expected a file"),
        (["prune", "--out", "{tmp}/out", "--json", "{tmp}/no/x.json"], "the folder {tmp}/no does not exist"),
        (["prune", "--out", "{tmp}/out/" + "long" * 99], "long"),
        (["prune", "--out", "{tmp}/file/out"], "cannot write to {tmp}/file"),
        (["prune", "--out", "{tmp}/file", "--overwrite"], "file is not an earlier export"),
        (["perplexity", "--text", "{tmp}/file"], "file is empty"),
        (["perplexity", "--window", "x"], "invalid int value: 'x'"),
        (["generate", "--prompt", "x", "--json", "{tmp}/no/x.json"], "the folder {tmp}/no does not exist"),
    ],
)
def test_bad_input_is_one_line(base, tmp_path, capsys, arguments, message):
    (tmp_path / "file").write_text("")
    command, *rest = [a.replace("{tmp}", str(tmp_path)) for a in arguments] or [""]
    assert main([*base.get(command, [command] if command else []), *rest]) == 2
    output = capsys.readouterr()
    told = [line for line in output.err.splitlines() if "asking the hub" not in line]
    assert len(told) == 1
    assert told[0].startswith("error: ")
    assert message.replace("{tmp}", str(tmp_path)) in told[0]
    assert output.out == ""
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prune", "--out", "{tmp}/out", "--unit", "head"], "6 query heads on 2 KV heads"),
        (["prune", "--target-parameters", "1.2", "--no-store"], "a target is the share of parameters that stay"),
        (["prune", "--out", "{tmp}/out", "--layers", "2-4"], "layer 4 does not exist: this model has layers 0 to 2"),
        (["prune", "--out", "{tmp}/out", "--samples", "9999"], "too little text: words.txt has 12,000 tokens"),
        (["prune", "--out", "{tmp}/out", "--window", "400"], "window of 400 tokens is longer than the model's 256"),
        (
            ["prune", "--out", "{tmp}/out", "--compensation", "least_squares", "--ridge", "0", "--samples", "1"],
            "least squares is singular at λ = 0: 16 calibration tokens",
        ),
        (["perplexity", "--window", "99999"], "a window needs 99999"),
        (["perplexity", "--window", "400"], "window of 400 tokens is longer than the model's 256"),
        (["perplexity", "--max-windows", "0"], "need at least one window"),
        (["generate", "--prompt", ""], "the prompt is empty"),
        (["generate", "--prompt", "x", "--temperature", "-1"], "need a finite temperature ≥ 0"),
        (["generate", "--prompt", "x", "--temperature", "nan"], "need a finite temperature ≥ 0"),
        (["generate", "--prompt", "x", "--max-new-tokens", "999"], "999 are to come, but the model has 256 positions"),
    ],
)
def test_bad_input_that_only_the_model_shows(base, tmp_path, capsys, arguments, message):
    command, *rest = [a.replace("{tmp}", str(tmp_path)) for a in arguments]
    assert main([*base[command], *rest]) == 2
    *before, last = [line for line in capsys.readouterr().err.splitlines() if line]
    assert last.startswith("error: ")
    assert message in last
    assert all("ing weights" in line for line in before)
    assert not list(tmp_path.iterdir())


def test_a_tokenizer_of_another_model_is_noticed(text_file, tmp_path, capsys):
    folder = tiny.save(tiny.llama(vocab_size=70, eos_token_id=None), tmp_path / "model")
    capsys.readouterr()
    assert main(["perplexity", "--model", str(folder), "--device", "cpu", "--text", str(text_file)]) == 2
    assert "error: " in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("transformers.PreTrainedModel.save_pretrained", "is kept, but not written to"),
        ("rcpu.runs.pruned.prune", "what was done is kept: go on with --resume"),
    ],
)
def test_an_interrupt_is_not_an_error(base, home, tmp_path, monkeypatch, capsys, place, told):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(place, interrupt)
    assert main([*base["prune"], "--out", str(tmp_path / "new" / "out"), "--json", str(tmp_path / "x.json")]) == 130
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("stopped; ")
    assert told in last
    assert not list(tmp_path.iterdir())


def test_flags_win_over_the_recipe(tmp_path, capsys):
    file = tmp_path / "mine.yaml"
    file.write_text("about: mine\nratio: 0.4\nseed: 5\nscorer: magnitude\noptions: {compensation: bias}\n")
    flags = ["--seed", "7", "--ridge", "auto", "--proper", "--layers", "0-2"]
    assert main(["prune", "--recipe", str(file), *flags, "--print-recipe"]) == 0
    found = rcpu.Recipe.from_yaml(capsys.readouterr().out)
    assert found == rcpu.Recipe(
        ratio=0.4, seed=7, scorer="magnitude", compensation="bias", ridge=None, proper=True, layers=(0, 1, 2)
    )


def test_a_target_of_parameters_finds_the_ratio(base, tmp_path, model, capsys):
    record = tmp_path / "record.json"
    assert main([*base["prune"], "--target-parameters", "0.8", "--no-store", "--json", str(record)]) == 0
    written = json.loads(record.read_text())
    assert "of the decoder's parameters" in capsys.readouterr().err
    wanted = rcpu.with_target(model.net, rcpu.Recipe(window=16), 0.8)
    assert written["recipe"]["ratio"] == wanted.ratio


def test_methods_and_recipes_are_listed(capsys):
    assert main(["methods"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in (*rcpu.METHODS, *rcpu.RECIPES))


def test_help_lists_every_method(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["prune", "--help"])
    assert caught.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for known in (rcpu.SCORERS, rcpu.COMPENSATORS, rcpu.UNITS, rcpu.ORDERS, rcpu.SITES):
        assert all(name in text for name in known)


@pytest.mark.parametrize("command", ["prune", "perplexity", "generate"])
def test_ctrl_c_stops_even_where_its_exception_is_lost(base, command, tmp_path, monkeypatch, capsys):
    """Python drops what is raised in a destructor; pressing once must do all the same."""

    class Lost:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)

    loaded = rcpu.runs.loaded.load_model

    def load(*arguments, **options):
        Lost()
        return loaded(*arguments, **options)

    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    monkeypatch.setattr(rcpu.runs.loaded, "load_model", load)
    before, out = signal.getsignal(signal.SIGINT), tmp_path / "out"
    more = {"prune": ["--out", str(out)], "perplexity": [], "generate": ["--prompt", "a", "--max-new-tokens", "2"]}
    assert main([*base[command], *more[command]]) == 130
    assert "stopped; " in capsys.readouterr().err
    assert not out.exists()
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_ends_a_run_without_a_trace(model_folder, tmp_path):
    text = tmp_path / "long.txt"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 9000)
    many = ["--samples", "6000", "--held-out", "0", "--window", "64", "--no-store"]  # half a minute of work
    command = ["prune", "--model", str(model_folder), "--device", "cpu", "--text", str(text), *many]
    process = subprocess.Popen(
        [sys.executable, "-m", "rcpu", *command, "--out", str(tmp_path / "new" / "out")],
        cwd=Path(rcpu.__file__).parents[1],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    alarm = threading.Timer(60, process.kill)
    alarm.start()
    try:
        told = []
        while not told or "checking weights" not in told[-1]:
            told.append(process.stderr.readline())
            assert told[-1], "".join(told)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1.5)  # the windows are drawn, and the first layer is on its way
        process.send_signal(signal.SIGINT)
        out, rest = process.communicate()
    finally:
        alarm.cancel()
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert rest.rstrip().splitlines()[-1] == "stopped; nothing was written"
    assert "Traceback" not in rest
    assert out == ""
    assert [p.name for p in tmp_path.iterdir()] == ["long.txt"]
