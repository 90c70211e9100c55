"""The server's part in one round: it carries keys and shares, adds masked vectors, and unmasks the
sum of those that arrived. What it holds of a client is a masked vector and, later, one secret."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from fedmem.errors import RunError
from fedmem.secagg import crypto
from fedmem.secagg.client import Message, own_mask, pair_mask
from fedmem.secagg.crypto import DIGEST, KEY, SEALED, SECRET, Words
from fedmem.secagg.graph import Plan, ring


@dataclass(frozen=True)
class Loss:
    """A client that did not answer at a stage; its update is in the sum if that was `unmask`."""

    client: str
    at: str
    why: str


class Server:
    """One round with the clients `chosen` (numbers; `names` by number), by `plan`.

    A stage is: `take` every answer, `lose` the clients without one, then ask for the next messages
    by `keys_for`, `shares_for`, `survivors_for`. Raises RunError, naming round and client, for an
    answer that is malformed, and naming counts where too few are left.
    """

    def __init__(
        self, round_: int, names: Sequence[str], chosen: Sequence[int], plan: Plan
    ) -> None:
        self.round, self.names, self.plan = round_, names, plan
        self.there = sorted(chosen)  # of whom an answer is due
        self.losses: list[Loss] = []
        self.neighbours: dict[int, list[int]] = {}
        self.summed: list[int] = []  # the clients whose vectors are in the sum
        self._keys: dict[int, Message] = {}
        self._dealt: dict[int, Message] = {}
        self._total: Words | None = None
        self._shares: dict[int, dict[int, bytes]] = {}  # by owner of the secret, by holder

    def lose(self, client: int, at: str, why: str) -> None:
        """Go on without a client."""
        self.there.remove(client)
        self.losses.append(Loss(self.names[client], at, why))

    # --- keys, shares ---------------------------------------------------------------------------

    def take_keys(self, client: int, message: Message) -> None:
        """A client's public keys."""
        for key, size in (("channel", KEY), ("mask", KEY), ("commitment", DIGEST)):
            self._sized(client, message.get(key), size, key)
        if any(message["mask"] == keys["mask"] for keys in self._keys.values()):
            self._blame(client, "announced the key of another client")
        self._keys[client] = dict(message)

    def keys_for(self, client: int) -> dict[str, Any]:
        """Its neighbours' keys. The first call draws the graph, over those that are there."""
        if not self.neighbours:
            self._enough("keys")
            order = list(self.there)
            secrets.SystemRandom().shuffle(order)  # nobody knows the places beforehand
            self.neighbours = ring(order, self.plan.neighbours)
        ids = self.neighbours[client]
        return {
            "ids": ids,
            "channel": [self._keys[i]["channel"] for i in ids],
            "mask": [self._keys[i]["mask"] for i in ids],
        }

    def take_shares(self, client: int, message: Message) -> None:
        """What a client sealed for its neighbours."""
        count = len(self.neighbours[client])
        sealed, digests = message.get("sealed"), message.get("digests")
        if not isinstance(sealed, list) or len(sealed) != count:
            self._blame(client, f"sent other than {count} sealed shares")
        if not isinstance(digests, list) or len(digests) != count + 1:
            self._blame(client, f"sent other than {count + 1} digests")
        for text in sealed:
            self._sized(client, text, SEALED, "sealed share")
        for both in digests:
            self._sized(client, both, 2 * DIGEST, "digest")
        self._dealt[client] = {
            "sealed": dict(zip(self.neighbours[client], sealed, strict=True)),
            "digests": dict(zip(self._holders(client), digests, strict=True)),
        }

    def shares_for(self, client: int) -> dict[str, Any]:
        """The shares that its neighbours sealed for it."""
        self._enough("shares")
        ids = [i for i in self.neighbours[client] if i in self._dealt]
        return {
            "ids": ids,
            "sealed": [self._dealt[i]["sealed"][client] for i in ids],
            "digests": [self._dealt[i]["digests"][client] for i in ids],
        }

    # --- masked vectors, unmasking --------------------------------------------------------------

    def take_masked(self, client: int, vector: np.ndarray, length: int) -> None:
        """Add a client's vector of `length` words, which is not kept."""
        if vector.dtype != np.uint32 or vector.shape != (length,):
            self._blame(
                client, f"update refused: {vector.dtype} {vector.shape}, not uint32 ({length},)"
            )
        if self._total is None:
            self._total = np.zeros(length, np.uint32)
        self._total += vector
        self.summed.append(client)

    def survivors_for(self, client: int) -> dict[str, Any]:
        """Who of those it shares masks with is in the sum."""
        self._enough("masked")
        ids = self._partners(client)
        return {"ids": ids, "alive": [int(i in self.summed) for i in ids]}

    def take_revealed(self, client: int, message: Message) -> None:
        """A client's shares: of survivors' own masks and of lost clients' mask keys."""
        ids = self._partners(client)
        shares = message.get("shares")
        if not isinstance(shares, list) or len(shares) != len(ids):
            self._blame(client, f"sent other than {len(ids)} shares")
        for owner, share in zip(ids, shares, strict=True):
            self._sized(client, share, SECRET, "share")
            both = self._dealt[owner]["digests"][client]
            due = both[DIGEST:] if owner in self.summed else both[:DIGEST]
            if not crypto.same(crypto.digest(share), due):
                self._blame(client, f"sent a share that client {self.names[owner]} never dealt")
            self._shares.setdefault(owner, {})[client] = share

    def sum(self) -> Words:
        """The sum of the vectors that arrived, mod 2^32, with all masks taken off."""
        self._enough("unmask")
        assert self._total is not None
        plus: list[bytes] = []
        minus = [own_mask(self._secret(who), self.round) for who in self.summed]
        for lost in (who for who in self._dealt if who not in self.summed):
            left = [i for i in self.neighbours[lost] if i in self.summed]
            if not left:
                continue  # nobody shares a mask with it
            private = crypto.private_key(self._secret(lost), "mask")
            for other in left:
                key = pair_mask(private, self._keys[other]["mask"], self.round, lost, other)
                (minus if other < lost else plus).append(key)
        crypto.add_masks(self._total, plus, minus)
        return self._total

    def _secret(self, owner: int) -> bytes:
        """A survivor's self secret, or a lost client's mask secret, from the shares revealed."""
        shares = self._shares.get(owner, {})
        if len(shares) < self.plan.threshold:
            raise RunError(
                f"round {self.round}: secure aggregation: {len(shares)} clients are left that hold "
                f"shares of client {self.names[owner]}, and {self.plan.threshold} are needed"
                + self._gone()
            )
        place = {holder: at for at, holder in enumerate(self._holders(owner))}
        secret = crypto.combine({place[h]: s for h, s in shares.items()}, self.plan.threshold)
        if owner in self.summed:
            right = crypto.digest(secret) == self._keys[owner]["commitment"]
        else:
            public = crypto.public_bytes(crypto.private_key(secret, "mask"))
            right = public == self._keys[owner]["mask"]
        if not right:
            self._blame(owner, "dealt shares that do not make up its secret")
        return secret

    # --- checks ---------------------------------------------------------------------------------

    def _holders(self, owner: int) -> list[int]:
        """Who holds shares of a client's secrets, in the order of the shares."""
        return sorted([*self.neighbours[owner], owner])

    def _partners(self, client: int) -> list[int]:
        """Whose masks are in a client's vector: its own, its neighbours' that dealt shares."""
        return [i for i in self._holders(client) if i in self._dealt]

    def _enough(self, stage: str) -> None:
        if len(self.there) < self.plan.survivors:
            raise RunError(
                f"round {self.round}: secure aggregation: {len(self.there)} of "
                f"{self.plan.clients} clients are left at the stage {stage!r}, and "
                f"{self.plan.survivors} are needed (aggregation.secure, or client_dp's honest); "
                f"nothing was aggregated{self._gone()}"
            )

    def _gone(self) -> str:
        told = "; ".join(f"{loss.client} at {loss.at}: {loss.why}" for loss in self.losses)
        return f". Lost: {told}"[:500] if told else ""

    def _sized(self, client: int, value: Any, size: int, what: str) -> None:
        if not isinstance(value, bytes) or len(value) != size:
            self._blame(client, f"sent a {what} that is not of {size} bytes")

    def _blame(self, client: int, what: str) -> NoReturn:
        raise RunError(
            f"round {self.round}, client {self.names[client]}: secure aggregation: {what}"
        )
