"""What secure aggregation costs: seconds of a round, bytes of a client, and the sum's error.

All roles in one process and one thread, as the inline engine plays them, without Flower's messages:

    python experiments/speed/secagg.py
    python experiments/speed/secagg.py --clients 10 --parameters 1000000 --repeats 5

For each number of clients: the protocol's seconds (encoding, masks, shares, unmasking; making the
random updates is not counted), bytes a parameter and bytes besides that one client sends, and the
largest error of the mean against plain FedAvg in float64, relative to the largest update. Then the
same with one client lost at each stage, and with too few left.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from time import perf_counter

import numpy as np

from fedmem.errors import RunError
from fedmem.secagg.client import Client
from fedmem.secagg.encoding import Encoding, length
from fedmem.secagg.graph import Plan, plan
from fedmem.secagg.server import Server

STAGES = ("keys", "shares", "masked", "unmask")
MOST = 400  # examples of a client at most; the clients have 100 to 400


class Trial:
    """One round of `clients` clients; `lost` maps a stage to those that fall silent there."""

    def __init__(self, made: Plan, parameters: int, lost: dict[str, list[int]]) -> None:
        self.plan, self.parameters, self.lost = made, parameters, lost
        self.seconds = 0.0
        self.sent = [0] * made.clients  # bytes beside the vector, by client
        self.error = 0.0

    def update(self, client: int) -> tuple[np.ndarray, float]:
        """A client's random update, of scale 0.01, and its weight."""
        rng = np.random.default_rng(client)
        update = 0.01 * rng.standard_normal(self.parameters, np.float32)
        return update, float(rng.integers(100, MOST + 1))

    def run(self) -> None:
        """All four stages; raises RunError as the protocol does."""
        n = self.plan.clients
        names = [f"c{i}" for i in range(n)]
        encoding = Encoding(n, 1.0, MOST)
        exact, whole, largest = np.zeros(self.parameters), 0.0, 0.0
        made = 0.0  # seconds that are the experiment's, not the protocol's
        began = perf_counter()
        server = Server(1, names, range(n), self.plan)
        clients = [Client(i, 1, names, self.plan) for i in range(n)]
        for i in self.answering(server, "keys"):
            server.take_keys(i, self.count(i, clients[i].keys()))
        keys = {i: server.keys_for(i) for i in server.there}
        for i in self.answering(server, "shares"):
            server.take_shares(i, self.count(i, clients[i].shares(keys[i])))
        shares = {i: server.shares_for(i) for i in server.there}
        for i in self.answering(server, "masked"):
            started = perf_counter()
            update, weight = self.update(i)
            exact += weight * update.astype(np.float64)
            whole += weight
            largest = max(largest, float(np.abs(update).max()))
            made += perf_counter() - started
            clients[i].receive(shares[i])
            vector = clients[i].masked(encoding.encode({"w": update}, weight, {}))
            server.take_masked(i, vector, len(vector))
        survivors = {i: server.survivors_for(i) for i in server.there}
        for i in self.answering(server, "unmask"):
            server.take_revealed(i, self.count(i, clients[i].reveal(survivors[i])))
        total = server.sum()
        sums, weights, _ = encoding.decode(total, len(server.summed), {"w": exact.shape}, [])
        mean = sums["w"] / weights
        self.seconds = perf_counter() - began - made
        self.error = float(np.abs(mean - exact / whole).max()) / largest

    def answering(self, server: Server, stage: str) -> Iterator[int]:
        """The clients that answer at a stage; the others are lost."""
        for i in list(server.there):
            if i in self.lost.get(stage, []):
                server.lose(i, stage, "silent")
            else:
                yield i

    def count(self, client: int, message: dict[str, object]) -> dict[str, object]:
        """Add up the bytes of a client's message."""
        for value in message.values():
            items = value if isinstance(value, list) else [value]
            self.sent[client] += sum(len(item) for item in items)  # type: ignore[arg-type]
        return message


def main() -> None:
    """Print the figures, a line each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--clients", type=int, nargs="+", default=[10, 30])
    parser.add_argument("--parameters", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    for n in asked.clients:
        made = plan(n)
        trials = []
        for _ in range(asked.repeats):
            trials.append(Trial(made, asked.parameters, {}))
            trials[-1].run()
        seconds = sorted(trial.seconds for trial in trials)
        vector = 4 * length({"w": (asked.parameters,)}, [])
        print(
            f"{n} clients, {made.neighbours} neighbours, threshold {made.threshold}: "
            f"{seconds[len(seconds) // 2]:.2f} s ({seconds[0]:.2f}-{seconds[-1]:.2f}); "
            f"{vector / asked.parameters:.4f} bytes a parameter and {max(trials[0].sent):,} more; "
            f"error {max(trial.error for trial in trials):.1e} of the largest update"
        )
        for stage in STAGES:
            trial = Trial(made, asked.parameters, {stage: [1]})
            trial.run()
            print(f"  one lost at {stage}: {trial.seconds:.2f} s, error {trial.error:.1e}")
        gone = list(range(n - made.survivors + 1))
        try:
            Trial(made, asked.parameters, {"masked": gone}).run()
            raise SystemExit(f"  {len(gone)} lost: a sum came out, and none should have")
        except RunError as error:
            print(f"  {len(gone)} lost: {str(error)[:110]}...")


if __name__ == "__main__":
    main()
