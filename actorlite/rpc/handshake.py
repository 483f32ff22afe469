"""The handshake: who are you, do you know the token, do we speak the same protocol. Sans I/O.

Four messages: `Hello`, `Challenge`, `Proof`, `Welcome`. Each side proves by a MAC over both nonces and both identities
that it knows the cluster token; the token itself never travels. A proof names its side, so that it cannot be reflected.
Nothing but these small typed messages is decoded before both proofs hold.

The MAC is keyed BLAKE2b (RFC 7693), which is the interpreter's own: HMAC-SHA256 initialises OpenSSL in each worker,
for 70 KB of memory, or 200 KB by `hmac.digest`.
"""

from __future__ import annotations

import hmac
import sys
from hashlib import blake2b

from actorlite.errors import AuthenticationError, ProtocolError, TransportError, VersionMismatch
from actorlite.host import Entropy
from actorlite.transport import Buffer
from actorlite.wire.messages import (
    DECODE_ERRORS,
    PROTOCOL_VERSION,
    Challenge,
    Hello,
    Identity,
    Proof,
    Refused,
    Welcome,
    decode_handshake,
    encode,
)

NONCE_BYTES = 32
MAX_HANDSHAKE_BYTES = 8 * 1024
"""What an unauthenticated peer may send in one message; an identity with a long address takes a few hundred bytes."""

PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"


class Handshake:
    """One side of one handshake. Feed it messages; send what it returns; `peer` is set when `done`."""

    def __init__(self, identity: Identity, token: bytes, entropy: Entropy, *, connecting: bool) -> None:
        self.identity = identity
        self.peer: Identity | None = None
        self.done = False
        self.connecting = connecting
        self._token = token
        self._nonce = entropy.token_bytes(NONCE_BYTES)
        self._expected_proof = b""

    def start(self) -> bytes:
        """The connecting side's first message."""
        return encode(Hello(PROTOCOL_VERSION, self.identity, self._nonce))

    def receive(self, data: Buffer) -> bytes | None:
        """Take one message; return the answer, if any. Raises what ends the connection; see `refusal`."""
        if self.done:
            raise ProtocolError("a handshake message after the handshake")
        try:
            message = decode_handshake(data)
        except DECODE_ERRORS as error:
            raise ProtocolError(f"not a handshake message: {error}") from None
        match message:
            case Hello() if not self.connecting and self.peer is None:
                return self._challenge(message)
            case Challenge() if self.connecting and self.peer is None:
                return self._prove(message)
            case Proof() if not self.connecting and self.peer is not None:
                self._check(message.proof)
                self.done = True
                return encode(Welcome())
            case Welcome() if self.connecting and self.peer is not None:
                self.done = True
                return None
            case Refused():
                kind = VersionMismatch if message.kind == "version" else AuthenticationError
                raise kind(f"the peer refused the connection: {message.text}")
        raise ProtocolError(f"unexpected {type(message).__name__} in the handshake")

    def refusal(self, error: TransportError) -> bytes | None:
        """What to tell the peer about an error raised by `receive`; the connecting side tells nothing."""
        if self.connecting:
            return None
        return encode(Refused("version" if isinstance(error, VersionMismatch) else "authentication", str(error)))

    def _challenge(self, hello: Hello) -> bytes:
        if hello.version != PROTOCOL_VERSION:
            raise VersionMismatch(
                f"protocol version {hello.version} meets version {PROTOCOL_VERSION}: upgrade the older"
            )
        if hello.identity.python != self.identity.python:
            raise VersionMismatch(
                f"Python {hello.identity.python} meets Python {self.identity.python}: code travels by value, so the "
                "minor versions must be equal; start both sides with the same one"
            )
        if len(hello.nonce) != NONCE_BYTES:
            raise ProtocolError(f"a nonce of {len(hello.nonce)} bytes instead of {NONCE_BYTES}")
        self.peer = hello.identity
        transcript = _transcript(hello.identity, self.identity, hello.nonce, self._nonce)
        self._expected_proof = _proof(self._token, b"connecting", transcript)
        return encode(Challenge(self.identity, self._nonce, _proof(self._token, b"accepting", transcript)))

    def _prove(self, challenge: Challenge) -> bytes:
        transcript = _transcript(self.identity, challenge.identity, self._nonce, challenge.nonce)
        self._expected_proof = _proof(self._token, b"accepting", transcript)
        self._check(challenge.proof)
        self.peer = challenge.identity
        return encode(Proof(_proof(self._token, b"connecting", transcript)))

    def _check(self, proof: bytes) -> None:
        if not hmac.compare_digest(proof, self._expected_proof):
            raise AuthenticationError("the peer does not know the cluster token of this session")


def _transcript(connecting: Identity, accepting: Identity, nonce_c: bytes, nonce_a: bytes) -> bytes:
    return encode((PROTOCOL_VERSION, connecting, accepting, nonce_c, nonce_a))


def _proof(token: bytes, side: bytes, transcript: bytes) -> bytes:
    return blake2b(b"actorlite " + side + b"\0" + transcript, key=token, digest_size=32).digest()
