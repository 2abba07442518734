"""One self-contained page about studies and runs: settings, environment, figures that hover, tables, verdicts.

The page carries its data, so that another machine can add to it. plotly.js is the file that the plotly package brings.
"""

from __future__ import annotations

import html
import importlib.util
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rcpu.base.errors import RcpuError
from rcpu.base.paths import existing
from rcpu.measure.tasks_results import TaskResult
from rcpu.pruning.recipe import Recipe
from rcpu.runs.drawing import can_be_relative, figures
from rcpu.runs.pruned import sites_of
from rcpu.runs.readings import QUANTITIES
from rcpu.runs.records import Run, dense_subject, plain_subject
from rcpu.runs.store import Store
from rcpu.runs.studies import STUDIES, misfit
from rcpu.runs.studying import Findings, gathered
from rcpu.runs.tables import result_rows, setup, verdict_rows
from rcpu.runs.verdicts import STATES

VERSION = 1
DATA = re.compile(r'<script type="application/json" id="rcpu-report">(.*?)</script>', re.DOTALL)
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1b1f24; margin: 0 auto; padding: 24px; max-width: 1180px }
h1 { font-size: 26px } h2 { margin-top: 44px; font-size: 21px } h3 { font-size: 16px }
table { border-collapse: collapse; margin: 12px 0; font-size: 14px } .wide { overflow-x: auto }
th, td { text-align: left; padding: 5px 12px; border-bottom: 1px solid #e2e5e9; vertical-align: top }
th { font-weight: 600; border-bottom-color: #a9b0b8 }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(440px, 1fr)); gap: 12px }
.holds { color: #00664c; font-weight: 600 } .fails { color: #a33b00; font-weight: 600 } .open { color: #5b6470 }
.small { color: #5b6470; font-size: 13px } pre { background: #f4f5f7; padding: 12px; overflow-x: auto }
summary { cursor: pointer; color: #5b6470 }
@media print { details { display: none } }
"""
SCRIPT = """
for (const box of document.querySelectorAll('.figure')) {
  const { data, layout } = JSON.parse(box.nextElementSibling.textContent);
  const axis = { gridcolor: '#e8eaed', zerolinecolor: '#e8eaed', automargin: true };
  layout.xaxis = { ...axis, showgrid: false, ...layout.xaxis }; layout.yaxis = { ...axis, ...layout.yaxis };
  layout.font = { family: 'system-ui, sans-serif', size: 12 };
  layout.title = { x: 0, xanchor: 'left', ...layout.title };
  Plotly.newPlot(box, data, layout, { responsive: true, displaylogo: false });
}
"""


@dataclass(frozen=True)
class RunReport:
    """One run as a report has it: plain values."""

    run: Mapping[str, Any]
    perplexities: Sequence[Mapping[str, Any]]
    sites: Sequence[Mapping[str, Any]]
    tasks: Sequence[Mapping[str, Any]] = ()  # none in reports of earlier versions


def run_report(store: Store, run: Run) -> RunReport:
    """What the store has of a run: recipe, environment, errors of sites; perplexities and accuracies beside dense."""
    dense = dense_subject(run.fingerprint, str(run.about.get("dtype", "")))
    rows, tasks = [], []
    for name, subject in (("dense", dense), ("pruned, not repaired", plain_subject(run.id)), (run.name, run.id)):
        for measure in store.measures.all(subject, "perplexity"):
            value = {k: v for k, v in measure.value.items() if not k.startswith("by_")}
            rows.append({"model": name, "dtype": measure.asked.get("dtype", ""), **value})
        for measure in store.measures.all(subject, "task"):
            result = TaskResult.from_dict(measure.value)
            told = {"model": name, "dtype": measure.asked.get("dtype", ""), "task": result.task}
            tasks.append(told | {"digest": result.digest, **asdict(result.score())})
    texts = {row["digest"] for row in rows if row["model"] != "dense"}
    sites = [site.summary() for site in sites_of(store, run.id)]
    items = {(row["task"], row["digest"]) for row in tasks if row["model"] != "dense"}
    rows = [row for row in rows if row["digest"] in texts]
    return RunReport(asdict(run), rows, sites, [row for row in tasks if (row["task"], row["digest"]) in items])


def collect_report(store: Store, names: Sequence[str]) -> list[Findings | RunReport]:
    """What names stand for: a run, a study of the store, the JSON of ``study --json``, or an earlier report.

    Raises:
        RcpuError: a name is none of these, or the store has nothing of the study.
    """
    found: list[Findings | RunReport] = []
    for name in names:
        path = existing(name) or Path(name)
        if name in STUDIES:
            if not (known := gathered(store, name)):
                raise RcpuError(f"the store has nothing of the study {name}: `python -m rcpu study {name}` runs it")
            found += known
        elif path.suffix in (".html", ".json") and path.is_file():
            found += read_report(path)
        else:
            found.append(run_report(store, store.named(name)))
    return _once(found)


def read_report(path: Path) -> list[Findings | RunReport]:
    """What an earlier report, or the JSON of a study, holds; raises ``RcpuError`` for any other file."""
    text = _text(path)
    if path.suffix == ".html":
        held = DATA.search(text)
        if held is None:
            raise RcpuError(f"{path} is no report of this program: it carries no data")
        text = held[1]
    try:
        values = json.loads(text)
        if values.get("version", VERSION) > VERSION:
            raise RcpuError(f"{path} was written by a newer version: update RCPU Explorer")
        studies = values.get("studies", [values])
        return [*map(Findings.from_dict, studies), *(RunReport(**run) for run in values.get("runs", []))]
    except json.JSONDecodeError as error:
        raise RcpuError(
            f"{path} is broken: line {error.lineno}, column {error.colno} of its data is no JSON"
        ) from error
    except RcpuError as error:
        raise RcpuError(str(error) if str(path) in str(error) else f"{path}: {error}") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise RcpuError(f"{path} holds no findings of a study: {misfit(error)}") from error


def check_page(path: Path, overwrite: bool = False) -> None:
    """Raise ``RcpuError`` unless a report may be written there: over an earlier one, or what may be overwritten."""
    if path.exists() and not overwrite and not DATA.search(_text(path, "replace")):
        raise RcpuError(
            f"{path} exists and is no report: choose another name, or allow it to be overwritten (--overwrite)"
        )


def _text(path: Path, errors: str = "strict") -> str:
    try:
        return path.read_text(encoding="utf-8", errors=errors)
    except (OSError, UnicodeDecodeError) as error:
        raise RcpuError(f"cannot read {path}: {getattr(error, 'strerror', None) or 'it is not UTF-8'}") from error


def report_html(items: Sequence[Findings | RunReport]) -> str:
    """The page; raises ``RcpuError`` where there is nothing to tell, or no plotly.js."""
    studies = [item for item in items if isinstance(item, Findings)]
    runs = [item for item in items if isinstance(item, RunReport)]
    if not items:
        raise RcpuError("a report needs at least one run or study")
    data = {"version": VERSION, "studies": [f.to_dict() for f in studies], "runs": [asdict(r) for r in runs]}
    models = list(dict.fromkeys(f.series["model"] for f in studies)) or [r.run["about"].get("model", "") for r in runs]
    title = f"Pruning report: {', '.join(models)}"
    body = [f"<h1>{_e(title)}</h1>", *_overview(studies), *map(_study, studies), *map(_run, runs)]
    return "\n".join(
        [
            "<!doctype html>",
            f'<html lang="en"><head><meta charset="utf-8"><title>{_e(title)}</title>',
            '<meta name="viewport" content="width=device-width">',
            f"<style>{STYLE}</style><script>{plotly_js()}</script></head><body>",
            *body,
            f'<script type="application/json" id="rcpu-report">{_json(data)}</script>',
            f"<script>{SCRIPT}</script></body></html>",
        ]
    )


def plotly_js() -> str:
    """The text of plotly.js; raises ``RcpuError`` where the package is not installed."""
    spec = importlib.util.find_spec("plotly")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / "package_data" / "plotly.min.js"
        if path.is_file():
            return path.read_text(encoding="utf-8")
    raise RcpuError("a report draws with plotly.js, and the package plotly is not installed: pip install plotly")


def _once(items: Sequence[Findings | RunReport]) -> list[Findings | RunReport]:
    """Of the same series or run what was named last."""
    keyed: dict[tuple, Findings | RunReport] = {}
    for item in items:
        if isinstance(item, Findings):
            s = item.series
            key: tuple = (item.study.name, s["fingerprint"], s["dtype"], s["precision"], json.dumps(s["content"]))
        else:
            key = ("run", item.run["id"])
        keyed.pop(key, None)
        keyed[key] = item
    return list(keyed.values())


def _overview(studies: Sequence[Findings]) -> list[str]:
    """Claims of each study against models."""
    if not studies:
        return []
    parts = ["<h2>Verdicts</h2>"]
    for name in dict.fromkeys(f.study.name for f in studies):
        same = [f for f in studies if f.study.name == name]
        heads = [f"{f.series['model']}, {f.series['text']} → {f.series['evaluation']}" for f in same]
        rows = [
            [_e(claim.says), *(_state(v.state) for f in same for v in f.verdicts if v.claim.says == claim.says)]
            for claim in same[-1].study.claims
        ]
        parts.append(f"<h3>{_e(same[0].study.title)} ({_e(same[0].study.source)})</h3>")
        parts.append(_table(["Claim", *map(_e, heads)], rows))
    return parts


def _state(state: str) -> str:
    return f'<span class="{state}">{STATES[state]}</span>'


def _study(found: Findings) -> str:
    study = found.study
    parts = [f"<h2>{_e(study.title)}, {_e(found.series['model'])}</h2>", f"<p>{_e(study.question)}</p>"]
    parts.append(f'<p class="small">{_e(_sentence(setup(found)))}</p>')
    parts += [f'<p class="small">{_e(_sentence(note))}</p>' for note in (*found.cut, *study.notes)]
    parts += [f"<p><strong>Warning:</strong> {_e(_sentence(note))}</p>" for note in found.series["warnings"]]
    columns = verdict_rows(found)
    states = [_state(verdict.state) for verdict in found.verdicts]
    cells = {name: states if name == "Here" else list(map(_e, column)) for name, column in columns.items()}
    parts.append(_table(list(cells), list(map(list, zip(*cells.values(), strict=True)))))
    for quantity in study.quantities:
        made = figures(found, quantity)
        if can_be_relative(quantity):
            made = [
                figure for pair in zip(made, figures(found, quantity, relative=True), strict=True) for figure in pair
            ]
        parts += _figures(made)
        parts.append(f"<details><summary>Numbers: {_e(QUANTITIES[quantity].label)}</summary>")
        columns = result_rows(found, quantity)
        parts.append(_table(list(columns), [list(map(_e, row)) for row in zip(*columns.values(), strict=True)]))
        parts.append("</details>")
    parts.append(_settings(found.series["recipe"], {k: found.series[k] for k in ("fingerprint", "device", "versions")}))
    return "\n".join(parts)


def _run(report: RunReport) -> str:
    run, about = report.run, report.run["about"]
    parts = [f"<h2>Run {_e(run['name'])}</h2>"]
    shown = {"model": about.get("model"), "state": run["state"], "text": about.get("text"), "note": run["note"]}
    sizes = [("parameters", 1e6, "million parameters"), ("bytes", 2**20, "MiB")]
    for key, scale, unit in sizes:
        if f"{key}_after" in about:
            before, after = about[f"{key}_before"] / scale, about[f"{key}_after"] / scale
            shown[unit] = f"{before:,.1f} → {after:,.1f}"
    parts.append(_table(["", ""], [[_e(k), _e(str(v))] for k, v in shown.items() if v]))
    if report.perplexities:
        heads = ["Model", "Text", "Perplexity", "95 % interval", "Windows × tokens", "Measured in"]
        rows = [
            [
                _e(str(row["model"])),
                _e(str(row["text"])),
                f"{row['perplexity']:.3f}",
                "{:.3f} to {:.3f}".format(*row["interval"]) if row.get("interval") else "",
                f"{row['windows']} × {row['window']}",
                _e(str(row["dtype"])),
            ]
            for row in report.perplexities
        ]
        parts.append(_table(heads, rows))
    if report.tasks:
        heads = ["Model", "Task", "Metric", "Value", "Standard error", "Chance", "Items", "Measured in"]
        keys = ("value", "error", "chance")
        rows = [
            [
                *(_e(str(row[key])) for key in ("model", "task", "metric")),
                *("" if row[key] is None else f"{row[key]:.4f}" for key in keys),
                f"{row['items']}",
                _e(str(row["dtype"])),
            ]
            for row in report.tasks
        ]
        parts.append(_table(heads, rows))
    if report.sites:
        parts += _figures([_site_errors(run["name"], report.sites)])
    environment = {k: about[k] for k in ("device", "dtype", "machine", "python", "versions") if k in about}
    parts.append(_settings(run["recipe"], {"fingerprint": run["fingerprint"], **environment}))
    return "\n".join(parts)


def _site_errors(name: str, sites: Sequence[Mapping[str, Any]]) -> dict:
    traces = []
    for site, symbol in (("o_proj", "circle"), ("down_proj", "square")):
        rows = [s for s in sites if s["site"] == site]
        for key, label, color in (
            ("error_none", "not repaired", "#E69F00"),
            ("error_compensated", "repaired", "#009E73"),
        ):
            more = {
                "marker": {"symbol": symbol},
                "line": {"color": color, "dash": "dot" if symbol == "square" else "solid"},
            }
            x, y = [s["layer"] for s in rows], [s[key] for s in rows]
            hover = "layer %{x}: %{y:.4f}<extra>%{fullData.name}</extra>"
            traces.append(
                {"type": "scatter", "mode": "lines+markers", "x": x, "y": y, "name": f"{site}, {label}",
                 "hovertemplate": hover, **more}
            )  # fmt: skip
    layout = {
        "title": {"text": f"{_e(name)}: errors on the calibration windows"},
        "xaxis": {"title": {"text": "layer"}},
        "yaxis": {"title": {"text": "‖Y − Ŷ‖ ÷ ‖Y‖"}, "rangemode": "tozero"},
        "height": 420,
    }
    return {"data": traces, "layout": layout}


def _figures(made: Sequence[Mapping]) -> list[str]:
    boxes = [
        f'<div><div class="figure" role="img" aria-label="{_e(figure["layout"].get("meta", {}).get("alt", ""))}"></div>'
        f'<script type="application/json">{_json(figure)}</script></div>'
        for figure in made
    ]
    return ['<div class="figures">', *boxes, "</div>"] if boxes else []


def _settings(recipe: Mapping, environment: Mapping) -> str:
    known = {k: v for k, v in recipe.items() if v is not None}
    try:
        text = Recipe.from_dict(dict(known)).to_yaml()
    except RcpuError:  # of a version that had other settings
        text = json.dumps(dict(recipe), indent=1)
    rows = [[_e(str(k)), _e(json.dumps(v) if isinstance(v, Mapping) else str(v))] for k, v in environment.items()]
    told = f"<pre>{_e(text)}</pre>{_table(['', ''], rows)}"
    return f"<details><summary>Recipe and environment</summary>{told}</details>"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "" if not any(heads) else f"<tr>{''.join(f'<th>{h}</th>' for h in heads)}</tr>"
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="wide"><table>{head}{body}</table></div>'


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}" + ("" if text.endswith(".") else ".")


def _e(text: str) -> str:
    return html.escape(text)


def _json(value: Any) -> str:
    """JSON that cannot end the element it stands in."""
    return json.dumps(value, ensure_ascii=False).replace("<", "\\u003c")
