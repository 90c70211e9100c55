"""What a run tells while it works, and how that is shown: live lines, plain lines, JSON lines."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TextIO

DONE = "done"  # the stages that end a run
FAILED = "failed"


@dataclass(frozen=True)
class Event:
    """One step of one run. `seconds` is set when a round has ended: how long it took."""

    run: str  # the config's name
    stage: str  # what is being done, in a few words: "training", "attack", "done"
    round: int = 0
    rounds: int = 0
    seconds: float | None = None
    path: str | None = None  # the run directory, once it is there
    lasting: bool = False  # to stay on the screen: a warning


def has_ended(event: Event) -> bool:
    """Whether the run is over, well or not."""
    return event.stage == DONE or event.stage.startswith(FAILED)


Progress = Callable[[Event], None]


def silent(event: Event) -> None:
    """Shows nothing: the default from Python."""


def json_lines(event: Event) -> None:
    """One JSON object a line on standard output, for the process that started this one."""
    sys.stdout.write(json.dumps({"fedmem": asdict(event)}) + "\n")
    sys.stdout.flush()


def parse_line(line: str) -> Event | None:
    """The event in a line of `json_lines`; None for anything else a library may have printed."""
    try:
        return Event(**json.loads(line)["fedmem"])
    except (ValueError, KeyError, TypeError):
        return None


def describe(event: Event) -> str:
    """`round 2 of 5, training` or `round 2 of 5 took 11.2 s`."""
    if not event.round:
        return event.stage
    head = f"round {event.round} of {event.rounds}"
    if event.seconds is not None:
        return f"{head} took {event.seconds:.1f} s"
    return f"{head}, {event.stage}"


@contextmanager
def shown(stream: TextIO | None = None, whole: str | None = None) -> Iterator[Progress]:
    """A progress that draws on `stream` (standard error): one live line a run on a terminal,
    else a line a finished round and a line a stage outside the rounds.

    `whole`: many runs make up one of this name. A live line each only while they are at work; in
    plain lines what the whole tells, and how each of the others ended.
    """
    out = sys.stderr if stream is None else stream
    if not out.isatty():
        yield plain(out, whole)
        return
    from rich.console import Console  # only where it is used: `fedmem --help` stays quick
    from rich.live import Live
    from rich.table import Table

    last: dict[str, Event] = {}
    began: dict[str, float] = {}
    ended: dict[str, float] = {}

    def table() -> Table:
        grid = Table.grid(padding=(0, 2))
        for name, event in last.items():
            if event.rounds and event.round:
                full = 12 * (event.round - (event.seconds is None)) // event.rounds
                bar = "━" * full + "╌" * (12 - full)
            else:
                bar = ""
            spent = ended.get(name, time.monotonic()) - began[name]
            grid.add_row(name, bar, describe(event), f"{spent:.0f} s")
        return grid

    console = Console(file=out)
    with Live(console=console, get_renderable=table, refresh_per_second=4) as live:

        def show(event: Event) -> None:
            if event.lasting or (whole and event.stage.startswith(FAILED)):
                console.print(f"{event.run}: {event.stage}", markup=False, highlight=False)
            if whole not in (None, event.run) and has_ended(event):
                last.pop(event.run, None)
            elif not event.lasting:
                began.setdefault(event.run, time.monotonic())
                last[event.run] = event
            if has_ended(event):
                ended[event.run] = time.monotonic()

        yield show
        live.refresh()


def plain(out: TextIO, whole: str | None = None) -> Progress:
    """A progress that writes a line a finished round, and a line a stage outside the rounds.

    `whole`: as for `shown`.
    """
    said: dict[str, str] = {}

    def show(event: Event) -> None:
        text = describe(event)
        told = event.seconds is not None or not event.round or event.lasting
        if whole not in (None, event.run):
            told = event.lasting or has_ended(event)
        if told and said.get(event.run) != text:
            said[event.run] = text
            print(f"{event.run}: {text}", file=out, flush=True)

    return show
