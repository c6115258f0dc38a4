"""What a server grants to clients that it does not trust."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Limits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much memory and time clients may take, each and together.

    Attributes:
        connections: how many clients at once. Some file descriptors are always left to the storage.
        handshake_s: how long a new client may take until it has chosen a protocol and has proved
            that it knows the secret.
        transaction_bytes: the largest transaction.
        held_bytes: what all clients together may have sent without it being a whole request or a
            whole transaction. Beyond it, whoever holds most is dropped.
        unread_bytes: what all clients together may leave unread of replies. Beyond it, whoever adds
            to it is dropped.
        stuck_s: how long a client may read nothing of replies that wait for it.
        bulk_oids: how many records a client of protocol 1 may ask for at once.
        read_ahead_bytes: how many bytes of records a reply may bring that were not asked for.
        root_s: how long the others wait for the client that found the storage empty to make the
            root.
        history_bytes: how many bytes of overwritten records to keep for those that read an older
            state.
        log_oids: how many changed oids to keep for those that have not synced.
        pack_pause_s: how long after the end of a pack the next one begins at the earliest.
        drain_s: how long a server that stops waits for clients to read their last replies.
    """

    connections: int = 10_000
    handshake_s: float = 10.0
    transaction_bytes: int = 512 << 20
    held_bytes: int = 1 << 30
    unread_bytes: int = 512 << 20
    stuck_s: float = 60.0
    bulk_oids: int = 1_000_000
    read_ahead_bytes: int = 256 << 10
    root_s: float = 5.0
    history_bytes: int = 64 << 20
    log_oids: int = 200_000
    pack_pause_s: float = 1.0
    drain_s: float = 5.0
