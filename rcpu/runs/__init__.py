"""What stays: the run store, and what is measured of a run."""

from rcpu.runs.asks import ASKS, Ask, Bench, GeometryAsk, PerplexityAsk, TasksAsk, ask_dict, ask_of
from rcpu.runs.drawing import can_be_relative, figures
from rcpu.runs.field import Published, published
from rcpu.runs.loaded import (
    PREFIX,
    check_named,
    compact_model,
    keep_perplexity,
    keep_task,
    load_named,
    load_run,
    measured_lines,
    perplexities,
    task_results,
)
from rcpu.runs.pruned import (
    content_of,
    default_name,
    found_of,
    has_weights,
    how_far,
    load_result,
    prune_into,
    resume_into,
    sites_of,
)
from rcpu.runs.readings import QUANTITIES
from rcpu.runs.records import STATES, Measure, Run, dense_subject, digest_of, plain_subject
from rcpu.runs.redo import command_of, python_of
from rcpu.runs.reports import RunReport, collect_report, report_html, run_report
from rcpu.runs.running import Outcome, measure_dense, run_recipe
from rcpu.runs.shelf import Row, Shelf, side_by_side
from rcpu.runs.store import Store, UnderWay, home_folder, new_id, open_store
from rcpu.runs.streamed import Stream, prepare_stream, run_stream
from rcpu.runs.studies import SIZES, STUDIES, Asked, Study, load_study, numbers_of, sized
from rcpu.runs.studying import Findings, gathered, run_study
from rcpu.runs.tables import against_dense, markdown, markdown_table, result_rows, setup, verdict_rows
from rcpu.runs.temporary import temporary_store
from rcpu.runs.verdicts import Verdict

__all__ = [
    "ASKS",
    "Ask",
    "Asked",
    "Bench",
    "Findings",
    "GeometryAsk",
    "Measure",
    "Outcome",
    "PREFIX",
    "PerplexityAsk",
    "Published",
    "QUANTITIES",
    "Row",
    "Run",
    "RunReport",
    "SIZES",
    "STATES",
    "STUDIES",
    "Shelf",
    "Store",
    "Stream",
    "Study",
    "TasksAsk",
    "UnderWay",
    "Verdict",
    "against_dense",
    "ask_dict",
    "ask_of",
    "can_be_relative",
    "collect_report",
    "command_of",
    "compact_model",
    "content_of",
    "default_name",
    "dense_subject",
    "digest_of",
    "figures",
    "found_of",
    "gathered",
    "has_weights",
    "home_folder",
    "how_far",
    "check_named",
    "keep_perplexity",
    "keep_task",
    "load_named",
    "load_result",
    "load_run",
    "load_study",
    "markdown",
    "markdown_table",
    "measure_dense",
    "measured_lines",
    "new_id",
    "numbers_of",
    "open_store",
    "perplexities",
    "plain_subject",
    "prepare_stream",
    "prune_into",
    "published",
    "python_of",
    "report_html",
    "result_rows",
    "resume_into",
    "run_recipe",
    "run_report",
    "run_stream",
    "run_study",
    "setup",
    "side_by_side",
    "sites_of",
    "sized",
    "task_results",
    "temporary_store",
    "verdict_rows",
]
