"""A client's part in one round. Its secrets live in this object and leave it as shares alone.

It does each thing once: one set of keys, one masked update, and for every other client one kind of
share. Asked again, or for anything out of turn, it refuses.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from fedmem.errors import RunError
from fedmem.secagg import crypto
from fedmem.secagg.crypto import KEY, SEALED, SECRET, Words
from fedmem.secagg.graph import Plan

Message = Mapping[str, Any]  # of bytes, integers and lists of either
STAGES = ("keys", "shares", "masked", "unmask", "done")


class Client:
    """Client `me` of a round; `names` by client number. All methods raise RunError, naming round
    and client, for what the protocol does not allow."""

    def __init__(self, me: int, round_: int, names: Sequence[str], plan: Plan) -> None:
        self.me, self.round, self.names, self.plan = me, round_, names, plan
        self.stage = "keys"
        # 16 bytes each, and shared: from them come the key of the pairwise masks and the own mask
        self.mask_secret, self.self_secret = (
            secrets.token_bytes(SECRET),
            secrets.token_bytes(SECRET),
        )
        self.channel_secret = secrets.token_bytes(SECRET)
        self.channels: dict[int, bytes] = {}  # neighbours' public keys
        self.masks: dict[int, bytes] = {}
        self.held: dict[int, bytes] = {}  # by dealer: share of its mask secret, of its self secret

    # --- the four exchanges --------------------------------------------------------------------

    def keys(self) -> dict[str, Any]:
        """Announce two public keys, and a commitment to the own mask."""
        self._turn("keys", "shares")
        return {
            "channel": crypto.public_bytes(crypto.private_key(self.channel_secret, "channel")),
            "mask": crypto.public_bytes(crypto.private_key(self.mask_secret, "mask")),
            "commitment": crypto.digest(self.self_secret),
        }

    def shares(self, message: Message) -> dict[str, Any]:
        """Split both secrets among the neighbours and oneself.

        `message`: the neighbours' `ids`, ascending, with their `channel` and `mask` keys. Returns
        for every neighbour two shares `sealed` for it, and for every holder (ascending, with
        oneself) the `digests` of both.
        """
        self._turn("shares", "masked")
        ids = self._ids(message)
        fewest = min(self.plan.neighbours, self.plan.survivors - 1)
        if not fewest <= len(ids) < self.plan.clients:
            self._refuse(f"{len(ids)} neighbours, and the plan has {fewest} at least")
        self.channels = dict(zip(ids, self._blobs(message, "channel", KEY, ids), strict=True))
        self.masks = dict(zip(ids, self._blobs(message, "mask", KEY, ids), strict=True))
        holders = sorted([*ids, self.me])
        dealt = zip(
            crypto.split(self.mask_secret, self.plan.threshold, len(holders)),
            crypto.split(self.self_secret, self.plan.threshold, len(holders)),
            strict=True,
        )
        sealed, digests = [], []
        for holder, (of_mask, of_self) in zip(holders, dealt, strict=True):
            both = crypto.digest(of_mask) + crypto.digest(of_self)
            digests.append(both)
            if holder == self.me:
                self.held[self.me] = of_mask + of_self
                continue
            key = self._channel(holder, self.me, holder)
            associated = self._associated(self.me, holder, both)
            sealed.append(crypto.seal(key, of_mask + of_self, associated))
        return {"sealed": sealed, "digests": digests}

    def receive(self, message: Message) -> None:
        """Open what the neighbours (`ids`, with `sealed` and `digests`) sent through the server.

        With those that are missing here no masks are shared: they had no shares of theirs to give.
        """
        if self.stage != "masked":
            self._refuse(f"shares, and it is at the stage {self.stage!r}")
        ids = self._ids(message)
        if strangers := set(ids) - set(self.channels):
            self._refuse(f"shares of {self._who(min(strangers))}, which is no neighbour")
        if set(ids) & set(self.held):
            self._refuse("shares for the second time")
        if len(ids) + 1 < self.plan.threshold:
            self._refuse(
                f"{len(ids)} neighbours are left, and a secret needs {self.plan.threshold} holders"
            )
        sealed = self._blobs(message, "sealed", SEALED, ids)
        digests = self._blobs(message, "digests", 2 * crypto.DIGEST, ids)
        for dealer, text, both in zip(ids, sealed, digests, strict=True):
            try:
                key = self._channel(dealer, dealer, self.me)
                shares = crypto.unseal(key, text, self._associated(dealer, self.me, both))
            except ValueError:
                self._refuse(f"shares of {self._who(dealer)} that are not its own for this round")
            if not crypto.same(
                crypto.digest(shares[:SECRET]) + crypto.digest(shares[SECRET:]), both
            ):
                self._refuse(f"shares of {self._who(dealer)} other than those it committed to")
            self.held[dealer] = shares

    def masked(self, vector: Words) -> Words:
        """The vector plus all masks mod 2^32, in place: the own one, and for every neighbour one
        that the neighbour takes off (the client of the lower number adds)."""
        if len(self.held) < self.plan.threshold:
            self._refuse("a masked update, and it holds too few shares of others")
        self._turn("masked", "unmask")
        plus = [own_mask(self.self_secret, self.round)]
        minus: list[bytes] = []
        private = crypto.private_key(self.mask_secret, "mask")
        for other in self.held:
            if other != self.me:
                try:
                    key = pair_mask(private, self.masks[other], self.round, self.me, other)
                except ValueError:
                    self._refuse(f"a mask key of {self._who(other)} that is none")
                (plus if self.me < other else minus).append(key)
        crypto.add_masks(vector, plus, minus)
        return vector

    def reveal(self, message: Message) -> dict[str, Any]:
        """Hand out one share for every client that shares masks with this one.

        `message`: their `ids` (oneself among them), ascending, and for each in `alive` 1 if its
        masked update arrived, else 0. Of a survivor that is the share of its own mask, of a lost
        client the share of its mask key: of both together the server would learn its update.
        """
        self._turn("unmask", "done")
        ids = self._ids(message, with_me=True)
        alive = message.get("alive")
        if not isinstance(alive, list) or len(alive) != len(ids) or not set(alive) <= {0, 1}:
            self._refuse("a list of survivors that is none")
        if ids != sorted(self.held):
            self._refuse("a list of survivors that is not of the clients it shares masks with")
        there = [who for who, lives in zip(ids, alive, strict=True) if lives]
        if self.me not in there:
            self._refuse("to be lost itself, though it is asked")
        everybody = self.plan.neighbours == self.plan.clients - 1  # then it knows of all
        least = self.plan.survivors if everybody else self.plan.threshold
        if len(there) < least:
            self._refuse(f"{len(there)} survivors to open a sum of, and {least} are the least")
        shares = [
            self.held[who][SECRET:] if lives else self.held[who][:SECRET]
            for who, lives in zip(ids, alive, strict=True)
        ]
        self.held, self.masks, self.channels = {}, {}, {}
        self.mask_secret = self.self_secret = self.channel_secret = b""
        return {"shares": shares}

    # --- between messages ----------------------------------------------------------------------

    def dump(self) -> dict[str, Any]:
        """What must be kept until the next message: secrets, in the clear."""
        return {
            "round": self.round,
            "stage": self.stage,
            "secrets": self.mask_secret + self.self_secret + self.channel_secret,
            "ids": b"".join(i.to_bytes(4, "little") for i in self.channels),
            "keys": b"".join(self.channels[i] + self.masks[i] for i in self.channels),
            "dealers": b"".join(i.to_bytes(4, "little") for i in self.held),
            "held": b"".join(self.held.values()),
        }

    @classmethod
    def load(cls, me: int, names: Sequence[str], plan: Plan, kept: Message) -> Client:
        """The client that was dumped."""
        client = cls(me, int(kept["round"]), names, plan)
        client.stage = str(kept["stage"])
        both = kept["secrets"]
        client.mask_secret, client.self_secret = both[:SECRET], both[SECRET : 2 * SECRET]
        client.channel_secret = both[2 * SECRET :]
        ids, keys = _cut(kept["ids"], 4), _cut(kept["keys"], 2 * KEY)
        for id_, pair in zip(ids, keys, strict=True):
            other = int.from_bytes(id_, "little")
            client.channels[other], client.masks[other] = pair[:KEY], pair[KEY:]
        for id_, shares in zip(
            _cut(kept["dealers"], 4), _cut(kept["held"], 2 * SECRET), strict=True
        ):
            client.held[int.from_bytes(id_, "little")] = shares
        return client

    # --- checks --------------------------------------------------------------------------------

    def _turn(self, stage: str, then: str) -> None:
        if self.stage != stage:
            self._refuse(f"{stage!r}, and it is at the stage {self.stage!r}")
        self.stage = then

    def _refuse(self, what: str) -> NoReturn:
        raise RunError(
            f"round {self.round}, {self._who(self.me)}: secure aggregation: refused: {what}"
        )

    def _who(self, client: int) -> str:
        return f"client {self.names[client]}"

    def _ids(self, message: Message, with_me: bool = False) -> list[int]:
        """The message's client numbers: ascending, each once, without this one unless `with_me`."""
        ids = message.get("ids")
        if not isinstance(ids, list) or not all(type(i) is int for i in ids):
            self._refuse("no list of clients")
        if ids != sorted(set(ids)) or not all(0 <= i < len(self.names) for i in ids):
            self._refuse("a list of clients that is out of order or names nobody")
        if (self.me in ids) != with_me:
            self._refuse(f"a list of clients {'without' if with_me else 'with'} itself")
        return list(ids)

    def _blobs(self, message: Message, key: str, size: int, ids: list[int]) -> list[bytes]:
        """One item of bytes for every client, each of the right size."""
        found = message.get(key)
        if not isinstance(found, list) or len(found) != len(ids):
            self._refuse(f"other than one item of {key!r} for each neighbour")
        for who, blob in zip(ids, found, strict=True):
            if not isinstance(blob, bytes) or len(blob) != size:
                self._refuse(f"{key!r} of {self._who(who)} that is not of {size} bytes")
        return list(found)

    def _channel(self, other: int, sender: int, receiver: int) -> bytes:
        """The key under which `sender` seals for `receiver`; one of them is this client."""
        private = crypto.private_key(self.channel_secret, "channel")
        try:
            secret = crypto.agree(private, self.channels[other])
        except ValueError:
            self._refuse(f"a channel key of {self._who(other)} that is none")
        return crypto.derive(secret, "shares", self.round, sender, receiver)

    def _associated(self, sender: int, receiver: int, digests: bytes) -> bytes:
        return f"round {self.round} from {sender} to {receiver} ".encode() + digests


def own_mask(self_secret: bytes, round_: int) -> bytes:
    """The key of a client's own mask."""
    return crypto.derive(self_secret, "own mask", round_)


def pair_mask(private: Any, public: bytes, round_: int, one: int, other: int) -> bytes:
    """The key of the mask that two clients share, from either's side."""
    low, high = sorted((one, other))
    return crypto.derive(crypto.agree(private, public), "pair mask", round_, low, high)


def _cut(text: bytes, size: int) -> list[bytes]:
    return [text[at : at + size] for at in range(0, len(text), size)]
