"""Rounds under secure aggregation: FedAvg's model, a server that sees sums, losses by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from pydantic import ValidationError
from toys import NAMES, Arrays, LeastSquares, kept, toy_config

import clients.app
from fedmem import workspace as workspaces
from fedmem.aggregation import WeightedMean
from fedmem.config import Config
from fedmem.defences.client import take_turn
from fedmem.engine.inline import InlineGrid, run_inline
from fedmem.engine.records import only_arrays, to_arrays
from fedmem.errors import ConfigError, RunError
from fedmem.rounds import Round
from fedmem.secagg.encoding import LIMBS, Encoding
from fedmem.workspace import Workspace
from server.rounds import run_rounds

STAGES = {
    "keys": "train.keys",
    "shares": "train.shares",
    "masked": "train",
    "unmask": "train.unmask",
}


def secure(clients: int = 5, /, **settings: Any) -> Config:
    """A toy config under secure aggregation; keys of `aggregation.secure`, top-level sections."""
    sections = {key: settings.pop(key) for key in list(settings) if key in Config.model_fields}
    joined = sections.pop("aggregation", {})
    made = {**joined, "secure": {"enabled": True, "range": 8.0, **settings}}
    return toy_config(clients, aggregation=made, **sections)


def app(lost: dict[tuple[str, int], int] | None = None) -> ClientApp:
    """The project's own handlers; (message type, round) -> the partition that crashes there."""
    made = ClientApp()
    made.query()(clients.app.introduce)
    made.evaluate()(clients.app.evaluate)

    def crashing(handler: Any) -> Any:
        def handle(message: Message, context: Context) -> Message:
            at = (message.metadata.message_type, int(message.metadata.group_id))
            if (lost or {}).get(at) == context.node_config["partition-id"]:
                raise OSError("power cut")
            return handler(message, context)  # type: ignore[no-any-return]

        return handle

    made.train()(crashing(clients.app.train))
    for stage in ("keys", "shares", "unmask"):
        made.train(stage)(crashing(getattr(clients.app, stage)))
    return made


class Wire(InlineGrid):
    """Keeps all messages and replies; `silent`: (type, round, partition) whose reply is dropped."""

    def __init__(self, names: list[str], silent: tuple[str, int, int] | None = None) -> None:
        super().__init__(clients.app.app, names)
        self.silent = silent
        self.messages: list[tuple[Message, Message]] = []

    def _answers(self, messages: Iterator[Message]) -> Iterator[Message]:
        for message in messages:
            reply = self._deliver(message)
            self.messages.append((message, reply))
            who = message.metadata.dst_node_id - min(self.get_node_ids())
            at = (message.metadata.message_type, int(message.metadata.group_id), who)
            if at != self.silent:
                yield reply


def plain_round(toy: LeastSquares, arrays: Arrays, round_: int, names: list[str]) -> Arrays:
    """FedAvg over these clients, in the clear."""
    mean = WeightedMean()
    for name in names:
        trained, metrics = toy.train(name, round_, arrays)
        mean.add(trained, metrics["num-examples"])
    return mean.result()


def close(a: Arrays, b: Arrays, before: Arrays) -> None:
    """Equal to 1e-6 of the largest change, and to what float32 can tell apart in the weights."""
    assert list(a) == list(b)
    largest = max(float(np.abs(b[name] - before[name]).max()) for name in b)
    for name in b:
        ulp = np.spacing(np.abs(b[name]).max())
        assert np.abs(a[name] - b[name]).max() <= 1e-6 * largest + 2 * ulp, name


def test_the_model_is_that_of_plain_fedavg_and_bytes_repeat() -> None:
    runs: list[list[Round]] = []
    for config in (toy_config(5), secure(5), secure(5)):
        kept(config)
        runs.append([])
        run_inline(config, runs[-1].append)
    for plain, one, two in zip(*runs, strict=True):
        close(one.models["global"], plain.models["global"], runs[0][0].models["global"])
        for name in NAMES:  # keys and masks are drawn afresh, and leave no trace
            assert one.models["global"][name].tobytes() == two.models["global"][name].tobytes()
        assert one.participants == plain.participants and one.lost == []
    assert runs[1][1].seconds.keys() == {"train", "aggregate", "attack"}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("how", ["crash", "silence"])
def test_any_client_may_get_lost_at_any_stage(stage: str, how: str) -> None:
    config, kind = secure(4, attack={"every": 2}), STAGES[stage]
    for who in range(4):
        toy, rounds = kept(config), []
        if how == "crash":
            grid = InlineGrid(app({(kind, 1): who}), toy.clients)
        else:
            grid = Wire(toy.clients, (kind, 1, who))
        run_rounds(grid, config, rounds.append)
        first, second = rounds[1:]
        why = f"client c{who} raised OSError: power cut" if how == "crash" else "no answer came"
        assert first.lost == [{"client": f"c{who}", "at": stage, "why": why}]
        left = [name for name in toy.clients if name != f"c{who}" or stage == "unmask"]
        assert first.participants == left
        right = plain_round(toy, toy.initial_arrays(), 1, left)
        close(first.models["global"], right, toy.initial_arrays())
        # and it is back in the next round
        assert second.participants == toy.clients and second.lost == []
        before = first.models["global"]
        close(second.models["global"], plain_round(toy, before, 2, toy.clients), before)


@pytest.mark.parametrize("stage", STAGES)
def test_below_the_threshold_the_run_ends_and_says_how_many_are_left(stage: str) -> None:
    config = secure(3)  # of three, two would each know the other's update
    toy = kept(config)
    grid = InlineGrid(app({(STAGES[stage], 1): 2}), toy.clients)
    with pytest.raises(RunError) as error:
        run_rounds(grid, config, lambda done: None)
    said = str(error.value)
    assert "round 1: secure aggregation: 2 of 3 clients are left" in said and "\n" not in said
    assert "3 are needed" in said and f"Lost: c2 at {stage}: client c2 raised OSError" in said


def test_three_clients_may_lose_one_where_the_config_says_so() -> None:
    config = secure(3, threshold=2)
    toy, rounds = kept(config), []
    run_rounds(InlineGrid(app({("train", 1): 0}), toy.clients), config, rounds.append)
    right = plain_round(toy, toy.initial_arrays(), 1, ["c1", "c2"])
    close(rounds[1].models["global"], right, toy.initial_arrays())


def test_fewer_than_the_honest_clients_whose_noise_counts_end_the_run() -> None:
    dp = {"kind": "client_dp", "mode": "distributed", "norm": 1.0, "noise_multiplier": 1.0}
    hidden = {"metrics": "withheld", "range": 100.0}  # one of the five may collude
    uniform = {"weights": "uniform"}
    config = secure(5, aggregation=uniform, defences=[{**dp, "honest": 4}], **hidden)
    toy = kept(config)
    with pytest.raises(RunError, match=r"4 of 5 clients are left .* and 5 are needed"):
        run_rounds(InlineGrid(app({("train", 1): 1}), toy.clients), config, lambda done: None)


def test_a_client_that_is_left_out_of_the_run_is_none_of_the_neighbours() -> None:
    config = secure(5, rounds={"count": 2, "left_out": ["c1"]})
    toy, rounds = kept(config), []
    toy.clients = config.present
    run_rounds(InlineGrid(app(), toy.clients), config, rounds.append)
    assert rounds[1].participants == ["c0", "c2", "c3", "c4"] and not rounds[1].lost
    right = plain_round(toy, toy.initial_arrays(), 1, config.present)
    close(rounds[1].models["global"], right, toy.initial_arrays())
    with pytest.raises(ValidationError, match="2 clients a round"):
        secure(3, rounds={"count": 2, "left_out": ["c1"]})


# --- views ------------------------------------------------------------------------------------


def every_bytes(content: RecordDict) -> list[bytes]:
    """All bytes in a message's records."""
    found = []
    for record in content.values():
        for value in record.values():
            if isinstance(record, ArrayRecord):
                found.append(value.data)
            else:
                items = value if isinstance(value, list) else [value]
                found += [i if isinstance(i, bytes) else str(i).encode() for i in items]
    return found


@pytest.fixture(scope="module")
def views(base_folder: Path) -> tuple[Config, Workspace, Wire, list[Round]]:
    """One round of full fine-tuning of the tiny base by three clients, all messages kept."""
    source = {"kind": "synthetic", "adapter": "flashcards", "records": 6}
    config = tiny.config(
        base_folder,
        model={"method": "full"},
        data={"clients": [{"name": name, "source": source} for name in ("a", "b", "c")]},
        rounds={"count": 1, "local_steps": 2},
        aggregation={"secure": {"enabled": True}},
        attack={"own_prefixes": 1},
    )
    workspace, rounds = Workspace(config), []
    workspaces.keep(workspace)
    grid = Wire(workspace.clients)
    run_rounds(grid, config, rounds.append)
    return config, workspace, grid, rounds


def test_the_server_sees_sums_only(views: tuple[Config, Workspace, Wire, list[Round]]) -> None:
    _, workspace, grid, rounds = views
    replies: dict[int, dict[str, RecordDict]] = {}
    for message, reply in grid.messages:
        kind, who = message.metadata.message_type, message.metadata.dst_node_id
        if kind.startswith("train"):
            replies.setdefault(who, {})[kind] = reply.content
    assert len(replies) == 3 and all(set(r) == set(STAGES.values()) for r in replies.values())
    before, weight = rounds[0].models["global"], float(workspace.most_examples or 0)
    encoding, total = Encoding(3, 1.0, weight), 0.0
    for name, node in zip(workspace.clients, grid.get_node_ids(), strict=True):
        update, metrics = take_turn(workspace, name, 1, before, {})
        trained = {n: before[n] + update[n] for n in update}
        told = b"".join(b for r in replies[node].values() for b in every_bytes(r))
        for arrays in (update, trained):
            for array in arrays.values():
                assert array.tobytes()[:16] not in told and array.tobytes()[-16:] not in told
        # nothing in the clear but names of figures and seconds
        assert set(replies[node]["train"]["metrics"]) == {"seconds"}
        assert set(replies[node]["train"]["config"]) == {"metric-names"}
        masked = to_arrays(only_arrays(replies[node]["train"]))["masked"]
        words = encoding.encode(update, metrics["num-examples"], {})
        seen = masked[: len(words) - LIMBS]  # without the scalars behind the update
        counts = np.bincount(seen.view(np.uint8), minlength=256)
        expected = counts.sum() / 256
        chi_square = float(((counts - expected) ** 2 / expected).sum())
        assert 150 < chi_square < 380  # 255 degrees of freedom
        mean = abs(np.corrcoef(seen.view(np.int32), words[:-LIMBS].view(np.int32))[0, 1])
        assert mean < 5 / np.sqrt(len(seen))
        assert metrics["loss"] != pytest.approx(rounds[1].train["all"]["loss"], abs=1e-9)
        total += metrics["num-examples"]
    assert rounds[1].train["all"]["num-examples"] == total


def test_a_client_sees_what_it_saw_and_the_protocol(
    views: tuple[Config, Workspace, Wire, list[Round]],
) -> None:
    config, _, grid, rounds = views
    off = config.model_copy(update={"aggregation": Config.model_fields["aggregation"].default})
    workspace, plain = Workspace(off), []
    workspaces.keep(workspace)
    before = Wire(workspace.clients)
    run_rounds(before, off, plain.append)
    own = {"ids", "channel", "mask", "sealed", "digests", "alive", "largest-weight"}

    def sent(wire: Wire) -> list[tuple[str, int, set[str], set[str]]]:
        return [
            (
                message.metadata.message_type,
                message.metadata.dst_node_id,
                set(message.content),
                set(message.content["config"]) if "config" in message.content else set(),
            )
            for message, _ in wire.messages
        ]

    there, here = sent(before), sent(grid)
    kept_ones = [(kind, node, keys, told - own) for kind, node, keys, told in here]
    kinds = Counter(kind for kind, *_ in here)
    assert kinds == {"query": 3, "evaluate": 6, **{kind: 3 for kind in STAGES.values()}}
    extra = ("train.keys", "train.shares", "train.unmask")
    assert [row for row in kept_ones if row[0] not in extra] == there
    for kind, _, keys, told in kept_ones:
        if kind in extra:
            assert keys == {"config"} and told == {"server-round", "config"}
    close(rounds[1].models["global"], plain[1].models["global"], plain[0].models["global"])
    sizes = [r.train[name] for r in rounds[1:] for name in ("a", "b", "c")]
    count = sum(array.size for array in rounds[0].models["global"].values())
    assert all(4 * count < told["bytes_up"] < 4.2 * count + 2000 for told in sizes)


# --- with everything else ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"aggregation": {"rule": "product"}},
        {"aggregation": {"rule": "freeze_a"}},
        {
            "defences": [
                {"kind": "adaptive_clip", "norm": 0.02},
                {"kind": "gaussian_noise", "sigma": 1e-4},
            ]
        },
        {
            "aggregation": {"weights": "uniform"},
            "defences": [
                {
                    "kind": "client_dp",
                    "mode": "distributed",
                    "norm": 0.05,
                    "noise_multiplier": 1.0,
                    "honest": 2,
                }
            ],
        },
    ],
    ids=["lora", "product", "freeze_a", "clip and noise", "distributed DP"],
)
def test_lora_of_every_rule_and_defence(base_folder: Path, sections: dict[str, Any]) -> None:
    source = {"kind": "synthetic", "adapter": "flashcards", "records": 6}
    runs: list[list[Round]] = []
    joined = sections.get("aggregation", {})
    # the clipped update is small, and so may its range be
    secure = {"enabled": True, "range": 0.03 if "adaptive_clip" in str(sections) else 1.0}
    if "client_dp" in str(sections):
        secure["metrics"] = "withheld"
    on = {**sections, "aggregation": {**joined, "secure": secure}}
    made = [
        tiny.config(
            base_folder,
            data={"clients": [{"name": name, "source": source} for name in ("a", "b", "c")]},
            rounds={"count": 2, "local_steps": 2},
            attack={"own_prefixes": 1, "every": 2},
            **chosen,
        )
        for chosen in ([on, sections] if "client_dp" not in str(sections) else [on])
    ]
    for config in made:
        workspaces.keep(Workspace(config))
        runs.append([])
        run_inline(config, runs[-1].append)
    assert [done.lost for done in runs[0]] == [[], [], []]
    if len(runs) == 1:  # without secure aggregation the config is refused
        found = runs[0][1].models["global"]
        start = runs[0][0].models["global"]
        sigma = np.std(np.concatenate([(found[n] - start[n]).ravel() for n in found]))
        # three parts, of which two would be enough
        assert sigma == pytest.approx(0.05 * (3 / 2) ** 0.5 / 3, rel=0.1)
        return
    for one, plain in zip(*runs, strict=True):
        before = runs[1][max(0, one.number - 1)].models["global"]
        if one.number < 2:  # then tiny differences have gone through training
            close(one.models["global"], plain.models["global"], before)
        assert one.server.keys() == plain.server.keys()
        for key, value in plain.server.items():
            assert one.server[key] == pytest.approx(value, rel=1e-4)


@pytest.mark.parametrize("metrics", ["aggregated", "withheld"])
def test_figures_of_training_are_sums_or_nothing(metrics: str) -> None:
    runs: list[list[Round]] = []
    for config in (toy_config(4), secure(4, metrics=metrics)):
        kept(config)
        runs.append([])
        run_inline(config, runs[-1].append)
    plain, found = runs[0][1].train, runs[1][1].train
    each = {"bytes_up", "bytes_down", "seconds"}
    assert all(set(found[f"c{i}"]) == each for i in range(4))
    if metrics == "withheld":
        assert list(found) == ["c0", "c1", "c2", "c3"]
        return
    examples = np.array([plain[f"c{i}"]["num-examples"] for i in range(4)])
    losses = np.array([plain[f"c{i}"]["loss"] for i in range(4)])
    assert found["all"]["num-examples"] == examples.sum()
    assert found["all"]["tokens"] == sum(plain[f"c{i}"]["tokens"] for i in range(4))
    assert found["all"]["loss"] == pytest.approx(np.average(losses, weights=examples))


def test_weights_stay_hidden_and_right() -> None:
    for weights in ("uniform", {"c0": 0.1, "c1": 2.5, "c2": 1.0, "c3": 1.0}):
        runs: list[list[Round]] = []
        for config in (
            toy_config(4, aggregation={"weights": weights}),
            secure(4, aggregation={"weights": weights}),
        ):
            kept(config)
            runs.append([])
            run_inline(config, runs[-1].append)
        plain, found = runs[0][1].models["global"], runs[1][1].models["global"]
        close(found, plain, runs[0][0].models["global"])


# --- errors -----------------------------------------------------------------------------------


def test_an_update_beyond_the_range_names_client_and_round() -> None:
    toy = kept(secure(4, range=0.5))
    toy.poison = {"c2": 3.0}
    with pytest.raises(
        RunError,
        match=r"^round 1, client c2: update refused: array b holds 3\..*secure\.range=0\.5",
    ):
        run_inline(toy.config, lambda done: None)
    toy = kept(secure(4))
    toy.poison = {"c1": float("nan")}
    with pytest.raises(RunError, match=r"^round 1, client c1: update refused: array b holds NaN"):
        run_inline(toy.config, lambda done: None)


def test_a_weight_beyond_the_public_bound_names_the_client() -> None:
    toy = kept(secure(4, max_examples=7))
    with pytest.raises(RunError, match=r"round 1, client c3: .*a weight of 8, and 7 is the most"):
        run_inline(toy.config, lambda done: None)


def test_without_data_at_hand_the_bound_must_be_given() -> None:
    toy = kept(secure(4))
    toy.most_examples = None  # as on a server in deployment
    with pytest.raises(ConfigError, match=r"aggregation\.secure\.max_examples: give the most"):
        run_inline(toy.config, lambda done: None)


class Meddling(Wire):
    """A wire on which one message or reply is changed."""

    def __init__(self, names: list[str], kind: str, change: Any, back: bool) -> None:
        super().__init__(names)
        self.kind, self.change, self.back = kind, change, back

    def _deliver(self, message: Message) -> Message:
        meant = message.metadata.message_type == self.kind and message.metadata.group_id == "1"
        meant = meant and message.metadata.dst_node_id == self.get_node_ids()[1]
        if meant and not self.back:
            self.change(self, message)
        reply = super()._deliver(message)
        if meant and self.back:
            self.change(self, reply)
        return reply


def put(record: str, key: str, value: Any) -> Any:
    return lambda wire, message: message.content[record].update({key: value})


def again(wire: Meddling, message: Message) -> None:
    """The client has answered this very message before."""
    InlineGrid._deliver(wire, message)


@pytest.mark.parametrize(
    ("kind", "change", "back", "said"),
    [
        ("train.keys", put("keys", "mask", b"x"), True, "sent a mask that is not of 32 bytes"),
        ("train.shares", put("shares", "sealed", [b"x"]), True, "sent other than 3 sealed shares"),
        ("train", put("config", "metric-names", "5"), True, "names of figures that are none"),
        ("train", put("config", "metric-names", '["x"]'), True, "tells other figures than"),
        ("train.unmask", put("unmask", "shares", [b"x" * 16] * 4), True, "that client c0 never"),
        (
            "train",
            lambda w, m: m.content.update({"arrays": ArrayRecord([np.zeros(9, np.uint32)])}),
            True,
            "update refused: uint32 (9,)",
        ),
        (
            "train.unmask",
            lambda w, m: m.content.update({"more": ConfigRecord({"x": 1})}),
            True,
            "bad reply: expected one ConfigRecord, found 2",
        ),
        ("train.keys", again, False, "refused: keys for round 1, and it has taken part in round 1"),
        ("train.shares", again, False, "refused: 'shares', and it is at the stage 'masked'"),
        ("train", again, False, "refused: shares, and it is at the stage 'unmask'"),
        ("train.unmask", again, False, "refused: 'unmask', and it is at the stage 'done'"),
        ("train.unmask", put("config", "server-round", 2), False, "that it has announced no keys"),
        ("train.unmask", put("config", "alive", [1, 1, 0, 0]), False, "2 survivors to open a sum"),
        ("train", put("config", "sealed", [b"x" * 48] * 3), False, "are not its own for this"),
    ],
)
def test_whoever_breaks_the_protocol_is_named(
    kind: str, change: Any, back: bool, said: str
) -> None:
    toy = kept(secure(4))
    with pytest.raises(RunError, match=r"^round [12], client c1: ") as error:
        run_rounds(Meddling(toy.clients, kind, change, back), toy.config, lambda done: None)
    assert said in str(error.value) and "\n" not in str(error.value)


class Twice(InlineGrid):
    """Hands over the first reply to a message type twice, as a replay would."""

    def _answers(self, messages: Iterator[Message]) -> Iterator[Message]:
        for message in messages:
            reply = self._deliver(message)
            yield reply
            if message.metadata.message_type == "train":
                yield reply


def test_a_replayed_answer_is_refused() -> None:
    toy = kept(secure(4))
    with pytest.raises(RunError, match=r"round 1, client c0: an answer that nobody asked for"):
        run_rounds(Twice(clients.app.app, toy.clients), toy.config, lambda done: None)


@pytest.mark.parametrize(
    ("clients_", "settings", "said"),
    [
        (2, {}, "aggregation.secure: 2 clients a round, and secure aggregation needs 3: of two"),
        (4, {"rounds": {"clients_per_round": 2}}, "2 clients a round"),
        (4, {"rounds": {"topology": "local"}}, "rounds.topology is local"),
        (4, {"rounds": {"topology": "centralized"}}, "rounds.topology is centralized"),
        (4, {"rounds": {"clients_per_round": 3, "client_sampling": "poisson"}}, "poisson"),
        (4, {"threshold": 5}, "threshold: 5 shares of 4"),
        (4, {"threshold": 1}, "greater than or equal to 2"),
        (10, {"threshold": 3}, "3 corrupted clients of 10 could hold them"),
        (10, {"neighbours": 4}, "neighbours: 4 of 10 clients are too few"),
        (4, {"range": 0}, "greater than 0"),
        (4, {"corrupted": 1.5}, "less than 1"),
        (4, {"max_examples": 0}, "greater than or equal to 1"),
    ],
)
def test_a_config_that_cannot_work_is_refused(
    clients_: int, settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValidationError) as error:
        secure(clients_, **settings)
    assert said in str(error.value)


@pytest.mark.slow
def test_on_ray_the_same_bytes_come_out(base_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    from fedmem.engine.ray import run_ray

    source = {"kind": "synthetic", "adapter": "flashcards", "records": 4}
    made = tiny.config(
        base_folder,
        output=str(tmp_path),
        data={"clients": [{"name": name, "source": source} for name in ("a", "b", "c")]},
        rounds={"count": 2, "local_steps": 1},
        aggregation={"secure": {"enabled": True}},
        attack={"own_prefixes": 1, "every": 2},
    )
    inline = run_inline(made, lambda done: None)["global"]
    engine = {"kind": "ray", "actors": 2}
    config = Config.model_validate({**made.model_dump(), "engine": engine})
    rounds: list[Round] = []
    ray = run_ray(config, rounds.append)["global"]
    assert all(ray[name].tobytes() == inline[name].tobytes() for name in inline)
    assert [done.lost for done in rounds] == [[], [], []]
    assert "loss" in rounds[1].train["all"]
