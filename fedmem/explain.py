"""What is wrong with a config, in one line: the key, the fault, what is allowed, a suggestion."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from fedmem.config import Config
from fedmem.config.section import COMMIT, HUB_NAME, NAME, Section

Location = tuple[str | int, ...]
NOTES_ONLY = ("notes", "i2b2_xml")  # adapters and kinds of data.canaries.source alone


def did_you_mean(word: str, allowed: Iterable[str]) -> str:
    """`; did you mean X?` for the closest of `allowed`, or nothing."""
    close = get_close_matches(word, list(allowed), n=1, cutoff=0.6)
    return f"; did you mean `{close[0]}`?" if close else ""


def dotted(location: Sequence[str | int]) -> str:
    """`data.clients.0.lr`, the form in which keys are given on the command line."""
    return ".".join(str(part) for part in location)


def explain(error: ValidationError, tree: object) -> tuple[Location, str]:
    """The location of the most telling fault in `tree`, and one line about it (without the file).

    A misspelt key also makes the right one missing, so unknown keys come first.
    """
    details = sorted(error.errors(include_url=False), key=lambda d: d["type"] != "extra_forbidden")
    first = details[0]
    where = _clean(first, tree)
    texts = [_text(d, where) for d in details if _clean(d, tree) == where]
    if first["type"] == "extra_forbidden":
        texts = texts[:1]
    # A union gives one error a member: `must be 'all'` and `must be at least 1` become one line.
    text = " or ".join([texts[0], *(t.removeprefix("must be ") for t in texts[1:])])
    if not text.startswith(("unknown", "missing", "kind")) and first["type"] != "value_error":
        text += f", not {_short(first['input'])}"
        if first["type"] == "literal_error" and isinstance(first["input"], str):
            text += did_you_mean(first["input"], _quoted(texts[0]))
    head = dotted(where) + _client(where, tree)
    joined = re.match(r"(\w+): ", text)
    if head and joined and joined[1] in _fields(first["loc"]):
        return where, f"{head}.{text}"
    return where, f"{head}: {text}" if head else text


def _clean(detail: ErrorDetails, tree: object) -> Location:
    """Pydantic's location without the names of union members, which are no keys of the file."""
    kept: list[str | int] = []
    here: Any = tree
    for i, part in enumerate(detail["loc"]):
        inside = part in here if isinstance(here, dict) else False
        if isinstance(here, list) and isinstance(part, int):
            inside = part < len(here)
        if inside:
            here = here[part]
            kept.append(part)
        elif i == len(detail["loc"]) - 1 and detail["type"] == "missing":
            kept.append(part)
    return tuple(kept)


def _text(detail: ErrorDetails, where: Location) -> str:
    """What is wrong, for one of pydantic's errors."""
    kind, message, context = detail["type"], detail["msg"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        return "unknown key" + _suggest(str(where[-1]), _fields(detail["loc"][:-1]))
    if kind == "missing":
        return "missing, and it has no default"
    if kind == "union_tag_not_found":
        kinds = [kind for model in _models(detail["loc"]) for kind in _kinds(model)]
        return f"kind is missing; allowed: {_allowed(kinds, where)}"
    if kind == "union_tag_invalid":
        tag, kinds = str(context["tag"]), _quoted(str(context["expected_tags"]))
        close = did_you_mean(tag, kinds)
        return f"kind {_short(tag)} is not known; allowed: {_allowed(kinds, where)}{close}"
    if kind == "literal_error" and where[-1] == "adapter":
        return f"must be one of {_allowed(_quoted(str(context['expected'])), where)}"
    if kind == "string_pattern_mismatch" and context.get("pattern") == NAME:
        return "must be 1 to 40 letters, digits, `-` or `_`, a letter or digit first"
    if kind == "string_pattern_mismatch" and context.get("pattern") == COMMIT:
        return "must be a commit's hash, 40 hex digits (branches and tags move)"
    if kind == "string_pattern_mismatch" and context.get("pattern") == HUB_NAME:
        return "must be ORGANISATION/NAME as on the hub, such as qiaojin/PubMedQA"
    if kind in {"model_type", "model_attributes_type", "dict_type"}:
        return "must be a mapping (key: value)"
    if kind == "too_short":
        return f"must have at least {context['min_length']} entries"
    if kind == "value_error":
        return message.removeprefix("Value error, ")
    message = message.split(", unable to")[0].split(", got ")[0]
    for long in ("Input should be ", "String should be ", "List should be "):
        message = message.replace(long, "must be ")
    return message[0].lower() + message[1:]


def _quoted(text: str) -> list[str]:
    return re.findall(r"'([^']*)'", text)


def _allowed(words: Iterable[str], where: Location) -> str:
    """The words in quotes, without those for notes in a client, where no notes may stand."""
    client = where[:2] == ("data", "clients")
    return ", ".join(f"'{w}'" for w in words if not (client and w in NOTES_ONLY))


def _suggest(key: str, allowed: dict[str, Any]) -> str:
    """The closest key here; else the same key elsewhere in the tree; else all keys allowed here."""
    if close := did_you_mean(key, allowed):
        return close
    last = key.split(".")[-1]
    for path in _all_keys(Config):
        if path.split(".")[-1] == last:
            return f"; did you mean `{path}`?"
    return f"; allowed here: {', '.join(allowed)}"


def _all_keys(model: type[BaseModel], prefix: str = "") -> Iterable[str]:
    """Every key that stands in plain mappings (not in lists), dotted."""
    for name, field in model.model_fields.items():
        yield prefix + name
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from _all_keys(field.annotation, f"{prefix}{name}.")


def _fields(location: Sequence[str | int]) -> dict[str, Any]:
    """The keys that the schema knows at a location of pydantic's (union members chosen by kind)."""
    return {n: field for model in _models(location) for n, field in model.model_fields.items()}


def _models(location: Sequence[str | int]) -> list[type[Section]]:
    """The sections that may stand at a location of pydantic's."""
    here: list[type[Section]] = [Config]
    for part in location:
        if isinstance(part, int):
            continue
        having = [model for model in here if part in model.model_fields]
        if having:
            here = [m for model in having for m in _sections(model.model_fields[part].annotation)]
        else:
            here = [m for m in here if "kind" in m.model_fields and part in _kinds(m)] or here
    return here


def _kinds(model: type[Section]) -> tuple[Any, ...]:
    return get_args(model.model_fields["kind"].annotation)


def _sections(annotation: Any) -> list[type[Section]]:
    """The sections named anywhere in a type, such as both sources in `list[A | B]`."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [section for inner in get_args(annotation) for section in _sections(inner)]


def _client(where: Location, tree: Any) -> str:
    """` (client 'x')` when the location lies in a client that has a name."""
    if len(where) > 2 and where[:2] == ("data", "clients"):
        entry = tree["data"]["clients"][where[2]]
        if isinstance(entry, dict) and isinstance(entry.get("name"), str):
            return f" (client {_short(entry['name'])})"
    return ""


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
