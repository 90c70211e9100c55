"""What a killed run is taken up from: the models after a round, exactly, and a check of the file.

`state/round_NNN.safetensors` holds every model's float32 arrays as `<model>/<array>`; beside it,
written after it, `round_NNN.json` holds its SHA-256 and what the defences keep from round to round.
Only the last finished round's are kept.
"""

from __future__ import annotations

import json

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from fedmem.errors import DataError
from fedmem.files import sha256
from fedmem.model.state import Arrays
from fedmem.rounds import Start
from fedmem.rundir import RunDir

FOLDER = "state"


def save(
    directory: RunDir,
    number: int,
    models: dict[str, Arrays],
    defences: dict[str, dict[str, float]] | None = None,
) -> None:
    """Write the models of a round. Not yet the run's state: its line in metrics.jsonl decides."""
    flat = {
        f"{model}/{name}": np.ascontiguousarray(array)
        for model, arrays in models.items()
        for name, array in arrays.items()
    }
    file = f"{FOLDER}/round_{number:03d}.safetensors"
    with directory.aside(file) as part:
        # safetensors sorts by name; the order of the arrays is part of the state
        save_file(flat, part, metadata={"order": json.dumps(list(flat))})
    check = {
        "round": number,
        "sha256": sha256(directory.path / file),
        "defences": defences or {},
    }
    directory.write_json(f"{FOLDER}/round_{number:03d}.json", check)


def load(directory: RunDir, number: int) -> Start:
    """The models of a round. Raises DataError naming a file that is missing or torn."""
    file = directory.path / FOLDER / f"round_{number:03d}.safetensors"
    try:
        held_beside = json.loads(file.with_suffix(".json").read_bytes())
        wanted, defences = held_beside["sha256"], held_beside["defences"]
    except (OSError, ValueError, KeyError, TypeError):
        raise DataError(f"{file.with_suffix('.json')}: is missing or torn; start anew") from None
    if not file.is_file():
        raise DataError(f"{file}: is missing; the run cannot be taken up, start anew")
    if sha256(file) != wanted:
        raise DataError(f"{file}: is torn or changed (SHA-256 differs); start anew")
    models: dict[str, Arrays] = {}
    try:
        with safe_open(file, framework="np") as held:
            for key in json.loads(held.metadata()["order"]):
                model, _, name = key.partition("/")
                models.setdefault(model, {})[name] = held.get_tensor(key)
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise DataError(f"{file}: does not load: {error}") from None
    return Start(number, models, defences)


def forget(directory: RunDir, keep: int | None) -> None:
    """Remove the state of all rounds but `keep`; None: of all, once the run is finished."""
    folder = directory.path / FOLDER
    for file in sorted(folder.glob("round_*")):
        if keep is None or file.stem != f"round_{keep:03d}":
            file.unlink()
    if keep is None:
        folder.rmdir()
