"""What happens after each round: audit, utility, and everything written down before the next.

A round is done when its line stands in metrics.jsonl; all it needs is on disk by then. So a run
that was killed is taken up after its last line, and what lies beyond is undone and made again.
"""

from __future__ import annotations

import json
from dataclasses import replace
from time import perf_counter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fedmem import checkpoint, protection
from fedmem.attacks import attribution
from fedmem.attacks import audit as auditing
from fedmem.attacks import rows as score_rows
from fedmem.config import Config
from fedmem.data.preview import plan_table
from fedmem.errors import DataError
from fedmem.evaluation.utility import ANSWERS
from fedmem.metrics import audit, tokens, utility
from fedmem.metrics.attribution import SERVER
from fedmem.progress import Event, Progress
from fedmem.rounds import Round, Start, attack_due, utility_due
from fedmem.rundir import RunDir
from fedmem.tracking import Trackers, figures
from fedmem.training import dp_claims
from fedmem.workspace import Workspace

PLAN, STATS = "canaries.parquet", "data.json"
SCORES, ANSWERED, UTILITY = "scores.parquet", "answers.parquet", "utility.json"


class Recorder:
    """Measures and writes the rounds of one run; `on_round` is what an engine calls."""

    def __init__(
        self, config: Config, workspace: Workspace, directory: RunDir, progress: Progress
    ) -> None:
        self.config, self.workspace = config, workspace
        self.directory, self.progress = directory, progress
        self.scores = score_rows.SCHEMA.empty_table()
        self.points = len(config.attack.sampling)
        self.tokens = tokens.schema(self.points).empty_table()
        self.watches = "server" in config.attack.views
        self.watched = attribution.table([])
        self.answers = ANSWERS.empty_table()
        self.utility: list[dict[str, Any]] = []
        self.began = perf_counter()
        self.trackers = Trackers(config, directory.path, self.warn)

    # --- where to begin ---

    def begin(self) -> Start | None:
        """The round after which the run goes on; None for a run from its beginning.

        Raises DataError where the data are no longer those of the run, or a file is torn.
        """
        done = self.directory.undo_unfinished()
        if done is None:
            if self.workspace.whole:
                self.write_plan(
                    plan_table(self.workspace.data, self.config.privacy.redact),
                    self.workspace.data.stats,
                )
            return None
        self.check_data()
        self.scores = self.read(SCORES, done)
        self.tokens = self.read(tokens.TOKENS, done)
        self.watched = self.read(SERVER, done) if self.watches else self.watched
        self.answers = self.read(ANSWERED, done)
        self.utility = [row for row in self.read_json(UTILITY) if row["round"] <= done]
        self.progress(Event(self.config.name, f"taken up after round {done}"))
        if done < self.config.rounds.count:
            self.say(done + 1, "training")
        start = checkpoint.load(self.directory, done)
        return start if self.config.training.dp is None else replace(start, trained=self.trained())

    def trained(self) -> dict[str, list[int]]:
        """Under DP-SGD, the rounds that each client has trained, for its ledger.

        Raises DataError where the run's files do not account for one.
        """
        lines = [line for line in self.directory.metrics() if line["round"]]
        if not self.config.aggregation.secure.enabled:  # there no client tells what a round cost
            dp_claims.ledgers(self.config, protection.history(self.config, lines))
        found: dict[str, list[int]] = {}
        for line in lines:
            for name in line["participants"]:
                found.setdefault(name, []).append(line["round"])
        return found

    def write_plan(self, plan: pa.Table, stats: dict[str, Any]) -> None:
        """Who owns which canary, and what every client holds: known before any training."""
        self.directory.write_table(PLAN, plan)
        self.directory.write_json(STATS, stats)

    def check_data(self) -> None:
        """The records read now must be those that the run began with."""
        if self.workspace.whole:
            held, now = self.read_json(STATS), json.loads(json.dumps(self.workspace.data.stats))
            if held != now:
                part = next((key for key in now if held.get(key) != now[key]), "clients")
                raise DataError(
                    f"{self.directory.path / STATS}: the data changed since the run began "
                    f"({part}); bring the old files back, or start anew without --resume"
                )

    def read(self, name: str, done: int) -> pa.Table:
        """The rows of a table up to round `done`."""
        try:
            table = pq.read_table(self.directory.path / name)
            return table.filter(pc.field("round") <= done)
        except (OSError, ValueError) as error:  # pyarrow's own errors derive from these
            why = " ".join(str(error).split())[:200]
            raise DataError(
                f"{self.directory.path / name}: torn or missing ({why}); start anew"
            ) from None

    def read_json(self, name: str) -> Any:
        """A JSON file of the run."""
        try:
            return json.loads((self.directory.path / name).read_bytes())
        except (OSError, ValueError):
            raise DataError(f"{self.directory.path / name}: torn or missing; start anew") from None

    # --- a round ---

    def on_round(self, done: Round) -> None:
        """A round has been aggregated (0: the untouched base). On disk when this returns."""
        number, seconds = done.number, done.seconds
        if done.told and number == 0:
            plans = [score_rows.from_bytes(told["plan"]) for told in done.told]
            plan = pa.concat_tables(plans).sort_by("canary")
            self.write_plan(plan, merged([json.loads(told["stats"]) for told in done.told]))
        started = perf_counter()
        ties = 0
        if attack_due(self.config, number):
            self.say(number, "attack")
            ties = self.attack(done)
            seconds["attack"] += perf_counter() - started
        started = perf_counter()
        if utility_due(self.config, number):
            self.evaluate(done)
        seconds["utility"] = perf_counter() - started

        started = perf_counter()
        if self.config.attack.audit and number == self.config.rounds.count:
            self.directory.write_table(audit.AUDIT, self.workspace.coins(done.models))
            seconds["attack"] += perf_counter() - started
        started = perf_counter()
        if number > 0:
            self.save_models(done)
        self.directory.write_table(SCORES, self.scores)
        self.directory.write_table(tokens.TOKENS, self.tokens)
        if self.watches:
            self.watched = pa.concat_tables([self.watched, attribution.table(done.watched)])
            self.directory.write_table(SERVER, self.watched)
        self.directory.write_table(ANSWERED, self.answers)
        self.directory.write_json(UTILITY, self.utility)
        checkpoint.save(self.directory, number, done.models, done.defences)
        seconds["saving"] = perf_counter() - started

        self.commit(done, ties)

    def attack(self, done: Round) -> int:
        """Add the round's rows of scores and tokens; returns how many verdicts hang on a tie."""
        if self.workspace.whole:
            models = sorted(done.models.items())
            found = [self.workspace.audit(done.number, model, name) for name, model in models]
            scored = [row for one in found for row in one.scores]
            if "public" in self.config.attack.views and done.number == self.config.rounds.count:
                for name, model in models:
                    scored += self.workspace.public(done.number, model, name)
            tables = [score_rows.table(scored)]
            rows = [row for one in found for row in one.tokens]
            told = [score_rows.token_table(rows, self.points)]
        else:
            tables = [score_rows.from_bytes(t["scores"]) for t in done.told if t.get("scores")]
            told = [score_rows.from_bytes(t["tokens"]) for t in done.told if t.get("tokens")]
        self.tokens = pa.concat_tables([self.tokens, *told])
        ties = sum(auditing.ties(table.to_pylist(), self.config.model.dtype) for table in tables)
        tables += [score_rows.from_bytes(data) for data in done.scores]
        self.scores = pa.concat_tables([self.scores, *tables])
        return ties

    def evaluate(self, done: Round) -> None:
        """Add the round's answers to held-out questions, and utility by task."""
        if self.workspace.whole:
            models = sorted(done.models.items())
            tables = [self.workspace.answer(done.number, model, name) for name, model in models]
        else:
            tables = [score_rows.from_bytes(t["answers"]) for t in done.told if t.get("answers")]
        new = pa.concat_tables([ANSWERS.empty_table(), *tables])
        self.answers = pa.concat_tables([self.answers, new])
        self.utility += utility.by_task(new)

    def save_models(self, done: Round) -> None:
        """One folder a round; under `local` one below it for each client."""
        with self.directory.directory(f"adapters/round_{done.number:03d}") as folder:
            for name, model in sorted(done.models.items()):
                target = folder if name == "global" else folder / name
                self.workspace.save(model, target)

    def commit(self, done: Round, ties: int) -> None:
        """Write the round's lines. metrics.jsonl comes last: it holds what a seed decides, and its
        line makes the round count; times, which differ from run to run, stand in timings.jsonl."""
        total = perf_counter() - self.began
        self.began = perf_counter()
        train = {
            name: {key: value for key, value in metrics.items() if key != "seconds"}
            for name, metrics in done.train.items()
        }
        clients = {name: metrics.get("seconds") for name, metrics in done.train.items()}
        self.directory.append_timings(
            {
                "round": done.number,
                **{f"{stage}_seconds": value for stage, value in done.seconds.items()},
                "seconds": total,
                "clients": clients,
                "lost_workers": done.losses,
            }
        )
        self.directory.append_metrics(
            {
                "round": done.number,
                "participants": done.participants,
                "train": train,
                "ties": ties,
                **({"server": done.server} if done.server else {}),
                **({"lost": done.lost} if done.lost else {}),
            }
        )
        if self.trackers.names:
            self.track(done, total)
        checkpoint.forget(self.directory, keep=done.number)
        for loss in done.losses:
            self.progress(Event(self.config.name, f"lost and replaced a worker: {loss['why']}"))
        for lost in done.lost:
            self.warn(
                f"round {done.number}: lost client {lost['client']} at {lost['at']}: {lost['why']}"
            )
        count = self.config.rounds.count
        stage = "" if done.number else "untouched base scored"
        self.progress(Event(self.config.name, stage, done.number, count, seconds=total))
        if done.number < count:
            self.say(done.number + 1, "training")

    def track(self, done: Round, total: float) -> None:
        """Tell the trackers the round's figures; the round counts already, whatever they do."""
        number, attack = done.number, self.config.attack
        found = {**figures.training(done), **figures.seconds(done, total)}
        found |= figures.utility(row for row in self.utility if row["round"] == number)
        new = self.scores.filter(pc.field("round") == number)
        if new.num_rows:
            plan = pq.read_table(self.directory.path / PLAN)
            found |= figures.leakage(
                new, plan, done.participants, number, attack.bleu, attack.continuation
            )
        self.trackers.log(number, found)
        if number == self.config.rounds.count:
            self.trackers.close()
        if self.trackers.failures:
            self.directory.manifest["tracking_failures"] = dict(self.trackers.failures)

    def warn(self, text: str) -> None:
        """Say something that is to stay on the screen."""
        self.progress(Event(self.config.name, text, lasting=True))

    def say(self, number: int, stage: str) -> None:
        """Say what comes next."""
        self.progress(Event(self.config.name, stage, number, self.config.rounds.count))


def merged(stats: list[dict[str, Any]]) -> dict[str, Any]:
    """The nodes' own data statistics as one: clients side by side, counts added."""
    whole: dict[str, Any] = {"clients": {}, "canaries": {}, "heldout": {}, "files": {}}
    for one in stats:
        whole["clients"] |= one["clients"]
        whole["canaries"] |= one["canaries"]  # every node makes the same plan
        whole["files"] |= one["files"]
        for task, count in one["heldout"].items():
            whole["heldout"][task] = whole["heldout"].get(task, 0) + count
    return whole
