"""Functions and classes on their way: encoded once per session, sent once per process, found by content."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

from actorlite.definitions import ActorDefinition, FunctionDefinition
from actorlite.errors import ProtocolError
from actorlite.rpc.peer import Peer
from actorlite.runtime.payloads import pack, unpack
from actorlite.wire.calls import Define
from actorlite.wire.code import CodeBlob, decode_code, encode_code
from actorlite.wire.messages import encode
from actorlite.wire.serialize import Encoded

logger = logging.getLogger("actorlite.runtime")


class CodeBook:
    """The code that this process sends and the code that it was sent."""

    def __init__(self, scope: Any) -> None:
        self._scope = scope
        self._blobs: WeakKeyDictionary[FunctionDefinition | ActorDefinition, CodeBlob] = WeakKeyDictionary()
        self._received: dict[bytes, Encoded] = {}
        self._decoded: dict[bytes, Any] = {}

    def blob_of(self, definition: FunctionDefinition | ActorDefinition) -> CodeBlob:
        """The definition's code; captured at first use (Ray, T-7). Raises `SerializationError`, `ValueError`."""
        blob = self._blobs.get(definition)
        if blob is None:
            code = definition.function if isinstance(definition, FunctionDefinition) else definition.cls
            blob = self._blobs[definition] = encode_code(code)
            # References captured by code live as long as the session may send it (Ray, O-16).
            self._scope.post(self._scope.exports.pin, blob.handles)
            if blob.is_large:
                logger.warning(
                    "the code of %s is %.0f MB with everything it captures: pass large values as arguments instead",
                    definition.name,
                    len(blob.data) / 1e6,
                )
        return blob

    def ensure_sent(self, peer: Peer, blob: CodeBlob, own_address: str) -> None:
        """Send the code unless this peer has it; it then precedes the call on the connection."""
        if blob.digest in peer.sent_code:
            return
        payload, parts = pack(Encoded(0, blob.data, (), blob.handles), own_address)
        peer.send(encode(Define(blob.digest, blob.name, payload)), *parts)
        peer.sent_code.add(blob.digest)

    def defined(self, peer: Peer, message: Define, parts: Sequence[memoryview]) -> None:
        """Handler of `Define`. The code is built when first used, where it is used."""
        if message.digest not in self._decoded:
            self._received[message.digest] = unpack(message.payload, parts)

    def find(self, digest: bytes) -> Any:
        """The function or class. Raises what building it raises; user modules are imported here."""
        found = self._decoded.get(digest)
        if found is None:
            received = self._received.get(digest)
            if received is None:
                raise ProtocolError(f"the code {digest.hex()} was not sent before its use")
            found = self._decoded[digest] = decode_code(received.data, self._scope)
            self._received.pop(digest, None)
        return found
