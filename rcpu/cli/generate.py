"""``python -m rcpu generate``: continue a prompt."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import asdict

from rich.console import Console

import rcpu
from rcpu.base.errors import RcpuError
from rcpu.cli.common import check_json, load_subject, results
from rcpu.runs import open_store


def add(commands, model) -> None:
    """Declare the command's flags."""
    generate = commands.add_parser("generate", parents=[model], help="continue a prompt")
    generate.add_argument("--prompt", required=True)
    generate.add_argument("--max-new-tokens", type=int, default=64, metavar="N", help="(default: %(default)s)")
    generate.add_argument("--seed", type=int, default=0, help="of the sampling (default: %(default)s)")
    generate.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default: %(default)s)")
    generate.add_argument("--top-p", type=float, default=1.0, help="nucleus sampling (default: %(default)s)")
    generate.set_defaults(run=_generate)


def _generate(options, console: Console) -> None:
    check_json(options.json)
    # What a shell hands over in another encoding has halves of characters, which no tokenizer takes.
    options.prompt = options.prompt.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    model, subject = load_subject(options, console)
    shown, last, closed = None, None, None
    for last in rcpu.stream(
        model.net,
        model.tokenizer,
        options.prompt,
        max_new_tokens=options.max_new_tokens,
        seed=options.seed,
        temperature=options.temperature,
        top_p=options.top_p,
        cancelled=options.interrupted,
    ):
        if closed is None:
            try:  # the prompt only now that the input is known to be good
                sys.stdout.write(options.prompt * (shown is None) + last.text[shown or 0 :])
                sys.stdout.flush()
            except OSError as error:
                if not options.json:  # nobody reads it
                    raise
                closed = error
        shown = len(last.text)
    names = ("prompt", "max_new_tokens", "seed", "temperature", "top_p")
    with contextlib.suppress(RcpuError):  # what was asked for is the text; it is told all the same
        asked = {name: getattr(options, name) for name in names}
        open_store().measures.put(subject, "generation", asked, asdict(last))
    console.print(f"{last.tokens} tokens, {last.tokens_per_second:.1f} tokens/s decoding", markup=False)
    found = {
        "model": options.model,
        "prompt": options.prompt,
        "text": last.text,
        "tokens": last.tokens,
        "tokens_per_second": last.tokens_per_second,
        "finished": last.finished,
    }
    with results(options.json, found):
        if closed:
            raise closed
        sys.stdout.write("\n")
