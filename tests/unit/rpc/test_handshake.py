from __future__ import annotations

import pickle
import random

import msgspec
import pytest

from actorlite.errors import AuthenticationError, ProtocolError, VersionMismatch
from actorlite.ids import ProcessId
from actorlite.rpc.handshake import MAX_HANDSHAKE_BYTES, NONCE_BYTES, PYTHON, Handshake
from actorlite.wire.calls import Cancel
from actorlite.wire.messages import (
    PROTOCOL_VERSION,
    Challenge,
    Hello,
    Identity,
    Proof,
    Welcome,
    decode_handshake,
    encode,
)

TOKEN = b"the token of the cluster"


class Counting:
    def __init__(self, start):
        self.number = start

    def token_bytes(self, size):
        self.number += 1
        return bytes([self.number]) * size


def identity(number, python=PYTHON):
    return Identity(ProcessId(f"{number:016x}"), "worker", f"uds:///{number}", number, python)


def side(*, connecting, token=TOKEN, python=PYTHON, start=0):
    number = 1 if connecting else 2
    return Handshake(identity(number, python), token, Counting(start or number * 10), connecting=connecting)


def pair(**accepting):
    return side(connecting=True), side(connecting=False, **accepting)


def shake(connecting, accepting, tamper=lambda index, data: data):
    """Carry the four messages; `tamper` may change each."""
    data = connecting.start()
    for index, receiver in enumerate((accepting, connecting, accepting, connecting)):
        data = receiver.receive(tamper(index, data))
    return data


def changed(index, change):
    """Replace fields of message number `index`."""

    def tamper(at, data):
        if at != index:
            return data
        message = decode_handshake(data)
        return encode(msgspec.structs.replace(message, **change(message)))

    return tamper


def test_both_sides_learn_who_the_other_is():
    connecting, accepting = pair()
    assert shake(connecting, accepting) is None
    assert connecting.done and accepting.done
    assert connecting.peer == identity(2)
    assert accepting.peer == identity(1)


def test_neither_side_is_done_before_it_has_seen_a_proof():
    connecting, accepting = pair()
    hello = connecting.start()
    challenge = accepting.receive(hello)
    assert not connecting.done and not accepting.done
    proof = connecting.receive(challenge)
    assert not connecting.done and not accepting.done
    welcome = accepting.receive(proof)
    assert accepting.done and not connecting.done
    assert connecting.receive(welcome) is None
    assert connecting.done


def test_the_token_never_travels():
    seen = []
    shake(*pair(), tamper=lambda index, data: seen.append(data) or data)
    assert len(seen) == 4
    assert not any(TOKEN in data for data in seen)


def test_a_connecting_side_with_another_token_is_refused_by_the_accepting_one_too():
    """The honest side notices first; a liar who goes on is refused."""
    connecting, accepting = pair()
    accepting.receive(connecting.start())
    with pytest.raises(AuthenticationError, match="does not know the cluster token"):
        accepting.receive(encode(Proof(b"\x00" * 32)))
    assert not accepting.done


def test_an_accepting_side_with_another_token_is_not_believed():
    connecting, accepting = pair(token=b"another")
    with pytest.raises(AuthenticationError, match="does not know the cluster token"):
        shake(connecting, accepting)
    assert not connecting.done and not accepting.done and connecting.peer is None


@pytest.mark.parametrize("token", [b"", TOKEN[:-1], TOKEN + b"\x00x", TOKEN.upper()])
def test_almost_the_token_is_not_the_token(token):
    with pytest.raises(AuthenticationError):
        shake(*pair(token=token))


IDENTITY_CHANGES = {
    "process": "f" * 16,
    "role": "node",
    "address": "uds:///evil",
    "pid": 99,
}


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("field", IDENTITY_CHANGES)
def test_a_changed_identity_is_noticed(index, field):
    def other_identity(message):
        return {"identity": msgspec.structs.replace(message.identity, **{field: IDENTITY_CHANGES[field]})}

    connecting, accepting = pair()
    with pytest.raises(AuthenticationError):
        shake(connecting, accepting, changed(index, other_identity))
    assert not connecting.done and not accepting.done


@pytest.mark.parametrize("index", [0, 1])
def test_a_changed_nonce_is_noticed(index):
    with pytest.raises(AuthenticationError):
        shake(*pair(), changed(index, lambda message: {"nonce": b"\x77" * NONCE_BYTES}))


@pytest.mark.parametrize("index", [1, 2])
@pytest.mark.parametrize("change", [lambda p: p[:-1], lambda p: b"", lambda p: p + b"\x00", lambda p: p[::-1]])
def test_a_changed_proof_is_noticed(index, change):
    with pytest.raises(AuthenticationError):
        shake(*pair(), changed(index, lambda message: {"proof": change(message.proof)}))


def test_a_reflected_proof_proves_nothing():
    """Who does not know the token sends the accepting side's own proof back to it."""
    connecting, accepting = pair()
    challenge = decode_handshake(accepting.receive(connecting.start()))
    with pytest.raises(AuthenticationError):
        accepting.receive(encode(Proof(challenge.proof)))


def test_a_challenge_cannot_be_answered_by_a_second_connection_to_the_same_process():
    """The oracle attack: the liar lets another handshake of the victim compute a proof for it."""
    victim, other = side(connecting=False, start=20), side(connecting=False, start=30)
    liar = Hello(PROTOCOL_VERSION, identity(1), b"\x01" * NONCE_BYTES)
    challenge = decode_handshake(victim.receive(encode(liar)))
    echo = decode_handshake(other.receive(encode(Hello(PROTOCOL_VERSION, identity(1), challenge.nonce))))
    with pytest.raises(AuthenticationError):
        victim.receive(encode(Proof(echo.proof)))


def test_messages_of_an_earlier_handshake_are_worthless():
    recorded = []
    shake(*pair(), tamper=lambda index, data: recorded.append(data) or data)
    again = side(connecting=False, start=50)
    again.receive(recorded[0])
    with pytest.raises(AuthenticationError):
        again.receive(recorded[2])


def test_protocol_versions_must_be_equal_and_the_error_names_both():
    _, accepting = pair()
    hello = Hello(PROTOCOL_VERSION + 1, identity(1), b"\x01" * NONCE_BYTES)
    with pytest.raises(VersionMismatch, match=f"version {PROTOCOL_VERSION + 1} meets version {PROTOCOL_VERSION}"):
        accepting.receive(encode(hello))


def test_python_versions_must_be_equal_and_the_error_names_both():
    connecting, accepting = pair(python="3.99")
    with pytest.raises(VersionMismatch, match=rf"Python {PYTHON} meets Python 3\.99"):
        shake(connecting, accepting)


@pytest.mark.parametrize("size", [0, NONCE_BYTES - 1, NONCE_BYTES + 1])
def test_a_nonce_of_another_size_is_refused(size):
    with pytest.raises(ProtocolError, match=f"nonce of {size} bytes"):
        side(connecting=False).receive(encode(Hello(PROTOCOL_VERSION, identity(1), bytes(size))))


MESSAGES = {
    "hello": Hello(PROTOCOL_VERSION, identity(1), bytes(NONCE_BYTES)),
    "challenge": Challenge(identity(2), bytes(NONCE_BYTES), b"proof"),
    "proof": Proof(b"proof"),
    "welcome": Welcome(),
}


@pytest.mark.parametrize("name", ["proof", "welcome"])
def test_a_connecting_side_expects_a_challenge_first(name):
    with pytest.raises(ProtocolError, match="unexpected"):
        side(connecting=True).receive(encode(MESSAGES[name]))


@pytest.mark.parametrize("name", ["challenge", "proof", "welcome"])
def test_an_accepting_side_expects_hello_first(name):
    with pytest.raises(ProtocolError, match="unexpected"):
        side(connecting=False).receive(encode(MESSAGES[name]))


@pytest.mark.parametrize("name", ["hello", "challenge", "welcome"])
def test_an_accepting_side_expects_a_proof_next(name):
    connecting, accepting = pair()
    accepting.receive(connecting.start())
    with pytest.raises(ProtocolError, match="unexpected"):
        accepting.receive(encode(MESSAGES[name]))


@pytest.mark.parametrize("name", MESSAGES)
def test_after_the_handshake_nothing_more_is_taken(name):
    connecting, accepting = pair()
    shake(connecting, accepting)
    for each in (connecting, accepting):
        with pytest.raises(ProtocolError, match="after the handshake"):
            each.receive(encode(MESSAGES[name]))


@pytest.mark.parametrize(
    ("error", "kind"),
    [(VersionMismatch("too old"), VersionMismatch), (AuthenticationError("who?"), AuthenticationError)],
)
def test_a_refusal_tells_the_connecting_side_why(error, kind):
    connecting, accepting = pair()
    refusal = accepting.refusal(error)
    assert refusal is not None
    with pytest.raises(kind, match=f"the peer refused the connection: {error}"):
        connecting.receive(refusal)


def test_the_connecting_side_tells_nothing():
    assert side(connecting=True).refusal(AuthenticationError("no")) is None


def test_other_messages_are_not_decoded():
    with pytest.raises(ProtocolError, match="not a handshake message"):
        side(connecting=False).receive(encode(Cancel(1)))


class Bomb:
    exploded = False

    def __reduce__(self):
        return setattr, (Bomb, "exploded", True)


@pytest.mark.parametrize("connecting", [True, False])
def test_nothing_is_unpickled(connecting, monkeypatch):
    monkeypatch.setattr(pickle, "loads", lambda *args, **options: pytest.fail("unpickled before authentication"))
    bomb = pickle.dumps(Bomb())
    for data in (bomb, encode(Hello(PROTOCOL_VERSION, identity(1), bomb)), encode(Proof(bomb))):
        with pytest.raises((ProtocolError, AuthenticationError)):
            side(connecting=connecting).receive(data)
    assert not Bomb.exploded


@pytest.mark.parametrize("connecting", [True, False])
def test_garbage_is_a_protocol_error(connecting):
    generator = random.Random(7)
    for _ in range(300):
        data = generator.randbytes(generator.randrange(200))
        with pytest.raises(ProtocolError):
            side(connecting=connecting).receive(data)


def test_nesting_without_end_is_a_protocol_error():
    with pytest.raises(ProtocolError):
        side(connecting=False).receive(b"\x92\x01" + b"\x91" * (MAX_HANDSHAKE_BYTES - 10) + b"\xc0")


@pytest.mark.parametrize("index", range(4))
def test_any_flipped_byte_ends_the_handshake(index):
    """Every byte of every message that could matter does: no bit of it can be changed unnoticed."""
    size = []
    shake(*pair(), tamper=lambda at, data: (size.append(len(data)) if at == index else None) or data)
    for position in range(size[0]):

        def flip(at, data, position=position):
            if at != index:
                return data
            raw = bytearray(data)
            raw[position] ^= 0x01
            return bytes(raw)

        connecting, accepting = pair()
        with pytest.raises((ProtocolError, AuthenticationError, VersionMismatch)):
            shake(connecting, accepting, flip)
        assert not connecting.done, f"byte {position} of message {index} was changed and nobody noticed"
