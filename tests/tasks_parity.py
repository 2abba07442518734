"""``python -m rcpu tasks`` beside lm-eval run by itself: the same items, and as many right. Not a test: minutes.

    python -m tests.tasks_parity --tasks-dir DIR --limit 100 --tasks arc_easy,boolq,winogrande

Both are commands, each in a process of its own. lm-eval reads what transformers saved of the dense embedded model, and
the padded export of one that is pruned; its tasks are YAML files written here, which share nothing with our reading of
rows. Beside the counts stand the items on which the two differ: rounding may turn one where two choices are as likely.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

import rcpu

TASK = """\
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {rows}
test_split: test
output_type: multiple_choice
doc_to_text: {text}
doc_to_target: {target}
doc_to_choice: {choices}
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
  - metric: acc_norm
    aggregation: mean
    higher_is_better: true
"""
QUESTION = {"text": '"{{query}}\\nAnswer:"', "target": "gold", "choices": "choices"}
PLAIN = {**QUESTION, "text": "query"}
OPTIONS = {"text": "gold", "target": "continuation", "choices": "context_options"}
Right = dict[str, dict[str, list[float]]]  # by task and metric, an item each


def command(*words: object, **more: str) -> None:
    """Run a module of Python; raises ``CalledProcessError`` after its last words were printed."""
    try:
        subprocess.run(
            [sys.executable, "-m", *map(str, words)], check=True, capture_output=True, text=True, env=os.environ | more
        )
    except subprocess.CalledProcessError as error:
        print(error.stdout[-2000:], error.stderr[-4000:], file=sys.stderr)
        raise


def write_tasks(rows: dict[str, Path], folder: Path) -> None:
    """A YAML file of lm-eval for each file of rows."""
    for name, path in rows.items():
        first = json.loads(path.read_text(encoding="utf-8").split("\n", 1)[0])
        kind = OPTIONS if "context_options" in first else QUESTION if "Question:" in first["query"] else PLAIN
        text = TASK.format(name=f"parity_{name}", rows=json.dumps(str(path.resolve())), **kind)
        (folder / f"parity_{name}.yaml").write_text(text, encoding="utf-8")


def of_harness(model: Path, names: list[str], tasks: Path, limit: int, out: Path) -> Right:
    """What lm-eval by itself says of a folder."""
    flags = ["--tasks", ",".join(f"parity_{name}" for name in names), "--include_path", tasks, "--limit", limit]
    flags += ["--batch_size", 8, "--device", "cpu", "--output_path", out, "--log_samples"]
    command("lm_eval", "--model", "hf", "--model_args", f"pretrained={model},dtype=float32", *flags, HF_HUB_OFFLINE="1")
    found: Right = {}
    for name in names:
        (path,) = out.rglob(f"samples_parity_{name}_*.jsonl")
        items = sorted(map(json.loads, path.read_text(encoding="utf-8").splitlines()), key=lambda item: item["doc_id"])
        found[name] = {metric: [float(item[metric]) for item in items] for metric in ("acc", "acc_norm")}
    return found


def of_ours(model: str, names: list[str], folder: Path, limit: int, file: Path, home: Path) -> Right:
    """What our command says of a model."""
    flags = ["--tasks", ",".join(names), "--tasks-dir", folder, "--limit", limit, "--device", "cpu", "--no-cache"]
    command("rcpu", "tasks", "--model", model, "--dtype", "fp32", *flags, "--json", file, RCPU_HOME=str(home))
    tasks = json.loads(file.read_text())["results"][0]["tasks"]
    return {
        name: {m: [item["metrics"][m] for item in task["items"]] for m in task["items"][0]["metrics"]}
        for name, task in tasks.items()
    }


def main() -> int:
    """Print both counts; 1 if they differ."""
    ask = argparse.ArgumentParser(prog="python -m tests.tasks_parity", description=__doc__.splitlines()[0])
    ask.add_argument("--tasks-dir", type=Path, required=True, help="of JSONL rows, as that of rcpu tasks")
    ask.add_argument("--tasks", default="arc_easy,boolq,winogrande")
    ask.add_argument("--limit", type=int, default=100, help="items a task")
    ask.add_argument("--ratio", type=float, default=0.3, help="of the compact model")
    asked = ask.parse_args()
    names, console, differs = asked.tasks.split(","), Console(width=120), 0
    with tempfile.TemporaryDirectory(prefix="rcpu-parity-") as above:
        top = Path(above)
        (top / "tasks").mkdir()
        write_tasks({name: asked.tasks_dir / f"{name}.jsonl" for name in names}, top / "tasks")
        dense, padded, home = top / "dense", top / "padded", top / "home"
        model = rcpu.load_model("embedded", "cpu", "fp32")
        model.net.save_pretrained(dense)
        model.tokenizer.save_pretrained(dense)
        del model
        quick = ["--samples", 16, "--held-out", 0, "--compensation", "least_squares", "--ridge", 0.1]
        where = ["--device", "cpu", "--dtype", "fp32", "--name", "compact", "--padded", "--out", padded]
        command("rcpu", "prune", "--ratio", asked.ratio, *quick, *where, RCPU_HOME=str(home))
        for name, folder in (("embedded", dense), ("run:compact", padded)):
            ours = of_ours(name, names, asked.tasks_dir, asked.limit, top / "ours.json", home)
            theirs = of_harness(folder, names, top / "tasks", asked.limit, top / f"{folder.name}-out")
            table = Table("model", "task", "metric", "items", "right, rcpu", "right, lm-eval", "items that differ")
            for task in names:
                for metric, right in ours[task].items():
                    other = theirs[task][metric]
                    apart = [i for i, (a, b) in enumerate(zip(right, other, strict=True)) if a != b]
                    counts = f"{sum(right):.0f}", f"{sum(other):.0f}"
                    table.add_row(name, task, metric, str(len(right)), *counts, ", ".join(map(str, apart)) or "none")
                    differs += counts[0] != counts[1]
            console.print(table)
    return 1 if differs else 0


if __name__ == "__main__":
    sys.exit(main())
