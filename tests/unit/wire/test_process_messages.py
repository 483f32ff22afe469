"""The packets between starter and daemon, and between daemon and zygote."""

from __future__ import annotations

import msgspec
import pytest

from actorlite.host import ExitReport, WorkerSpec
from actorlite.wire import launch, zygote

SPEC = WorkerSpec(process="00ff00ff00ff00ff", node="uds:///n", listen="uds:///w", token=b"\x00\xff", sys_path=("/a",))
REPORT = ExitReport(pid=17, signal=9, max_rss_bytes=2**40, stderr_tail="é\nb", reason="because")


@pytest.mark.parametrize(
    ("request_", "packet"),
    [
        (zygote.KillRequest("p1"), b"\x92\xabKillRequest\xa2p1"),
        (zygote.ForkRequest("p1", msgspec.Raw(b"\x01")), b"\x93\xabForkRequest\xa2p1\x01"),
    ],
)
def test_requests(request_, packet):
    assert zygote.encode(request_) == packet
    assert zygote.decode_request(packet) == request_


@pytest.mark.parametrize(
    ("event", "packet"),
    [
        (zygote.Opened(), b"\x91\xa6Opened"),
        (zygote.OpenFailed("no"), b"\x92\xaaOpenFailed\xa2no"),
        (zygote.Ready(7, 0.5), b"\x93\xa5Ready\x07\xcb\x3f\xe0\x00\x00\x00\x00\x00\x00"),
        (zygote.PreloadFailed("m", "no"), b"\x93\xadPreloadFailed\xa1m\xa2no"),
        (zygote.Forked("p1", 7), b"\x93\xa6Forked\xa2p1\x07"),
        (zygote.ForkFailed("p1", "no"), b"\x93\xaaForkFailed\xa2p1\xa2no"),
        (zygote.Exited("p1", msgspec.Raw(b"\x01")), b"\x93\xa6Exited\xa2p1\x01"),
    ],
)
def test_events(event, packet):
    assert zygote.encode(event) == packet
    assert zygote.decode_event(packet) == event


@pytest.mark.parametrize(
    ("report", "packet"),
    [
        (launch.NodeReady("uds:///n", 7), b"\x93\xa9NodeReady\xa8uds:///n\x07"),
        (launch.NodeFailed("no"), b"\x92\xaaNodeFailed\xa2no"),
        (launch.NodeEnded("over"), b"\x92\xa9NodeEnded\xa4over"),
    ],
)
def test_reports(report, packet):
    assert launch.encode(report) == packet
    assert launch.decode_report(packet) == report


def test_stop_and_configuration():
    assert launch.encode(launch.Stop()) == b"\x91\xa4Stop"
    assert launch.decode_stop(b"\x91\xa4Stop") == launch.Stop()
    config = launch.DaemonConfig(session_directory="/s", node="uds:///n", token=b"\x00\xff", preload=("torch",))
    assert launch.decode_config(launch.encode(config)) == config


@pytest.mark.parametrize("value", [SPEC, REPORT])
def test_values_of_the_host_seam_travel_whole(value):
    packet = zygote.encode(zygote.Exited("p1", zygote.pack(value)))
    event = zygote.decode_event(packet)
    assert isinstance(event, zygote.Exited)
    assert msgspec.msgpack.decode(event.report, type=type(value)) == value


def test_the_two_directions_do_not_mix():
    with pytest.raises(msgspec.ValidationError):
        zygote.decode_request(zygote.encode(zygote.Opened()))
    with pytest.raises(msgspec.ValidationError):
        zygote.decode_event(zygote.encode(zygote.KillRequest("p1")))


def test_a_packet_that_nobody_would_read_whole_is_not_made():
    with pytest.raises(ValueError, match="shorten sys.path"):
        zygote.encode(zygote.OpenFailed("x" * zygote.MAX_PACKET_BYTES))
    with pytest.raises(ValueError, match="shorten sys.path"):
        launch.encode(launch.NodeEnded("x" * launch.MAX_PACKET_BYTES))
