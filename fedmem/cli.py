"""The commands. Thin: each loads what it needs only when it runs, so that `--help` is quick.

Exit codes: 0 done; 2 wrong usage, config or data; 1 a run that failed. Errors are one line on
standard error; FEDMEM_DEBUG=1 shows the traceback instead.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from click import ClickException, Context
from click.exceptions import Abort, Exit
from typer.core import TyperGroup

from fedmem.errors import ConfigError, DataError, FedmemError

QUIET = {  # nothing is sent anywhere, and libraries do not talk between our lines
    "FLWR_TELEMETRY_ENABLED": "0",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
}


class OneLine(TyperGroup):
    """Turns every error of a command into one line and its exit code."""

    def invoke(self, ctx: Context) -> Any:
        try:
            return super().invoke(ctx)
        except (ClickException, Exit, Abort):
            raise  # wrong usage: Typer's own message, exit code 2
        except BaseException as error:
            if os.environ.get("FEDMEM_DEBUG") or isinstance(error, SystemExit):
                raise
            if isinstance(error, OSError) and error.errno == errno.EPIPE:
                raise  # `fedmem ... | head`: Click ends quietly
            typer.echo(f"fedmem: error: {error_line(error)}", err=True)
            raise typer.Exit(error.exit_code if isinstance(error, FedmemError) else 1) from None


def error_line(error: BaseException) -> str:
    """What happened and what was kept, without line breaks."""
    if isinstance(error, KeyboardInterrupt):
        text = "interrupted"
    elif isinstance(error, FedmemError):
        text = str(error)
    else:
        text = f"{type(error).__name__}: {error} (set FEDMEM_DEBUG=1 for the traceback)"
    notes = getattr(error, "__notes__", [])
    return "; ".join(" ".join(part.split()) for part in [text, *notes])


app = typer.Typer(
    cls=OneLine,
    help="What can one hospital pull out of a jointly fine-tuned language model?",
    epilog="Example:  fedmem run quickstart",
    no_args_is_help=True,
    add_completion=False,
    suggest_commands=False,  # Click suggests by itself
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(
    help="Look at the data before a run.",
    epilog="Example:  fedmem data preview quickstart",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(data_app, name="data")

# Arguments are described in each command's text: Typer 0.20 with Click 8.5 loses their own help.
ConfigArgument = Annotated[str, typer.Argument(metavar="CONFIG", hidden=True)]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", hidden=True)]


def _version(asked: bool) -> None:
    if asked:
        from fedmem.versions import fedmem_version

        typer.echo(f"fedmem {fedmem_version()}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    # a polite kill (a batch system's, `timeout`'s) ends a run as Ctrl-C does: its manifest says so
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@app.command(epilog="Example:  fedmem run configs/quickstart.yaml rounds.count=3 training.lr=1e-3")
def run(
    config: ConfigArgument,
    changes: Overrides = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the newest stopped run of this config.")
    ] = False,
) -> None:
    """Simulate a config: train, attack, measure, write a report.

    CONFIG is a YAML file, or the name of a config that comes along, such as `quickstart`.
    Each KEY=VALUE changes one key of it: training.lr=1e-3, data.clients.0.source.records=50.
    Everything is written to a new directory under the config's `output` (default: runs).
    """
    import fedmem
    from fedmem.loading import load_config
    from fedmem.progress import shown

    loaded = load_config(config, changes or [])
    with shown() as progress:
        done = fedmem.run(loaded, progress, resume)
    typer.echo(f"run:    {done.path}\nreport: {done.report}")


@app.command(epilog="Example:  fedmem sweep my.yaml 'sweep.seed=[0, 1, 2]' arms={}")
def sweep(
    config: ConfigArgument,
    changes: Overrides = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the newest stopped sweep of this config.")
    ] = False,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Runs at once [default: by cores; 1 on a GPU]")
    ] = None,
) -> None:
    """Run a grid: every combination of the values in the config's `sweep`, in every arm.

    CONFIG and KEY=VALUE as for `fedmem run`; `sweep: {training.lr: [1e-3, 3e-3], seed: [0, 1]}`
    makes four runs. They share one directory, with the index of all in its index.csv.
    """
    from fedmem.loading import load_config
    from fedmem.progress import shown
    from fedmem.sweep import run_sweep

    loaded = load_config(config, changes or [])
    with shown(whole=loaded.name) as progress:
        done = run_sweep(loaded, progress, resume, jobs)
    typer.echo(f"sweep:  {done.path}\nindex:  {done.index}")
    if done.report:
        typer.echo(f"report: {done.report}")


@app.command(epilog="Example:  fedmem shadows runs/my-run --count 16 --leave-one-out")
def shadows(
    run: Annotated[Path, typer.Argument(metavar="RUN", hidden=True)],
    count: Annotated[int, typer.Option(help="Random halves of the canaries, an even number.")] = 8,
    leave_one_out: Annotated[
        bool, typer.Option("--leave-one-out", help="Also a run without each of the clients.")
    ] = False,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Runs at once [default: by cores; 1 on a GPU]")
    ] = None,
) -> None:
    """Train shadows of a finished run, for LiRA, RMIA and counterfactuals.

    RUN is the directory of one finished run. Its shadows are runs under RUN/shadows, each as long
    as RUN took less its attacks; those that are there already are kept. RUN's summary and report
    are written again.
    """
    from fedmem.progress import shown
    from fedmem.shadows import train

    with shown() as progress:
        done = train(run, count, leave_one_out, progress, jobs)
    typer.echo(f"shadows: {len(done.runs)} in {run / 'shadows'}\nreport:  {run / 'report.html'}")


@app.command(hidden=True)
def arm(config: Path) -> None:
    """One of several runs, started by `fedmem run` or `sweep`: tells its progress as JSON lines."""
    from fedmem.group import run_member

    run_member(config)


@app.command(epilog="Example:  fedmem report runs/A runs/B --out compare.html")
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", hidden=True)],
    out: Annotated[
        Path | None, typer.Option(help="File to write [default: RUN/report.html, or ./report.html]")
    ] = None,
    utility: Annotated[
        str | None,
        typer.Option(help="Tasks, as `open,mcq`, whose NLL arms are compared at [default: all]"),
    ] = None,
) -> None:
    """Write the report of runs, side by side, as one HTML file.

    RUN is the directory of a finished run, or of a config with arms or a sweep: then all of it.
    Runs that differ in seed and learning rate alone are one arm; arms are compared each at its own
    best, and at equal utility along their frontiers.
    """
    from fedmem.rundir import finished_runs

    named = [folder for path in runs for folder in finished_runs(path)]
    folders = list({folder.resolve(): folder for folder in named}.values())  # once if named twice
    page = out or (runs[0] if len(runs) == 1 else Path()) / "report.html"
    if page.is_dir() or not page.parent.is_dir():
        raise DataError(f"--out {page}: give a file in a folder that exists")
    from fedmem.report import write_report

    write_report(folders, page, [] if utility is None else utility.split(","))
    typer.echo(f"report: {page}")


@app.command(
    epilog="Example:  fedmem attack my-adapter --canaries notes.jsonl attack.continuation=30"
)
def attack(
    what: Annotated[str, typer.Argument(metavar="RUN|MODEL", hidden=True)],
    changes: Overrides = None,
    canaries: Annotated[
        Path | None, typer.Option(help="Notes to look for: id, text, copies, patient, phi.")
    ] = None,
    round_: Annotated[
        int | None, typer.Option("--round", help="Of a run, only the model after this round.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="New directory to write [default: attacks/<time>-<name>]")
    ] = None,
) -> None:
    """Try whether models that are trained already give notes back.

    RUN is a finished run's directory: its saved models, with its own canaries or those of a file.
    MODEL is a PEFT adapter's folder, a checkpoint's folder, `bundled`, or a hub name with
    model.revision=HASH. A note's `copies` says how often it was in the training data, 0 for a twin
    that never was. KEY=VALUE changes attack.*, engine.*, training.max_length; of a MODEL also
    model.*.
    """
    from fedmem.attacks.printed import lines
    from fedmem.attacks.standalone import attack as attack_one
    from fedmem.progress import shown

    with shown() as progress:
        done = attack_one(what, canaries, out, round_, changes or [], progress)
    for line in lines(done.summary):
        typer.echo(line)
    typer.echo(f"attack: {done.path}")


@app.command(epilog="Example:  fedmem evaluate bundled --questions my.jsonl --adapter medmcqa")
def evaluate(
    what: Annotated[str, typer.Argument(metavar="RUN|MODEL", hidden=True)],
    changes: Overrides = None,
    questions: Annotated[
        Path | None, typer.Option(help="File of questions: .jsonl, .csv or .parquet.")
    ] = None,
    adapter: Annotated[
        str | None, typer.Option(help="Its columns: medmcqa, medqa, mmlu, pubmedqa, generic ...")
    ] = None,
    round_: Annotated[
        int | None, typer.Option("--round", help="Of a run, only the model after this round.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="JSON file to write; the answers go beside it.")
    ] = None,
    harness: Annotated[
        bool, typer.Option("--harness", help="Ask lm-evaluation-harness too (fedmem[eval]).")
    ] = False,
) -> None:
    """Measure what models that are trained already are good for.

    RUN and MODEL as for `fedmem attack`. A run is asked its own held-out questions, unless
    --questions names others.
    """
    from fedmem.evaluation import standalone
    from fedmem.progress import shown

    with shown() as progress:
        done = standalone.evaluate(
            what, questions, adapter, round_, out, harness, changes or [], progress
        )
    for line in standalone.lines(done):
        typer.echo(line)


@data_app.command(epilog="Example:  fedmem data preview real data.root=../my-records")
def preview(config: ConfigArgument, changes: Overrides = None) -> None:
    """Show what each client will hold.

    Records, canaries, tokens, rows that were left out. CONFIG and KEY=VALUE as for `fedmem run`.
    """
    from fedmem.preview import preview_lines

    _tell(preview_lines, config, changes)


@data_app.command(epilog="Example:  fedmem data build real data.root=../my-records")
def build(config: ConfigArgument, changes: Overrides = None) -> None:
    """Encode all records into the cache.

    Runs of the same records read them from there: data.cache, or else FEDMEM_CACHE, or else
    ~/.cache/fedmem. CONFIG and KEY=VALUE as for `fedmem run`.
    """
    from fedmem.preview import build_lines

    _tell(build_lines, config, changes)


def _tell(lines: Callable[..., Iterable[str]], config: str, changes: list[str] | None) -> None:
    from fedmem.loading import load_config
    from fedmem.progress import Event, shown

    loaded = load_config(config, changes or [])
    with shown() as progress:
        told = list(lines(loaded, lambda text: progress(Event(loaded.name, text))))
    for line in told:
        typer.echo(line)


@data_app.command(epilog="Example:  fedmem data check real data.root=../my-records")
def check(config: ConfigArgument, changes: Overrides = None) -> None:
    """Read every row of every source; name the bad ones.

    Exits with 2 if there is any. No model is needed. CONFIG and KEY=VALUE as for `fedmem run`.
    """
    from fedmem.data.check import check_lines
    from fedmem.loading import load_config

    for line in check_lines(load_config(config, changes or [])):
        typer.echo(line)


@app.command(epilog="Example:  fedmem doctor quickstart")
def doctor(
    config: Annotated[str | None, typer.Argument(metavar="[CONFIG]", hidden=True)] = None,
    changes: Overrides = None,
) -> None:
    """Show versions, cores, memory, disk; check a config.

    With a CONFIG: that it loads, that its files are there, how many parameters are trained.
    """
    from fedmem.doctor import config_lines, machine_lines

    for line in machine_lines():
        typer.echo(line)
    if config is not None:
        from fedmem.loading import load_config
        from fedmem.progress import shown

        with shown() as progress:
            for line in config_lines(load_config(config, changes or []), progress):
                typer.echo(line)


@app.command(epilog="Example:  fedmem base --out my-base --seed 0")
def base(
    out: Annotated[
        Path, typer.Option(show_default=False, help="New folder to write to [default: base]")
    ] = Path("base"),
    seed: Annotated[
        int, typer.Option(show_default=False, help="Same seed and machine, same bytes [default: 0]")
    ] = 0,
) -> None:
    """Train the bundled base again by its recipe."""
    if seed < 0:
        raise ConfigError(f"--seed {seed}: must be 0 or more")
    if out.exists():
        raise DataError(f"--out {out}: is already there; give a new folder")
    from fedmem.model import recipe
    from fedmem.progress import Event, shown

    with shown() as progress:
        recipe.make(
            out,
            seed,
            progress=lambda step, steps, text: progress(
                Event("base", f"step {step:,} of {steps:,}, {text}")
            ),
        )
    typer.echo(f"base: {out}")


def main() -> None:
    """The entry point of the command `fedmem`."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that is not UTF-8 still gets its line
    app(prog_name="fedmem")
