"""What terminals, pipes, disks and signals do to a command: one sentence, exit code 2, and never a result lost."""

import copy
import io
import json
import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import rcpu
from rcpu.cli import main
from rcpu.compact import export
from rcpu.runs import open_store
from tests import tiny

ROOT = Path(rcpu.__file__).parents[1]
SMALL = ["--samples", "6", "--held-out", "2", "--window", "16"]


@pytest.fixture
def commands(home, model_folder, text_file, tmp_path) -> dict[str, list[str]]:
    """Quick runs of every command that computes, each with a file for its results."""
    model, text = ["--model", str(model_folder), "--device", "cpu"], ["--text", str(text_file)]
    json_file = ["--json", str(tmp_path / "found.json")]
    return {
        "prune": ["prune", *model, *text, *SMALL, *json_file],
        "perplexity": ["perplexity", *model, *text, "--window", "16", "--max-windows", "4", *json_file],
        "generate": ["generate", *model, "--prompt", "naïve → 雪", "--max-new-tokens", "4", *json_file],
        "methods": ["methods"],
        "runs": ["runs", *json_file],
    }


def process(arguments: list[str], home: Path, **options) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RCPU_HOME": str(home), **options.pop("env", {})}
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
    return subprocess.Popen([sys.executable, "-m", "rcpu", *arguments], cwd=ROOT, env=environment, **piped)


class Closed(io.TextIOWrapper):
    """A pipe that nobody reads any more."""

    def __init__(self):
        super().__init__(io.BytesIO(), encoding="utf-8")

    def write(self, text):
        raise BrokenPipeError(32, "Broken pipe")


@pytest.mark.parametrize("name", ["prune", "perplexity", "generate", "runs"])
def test_results_are_in_their_file_before_anything_is_printed(commands, name, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", Closed())
    assert main(commands[name]) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("error: could not go on: ")
    assert told.endswith(f"; the results are in {tmp_path / 'found.json'}")
    found = json.loads((tmp_path / "found.json").read_text())
    if name == "generate":
        assert found["tokens"] == 4
        expected = rcpu.load_model(commands[name][2], "cpu")
        assert found["text"] == rcpu.generate(expected.net, expected.tokenizer, "naïve → 雪", max_new_tokens=4).text


@pytest.mark.parametrize("name", ["methods", "generate"])
def test_a_reader_that_closes_the_pipe_gets_no_traceback(commands, name, tmp_path):
    read, write = os.pipe()
    os.close(read)
    arguments = commands[name] if name == "methods" else commands[name][:-2]
    running = process(arguments, tmp_path, stdout=write)
    os.close(write)
    told = running.communicate()[1]
    assert running.returncode == 2
    assert told.splitlines()[-1].startswith("error: could not go on: ")
    assert "Traceback" not in told
    assert "Exception" not in told


def test_help_that_is_read_in_part_gets_no_traceback(tmp_path):
    read, write = os.pipe()
    os.close(read)
    running = process(["prune", "--help"], tmp_path, stdout=write)
    os.close(write)
    assert "Exception" not in running.communicate()[1]


@pytest.mark.parametrize("how", ["closed", "unread"])
def test_remarks_that_nobody_reads_stop_no_run(commands, how, tmp_path):
    if how == "closed":
        running = process(commands["perplexity"], tmp_path, stderr=None, preexec_fn=lambda: os.close(2))
    else:
        read, write = os.pipe()
        os.close(read)
        running = process(commands["perplexity"], tmp_path, stderr=write)
        os.close(write)
    out, _ = running.communicate()
    assert running.returncode == 0
    assert "words.txt" in out


def test_a_run_without_an_output_at_all(commands, tmp_path):
    running = process(commands["perplexity"], tmp_path, stdout=None, preexec_fn=lambda: os.close(1))
    running.communicate()
    assert running.returncode == 0
    assert json.loads((tmp_path / "found.json").read_text())["windows"] == 4


def test_an_output_that_is_full_is_told(commands, tmp_path):
    with open("/dev/full", "w") as full:  # noqa: PTH123 - a device
        running = process(commands["perplexity"], tmp_path, stdout=full)
        told = running.communicate()[1]
    assert running.returncode == 2
    assert "error: could not go on: no space left on device; the results are in " in told
    assert "Traceback" not in told


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
@pytest.mark.parametrize("name", ["prune", "perplexity", "generate", "methods"])
def test_terminals_that_know_few_signs(commands, name, encoding, monkeypatch):
    shown = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", shown)
    assert main(commands[name]) == 0
    shown.flush()
    text = shown.buffer.getvalue().decode(encoding)
    if name == "prune":
        assert "Relative error ||Y - Y" in text.replace("−", "-")
        assert "parameters: 0.1 -> 0.1 M" in text
    if name == "generate":
        assert text.startswith("naive -> ?" if encoding == "ascii" else "naïve -> ?")


def test_a_plain_terminal_as_a_process(commands, tmp_path):
    running = process(commands["generate"], tmp_path, env={"PYTHONIOENCODING": "ascii", "LANG": "C", "LC_ALL": "C"})
    out, told = running.communicate()
    assert running.returncode == 0, told
    assert out.startswith("naive -> ?")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("place", ["rcpu.prune", "transformers.PreTrainedModel.save_pretrained"])
def test_other_signals_are_as_ctrl_c(commands, place, number, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(place, lambda *_, **__: signal.raise_signal(number))
    before = signal.getsignal(number)
    assert main([*commands["prune"], "--no-store", "--out", str(tmp_path / "new" / "out")]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "stopped; nothing was written"
    assert signal.getsignal(number) is before
    assert not (tmp_path / "new").exists()
    assert not (tmp_path / "found.json").exists()


def test_a_signal_that_is_to_be_overlooked_is(commands, monkeypatch, tmp_path):
    """As nohup has it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        prune = rcpu.prune
        monkeypatch.setattr(rcpu, "prune", lambda *a, **k: (signal.raise_signal(signal.SIGHUP), prune(*a, **k))[1])
        assert main([*commands["prune"], "--no-store"]) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_sigterm_ends_a_run_without_a_trace(model_folder, tmp_path):
    text = tmp_path / "long.txt"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 9000)
    many = ["--samples", "6000", "--held-out", "0", "--window", "64", "--no-store", "--out", str(tmp_path / "out")]
    running = process(["prune", "--model", str(model_folder), "--text", str(text), *many], tmp_path)
    alarm = threading.Timer(60, running.kill)
    alarm.start()
    try:
        while "checking weights" not in (line := running.stderr.readline()):
            assert line
        with pytest.raises(subprocess.TimeoutExpired):
            running.wait(1.5)
        running.send_signal(signal.SIGTERM)
        _, rest = running.communicate()
    finally:
        alarm.cancel()
        running.kill()
        running.wait()
    assert running.returncode == 130
    assert rest.rstrip().splitlines()[-1] == "stopped; nothing was written"
    assert [p.name for p in tmp_path.iterdir()] == ["long.txt"]


@pytest.mark.parametrize("stored", [True, False])
def test_a_run_that_cannot_be_written_is_kept_elsewhere(commands, stored, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    exchange = export.writing

    def full(folder):
        if folder == out:
            raise rcpu.RcpuError(f"could not write {folder}: No space left on device")
        return exchange(folder)

    monkeypatch.setattr("rcpu.pruning.saving.writing", full)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert main([*commands["prune"], *([] if stored else ["--no-store"]), "--out", str(out)]) == 2
    printed = capsys.readouterr()
    told = printed.err.splitlines()[-1]
    assert told.startswith(f"error: could not write {out}: No space left on device; ")
    assert "Relative error" in printed.out
    assert json.loads((tmp_path / "found.json").read_text())["out"] is None
    if stored:
        (run,) = open_store().runs()
        assert f"`python -m rcpu runs save {run.id} --out DIR`" in told
        assert main(["runs", "save", run.id, "--device", "cpu", "--out", str(tmp_path / "there")]) == 0
        assert rcpu.load_model(str(tmp_path / "there"), "cpu")
    else:
        place = told.split(" it is in ")[1].removesuffix(" instead")
        assert rcpu.load_model(place, "cpu")


def test_room_is_looked_for_before_a_run(commands, tmp_path, monkeypatch, capsys):
    usage = export.shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage._replace(free=200_000))
    monkeypatch.setattr(rcpu, "prune", None)
    assert main([*commands["prune"], "--no-store", "--out", str(tmp_path / "new" / "out")]) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert "out would take 0." in told
    assert "MiB, and its disk has 0.2 MiB free: choose another disk, or free some room" in told
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["prune", "perplexity", "generate"])
def test_results_that_cannot_be_written_are_printed_all_the_same(commands, name, tmp_path, capsys):
    had = resource.getrlimit(resource.RLIMIT_FSIZE)
    arguments = [*commands[name], "--no-store"] if name == "prune" else commands[name]
    (tmp_path / "found.json").write_text("of an earlier run")
    resource.setrlimit(resource.RLIMIT_FSIZE, (50, had[1]))
    try:
        assert main(arguments) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, had)
    printed = capsys.readouterr()
    assert printed.err.splitlines()[-1] == f"error: --json {tmp_path / 'found.json'}: could not write: File too large"
    assert printed.out
    assert (tmp_path / "found.json").read_text() == "of an earlier run"
    assert {p.name for p in tmp_path.iterdir() if p.is_file()} == {"found.json"}


def test_results_can_go_to_a_device(commands, capsys):
    assert main([*commands["perplexity"][:-2], "--json", "/dev/null"]) == 0
    assert main([*commands["perplexity"][:-2], "--json", "/dev/full"]) == 2
    assert "--json /dev/full: could not write: No space left on device" in capsys.readouterr().err
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:130] data. DefaultCPUAllocator: not enough memory: you tried to"),
    ],
)
@pytest.mark.parametrize("place", ["rcpu.prune", "transformers.LlamaForCausalLM.from_pretrained"])
def test_memory_that_cannot_be_had_is_told(commands, place, error, tmp_path, monkeypatch, capsys):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(place, fail)
    assert main([*commands["prune"], "--no-store"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "error: out of memory: take fewer or shorter windows, a narrower dtype or a smaller model"
    )


def test_a_run_is_kept_where_memory_is_too_little_to_write_it(commands, tmp_path, monkeypatch, capsys):
    def fail(*_, **__):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("transformers.PreTrainedModel.save_pretrained", fail)
    assert main([*commands["prune"], "--out", str(tmp_path / "out")]) == 2
    (run,) = open_store().runs()
    told = f"could not write {tmp_path / 'out'}: out of memory; the run is kept: `python -m rcpu runs save {run.id} "
    assert told in capsys.readouterr().err.splitlines()[-1]


def test_bugs_are_not_taken_for_memory(commands, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("a bug")

    monkeypatch.setattr(rcpu, "prune", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        main([*commands["prune"], "--no-store"])


def test_homes_are_found_in_every_flag_that_names_a_path(commands, model_folder, text_file, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model").symlink_to(model_folder)
    (tmp_path / "words.txt").symlink_to(text_file)

    (tmp_path / "recipe.yaml").write_text(rcpu.Recipe(ratio=0.3, samples=6, held_out=2, window=16).to_yaml())
    model = ["--model", "~/model", "--device", "cpu", "--text", "~/words.txt"]
    assert main(["prune", *model, "--recipe", "~/recipe.yaml", "--out", "~/out", "--json", "~/prune.json"]) == 0
    assert json.loads((tmp_path / "prune.json").read_text())["out"] == str(tmp_path / "out")
    assert main(["perplexity", *model, "--window", "16", "--max-windows", "2", "--json", "~/ppl.json"]) == 0
    assert main(["runs", "--json", "~/runs.json"]) == 0
    assert {p.name for p in tmp_path.glob("*.json")} == {"prune.json", "ppl.json", "runs.json"}
    assert main(["runs", "--json", "~no-such-user/runs.json"]) == 2


def test_precisions_and_sizes_of_files_are_told(home, windows, text_file, tmp_path, capsys):
    dense = tiny.save(copy.deepcopy(tiny.net("gqa")).bfloat16(), tmp_path / "dense")
    prune = ["prune", "--model", str(dense), "--device", "cpu", "--text", str(text_file), *SMALL, "--no-store"]
    size = {}
    for dtype in ("auto", "fp32"):
        record = tmp_path / f"{dtype}.json"
        assert main([*prune, "--out", str(tmp_path / dtype), "--save-dtype", dtype, "--json", str(record)]) == 0
        size[dtype] = (tmp_path / dtype / "model.safetensors").stat().st_size
        written = json.loads(record.read_text())
        assert written["file_bytes_before"] == (dense / "model.safetensors").stat().st_size
        assert written["file_bytes_after"] == size[dtype]
        assert "bytes on disk: 0.1 → 0." in capsys.readouterr().out
    assert size["auto"] < (dense / "model.safetensors").stat().st_size < size["fp32"]
    assert main([*prune, "--out", str(tmp_path / "x"), "--save-dtype", "int8"]) == 2
    assert "unknown dtype 'int8'" in capsys.readouterr().err
