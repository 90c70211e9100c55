"""Models that are trained already: a finished run's, a PEFT adapter, a checkpoint, a base.

`open_trained` finds out what a name means; the result loads the models one after the other into
the one base that is resident. Round 0 is the untouched base, where there is one to compare with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file

from fedmem.attacks import recall
from fedmem.config import Attack, Config, Engine, Training
from fedmem.config.model import Model
from fedmem.config.section import Section
from fedmem.data.build import Dataset, build
from fedmem.errors import ConfigError, DataError
from fedmem.explain import explain
from fedmem.layers import parse_yaml, set_path
from fedmem.manifest import MANIFEST, read_manifest
from fedmem.metrics.outcomes import read_canaries
from fedmem.metrics.summary import read_config, read_json, read_table
from fedmem.model.adapter import start_from
from fedmem.model.base import BUNDLED, load
from fedmem.model.hub import NAME
from fedmem.model.merge import Merged, load_deltas
from fedmem.model.probe import check_lengths, check_reading
from fedmem.model.state import Arrays, get_arrays, set_arrays
from fedmem.progress import Event, Progress
from fedmem.rundir import open_finished
from fedmem.training import cpu
from fedmem.workspace import device

# what may be changed on the command line; a run's own canaries and questions hang on the rest
OF_A_RUN = ("attack", "engine", "training.max_length", "data.root", "data.cache", "model.base")
OF_A_MODEL = ("attack", "engine", "training.max_length", "model", "seed", "data.on_bad_row")

S = TypeVar("S", bound=Section)


class Rows(Section):
    """How a file given on the command line is read."""

    on_bad_row: Literal["error", "skip"] = "error"


class Settings(Section):
    """The part of a run's config that matters once a model is trained; the same keys."""

    name: str
    seed: int = 0
    model: Model = Model()
    data: Rows = Rows()
    training: Training = Training()
    attack: Attack = Attack()
    engine: Engine = Engine()


@dataclass(frozen=True)
class State:
    """One model: after which round, whose it is, and the folder of its weights.

    folder None: what the base alone is, with its new adapters at zero.
    """

    round: int
    name: str
    folder: Path | None


@dataclass(frozen=True)
class Origin:
    """What a name on the command line means, before anything is loaded.

    `run`: the resolved config, where it is a run.
    """

    kind: Literal["run", "adapter", "model"]
    path: str
    settings: Settings
    states: list[State]
    run: Config | None = None


def find(where: str, round_: int | None = None, changes: Sequence[str] = ()) -> Origin:
    """What `where` means: the directory of a finished run, an adapter's folder, or a base.

    `round_`: of a run, only this round, beside the untouched base. Raises ConfigError or DataError
    naming the folder, key or round.
    """
    folder = Path(where)
    if (folder / MANIFEST).is_file():
        return _run(folder, round_, changes)
    if round_ is not None:
        raise ConfigError(f"--round {round_}: {where} is no run's directory, and has no rounds")
    if (folder / "adapter_config.json").is_file():
        return _adapter(folder, changes)
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise DataError(f"{where}: is no run's directory, no PEFT adapter and no checkpoint")
    if where != BUNDLED and not folder.is_dir() and NAME.fullmatch(where) is None:
        raise DataError(f"{where}: no such folder, and no name on the hub")
    start = Settings(name=folder.name or where, model=Model(base=where))
    return Origin("model", where, changed(start, changes, OF_A_MODEL), [State(1, "global", None)])


def _run(folder: Path, round_: int | None, changes: Sequence[str]) -> Origin:
    manifest = read_manifest(folder)
    if manifest["kind"] == "arms":
        runs = ", ".join(name for name in manifest.get("arms", {}).values() if name)
        raise ConfigError(f"{folder}: holds several runs, give one of them: {runs or 'none'}")
    path = open_finished(folder).path
    config = changed(read_config(path), changes, OF_A_RUN)
    saved = {int(found.name[6:]): found for found in sorted(path.glob("adapters/round_*"))}
    if not saved:
        raise DataError(f"{path}: holds no saved models (adapters/round_NNN)")
    if round_ is not None and round_ not in (0, *saved):
        first, last = min(saved), max(saved)
        raise ConfigError(f"--round {round_}: {path} has the rounds {first} to {last}")
    local = config.rounds.topology == "local"
    names = sorted(client.name for client in config.data.clients) if local else ["global"]
    folders = {0: None, **{n: at for n, at in saved.items() if round_ in (None, n)}}
    states = [
        State(number, name, at / name if at and local else at)
        for number, at in folders.items()
        for name in names
    ]
    settings = Settings(
        name=config.name,
        seed=config.seed,
        model=config.model,
        data=Rows(on_bad_row=config.data.on_bad_row),
        training=config.training,
        attack=config.attack,
        engine=config.engine,
    )
    return Origin("run", str(path), settings, states, config)


def _adapter(folder: Path, changes: Sequence[str]) -> Origin:
    """The base, rank and layers that the adapter names; `changes` come after."""
    file = folder / "adapter_config.json"
    declared = read_json(file)
    if not isinstance(declared, dict):
        raise DataError(f"{file}: is not JSON with keys")
    base, targets = declared.get("base_model_name_or_path"), declared.get("target_modules")
    if not base and not any(text.startswith("model.base=") for text in changes):
        raise ConfigError(f"{file}: names no base; add model.base=FOLDER")
    lora: dict[str, Any] = {"r": declared.get("r"), "alpha": declared.get("lora_alpha")}
    if isinstance(targets, list):
        lora["targets"] = targets
    revision = declared.get("revision")
    tree = {
        "base": base or "",
        "revision": revision if isinstance(revision, str) and len(revision) == 40 else None,
        "lora": {key: value for key, value in lora.items() if value is not None},
    }
    try:
        model = Model.model_validate(tree)
    except ValidationError as error:
        raise DataError(f"{file}: {explain(error, {'model': tree})[1]}") from None
    settings = changed(Settings(name=folder.name, model=model), changes, OF_A_MODEL)
    if settings.model.method == "full":
        raise ConfigError(f"model.method: {folder} holds an adapter; leave the method at lora")
    states = [State(0, "global", None), State(1, "global", folder)]
    return Origin("adapter", str(folder), settings, states)


def changed(section: S, changes: Sequence[str], allowed: Sequence[str]) -> S:
    """The section with each `key=value` of `changes`; ConfigError for keys that may not change."""
    tree = section.model_dump(mode="json")
    for text in changes:
        key, equals, value = text.partition("=")
        parts = key.strip().split(".")
        if not equals or not all(parts):
            raise ConfigError(f"{text}: a change is written key=value, such as attack.bleu=0.8")
        if not any(parts[: head.count(".") + 1] == head.split(".") for head in allowed):
            keys = ", ".join(allowed)
            raise ConfigError(f"{text}: `{key}` cannot be changed here; what can: {keys}")
        set_path(tree, parts, parse_yaml(value, text), text)
    try:
        return type(section).model_validate(tree)
    except ValidationError as error:
        raise ConfigError(f"{' '.join(changes)}: {explain(error, tree)[1]}") from None


class Trained:
    """The resident base and tokenizer of an `Origin`; `load` turns it into one of its models."""

    def __init__(self, origin: Origin, progress: Progress) -> None:
        settings = origin.settings
        progress(Event(settings.name, f"loading {settings.model.base}"))
        cpu.set_up(settings.engine.threads)
        self.origin, self.settings = origin, settings
        self.model, self.tokenizer = load(settings.model, settings.seed)
        self.bos = int(self.tokenizer.bos_token_id is not None)
        check_lengths(self.model, settings.training.max_length + settings.attack.reach)
        self.prefix = recall.prefix_for(settings.attack, self.tokenizer)
        self.model.to(device(settings.engine.device))
        check_reading(self.model.eval(), settings.model.dtype)
        products = origin.run is not None and origin.run.aggregation.rule == "product"
        self._merged = Merged(self.model) if products else None
        # round 0 is needed again only where other models are written over it
        self._start = get_arrays(self.model) if len(origin.states) > 1 else {}

    def load(self, state: State) -> Any:
        """The model of `state`, in eval mode. DataError naming the folder if it does not fit."""
        if self._merged:
            deltas = self._merged.initial()
            if state.folder is not None:
                deltas = load_deltas(state.folder, self._merged.products)
            self._merged.load(deltas)
        elif state.folder is not None and self.settings.model.method == "lora":
            given = self.settings.model.model_copy(update={"adapter": state.folder})
            start_from(self.model, given)
        elif state.folder is not None:
            _write(self.model, _checkpoint(state.folder), state.folder)
        elif self._start:
            set_arrays(self.model, self._start)
        return self.model

    def own_data(self) -> Dataset:
        """The run's canaries and held-out questions, built again from its config.

        Raises DataError where the records are no longer those of the run.
        """
        assert self.origin.run is not None
        path, config = Path(self.origin.path), self.origin.run
        data = build(config, self.tokenizer)
        held = read_json(path / "data.json")["files"]
        for name, digest in data.stats["files"].items():
            if held.get(name) != digest:
                raise DataError(
                    f"{name}: is not the file that {path} was made of (SHA-256 differs from its "
                    "data.json); bring the old file back, or name its folder by data.root="
                )
        plan = read_canaries(read_table(path / "canaries.parquet"))
        # windows of one length may still be of other texts: another tokenizer's
        now = {c.id: (tuple(c.owners), c.copies, len(c.ids), len(c.text)) for c in data.canaries}
        if now != {id: (c.owners, c.copies, c.tokens, c.chars) for id, c in plan.items()}:
            raise DataError(
                f"{path}: its canaries come out otherwise now, by another training.max_length, "
                "tokenizer or version of fedmem; leave max_length and model.base away, or give the "
                "notes by --canaries"
            )
        return data


def _checkpoint(folder: Path) -> Arrays:
    """All weights of a saved checkpoint, float32."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise DataError(f"{folder}: has no *.safetensors")
    try:
        weights = [load_file(file) for file in files]
    except (OSError, SafetensorError) as error:
        raise DataError(f"{folder}: does not load: {error}") from None
    return {
        name: tensor.to(torch.float32).numpy()
        for tensors in weights
        for name, tensor in tensors.items()
    }


def _write(model: Any, arrays: Arrays, folder: Path) -> None:
    try:
        set_arrays(model, arrays)
    except KeyError as error:
        raise DataError(f"{folder}: is of another base: it lacks {error.args[0]}") from None
    except ValueError as error:
        raise DataError(f"{folder}: is of another base: {error}") from None
