"""Secure aggregation: the server learns the sum of a round's updates, and no single one.

Bonawitz et al. 2017, "Practical Secure Aggregation for Privacy-Preserving Machine Learning", with
the k-regular graph of Bell et al. 2020, "Secure Single-Server Aggregation with (Poly)Logarithmic
Overhead". Four exchanges a round, between `client.Client` and `server.Server`:

1. keys     each client announces two X25519 keys, one for shares and one for masks;
2. shares   each splits its two secrets among its neighbours and itself, sealed for each;
3. masked   each sends its update plus one mask for each neighbour and one of its own, mod 2^32;
4. unmask   the survivors hand out shares: of a lost client's mask key, or of a survivor's own mask.

Masks between survivors cancel. No Flower in here: `server/secagg.py` and `clients/secagg.py` carry
the messages, plain dicts of bytes and integers. `TRUST` says whom one must trust.
"""

TRUST = (
    "the server, to follow the protocol (honest but curious): nobody vouches for the clients' "
    "keys, so a server that lies could stand in for a client's neighbours and read its update; "
    "and the clients, that no more of them collude with it than aggregation.secure.corrupted says"
)
