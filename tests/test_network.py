"""The network that a run names: real sockets on the loopback, and a network namespace where there may be one."""

import contextlib
import errno
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from support import ROOT

from trainguard.network import (
    CONNECT_SECONDS,
    DEFAULT_PORT,
    LOOKUP_SECONDS,
    RENDEZVOUS_PORT,
    Place,
    Rendezvous,
    Verdict,
    look_up,
    parse_endpoint,
    parse_listening,
    parse_options,
    parse_rendezvous,
    parse_services,
    read_links,
    read_listener,
    read_names,
    read_reach,
)


@contextlib.contextmanager
def listening(backlog: int = 8) -> Iterator[int]:
    """A port of the loopback on which somebody listens."""
    with socket.create_server(("127.0.0.1", 0), backlog=backlog) as server:
        yield server.getsockname()[1]


@contextlib.contextmanager
def full(port: int) -> Iterator[None]:
    """Fill the queue of a listener that accepts nothing, until a further connection waits."""
    waiting: list[socket.socket] = []
    try:
        for _ in range(64):
            one = socket.socket()
            waiting.append(one)
            one.setblocking(False)
            assert one.connect_ex(("127.0.0.1", port)) == errno.EINPROGRESS
            one.settimeout(0.1)
            if one.connect_ex(("127.0.0.1", port)) not in (0, errno.EISCONN):
                break
        else:
            pytest.fail("the queue of a listener does not fill")
        yield
    finally:
        for one in waiting:
            one.close()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def namespace_problem() -> str | None:
    """Why no network of one's own can be made here."""
    try:
        made = subprocess.run(
            ["unshare", "--net", "--mount", "sh", "-c", "ip link set lo up && mount --make-rprivate /"],
            capture_output=True,
            text=True,
        )
    except FileNotFoundError as error:
        return f"{error.filename} is not installed"
    return f"no namespace can be made: {made.stderr.strip()}" if made.returncode else None


PROBLEM = namespace_problem()
needs_namespace = pytest.mark.skipif(PROBLEM is not None, reason=str(PROBLEM))


def in_namespace(prepare: str, code: str) -> object:
    """What a piece of Python prints as JSON, in a network and mounts of its own."""
    program = "import msgspec, sys\nfrom trainguard.network import *\nanswer = " + code
    program += "\nsys.stdout.buffer.write(msgspec.json.encode(answer))"
    done = subprocess.run(
        [
            "unshare",
            "--net",
            "--mount",
            "sh",
            "-ec",
            f'{prepare}\nexec "$@"',
            "sh",
            sys.executable,
            "-c",
            program,
        ],
        capture_output=True,
        cwd=ROOT,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr.decode()
    return msgspec.json.decode(done.stdout)


# --- what is named ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("host:29500", ("host", 29500)),
        ("host", ("host", None)),
        ("[::1]:80", ("::1", 80)),
        ("::1", ("::1", None)),
        ("host:0", ("host", None)),
        ("10.0.0.1:", ("10.0.0.1:", None)),
    ],
)
def test_an_endpoint_is_host_and_port(text: str, parsed: tuple[str, int | None]) -> None:
    assert parse_endpoint(text) == parsed


def test_options_are_read_in_both_forms() -> None:
    command = (
        "torchrun",
        "--nnodes=2",
        "--rdzv-endpoint",
        "a:1",
        "--standalone",
        "--master_port",
        "5",
        "--nnodes=9",
    )
    assert parse_options(command) == {
        "nnodes": "2",
        "rdzv_endpoint": "a:1",
        "standalone": "",
        "master_port": "5",
    }


TORCHRUN = ("/venv/bin/torchrun",)


@pytest.mark.parametrize(
    ("command", "variables", "expected"),
    [
        (("python", "train.py"), {}, Rendezvous()),
        ((*TORCHRUN, "x"), {"MASTER_ADDR": "node1", "MASTER_PORT": "9"}, Rendezvous(None, 1, True)),
        (
            (*TORCHRUN, "--nnodes=2", "x"),
            {},
            Rendezvous(Place("the launcher's default", "127.0.0.1", DEFAULT_PORT), 2, True),
        ),
        (
            ("deepspeed", "x"),
            {},
            Rendezvous(Place("the launcher's default", "127.0.0.1", DEFAULT_PORT), 1, True),
        ),
        (
            ("python", "train.py"),
            {"MASTER_ADDR": "node1"},
            Rendezvous(Place("MASTER_ADDR", "node1", DEFAULT_PORT)),
        ),
        ((*TORCHRUN, "--standalone", "x"), {}, Rendezvous(None, 1, True)),
        (
            (*TORCHRUN, "--nnodes=1:4", "--rdzv-endpoint=node1", "x"),
            {"MASTER_ADDR": "other"},
            Rendezvous(Place("--rdzv_endpoint", "node1", RENDEZVOUS_PORT), 4, True),
        ),
        (
            (*TORCHRUN, "x"),
            {"PET_RDZV_ENDPOINT": "node1:7", "PET_NNODES": "2"},
            Rendezvous(Place("PET_RDZV_ENDPOINT", "node1", 7), 2, True),
        ),
        (
            ("python", "-m", "torch.distributed.run", "--master_addr", "node1", "--master-port=99", "x"),
            {},
            Rendezvous(Place("--master_addr", "node1", 99), 1, True),
        ),
        (("accelerate", "launch", "x"), {}, Rendezvous(None, 1, True)),
        (
            ("accelerate", "launch", "--num_machines", "3", "--main_process_ip", "node1", "x"),
            {},
            Rendezvous(Place("--main_process_ip", "node1", DEFAULT_PORT), 3, True),
        ),
        (
            ("python", "train.py"),
            {"MASTER_ADDR": "node1", "MASTER_PORT": "1234"},
            Rendezvous(Place("MASTER_ADDR", "node1", 1234), 1, False),
        ),
        (
            (*TORCHRUN, "--master_port=abc"),
            {},
            Rendezvous(Place("--master_port", "127.0.0.1", None), 1, True),
        ),
        ((*TORCHRUN, "--master_port=0"), {}, Rendezvous(Place("--master_port", "127.0.0.1", None), 1, True)),
    ],
    ids=str,
)
def test_the_rendezvous_is_read_from_command_and_variables(
    command: tuple[str, ...], variables: dict[str, str], expected: Rendezvous
) -> None:
    assert parse_rendezvous(command, variables) == expected


def test_a_proxy_stands_for_the_services_behind_it_and_its_password_is_left_out() -> None:
    services = {"HF_ENDPOINT": "https://mirror.example", "WANDB_BASE_URL": "http://wandb.local:8080/x"}
    assert [(one.source, one.host, one.port) for one in parse_services(services)] == [
        ("WANDB_BASE_URL", "wandb.local", 8080),
        ("HF_ENDPOINT", "mirror.example", None),
    ]
    (proxy,) = parse_services(
        services | {"https_proxy": "http://me:secret@proxy:3128", "HTTP_PROXY": "proxy:3128"}
    )
    assert (proxy.host, proxy.port) == ("proxy", 3128)
    assert "secret" not in repr(proxy)
    assert parse_services({"HF_ENDPOINT": "http://[broken", "HTTP_PROXY": ""}) == []


# --- names and connections -------------------------------------------------------------------------------------


def test_an_address_needs_no_name_server_and_knows_whether_it_is_ours() -> None:
    ours, other = look_up([Place("a", "127.0.0.1"), Place("b", "192.0.2.77")])
    assert (ours.addresses, ours.here) == (("127.0.0.1",), True)
    assert (other.addresses, other.here) == (("192.0.2.77",), False)


def test_a_listening_port_a_refused_one_and_one_that_is_silent_are_told_apart() -> None:
    began = time.monotonic()
    with listening() as good, listening(backlog=0) as silent, full(silent):
        endpoints = [f"127.0.0.1:{port}" for port in (good, free_port(), silent, silent)]
        verdicts = [one.verdict for one in read_reach(endpoints).attempts]
    assert verdicts == [Verdict.OPEN, Verdict.REFUSED, Verdict.TIMEOUT, Verdict.TIMEOUT]
    assert time.monotonic() - began < 2 * CONNECT_SECONDS, "one silent port waits for the other"


def test_a_name_that_cannot_be_one_has_no_address() -> None:
    (attempt,) = read_reach(["a..b:80"]).attempts
    assert attempt.verdict is Verdict.UNRESOLVED


def test_nothing_named_asks_nobody() -> None:
    assert read_reach([]).attempts == ()
    names = read_names(("python", "train.py"), {})
    assert (names.meeting, names.others, names.own, names.listener) == (None, (), None, None)


@needs_namespace
def test_where_there_is_no_route_it_is_unreachable() -> None:
    told = in_namespace("ip link set lo up", "read_reach(['192.0.2.9:80', '127.0.0.1:9'])")
    assert isinstance(told, dict)
    assert [one["verdict"] for one in told["attempts"]] == ["unreachable", "refused"]


@needs_namespace
def test_a_name_server_that_does_not_answer_hides_no_other_name(tmp_path: Path) -> None:
    (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.1\noptions timeout:30 attempts:3\n")
    (tmp_path / "hosts").write_text("127.0.0.1 node1\n")
    (tmp_path / "nsswitch.conf").write_text("hosts: files dns\n")
    prepare = "mount --make-rprivate /; ip link set lo up\n" + "\n".join(
        f"mount --bind {tmp_path}/{name} /etc/{name}" for name in ("resolv.conf", "hosts", "nsswitch.conf")
    )
    code = "[]\nimport socket, time\nserver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
    code += "server.bind(('127.0.0.1', 53))\nbegan = time.monotonic()\n"
    code += "found = look_up([Place('a', 'far.example'), Place('b', 'node1'), Place('c', 'near.example')])\n"
    code += "answer = [time.monotonic() - began, found]"
    if not Path("/etc/nsswitch.conf").exists():
        pytest.skip("this machine has no /etc/nsswitch.conf to stand in for")
    told = in_namespace(prepare, code)
    assert isinstance(told, list)
    seconds, found = told
    assert [(one["hung"], one["addresses"]) for one in found] == [
        (True, []),
        (False, ["127.0.0.1"]),
        (True, []),
    ]
    assert seconds < 2 * LOOKUP_SECONDS


# --- a port of this machine ------------------------------------------------------------------------------------


def test_only_listening_sockets_of_the_port_count() -> None:
    head = (
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
    )
    row = "   0: {}:{:04X} 00000000:0000 {} 00000000:00000000 00:00000000 00000000  0  0 {} 1\n"
    text = head + row.format("0100007F", 29500, "0A", 7) + row.format("00000000", 29500, "01", 8)
    text += row.format("0" * 32, 29500, "0A", 9) + row.format("0100007F", 29501, "0A", 10) + "torn\n"
    assert parse_listening(text, 29500) == [7, 9]


def test_who_holds_a_port_is_found_with_its_parents() -> None:
    code = "import socket\nserver = socket.create_server(('127.0.0.1', 0))\n"
    code += "print(server.getsockname()[1], flush=True)\ninput()"
    holder = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        port = int(holder.stdout.readline())
        found = read_listener(port)
        assert found is not None and found.pid == holder.pid
        assert os.getpid() in found.ancestors
        names = read_names(("torchrun", f"--master_port={port}", "x"), {})
        assert names.listener is not None and names.listener.pid == holder.pid
    finally:
        holder.communicate(b"\n")
    assert read_listener(port) is None


def test_a_port_of_another_machine_is_not_looked_for_here() -> None:
    with listening() as port:
        names = read_names(("torchrun", "--master_addr=192.0.2.77", f"--master_port={port}", "x"), {})
    assert names.meeting is not None and not names.meeting.here
    assert names.listener is None


# --- interfaces ------------------------------------------------------------------------------------------------


def test_the_loopback_is_up_and_has_an_address() -> None:
    own = {one.name: one for one in read_links().interfaces}["lo"]
    assert own.up and own.addressed


@needs_namespace
def test_an_interface_that_is_down_or_has_no_address_is_seen() -> None:
    prepare = "mount --make-rprivate /; mount -t sysfs sysfs /sys; ip link add a0 type veth peer name b0\n"
    prepare += "ip link set a0 up; ip link set b0 up; ip link add a1 type veth peer name b1\n"
    prepare += "ip address add 10.9.8.7/24 dev b0"
    try:
        told = in_namespace(prepare, "read_links()")
    except AssertionError as error:
        pytest.skip(f"no pair of interfaces can be made here: {error}")
    assert isinstance(told, dict)
    found = {one["name"]: (one["up"], one["addressed"]) for one in told["interfaces"]}
    assert found["a0"] == (True, False)
    assert found["b0"] == (True, True)
    assert found["a1"] == (False, False)


def written(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text + "\n")
    return folder


def test_counters_and_ports_are_read_from_their_files(tmp_path: Path) -> None:
    net = written(tmp_path / "class" / "net" / "eth9", flags="0x1003", operstate="up")
    counters = {
        "rx_packets": "100",
        "tx_packets": "20",
        "rx_errors": "3",
        "tx_errors": "x",
        "rx_dropped": "5",
    }
    written(net / "statistics", **counters)
    written(tmp_path / "class" / "net" / "eth8", flags="0x1003", operstate="lowerlayerdown")
    (tmp_path / "class" / "net" / "bonding_masters").touch()
    port = tmp_path / "class" / "infiniband" / "mlx5_0" / "ports" / "1"
    written(port, state="4: ACTIVE", link_layer="InfiniBand")
    written(port / "counters", link_downed="2")
    written(
        tmp_path / "class" / "infiniband" / "mlx5_0" / "ports" / "2", state="1: DOWN", link_layer="Ethernet"
    )
    found = read_links(tmp_path, tmp_path)
    assert [(one.name, one.up, one.packets, one.errors, one.dropped) for one in found.interfaces] == [
        ("eth8", False, 0, 0, 0),
        ("eth9", True, 120, 3, 5),
    ]
    assert [(one.name, one.state, one.link, one.downed) for one in found.ports] == [
        ("mlx5_0/1", "ACTIVE", "InfiniBand", 2),
        ("mlx5_0/2", "DOWN", "Ethernet", None),
    ]


def test_a_machine_that_tells_of_no_interface_is_no_machine_without_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_links(tmp_path)
