"""The true-prefix attack on models that are trained already: saved runs, adapters, any checkpoint.

The same notes are scored against every model and, where there is one, the untouched base (round 0).
Results go to a directory of their own: canaries.parquet, scores.parquet, tokens.parquet,
summary.json. Of notes
that come from a file, no text, token or value is ever written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from fedmem.attacks import audit, rows, true_prefix
from fedmem.attacks import candidates as inference
from fedmem.config.sources import StoredSource
from fedmem.data import sources
from fedmem.data.adapters import examine, read_records
from fedmem.data.build import Dataset
from fedmem.data.canaries import Drawn, disjoint, placed
from fedmem.data.encoding import Coder
from fedmem.data.files import source_of
from fedmem.data.preview import plan_table
from fedmem.data.records import Canary, Note
from fedmem.data.rows import Cell, Row
from fedmem.data.windows import window
from fedmem.errors import ConfigError, DataError
from fedmem.folder import Folder
from fedmem.metrics import approximate, discoverable, exposure, membership, paper_compat
from fedmem.metrics import candidates as inferred
from fedmem.metrics.leakage import losses, note_shares, passes, value_shares
from fedmem.metrics.outcomes import collect, read_canaries
from fedmem.metrics.summary import levels
from fedmem.metrics.targets import targets
from fedmem.metrics.tokens import TOKENS, tokens_of
from fedmem.progress import Event, Progress, silent
from fedmem.trained import Trained, find
from fedmem.versions import library_versions

SCHEMA = 1
LEFT_OUT = ("same_patient", "shared_value", "near_duplicate")


@dataclass(frozen=True)
class Attacked:
    """The directory that was written, and what its summary.json holds."""

    path: Path
    summary: dict[str, Any]


def attack(
    where: str,
    canaries: Path | None = None,
    out: Path | None = None,
    round_: int | None = None,
    changes: Sequence[str] = (),
    progress: Progress = silent,
) -> Attacked:
    """Attack the models that `where` names: a finished run's, an adapter, a checkpoint, a base.

    canaries: a file of notes as the adapter `notes` reads them, with a column `copies`: how often
    the note was in the training data, 0 for a twin (default: 1; of a run, which never saw the
    file: 0). Without it a run's own canaries are built again. `out`: a new directory.

    Raises ConfigError or DataError naming the file, row, key or round.
    """
    origin = find(where, round_, changes)
    target = out or Path("attacks") / f"{datetime.now():%Y%m%d-%H%M%S}-{origin.settings.name}"
    if target.exists():
        raise DataError(f"--out {target}: is already there; give a new directory")
    if canaries is None and origin.run is None:
        raise ConfigError(f"{where}: is no run with notes of its own; give notes by --canaries")
    copies, name = 1 if origin.run is None else 0, origin.settings.name
    read: list[tuple[Note, int]] = []
    counts: Counter[str] = Counter()
    if canaries is not None:  # before the model: a bad file is said at once
        progress(Event(name, f"reading {canaries}"))
        on_bad_row = origin.settings.data.on_bad_row
        read = read_notes(source_of(canaries, "notes"), copies, on_bad_row, counts)
    trained = Trained(origin, progress)
    settings, redact = trained.settings, True
    if canaries is not None:
        owners = [state.name for state in origin.states if state.name != "global"]
        notes = encode(trained, read, list(dict.fromkeys(owners)), counts)
        files = sources.fingerprint(source_of(canaries, "notes"), None)
    else:
        progress(Event(name, "building the run's canaries again"))
        data = trained.own_data()
        notes, files = data.canaries, data.stats["files"]
        asked = origin.run.privacy.redact if origin.run else None
        redact = not data.synthetic if asked is None else asked
    if not notes:
        raise DataError(f"{canaries or where}: no usable note")
    cuts = [true_prefix.cut(c, settings.attack, settings.seed, trained.bos) for c in notes]
    granted, last = settings.attack, origin.states[-1].round
    lists = None
    if granted.candidates:
        given = trained.tokenizer, granted.candidates, settings.seed
        lists = inference.lists(notes, notes, *given)
    with Folder(target.parent).directory(target.name) as folder:
        found: list[Row] = []
        tokens: list[Row] = []
        for state in origin.states:
            text = "attacking the base" if state.folder is None else "attacking"
            if origin.run:
                text += f" {state.name}, round {state.round}"
            progress(Event(name, f"{text}: {len(notes)} notes"))
            model = trained.load(state)
            of = [c for c in notes if state.name == "global" or state.name in c.owners]
            head = {"round": state.round, "model": state.name}
            made = audit.bound(
                *(model, of, settings.attack, settings.seed, trained.bos, trained.prefix),
                lists if state.round in (0, last) or granted.candidates_at == "all" else None,
                trained.tokenizer,
            )
            found += [{**head, "view": "client", **row} for row in made.scores]
            tokens += [{**head, **row} for row in made.tokens]
        plan = plan_table(Dataset({}, tuple(notes), (), {}, {}), redact)
        summary = {
            "schema": SCHEMA,
            "kind": origin.kind,
            "attacked": origin.path,
            "name": name,
            "base": settings.model.base,
            "revision": settings.model.revision,
            "settings": settings.model_dump(mode="json", exclude={"name"}),
            "versions": library_versions(),
            "files": files,
            "redacted": redact,
            "notes": {
                "used": len(notes),
                **{reason: counts[reason] for reason in (*LEFT_OUT, "bad_rows", "duplicate_ids")},
                "cut_to_a_window": counts["windows"],
                "without_phi": sum(not any(s.first for s in c.phi) for c in notes),
                "too_short_for_extraction": sum(cut is None for cut in cuts),
            },
            **figures(found, tokens, plan, trained),
        }
        writer = Folder(folder)
        writer.write_table("canaries.parquet", plan)
        writer.write_table("scores.parquet", rows.table(found))
        points = len(settings.attack.sampling)
        writer.write_table(TOKENS, rows.token_table(tokens, points))
        writer.write_json("summary.json", summary)
    return Attacked(target, summary)


def figures(found: list[Row], tokens: list[Row], plan: Any, trained: Trained) -> dict[str, Any]:
    """The summary's figures, as in a run's summary.json."""
    settings = trained.settings
    canaries = read_canaries(plan)
    scores = collect(rows.table(found), canaries, settings.attack.bleu)
    secrets = [*targets(rows.table(found), canaries)]
    notes = passes(scores, canaries, {})
    by_token = tokens_of(rows.token_table(tokens, len(settings.attack.sampling)))
    return {
        "continuation": settings.attack.continuation,
        "bleu": settings.attack.bleu,
        "rounds": sorted({state.round for state in trained.origin.states}),
        "levels": levels(canaries),
        "leakage": note_shares(notes, canaries, settings.attack.continuation),
        "phi_values": value_shares(notes, canaries),
        "phi_categories": value_shares(notes, canaries, "category"),
        "loss": losses(notes, canaries),
        "approximate": approximate.rows(rows.table(found), canaries, settings.attack),
        "paper_compat": paper_compat.rows(rows.table(found), canaries),
        "extraction_np": discoverable.rows(by_token, secrets, canaries, settings.attack),
        "extraction_np_secrets": discoverable.needed(by_token, secrets, canaries, settings.attack),
        "inference": inferred.rows(secrets, canaries),
        "exposure": exposure.rows(secrets, canaries),
        "exposed_notes": exposure.notes(secrets, canaries),
        "membership": membership.rows(by_token, canaries, settings.attack.membership),
        "ties": audit.ties(found, settings.model.dtype),
    }


# --- notes from a file ---------------------------------------------------------------------


def read_notes(
    source: StoredSource, default: int, on_bad_row: Any, counts: Counter[str]
) -> list[tuple[Note, int]]:
    """(note, copies) of every row. DataError naming the row where `copies` is no whole number."""
    notes = [n for n in read_records(source, None, on_bad_row, counts) if isinstance(n, Note)]
    copies: dict[str, int] = {}
    for (place, record), row in zip(examine(source, None), sources.read(source, None), strict=True):
        if isinstance(record, Note):  # then its row could be read
            assert isinstance(row.row, dict)
            copies[record.id] = _copies(row.row, default, place)
    return [(note, copies[note.id]) for note in notes]


def _copies(row: Row, default: int, place: str) -> int:
    value = row.get("copies")
    if value is None:
        return default
    if isinstance(value, Cell) and value.strip().isdigit():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise DataError(
            f"{place}: 'copies' must be a whole number, how often the note was in the training "
            "data (0: never)"
        )
    return value


def encode(
    trained: Trained, read: Sequence[tuple[Note, int]], owners: list[str], counts: Counter[str]
) -> tuple[Canary, ...]:
    """The notes as canaries, of each patient at most one, as in a run; the others are counted.

    Notes with most copies come first, so that a twin gives way to a note that was trained on.
    `owners`: the models' names where there are several. No PHI is filled in: the notes are what a
    model was, or was not, trained on.
    """
    coder, max_length = Coder(trained.tokenizer), trained.settings.training.max_length
    copies = {note.id: count for note, count in read}

    def prepare(note: Note, index: int) -> Drawn | None:
        found = window(coder, note, max_length, "window")
        return None if found is None else Drawn(note, found)

    ordered = sorted((note for note, _ in read), key=lambda note: -copies[note.id])
    canaries = []
    for item in disjoint(ordered, prepare, counts):
        count = copies[item.note.id]
        counts["windows"] += item.window.cut
        canaries.append(placed(item, dict.fromkeys(owners, count), count))
    return tuple(canaries)
