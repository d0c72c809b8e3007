"""Whether a snapshot is whole, and whether it is of this request on this engine."""

from __future__ import annotations

import hashlib

import msgspec

from unified_latents.service.engine.messages import Decode, Encode, Generate, Request, Snapshot


def fingerprint(request: Request) -> str:
    """A digest of all of a request that its result depends on."""
    bare = msgspec.structs.replace(request, id=0, priority="normal", timeout=None)
    if isinstance(bare, Generate | Decode):
        bare = msgspec.structs.replace(bare, previews=0, snapshot_every=0, resume=None)
    return hashlib.sha256(msgspec.msgpack.encode(bare)).hexdigest()


def seal(snapshot: Snapshot) -> Snapshot:
    """The snapshot with its digest."""
    bare = msgspec.structs.replace(snapshot, id=0, digest="")
    digest = hashlib.sha256(msgspec.msgpack.encode(bare)).hexdigest()
    return msgspec.structs.replace(snapshot, digest=digest)


def fits(snapshot: Snapshot, request: Request, model: str, numerics: str) -> bool:
    """Whether `request` may go on from here, by an engine of these ids, to the same bytes."""
    return (
        not isinstance(request, Encode)
        and seal(snapshot).digest == snapshot.digest
        and (snapshot.model, snapshot.numerics) == (model, numerics)
        and snapshot.request == fingerprint(request)
    )
