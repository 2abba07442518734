"""The run store: what is finished stays, what is not says so, whatever ends a process and however many there are."""

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from pathlib import Path

import pytest
import torch

import rcpu.runs.schema as schema
from rcpu import Cancelled, RcpuError
from rcpu.runs import Store, UnderWay, dense_subject, home_folder, open_store, plain_subject
from rcpu.runs.locks import held

ROOT = Path(__file__).parents[2]
ABOUT = {"name": "a", "recipe": {"ratio": 0.2}, "content": "c0", "fingerprint": "f0", "about": {"dtype": "fp32"}}


@pytest.fixture
def store(tmp_path) -> Store:
    return open_store(tmp_path / "home")


def made(store: Store, **other) -> str:
    """A finished run of one part."""
    with store.begin(**ABOUT | other) as run:
        run.write("000", {"weight": torch.arange(6.0).view(2, 3)})
        run.finish({"seconds": 1.5})
    return run.id


def unfinished(store: Store) -> UnderWay:
    """A run that was cancelled after one part."""
    with contextlib.suppress(Cancelled), store.begin(**ABOUT) as run:
        run.write("000", {"a": torch.ones(2)})
        raise Cancelled
    return run


def child(script: str, *arguments: object) -> subprocess.Popen:
    """Another process that has opened the store as ``store``."""
    start = "import sys; from tests.runs.test_store import *\n"
    start += "if 'nobody' in sys.argv: os.setgid(65534), os.setuid(65534)\n"
    start += "store = open_store(Path(sys.argv[1]))\n"
    return subprocess.Popen(
        [sys.executable, "-c", start + textwrap.dedent(script), *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_finished_run_is_found_again_by_another_store_on_the_same_folder(store):
    run_id = made(store)
    other = open_store(store.folder)
    run = other.get(run_id)
    assert (run.name, run.state, run.recipe, run.error) == ("a", "done", {"ratio": 0.2}, "")
    assert run.about == {"dtype": "fp32", "seconds": 1.5}
    assert run.ended >= run.created
    assert other.parts(run_id) == ["000"]
    assert other.read(run_id, "000")["weight"].equal(torch.arange(6.0).view(2, 3))
    assert other.runs() == [run]
    assert other.named("a") == other.named(run_id) == other.find("c0") == run
    assert other.find("another") is None


def test_runs_come_newest_first(store):
    ids = [made(store, name=name) for name in "abc"]
    assert [run.id for run in store.runs()] == ids[::-1]


@pytest.mark.parametrize(
    ("error", "state", "told"),
    [
        (Cancelled("stop"), "cancelled", ""),
        (KeyboardInterrupt(), "cancelled", ""),
        (RcpuError("the disk is full"), "failed", "the disk is full"),
        (ZeroDivisionError(), "failed", "ZeroDivisionError"),
        (None, "failed", "it ended early"),
    ],
)
def test_a_run_says_how_it_ended_and_keeps_what_it_had_written(store, error, state, told):
    def work():
        with store.begin(**ABOUT) as run:
            ids.append(run.id)
            run.write("000", {"a": torch.ones(2)})
            if error is not None:
                raise error

    ids = []
    if error is None:
        work()
    else:
        with pytest.raises(type(error)):
            work()
    run = store.get(ids[0])
    assert (run.state, run.error) == (state, told)
    assert store.parts(run.id) == ["000"]
    assert store.find("c0") is None, "only what is finished answers a question"


def test_a_run_under_way_is_running_for_others_until_its_process_is_gone(store):
    script = """
        with store.begin(**ABOUT) as run:
            run.write("000", {"a": torch.ones(2)})
            print(run.id, flush=True)
            time.sleep(60)
    """
    process = child(script, store.folder)
    run_id = process.stdout.readline().strip()
    assert store.get(run_id).state == "running"
    assert [run.state for run in store.runs()] == ["running"]
    with pytest.raises(RcpuError, match="another process"), store.resume(run_id):
        pass
    with pytest.raises(RcpuError, match="under way"):
        store.delete(run_id)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    run = store.get(run_id)
    assert run.state == "interrupted"
    assert store.parts(run_id) == ["000"]
    with sqlite3.connect(store.file) as db:
        assert db.execute("SELECT state FROM runs").fetchone() == ("interrupted",), "noted down"


def test_what_did_not_end_can_be_resumed_and_what_did_cannot(store):
    run = unfinished(store)
    left = store.folder_of(run.id) / "001.tmp-xyz"
    left.write_bytes(b"half")
    with store.resume(run.id) as again:
        assert store.get(run.id).state == "running"
        assert not left.exists()
        again.write("001", {"a": torch.zeros(2)})
        again.finish({})
    assert store.get(run.id).state == "done"
    assert store.parts(run.id) == ["000", "001"]
    with pytest.raises(RcpuError, match="finished"), store.resume(run.id):
        pass
    with pytest.raises(RcpuError, match="no run"), store.resume("gone"):
        pass


def test_names_tags_and_note_change_and_nothing_else(store):
    run_id = made(store)
    before = store.get(run_id)
    store.change(run_id, name="b", note="the best", tags=["x", "y", "x"])
    after = store.get(run_id)
    assert (after.name, after.note, after.tags) == ("b", "the best", ("x", "y"))
    store.change(run_id, name="a", note="", tags=[])
    assert store.get(run_id) == before
    with pytest.raises(RcpuError, match="no run"):
        store.change("gone", name="x")


def test_a_name_that_two_runs_have_names_neither(store):
    ids = [made(store), made(store)]
    with pytest.raises(RcpuError, match="2 runs are called 'a'") as error:
        store.named("a")
    assert all(run_id in str(error.value) for run_id in ids)
    with pytest.raises(RcpuError, match="no run is called 'b'"):
        store.named("b")


def test_deleting_takes_the_files_and_the_measures_of_that_run_alone(store):
    gone, stays = made(store), made(store)
    for subject in (gone, plain_subject(gone), stays, dense_subject("f0", "fp32")):
        store.measures.put(subject, "perplexity", {"text": "t"}, {"perplexity": 5.0})
    store.delete(gone)
    assert [run.id for run in store.runs()] == [stays]
    assert not store.folder_of(gone).exists()
    assert {m.subject for m in store.measures.all()} == {stays, dense_subject("f0", "fp32")}
    with pytest.raises(RcpuError, match="no run"):
        store.delete(gone)


def test_measures_answer_what_was_asked_and_nothing_else(store):
    run_id = made(store)
    asked, losses = {"text": "d1", "window": 128}, torch.rand(5)
    store.measures.put(run_id, "perplexity", asked, {"perplexity": float("inf")}, {"losses": losses})
    found = store.measures.get(run_id, "perplexity", {"window": 128, "text": "d1"})
    assert found.value == {"perplexity": float("inf")}
    assert store.measures.tensors(found)["losses"].equal(losses)
    for subject, kind, question in (
        (run_id, "perplexity", asked | {"text": "d2"}),
        (run_id, "tasks", asked),
        (plain_subject(run_id), "perplexity", asked),
    ):
        assert store.measures.get(subject, kind, question) is None
    store.measures.put(run_id, "perplexity", asked, {"perplexity": 7.0})
    (only,) = store.measures.all(run_id)
    assert only.value == {"perplexity": 7.0}
    assert store.measures.tensors(only) == {}
    store.measures.drop(only)
    assert store.measures.all() == []
    with pytest.raises(RcpuError, match="not in the store"):
        store.measures.put("gone", "perplexity", asked, {})


def test_a_tensor_under_two_names_is_written_once(store):
    weight = torch.rand(100, 100)
    tensors = {"a": weight, "b": weight, "view": weight[:3], "turned": weight.T, "none": torch.empty(0)}
    with store.begin(**ABOUT) as run:
        run.write("000", tensors)
        run.finish({})
    found = store.read(run.id, "000")
    assert all(found[name].equal(tensor) for name, tensor in tensors.items())
    assert store.bytes_of(run.id) < 2.2 * weight.nbytes
    assert store.bytes() > store.bytes_of(run.id)


def test_a_broken_part_is_said(store):
    run_id = made(store)
    path = store.folder_of(run_id) / "000.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(RcpuError, match="cannot read 000"):
        store.read(run_id, "000")


def test_many_processes_open_a_new_store_and_write_at_once(tmp_path):
    script = """
        for i in range(6):
            run_id = made(store, name=f"{sys.argv[2]}-{i}")
            store.measures.put(run_id, "perplexity", {"i": i}, {"perplexity": i})
            store.measures.put("dense:f:fp32", "perplexity", {"who": sys.argv[2]}, {"i": i})
    """
    processes = [child(script, tmp_path / "home", i) for i in range(3)]
    for process in processes:
        assert process.wait(120) == 0, process.stderr.read()
    store = open_store(tmp_path / "home")
    assert {run.name for run in store.runs()} == {f"{who}-{i}" for who in range(3) for i in range(6)}
    assert len(store.measures.all(kind="perplexity")) == 21
    assert sorted(m.value["i"] for m in store.measures.all("dense:f:fp32")) == [5] * 3


def test_threads_share_a_store(store):
    errors = []

    def work():
        try:
            for _ in range(5):
                store.measures.put(made(store), "perplexity", {}, {})
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert len(store.runs()) == len(store.measures.all()) == 20


def test_a_full_disk_while_a_part_is_written_ends_in_a_sentence_and_leaves_nothing_half(store):
    """The most that a process may write to a file stands for a disk that is full."""
    script = """
        import resource, signal
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        with store.begin(**ABOUT) as run:
            print(run.id)
            run.write("000", {"a": torch.ones(10)})
            resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
            try:
                run.write("000", {"a": torch.ones(1_000_000)})
            except RcpuError as error:
                print(error)
                raise
    """
    process = child(script, store.folder)
    told, _ = process.communicate(timeout=60)
    run_id, sentence = told.splitlines()
    assert sentence.startswith(f"cannot keep this run in {store.folder_of(run_id)}: ")
    assert store.get(run_id).state == "failed"
    assert sorted(p.name for p in store.folder_of(run_id).iterdir()) == ["000.safetensors", "lock"]
    assert store.read(run_id, "000")["a"].equal(torch.ones(10)), "what was there before still is"


def test_a_full_disk_under_the_database_ends_in_a_sentence_and_changes_nothing(store, monkeypatch):
    run_id = made(store)
    plain = schema._connect

    def full(*arguments):
        db = plain(*arguments)
        db.execute("PRAGMA max_page_count = 1")  # no more than it has
        return db

    with monkeypatch.context() as patch:
        patch.setattr(schema, "_connect", full)
        with pytest.raises(RcpuError, match="full; nothing was changed"):
            store.measures.put(run_id, "tokens", {}, {"text": "x" * 100_000})
        with pytest.raises(RcpuError, match="full"), store.begin(**ABOUT | {"recipe": {"x": "y" * 100_000}}):
            pass
    assert [run.id for run in store.runs()] == [run_id]
    assert store.measures.all() == []
    assert [folder.name for folder in (store.folder / "runs").iterdir()] == [run_id]


def test_a_store_of_a_newer_version_is_left_alone(store):
    made(store)
    with sqlite3.connect(store.file) as db:
        db.execute("PRAGMA user_version = 99")
    content = store.file.read_bytes()
    with pytest.raises(RcpuError, match=r"newer version \(its schema is 99.*update RCPU Explorer"):
        open_store(store.folder)
    assert store.file.read_bytes() == content


def test_an_older_store_is_brought_to_this_version_with_all_it_holds(store, monkeypatch):
    run_id = made(store)
    more = ("ALTER TABLE runs ADD COLUMN more TEXT NOT NULL DEFAULT 'new'",)
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, more))
    Store(store.folder)
    with sqlite3.connect(store.file) as db:
        assert db.execute("SELECT id, more FROM runs").fetchall() == [(run_id, "new")]
        assert db.execute("PRAGMA user_version").fetchone() == (len(schema.MIGRATIONS),)


def test_a_migration_that_fails_leaves_the_file_as_it_was(store, monkeypatch):
    made(store)
    broken = ("ALTER TABLE runs ADD COLUMN more TEXT", "no such statement")
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, broken))
    with pytest.raises(RcpuError, match="cannot open the run store"):
        Store(store.folder)
    monkeypatch.undo()
    assert len(Store(store.folder).runs()) == 1
    with sqlite3.connect(store.file) as db:
        assert "more" not in {row[1] for row in db.execute("PRAGMA table_info(runs)")}


def test_another_file_in_its_place_is_said(tmp_path):
    (tmp_path / "runs.sqlite").write_text("These are my notes, and not a database at all. " * 50)
    with pytest.raises(RcpuError, match=r"is not a run store .*RCPU_HOME"):
        open_store(tmp_path)
    assert (tmp_path / "runs.sqlite").read_text().startswith("These are my notes")


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file" / "home", Path("/proc/rcpu-home")):
        with pytest.raises(RcpuError, match=r"cannot make the run store .*RCPU_HOME"):
            open_store(folder)


@pytest.mark.parametrize("in_use", [False, True], ids=["closed", "in use"])
def test_a_store_on_a_read_only_disk_can_be_read_and_says_why_it_is_not_written(in_use):
    """A process without rights stands for a disk that takes nothing; root would be let through."""
    script = """
        (run,) = store.runs()
        print(run.state, store.read(run.id, "000")["weight"].sum().item(), len(store.measures.all()))
        print(store.refusal)
        for change in (lambda: store.delete(run.id), lambda: made(store), lambda: store.change(run.id, name="x")):
            try:
                change()
            except RcpuError as error:
                print(error)
    """
    with tempfile.TemporaryDirectory() as above:  # pytest takes the rights of others from its own folders
        Path(above).chmod(0o755)
        store = open_store(Path(above) / "home")
        run_id = made(store)
        by_another = sqlite3.connect(store.file) if in_use else contextlib.nullcontext()
        if in_use:
            by_another.execute("SELECT * FROM runs").fetchall()
        folders = [store.folder, store.folder / "runs", store.folder_of(run_id)]
        for folder in folders:
            folder.chmod(0o555)
            for file in folder.iterdir():
                if file.is_file():
                    file.chmod(0o444)
        process = child(script, store.folder, *["nobody"] * (os.getuid() == 0))
        told, error = process.communicate(timeout=120)
        for folder in folders:
            folder.chmod(0o755)
        with by_another:
            pass
        assert process.returncode == 0, error
        first, *sentences = told.splitlines()
        assert first == "done 15.0 0"
        assert sentences == 4 * [
            f"the run store {store.folder} can be read, but not written: set RCPU_HOME to a folder that can be written"
        ]


def test_folders_that_no_run_owns_are_swept_when_nobody_holds_them(store):
    old = time.time() - 3600
    for name in ("left", "held", "young"):
        folder = store.folder_of(name)
        folder.mkdir()
        (folder / "000.safetensors").write_bytes(b"x")
        if name != "young":
            os.utime(folder, (old, old))
    with held(store.folder_of("held")):
        os.utime(store.folder_of("held"), (old, old))
        run_id = made(store)
        os.utime(store.folder_of(run_id), (old, old))
        Store(store.folder)
        assert sorted(f.name for f in (store.folder / "runs").iterdir()) == sorted(["held", "young", run_id])


def test_the_home_is_where_the_variable_says_else_the_user_data(monkeypatch, tmp_path):
    monkeypatch.setenv("RCPU_HOME", str(tmp_path / "mine"))
    assert home_folder() == tmp_path / "mine"
    monkeypatch.delenv("RCPU_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert home_folder() == tmp_path / "data" / "rcpu"
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert home_folder() == tmp_path / ".local" / "share" / "rcpu"
