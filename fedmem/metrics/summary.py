"""summary.json: every figure that the report states, by name, from the files of a run."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml
from pydantic import ValidationError

from fedmem import protection
from fedmem.aggregation import weight_of
from fedmem.config import Config
from fedmem.errors import DataError
from fedmem.metrics import (
    agreement,
    approximate,
    attribution,
    audit,
    candidates,
    clients,
    coverage,
    differencing,
    discoverable,
    exposure,
    headline,
    membership,
    paper_compat,
    plainly,
    public,
    shadows,
    skew,
    verdict,
)
from fedmem.metrics.leakage import losses, note_shares, passes, value_shares, worst
from fedmem.metrics.outcomes import Owned, collect, read_canaries, rows
from fedmem.metrics.pairs import matrix
from fedmem.metrics.targets import targets
from fedmem.metrics.tokens import TokenTable, read_tokens

SCHEMA = 1
STAGES = ("train", "aggregate", "attack", "utility")
UTILITY = ("round", "model", "task", "n", "nll", "nll_low", "nll_high")


def summarise(run_dir: Path) -> dict[str, Any]:
    """All figures of a run, from its files. manifest.json, written last, is not among them.

    Fails with DataError where a file is missing, malformed, or does not fit the others.
    """
    config = read_config(run_dir)
    canary_table = read_table(run_dir / "canaries.parquet")
    metrics = read_lines(run_dir / "metrics.jsonl", "participants")
    timings = read_lines(run_dir / "timings.jsonl", "seconds")
    try:
        canaries = read_canaries(canary_table)
        table = read_table(run_dir / "scores.parquet")
        scores = collect(table, canaries, config.attack.bleu)
        secrets = [*targets(table, canaries)]
        if "text" in canary_table.column_names:  # the report shows both or neither
            rows(canary_table.slice(0, 0), ["text", "phi_values"])
    except DataError as error:
        raise DataError(f"{run_dir}: {error}") from None

    tokens = read_tokens(run_dir, canaries)
    scores, released = public.apart(scores)
    everyone = [client.name for client in config.data.clients]
    attackers = _attackers(config, everyone)
    continuation = config.attack.continuation
    participants = {row["round"]: row["participants"] for row in metrics if row["round"]}
    last = max((key.round for key in scores), default=0)
    found = passes(scores, canaries, participants)
    ends = {key: notes for key, notes in found.items() if key[0] in (0, last)}
    leakage = note_shares(found, canaries, continuation)
    pairs, excluded = matrix(*(scores, canaries, participants, everyone, attackers, continuation))
    said = headline.sentences(leakage, config.rounds.topology, continuation)
    claims = [
        protection.row(c) for c in protection.claims(config, protection.history(config, metrics))
    ]
    told = verdict.rows(found, canaries, continuation, config.rounds.topology != "local")
    texts = canary_table.column("text").to_pylist() if "text" in canary_table.column_names else []
    return {
        "schema": SCHEMA,
        "name": config.name,
        "run": run_dir.name,
        "seed": config.seed,
        "method": config.model.method,
        "topology": config.rounds.topology,
        "headline": " ".join(said),
        "sentences": said,
        "primary": headline.primary(leakage, "true_prefix"),
        "primary_own_prefix": headline.primary(leakage, "own_prefix"),
        "continuation": continuation,
        "bleu": config.attack.bleu,
        "last_round": last,
        "rounds": sorted({key.round for key in scores}),
        "knowledge": sorted({key.knowledge for key in scores}),
        "clients": everyone,
        "participants": {str(round_): names for round_, names in participants.items()},
        "levels": levels(canaries),
        "owners": _owned(canaries),
        "redacted": not any(texts),
        "leakage": leakage,
        "phi_values": value_shares(found, canaries),
        "phi_categories": value_shares(found, canaries, "category"),
        "phi_types": value_shares(ends, canaries, "type"),
        "loss": losses(found, canaries),
        "approximate": approximate.rows(table, canaries, config.attack),
        "paper_compat": paper_compat.rows(table, canaries),
        "extraction_np": discoverable.rows(tokens, secrets, canaries, config.attack),
        "extraction_np_secrets": discoverable.needed(tokens, secrets, canaries, config.attack),
        "inference": candidates.rows(secrets, canaries),
        "exposure": exposure.rows(secrets, canaries),
        "exposed_notes": exposure.notes(secrets, canaries),
        "coverage": coverage.rows(found, canaries),
        "membership": membership.rows(tokens, canaries, config.attack.membership),
        "differencing": differencing.rows(
            tokens, canaries, participants, attackers, _own(run_dir, config, tokens, metrics)
        ),
        "client_level": clients.rows(
            *(tokens, found, pairs, canaries, participants, attackers, continuation)
        ),
        "shadows": shadows.rows(run_dir, canaries),
        "verdict": told,
        "verdict_sentences": plainly.sentences(told, continuation),
        "skew": skew.rows(found, canaries),
        "agreement": agreement.rows(tokens, found, canaries, config.attack.membership),
        "matrix": pairs,
        "excluded_pairs": excluded,
        "queries": _queries(found),
        "utility": _utility(run_dir / "utility.json"),
        "worst": worst(found, canaries, continuation),
        "time": _time(run_dir, timings),
        "lost_workers": [loss for row in timings for loss in row.get("lost_workers") or []],
        "training": [_training(row) for row in metrics if row.get("train")],
        "ties": sum(row.get("ties", 0) for row in metrics),
        "protection": claims,
        "seats": attribution.seats(config),
        "public": public.rows(config, released, canaries, leakage, last),
        "server": _server(run_dir, config, canaries),
        "audit": _audit(run_dir, config, claims),
        "defended": protection.defended(config),
        "unprotected": protection.unprotected(config, claims),
    }


def read_config(run_dir: Path) -> Config:
    """The run's resolved config."""
    path = run_dir / "config.yaml"
    if not path.is_file():
        raise DataError(f"{run_dir} is no run directory: it has no config.yaml")
    try:
        return Config.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, ValidationError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {_short(error)}") from None


def read_table(path: Path) -> Any:
    """A parquet file as a pyarrow table."""
    if not path.is_file():
        raise DataError(f"{path.parent} has no {path.name}: did the run finish?")
    try:
        return pq.read_table(path)
    except (OSError, ValueError) as error:  # pyarrow's own errors derive from these
        raise DataError(f"{path} cannot be read: {_short(error)}") from None


def read_json(path: Path) -> Any:
    """A JSON file."""
    if not path.is_file():
        raise DataError(f"{path.parent} has no {path.name}: did the run finish?")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} cannot be read: {_short(error)}") from None


def read_lines(path: Path, key: str) -> list[dict[str, Any]]:
    """metrics.jsonl or timings.jsonl: one object a round, each with `key`, in order of rounds."""
    if not path.is_file():
        raise DataError(f"{path.parent} has no {path.name}: did the run finish?")
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
            if not isinstance(row["round"], int):
                raise TypeError("its round is no whole number")
            row[key]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}:{number} cannot be read: {_short(error)}") from None
        found.append(row)
    return sorted(found, key=lambda row: int(row["round"]))


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _attackers(config: Config, everyone: list[str]) -> list[str]:
    """The clients that attack; none where all records are pooled and no client is left."""
    if config.rounds.topology == "centralized":
        return []
    return everyone if config.attack.attackers == "all" else list(config.attack.attackers)


def levels(canaries: Mapping[str, Owned]) -> list[dict[str, Any]]:
    """Notes, patients and PHI values of each number of copies, the twins (0) first."""
    found = []
    for copies in sorted({canary.copies for canary in canaries.values()}):
        group = [canary for canary in canaries.values() if canary.copies == copies]
        patients = len({canary.patient for canary in group})
        phi = sum(canary.phi for canary in group)
        tokens = sum(canary.tokens for canary in group) / len(group)
        level = {"copies": copies, "notes": len(group), "patients": patients}
        found.append(level | {"phi_values": phi, "mean_tokens": round(tokens, 1)})
    return found


def _owned(canaries: Mapping[str, Owned]) -> list[dict[str, Any]]:
    """How many canaries of each level each client holds."""
    counts = Counter(
        (owner, canary.copies)
        for canary in canaries.values()
        if not canary.twin
        for owner in canary.owners
    )
    return [{"client": c, "copies": k, "notes": n} for (c, k), n in sorted(counts.items())]


def _own(
    run_dir: Path, config: Config, tokens: TokenTable, metrics: list[dict[str, Any]]
) -> dict[tuple[int, str, str], float] | None:
    """What each client's own update did to a round's model, where the server's seat was taken."""
    secure = config.aggregation.secure.enabled  # then there are sums alone
    if "server" not in config.attack.views or config.client_dp or secure:
        return None
    shares = {}
    for row in metrics:
        weights = {
            name: weight_of(config.aggregation, name, figures["num-examples"])
            for name, figures in (row.get("train") or {}).items()
        }
        total = sum(weights.values()) or 1.0
        shares[int(row["round"])] = {name: weight / total for name, weight in weights.items()}
    return differencing.own_effects(read_table(run_dir / attribution.SERVER), tokens, shares)


def _server(run_dir: Path, config: Config, canaries: Mapping[str, Owned]) -> list[dict[str, Any]]:
    """Rows of the server's source attribution; none where nobody took its seat."""
    if "server" not in config.attack.views:
        return []
    return attribution.rows(read_table(run_dir / attribution.SERVER), canaries)


def _audit(run_dir: Path, config: Config, claims: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the one-run audit; none where the run had none."""
    if config.attack.audit is None:
        return []
    return audit.rows(read_table(run_dir / audit.AUDIT), config.attack.audit, claims)


def _queries(found: Any) -> list[dict[str, Any]]:
    """Prompts that each named attacker spent in a round."""
    result = []
    for (round_, knowledge, attacker), notes in sorted(found.items()):
        if attacker not in ("*", "any"):
            spent = max(o.queries for note in notes.values() for o in note)
            head = {"round": round_, "knowledge": knowledge, "attacker": attacker}
            result.append(head | {"queries": spent})
    return result


def _utility(path: Path) -> list[dict[str, Any]]:
    """utility.json's rows as they are."""
    found = read_json(path)
    if not isinstance(found, list):
        raise DataError(f"{path} must hold a list of rows")
    for number, row in enumerate(found):
        missing = [name for name in UTILITY if not isinstance(row, dict) or name not in row]
        if missing:
            raise DataError(f"{path}: row {number} lacks {', '.join(missing)}")
    return found


def _training(row: dict[str, Any]) -> dict[str, Any]:
    return {"round": row["round"], "clients": row["train"]}


def _time(run_dir: Path, timings: list[dict[str, Any]]) -> dict[str, Any]:
    """Seconds by stage and round; the attack's share of the rounds after which it ran."""
    rounds = []
    for row in timings:
        try:
            parts = {stage: float(row.get(f"{stage}_seconds") or 0.0) for stage in STAGES}
            seconds = float(row.get("seconds") or sum(parts.values()))
        except (ValueError, TypeError) as error:
            raise DataError(f"{run_dir / 'timings.jsonl'} cannot be read: {error}") from None
        rounds.append({"round": row["round"], **parts, "seconds": seconds})
    attacked = [row for row in rounds if row["round"] and row["attack"]]
    spent = sum(row["seconds"] for row in attacked)
    totals = {stage: sum(row[stage] for row in rounds) for stage in STAGES}
    return {
        "rounds": rounds,
        "total": totals | {"seconds": sum(row["seconds"] for row in rounds)},
        "attack_share": sum(row["attack"] for row in attacked) / spent if spent else None,
    }
