"""Tasks in lm-eval on nets in memory: the same counts as by hand, rows and names that are wrong, kept answers."""

import json
import logging

import pytest
import torch

import rcpu
from rcpu.measure import TaskResult, net_digest, run_tasks
from rcpu.measure.tasks_embedded import continuation_rows, last_word_rows
from tests import tiny

ROWS = [
    {"query": f"Question: {word}?", "choices": [word * 2, "no", "maybe so"], "gold": i % 3}
    for i, word in enumerate(["red", "green", "blue", "black", "white", "grey", "pink"])
]
OPTIONS = [
    {"context_options": [f"The {a} and the", f"The {a} or"], "continuation": f"{a} {i}.", "gold": i % 2}
    for i, a in enumerate("abcde")
]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "colours.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    (tmp_path / "options.jsonl").write_text("\n".join(map(json.dumps, OPTIONS)) + "\n\n")
    return tmp_path


def run(net, *names, **options) -> dict[str, TaskResult]:
    return run_tasks(net, tiny.tokenizer(), names, **options)


def log_likelihood(net, before: str, after: str) -> float:
    """By hand: ln p of ``after``, whose first blank belongs to it."""
    start, ids = len(before.encode()), torch.tensor([list(map(int, _ids(before + after)))])
    with torch.no_grad():
        rows = net(ids).logits[0, start - 1 : -1].log_softmax(-1)
    return rows.gather(1, ids[0, start:, None]).sum().item()


def _ids(text: str) -> list[int]:
    return tiny.tokenizer()(text).input_ids


def test_choices_are_scored_as_by_hand(gqa, folder):
    found = run(gqa, "colours", "options", folder=folder, batch=2)
    for row, item in zip(ROWS, found["colours"].items, strict=True):
        expected = [log_likelihood(gqa, row["query"] + "\nAnswer:", " " + c) for c in row["choices"]]
        assert item.loglikelihoods == pytest.approx(expected, rel=1e-4)
        best = max(range(3), key=lambda i: expected[i])
        by_length = max(range(3), key=lambda i: expected[i] / len(row["choices"][i]))
        assert item.metrics == {"acc": best == row["gold"], "acc_norm": by_length == row["gold"]}
        assert (item.chosen("acc"), item.chosen("acc_norm"), item.gold) == (best, by_length, row["gold"])
        assert item.choices == tuple(row["choices"])
    for row, item in zip(OPTIONS, found["options"].items, strict=True):
        expected = [log_likelihood(gqa, c, " " + row["continuation"]) for c in row["context_options"]]
        assert item.loglikelihoods == pytest.approx(expected, rel=1e-4)
        assert item.metrics == {"acc": (expected[1] > expected[0]) == row["gold"]}
        assert (item.context.strip(), item.gold) == (row["continuation"], row["gold"])
    score = found["colours"].score("acc")
    assert score.value == sum(item.metrics["acc"] for item in found["colours"].items) / 7
    assert (score.chance, score.constant) == (pytest.approx(1 / 3), pytest.approx(3 / 7))


def test_choices_that_are_always_the_same_have_no_accuracy_by_length(gqa, tmp_path):
    rows = [{"query": f"is {i}", "choices": ["no", "yes"], "gold": i % 2} for i in range(4)]
    (tmp_path / "yes.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert run(gqa, "yes", folder=tmp_path)["yes"].metrics == ("acc",)


def test_a_compact_net_scores_as_its_padded_export(model, windows, folder, tmp_path):
    result = rcpu.prune(model.net, windows, rcpu.Recipe(ratio=0.5, window=16, samples=8, held_out=4))
    padded = rcpu.load_model(str(rcpu.save(model, result, tmp_path / "padded", shape="padded")), "cpu")
    compact, stock = (run(net, "colours", "options", folder=folder) for net in (result.net, padded.net))
    for task in compact:
        for a, b in zip(compact[task].items, stock[task].items, strict=True):
            assert a.metrics == b.metrics
            assert a.loglikelihoods == pytest.approx(b.loglikelihoods, rel=1e-4)
    assert compact["colours"].digest == stock["colours"].digest


def test_nothing_about_net_or_tokenizer_changes(folder, tokenizer):
    net = tiny.llama()
    before = tiny.snapshot(net)
    run_tasks(net, tokenizer, ["colours"], folder=folder, few_shot=2)
    tiny.assert_unchanged(net, before)
    assert tokenizer.pad_token is None


def test_few_shot_puts_other_rows_before_the_question(gqa, folder):
    item = run(gqa, "colours", folder=folder, few_shot=2)["colours"].items[0]
    assert item.context.count("Question:") == 3
    assert item.context.count("red") == 1, "the row itself is no example"


def test_limit_takes_the_first_items_and_another_limit_is_another_digest(gqa, folder):
    few, all_of_them = run(gqa, "colours", folder=folder, limit=3), run(gqa, "colours", folder=folder)
    assert few["colours"].items == all_of_them["colours"].items[:3]
    assert few["colours"].digest != all_of_them["colours"].digest


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ('{"query": "a", "choices": ["b", "c"]}', r"line 1: has no gold: a row with query needs query, choices, gold"),
        ('{"query": "a", "choices": ["b", "c"], "gold": 2}', "gold is 2, expected the number of a choice, 0 to 1"),
        ('{"query": "a", "choices": ["b", "c"], "gold": "b"}', "gold is 'b', expected the number"),
        ('{"query": "a", "choices": ["b", "c"], "gold": true}', "gold is True"),
        ('{"query": "a", "choices": ["b"], "gold": 0}', "choices must be two or more texts"),
        ('{"query": "", "choices": ["b", "c"], "gold": 0}', "query must be a text"),
        ('{"question": "a"}', "has question, expected query, choices and gold, or context_options"),
        ("[1]", "a list, expected an object"),
        ("{", r"line 1: not JSON"),
        ("", "is empty"),
        (
            json.dumps(ROWS[0]) + "\n" + json.dumps(OPTIONS[0]),
            "line 2: has context_options, but the lines before it do not",
        ),
    ],
)
def test_rows_that_are_none_are_told_by_line(gqa, tmp_path, rows, told):
    (tmp_path / "bad.jsonl").write_text(rows)
    with pytest.raises(rcpu.RcpuError, match=told):
        run(gqa, "bad", folder=tmp_path)


@pytest.mark.parametrize(
    ("names", "options", "told"),
    [
        (["colour"], {}, r"unknown task 'colour': did you mean .*'colours'"),
        (["boolq"], {}, r"cannot get the data of the task 'boolq' from the hub \(HF_HUB_OFFLINE is set\)"),
        (["colours"], {"limit": 0}, "at least one item"),
        (["colours"], {"few_shot": -1}, "few-shot is the number"),
        (["colours"], {"batch": 0}, "batch is auto or a number"),
        ([], {}, "no task"),
    ],
)
def test_bad_input_is_one_sentence(gqa, folder, names, options, told, monkeypatch):
    monkeypatch.setattr("rcpu.measure.tasks_sources._index", _small_index)
    with pytest.raises(rcpu.RcpuError, match=told):
        run(gqa, *names, folder=folder, **options)


def _small_index(folder=None):
    """lm-eval's index of one folder, for all of it takes many seconds to read."""
    import lm_eval.tasks

    where = folder or lm_eval.tasks.__path__[0] + "/super_glue/boolq"
    return lm_eval.tasks.TaskManager(include_path=str(where), include_defaults=False)


def test_yaml_of_a_folder_is_run_and_refused_where_code_is_not_welcome(gqa, folder):
    (folder / "own.yaml").write_text(
        f"""task: own
dataset_path: json
dataset_kwargs: {{data_files: {{validation: {folder / "colours.jsonl"}}}}}
validation_split: validation
output_type: multiple_choice
doc_to_text: "{{{{query}}}}\\nAnswer:"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{gold}}}}"
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
"""
    )
    found = run(gqa, "own", "colours", folder=folder)
    assert found["own"].values("acc") == found["colours"].values("acc")
    with pytest.raises(rcpu.RcpuError, match=r"own\.yaml is YAML, which can run code"):
        run(gqa, "own", folder=folder, yaml=False)


def test_folders_without_tasks_are_told(gqa, tmp_path):
    with pytest.raises(rcpu.RcpuError, match="holds no task"):
        run(gqa, "x", folder=tmp_path)
    with pytest.raises(rcpu.RcpuError, match="is not a folder"):
        run(gqa, "x", folder=tmp_path / "none")


def test_answers_are_kept_by_the_nets_weights(gqa, folder, tmp_path, monkeypatch):
    calls = []
    forward = type(gqa).forward
    monkeypatch.setattr(type(gqa), "forward", lambda *a, **k: calls.append(1) or forward(*a, **k))
    kept = tmp_path / "answers"
    first = run(gqa, "colours", folder=folder, limit=4, answers=kept)
    few = len(calls)
    assert run(gqa, "colours", folder=folder, limit=4, answers=kept) == first
    assert len(calls) == few, "nothing was asked again"
    run(gqa, "colours", folder=folder, answers=kept)
    assert len(calls) > few
    other = tiny.llama(seed=1, **tiny.KINDS["gqa"])
    before = len(calls)
    assert run(other, "colours", folder=folder, limit=4, answers=kept) != first
    assert len(calls) > before, "another net is asked for itself"
    assert len(list(kept.glob("*.sqlite"))) == 2


def test_a_disk_that_refuses_costs_no_result(gqa, folder, tmp_path):
    expected = run(gqa, "colours", folder=folder)
    (tmp_path / "file").write_text("")
    assert run(gqa, "colours", folder=folder, answers=tmp_path / "file") == expected
    kept = tmp_path / "broken"
    kept.mkdir()
    (kept / f"{net_digest(gqa, tiny.tokenizer())}.sqlite").write_text("no database")
    assert run(gqa, "colours", folder=folder, answers=kept) == expected


def test_the_digest_is_of_weights_precision_and_tokenizer(gqa, tokenizer):
    twin, other = tiny.llama(**tiny.KINDS["gqa"]), tiny.llama(seed=1, **tiny.KINDS["gqa"])
    assert net_digest(twin, tokenizer) == net_digest(gqa, tokenizer)
    assert net_digest(other, tokenizer) != net_digest(gqa, tokenizer)
    assert net_digest(twin.bfloat16(), tokenizer) != net_digest(gqa, tokenizer)


def test_progress_begins_with_an_estimate_and_cancel_ends_it(gqa, folder):
    seen = []
    run(gqa, "colours", folder=folder, progress=seen.append)
    timed = [p for p in seen if p.seconds_left is not None]
    assert timed[0].fraction == 0
    assert timed[0].seconds_left > 0
    assert [p.fraction for p in timed] == sorted(p.fraction for p in timed)
    assert timed[-1].fraction == pytest.approx(1)
    with pytest.raises(rcpu.Cancelled):
        run(gqa, "colours", folder=folder, cancelled=lambda: True)


def test_a_broken_model_is_told(folder):
    net = tiny.llama()
    net.model.norm.weight[0] = torch.nan
    with pytest.raises(rcpu.RcpuError, match="probabilities on colours are NaN"):
        run(net, "colours", folder=folder)


def test_lm_eval_is_silent(gqa, folder, capfd):
    run(gqa, "embedded", "colours", folder=folder, limit=3)
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger("lm_eval").level != logging.ERROR


def test_embedded_tasks_ask_what_comes_next_in_the_text():
    text = rcpu.load_text("embedded").evaluation
    flat = " ".join(text.split())
    words, follows = last_word_rows(text), continuation_rows(text)
    assert len(words) >= 100
    assert len(follows) >= 100
    for row in words:
        assert f"{row['context']} {row['word']}" in flat
    for i, row in enumerate(follows):
        assert row["gold"] == i % 4
        assert f"{row['query']} {row['choices'][row['gold']]}" in flat
        assert len(set(row["choices"])) == 4
        assert all(f"{row['query']} {c}" not in flat for n, c in enumerate(row["choices"]) if n != row["gold"])
    gaps = [max(map(len, row["choices"])) - min(map(len, row["choices"])) for row in follows]
    assert sorted(gaps)[len(gaps) // 2] <= 2, "of nearly the same length, in characters"


def test_embedded_tasks_need_prose(gqa):
    code = rcpu.Text("code.py", "x = 1", "x = 1\n\ny = 2", disjoint=False)
    with pytest.raises(rcpu.RcpuError, match="has too little prose"):
        run(gqa, "embedded", text=code)


def test_last_words_have_accuracy_and_perplexity(gqa):
    found = run(gqa, "last_word", limit=5)["last_word"]
    assert found.metrics == ("acc", "perplexity")
    item = found.items[0]
    expected = log_likelihood(gqa, item.context, item.choices[0])
    assert item.loglikelihoods == (pytest.approx(expected, rel=1e-4),)
    assert found.score("perplexity").value == pytest.approx(
        torch.tensor([-i.loglikelihoods[0] for i in found.items], dtype=torch.float64).mean().exp().item()
    )
