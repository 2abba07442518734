"""Models × tasks as one table: plain columns, and LaTeX as papers print it."""

from __future__ import annotations

from collections.abc import Mapping

from rcpu.measure.tasks_results import Score, TaskResult, mean_accuracy, metric_of

LATEX = {c: f"\\{c}" for c in "&%$#_{}"} | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
LATEX |= {"\\": r"\textbackslash{}", "−": "$-$", "<": r"\textless{}", ">": r"\textgreater{}"}

Results = Mapping[str, Mapping[str, TaskResult]]  # by model, then by task


def is_share(metric: str) -> bool:
    """Whether a metric is a share of 1, shown in percent."""
    return metric != "perplexity"


def shown(score: Score, error: bool = True) -> str:
    """A score as people read it: percent for shares, with its standard error."""
    scale = 100 if is_share(score.metric) else 1
    return f"{scale * score.value:.2f}" + (f" ± {scale * score.error:.2f}" if error and score.error is not None else "")


def columns(results: Results, metric: str = "") -> dict[str, list[str]]:
    """A row a model, a column a task with its metric, and their mean; then what guessing would give."""
    tasks = _tasks(results)
    found: dict[str, list[str]] = {"model": [*results, "chance", "always one answer"]}
    for task, some in tasks.items():
        name = metric_of(some, metric)
        score = some.score(name)
        found[f"{task} ({name}{', %' if is_share(name) else ''})"] = [
            *(shown(r[task].score(name)) if task in r else "–" for r in results.values()),
            *("–" if guess is None else f"{100 * guess:.2f}" for guess in (score.chance, score.constant)),
        ]
    means = [mean_accuracy(list(r.values()), metric) if len(r) == len(tasks) else None for r in results.values()]
    if len(tasks) > 1 and any(mean is not None for mean in means):
        found["mean (%)"] = [*("–" if mean is None else f"{100 * mean:.2f}" for mean in means), "", ""]
    return found


def latex(results: Results, metric: str = "") -> str:
    """The same as a booktabs table; text of models and tasks is escaped."""
    table = columns(results, metric)
    items = {task: len(some.items) for task, some in _tasks(results).items()}
    shots = {some.few_shot for some in _tasks(results).values()}
    lines = [
        "% needs \\usepackage{booktabs}; ± standard error over items; "
        + escaped(", ".join(f"{task}: {count} items" for task, count in items.items()))
        + f"; few-shot: {', '.join(map(str, sorted(shots)))}",
        "\\begin{tabular}{l" + "r" * (len(table) - 1) + "}",
        "\\toprule",
        " & ".join(map(escaped, table)) + " \\\\",
        "\\midrule",
    ]
    rows = list(zip(*table.values(), strict=True))
    lines += [" & ".join(map(escaped, row)).replace("±", "$\\pm$") + " \\\\" for row in rows[:-2]]
    lines += ["\\midrule", *(" & ".join(map(escaped, row)) + " \\\\" for row in rows[-2:])]
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", ""])


def escaped(text: str) -> str:
    """Text as LaTeX prints it."""
    return "".join(LATEX.get(c, c) for c in text)


def _tasks(results: Results) -> dict[str, TaskResult]:
    return {task: result for of_model in results.values() for task, result in of_model.items()}
