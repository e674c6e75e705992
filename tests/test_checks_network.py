"""Checks of the network: each fine, at its limit, just beyond it, where it does not apply, and where it hangs."""

import socket
from typing import Any

import msgspec
import pytest
from judging import WALL, looked, past_of, sentences, settings_of, told

from trainguard.checks.network import CHECKS, LINKS, NAMES, REACH, chosen_interfaces
from trainguard.checks.values import Result
from trainguard.config import HealthSettings, LogSettings, Settings
from trainguard.health import Status
from trainguard.network import (
    Attempt,
    Interface,
    Links,
    Listener,
    Lookup,
    Names,
    Place,
    Port,
    Reach,
    Rendezvous,
    Verdict,
)
from trainguard.probes import Answer
from trainguard.python_environment import Variables
from trainguard.vitals import Past, Sample

HUNG = Answer(None, "no answer within 6 s", True)
NODE = Place("--rdzv_endpoint", "node1", 29400)
MEETING = Lookup(NODE, ("10.0.0.1",), here=True)
OWN = Lookup(Place("this machine", "box"), ("10.0.0.1",), here=True)
TWO_NODES = Names(Rendezvous(NODE, 2, True), MEETING, (), OWN)
NOTHING = Names(Rendezvous())
ETH0 = Interface("eth0", True, True, 1_000_000, 0, 0)
LO = Interface("lo", True, True)
LINKS_FINE = Links((ETH0, LO))
REACHING = HealthSettings(reach=("node1:80",))


def judged(
    check_id: str,
    *,
    names: Names = TWO_NODES,
    links: Links = LINKS_FINE,
    reach: Reach | None = None,
    daemon: int | None = None,
    past: Past | None = None,
    settings: Settings | None = None,
    **variables: str,
) -> Result:
    values = (names, links, reach or Reach(), Variables(variables, daemon))
    return told(CHECKS, check_id, *values, past=past, settings=settings)


def status_of(result: Result) -> Status | None:
    """None where the check does not apply, which is not to pass for fine."""
    return None if result.absent is not None else result.status


def names_of(**changes: Any) -> Names:
    return msgspec.structs.replace(TWO_NODES, **changes)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.id)
def test_where_nothing_is_named_nothing_is_judged(check: Any) -> None:
    assert judged(check.id, names=NOTHING).absent is not None
    assert len(check.explain) <= 110


@pytest.mark.parametrize(
    ("check_id", "reading"), [("network-reach", REACH), ("network-names", NAMES), ("network-errors", LINKS)]
)
def test_a_reading_that_hangs_is_told_by_the_check_that_answers_for_it(check_id: str, reading: Any) -> None:
    check = next(one for one in CHECKS if one.id == check_id)
    found = told(CHECKS, check_id, answers={reading.name: HUNG})
    assert status_of(found) is check.worst and "hangs" in sentences(found)
    for other in CHECKS:
        if reading in other.reads and other.id != check_id:
            assert told(CHECKS, other.id, answers={reading.name: HUNG}).status is Status.UNKNOWN


# --- connections -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verdict", Verdict)
def test_only_what_answers_is_fine(verdict: Verdict) -> None:
    attempts = Reach((Attempt(Place("health.reach", "node1", 80), verdict, 0.01, "as the system says"),))
    found = judged("network-reach", reach=attempts)
    assert status_of(found) is (Status.OK if verdict is Verdict.OPEN else Status.BAD)
    assert [(one.subject, one.value) for one in found.measures] == [
        ("node1:80", float(verdict is Verdict.OPEN))
    ]
    assert verdict is Verdict.OPEN or ("as the system says" in sentences(found) and found.findings[0].remedy)


def test_what_went_wrong_with_a_connection_is_told_apart() -> None:
    attempts = [Attempt(Place("health.reach", "::1", 80), one, 0.0, "x") for one in Verdict]
    assert len({str(one) for one in judged("network-reach", reach=Reach(tuple(attempts))).findings}) == len(
        Verdict
    )


# --- names -----------------------------------------------------------------------------------------------------


def test_names_that_resolve_are_fine() -> None:
    found = judged("network-names")
    assert status_of(found) is Status.OK and "node1 (--rdzv_endpoint): is 10.0.0.1" in sentences(found)
    literal = Lookup(Place("MASTER_ADDR", "10.0.0.1"), ("10.0.0.1",))
    assert "is an address" in sentences(judged("network-names", names=names_of(meeting=literal)))


def test_a_rendezvous_without_address_is_bad_and_a_service_wants_attention() -> None:
    lost = Lookup(NODE, (), "there is no such name")
    assert status_of(judged("network-names", names=names_of(meeting=lost))) is Status.BAD
    service = Lookup(Place("HF_ENDPOINT", "mirror"), (), "no answer within 2 s", hung=True)
    found = judged("network-names", names=names_of(others=(service,)))
    assert status_of(found) is Status.ATTENTION and "no name server answers" in sentences(found)


@pytest.mark.parametrize(
    ("nodes", "addresses", "status"),
    [
        (2, ("10.0.0.1",), Status.OK),
        (1, ("127.0.1.1",), Status.OK),
        (2, ("127.0.1.1",), Status.ATTENTION),
        (2, ("127.0.1.1", "10.0.0.1"), Status.OK),
        (1, (), Status.ATTENTION),
        (2, (), Status.BAD),
    ],
)
def test_the_own_name_must_lead_where_others_can_come(
    nodes: int, addresses: tuple[str, ...], status: Status
) -> None:
    own = msgspec.structs.replace(
        OWN, addresses=addresses, problem=None if addresses else "there is no such name"
    )
    names = names_of(own=own, rendezvous=Rendezvous(NODE, nodes, True))
    assert status_of(judged("network-hostname", names=names)) is status


# --- the port --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("listener", "daemon", "status"),
    [
        (None, None, Status.OK),
        (None, 50, Status.OK),
        (Listener(29400, 77, "python", (1,)), None, Status.BAD),
        (Listener(29400), None, Status.BAD),
        (Listener(29400, 50, "torchrun"), 50, Status.OK),
        (Listener(29400, 77, "python", (60, 50, 1)), 50, Status.OK),
        (Listener(29400, 77, "python", (1,)), 50, Status.ATTENTION),
    ],
    ids=str,
)
def test_a_port_must_be_free_or_the_daemons(
    listener: Listener | None, daemon: int | None, status: Status
) -> None:
    found = judged("network-port", names=names_of(listener=listener), daemon=daemon)
    assert status_of(found) is status
    assert "29400" in sentences(found)


def test_a_port_elsewhere_and_none_at_all_are_not_judged() -> None:
    away = msgspec.structs.replace(MEETING, here=False)
    assert "not this machine" in (judged("network-port", names=names_of(meeting=away)).absent or "")
    any_port = msgspec.structs.replace(MEETING, place=Place("--master_port", "127.0.0.1"))
    assert judged("network-port", names=names_of(meeting=any_port)).absent is not None


# --- interfaces ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "is_exact", "names"),
    [
        ("eth", False, ["eth0", "eth1"]),
        ("=eth1", False, ["eth1"]),
        ("=eth", False, []),
        ("eth0,ib", False, ["eth0", "ib0"]),
        ("^eth", False, ["ib0"]),
        ("^=eth0,ib0", False, ["eth1"]),
        ("lo", False, ["lo"]),
        ("eth0,ib0", True, ["eth0", "ib0"]),
        ("eth", True, []),
    ],
)
def test_interfaces_are_chosen_as_nccl_and_gloo_do(text: str, is_exact: bool, names: list[str]) -> None:
    there = [Interface(name, True, True) for name in ("eth0", "eth1", "ib0", "lo")]
    assert [one.name for one in chosen_interfaces(text, there, is_exact)] == names


@pytest.mark.parametrize(
    ("up", "addressed", "status"),
    [(True, True, Status.OK), (True, False, Status.BAD), (False, False, Status.BAD)],
)
def test_a_chosen_interface_must_be_up_and_have_an_address(up: bool, addressed: bool, status: Status) -> None:
    links = Links((Interface("eth0", up, addressed), LO))
    assert status_of(judged("network-interface", links=links, NCCL_SOCKET_IFNAME="eth")) is status
    assert status_of(judged("network-interface", links=links, GLOO_SOCKET_IFNAME="eth0")) is status


def test_a_name_that_fits_no_interface_is_bad_and_those_there_are_told() -> None:
    found = judged("network-interface", NCCL_SOCKET_IFNAME="ib")
    assert status_of(found) is Status.BAD and "eth0" in sentences(found)


def counted(errors: int = 0, dropped: int = 0, packets: int = 1_000_000) -> Links:
    return Links((Interface("eth0", True, True, packets, errors, dropped), LO))


def seen(errors: float = 0.0, dropped: float = 0.0, packets: float = 0.0, hours: float = 1.0) -> Past:
    names = {"errors": errors, "dropped": dropped, "packets": packets}
    values = {f"network_{name}_total@eth0": value for name, value in names.items()}
    return Past((Sample(WALL - 3600 * hours, "boot", 0.0, values),))


@pytest.mark.parametrize(
    ("links", "past", "status"),
    [
        (counted(500), None, Status.OK),
        (counted(500), seen(500), Status.OK),
        (counted(509), seen(500), Status.OK),
        (counted(510), seen(500), Status.ATTENTION),
        (counted(520), seen(500, hours=4), Status.OK),
        (counted(509), seen(500, hours=0.01), Status.OK),
        (counted(9), seen(500), Status.OK),
        (counted(10), seen(500), Status.ATTENTION),
        (counted(dropped=999, packets=999_001), seen(), Status.OK),
        (counted(dropped=1000, packets=999_000), seen(), Status.ATTENTION),
        (counted(dropped=9, packets=1), seen(), Status.OK),
        (counted(dropped=10, packets=0), seen(), Status.ATTENTION),
    ],
    ids=str,
)
def test_errors_count_by_their_growth(links: Links, past: Past | None, status: Status) -> None:
    found = judged("network-errors", links=links, past=past)
    assert status_of(found) is status
    assert {one.name for one in found.measures} == {
        "network_errors_total",
        "network_dropped_total",
        "network_packets_total",
    }


def test_whatever_names_a_network_has_its_interfaces_watched() -> None:
    service = Lookup(Place("HF_ENDPOINT", "mirror"), ("10.0.0.9",))
    assert judged("network-errors", names=NOTHING, settings=settings_of(health=REACHING)).absent is None
    assert judged("network-errors", names=Names(Rendezvous(), None, (service,))).absent is None
    assert judged("network-errors", names=NOTHING, GLOO_SOCKET_IFNAME="eth0").absent is None


def test_a_machine_without_any_interface_that_is_up_is_not_fine() -> None:
    assert status_of(judged("network-errors", links=Links((LO,)))) is Status.ATTENTION


IB = Port("mlx5_0", 1, "ACTIVE", "InfiniBand", 3)


@pytest.mark.parametrize(
    ("ports", "past", "named", "status"),
    [
        ((IB,), None, "", Status.OK),
        ((IB,), past_of("infiniband_link_downed_total", [3.0], subject="mlx5_0/1"), "", Status.OK),
        ((IB,), past_of("infiniband_link_downed_total", [2.0], subject="mlx5_0/1"), "", Status.ATTENTION),
        ((Port("mlx5_0", 1, "INIT", "InfiniBand"),), None, "", Status.ATTENTION),
        ((Port("mlx5_0", 1, "DOWN", "InfiniBand"),), None, "", Status.ATTENTION),
        ((IB, Port("mlx5_1", 1, "DOWN", "InfiniBand")), None, "", Status.OK),
        ((IB, Port("mlx5_1", 1, "DOWN", "InfiniBand")), None, "mlx5_0,mlx5_1:1", Status.BAD),
        (
            (Port("mlx5_0", 1, "DOWN", "InfiniBand"),),
            past_of("infiniband_port_active", [1.0, 0.0], subject="mlx5_0/1"),
            "",
            Status.BAD,
        ),
        ((), None, "=mlx5_0", Status.BAD),
    ],
    ids=str,
)
def test_ports_of_infiniband_are_judged_by_state_past_and_name(
    ports: tuple[Port, ...], past: Past | None, named: str, status: Status
) -> None:
    assert (
        status_of(judged("network-infiniband", links=Links((), ports), past=past, NCCL_IB_HCA=named))
        is status
    )


# --- the real thing --------------------------------------------------------------------------------------------


def test_a_real_port_that_is_taken_is_told_before_a_start(tmp_path: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        settings = settings_of(
            {
                "command": ("torchrun", f"--rdzv-endpoint=127.0.0.1:{port}", "train.py"),
                "environment": {"NCCL_SOCKET_IFNAME": "no-such-interface"},
            },
            health=HealthSettings(reach=(f"127.0.0.1:{port}",)),
            logs=LogSettings(directory=tmp_path),
        )
        found = looked(CHECKS, settings)
    assert found["network-port"].status is Status.BAD
    assert f"port {port}: is taken by pid" in sentences(found["network-port"])
    assert found["network-reach"].status is Status.OK
    assert found["network-names"].status is Status.OK
    assert found["network-interface"].status is Status.BAD
    again = looked(CHECKS, settings)
    assert again["network-port"].status is Status.OK
    assert again["network-reach"].status is Status.BAD


def test_a_finding_that_is_not_fine_says_what_to_do() -> None:
    lost = Lookup(NODE, (), "there is no such name", here=True)
    names = names_of(meeting=lost, own=lost, listener=Listener(29400))
    ports = (Port("mlx5_0", 1, "INIT", "InfiniBand"),)
    links = Links((Interface("eth0", True, False, 1, 50, 0), LO), ports)
    reach = Reach((Attempt(NODE, Verdict.TIMEOUT, 2.0, "x"),))
    for check in CHECKS:
        result = judged(
            check.id,
            names=names,
            links=links,
            reach=reach,
            past=seen(),
            NCCL_SOCKET_IFNAME="eth0",
        )
        assert result.status in (Status.BAD, Status.ATTENTION), check.id
        assert all(one.remedy for one in result.findings), check.id
        assert result.status is not Status.BAD or check.worst is Status.BAD, check.id
