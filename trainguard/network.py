"""The network that a run names: do names resolve, do ports answer, who holds one, and how the interfaces are."""

import errno
import fcntl
import os
import re
import socket
import struct
import time
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from trainguard import probes, processes

PROC = Path("/proc")
SYS = Path("/sys")
CONNECT_SECONDS = 2.0
LOOKUP_SECONDS = 2.0
PLACES_AT_MOST = 64
ADDRESSES_AT_MOST = 4
INTERFACES_AT_MOST = 1024
# Where deepspeed meets, and torchrun on several nodes: torch/distributed/run.py, deepspeed/constants.py.
DEFAULT_PORT = 29500
# That of the c10d rendezvous: torch/distributed/elastic/rendezvous/c10d_rendezvous_backend.py.
RENDEZVOUS_PORT = 29400

_LAUNCHERS = {"accelerate", "deepspeed", "torch.distributed.launch", "torch.distributed.run", "torchrun"}
_LISTENING = "0A"
_IS_UP = 0x1
_SIOCGIFADDR = 0x8915


class Place(msgspec.Struct, frozen=True):
    """Something that the settings name: where they do it, the host, and the port where there is one."""

    source: str
    host: str
    port: int | None = None


class Rendezvous(msgspec.Struct, frozen=True):
    """Where the ranks of a run meet, as its command and variables say; `nodes` is the most that take part.

    `launched` is whether a launcher starts several processes.
    """

    place: Place | None = None
    nodes: int = 1
    launched: bool = False


class Lookup(msgspec.Struct, frozen=True):
    """A name and its addresses, or why there are none; `here` is whether one is this machine's own."""

    place: Place
    addresses: tuple[str, ...] = ()
    problem: str | None = None
    hung: bool = False
    here: bool = False


class Verdict(str, Enum):
    """What became of a connection."""

    OPEN = "open"
    REFUSED = "refused"
    TIMEOUT = "timeout"
    UNRESOLVED = "unresolved"
    UNREACHABLE = "unreachable"


class Attempt(msgspec.Struct, frozen=True):
    """A connection that was tried: what became of it, how long that took, and what the system said."""

    place: Place
    verdict: Verdict
    seconds: float
    text: str = ""


class Reach(msgspec.Struct, frozen=True):
    """The connections to all that health.reach names."""

    attempts: tuple[Attempt, ...] = ()


class Listener(msgspec.Struct, frozen=True):
    """Who listens on a port of this machine; `pid` is None where this user may not see it."""

    port: int
    pid: int | None = None
    name: str | None = None
    ancestors: tuple[int, ...] = ()


class Names(msgspec.Struct, frozen=True):
    """The names that command and variables hold, the rendezvous first, and that of this machine.

    `listener` holds the port of a rendezvous on this machine, None where it is free.
    """

    rendezvous: Rendezvous
    meeting: Lookup | None = None
    others: tuple[Lookup, ...] = ()
    own: Lookup | None = None
    listener: Listener | None = None


class Interface(msgspec.Struct, frozen=True):
    """A network interface: whether it is up, has an IP address, and its counters since it was made."""

    name: str
    up: bool
    addressed: bool
    packets: int = 0
    errors: int = 0
    dropped: int = 0


class Port(msgspec.Struct, frozen=True):
    """A port of an InfiniBand or RoCE adapter: `state` such as `ACTIVE`, how often its link went down (or None)."""

    adapter: str
    number: int
    state: str
    link: str
    downed: int | None = None

    @property
    def name(self) -> str:
        return f"{self.adapter}/{self.number}"


class Links(msgspec.Struct, frozen=True):
    """The interfaces of this machine, and the ports of its InfiniBand or RoCE adapters."""

    interfaces: tuple[Interface, ...] = ()
    ports: tuple[Port, ...] = ()


# --- what is named ---------------------------------------------------------------------------------------------


def parse_options(command: Sequence[str]) -> dict[str, str]:
    """`--name value` and `--name=value`, with `_` for `-` in names; of several the first."""
    found: dict[str, str] = {}
    for word, following in zip(command, (*command[1:], ""), strict=True):
        if not word.startswith("--"):
            continue
        name, equals, value = word[2:].partition("=")
        taken = value if equals else "" if following.startswith("-") else following
        found.setdefault(name.replace("-", "_"), taken)
    return found


def parse_endpoint(text: str, port: int | None = None) -> tuple[str, int | None]:
    """Host and port of `host:port`, `[address]:port`, `host` or a bare IPv6 address; port 0 is none."""
    host, _, number = text.rpartition(":")
    if not host or not number.isdigit() or (":" in host and not host.startswith("[")):
        host, number = text, ""
    return host.strip("[]"), (int(number) or None) if number else port


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 8 else None


def parse_rendezvous(command: Sequence[str], variables: Mapping[str, str]) -> Rendezvous:
    """Where ranks meet: options of torchrun, accelerate and deepspeed, then PET_* and MASTER_* variables."""
    options = parse_options(command)
    launched = any(word.rpartition("/")[2] in _LAUNCHERS for word in command[:8])

    def told(*names: str) -> tuple[str, str] | None:
        for name in names:
            variable = f"PET_{name.upper()}"
            if options.get(name):
                return f"--{name}", options[name]
            if launched and variables.get(variable):
                return variable, variables[variable]
        return None

    counted = told("nnodes", "num_machines", "num_nodes")
    numbers = [int(one) for one in re.findall(r"\d{1,6}", counted[1])] if counted else []
    nodes = max(numbers, default=1)
    if "standalone" in options:
        return Rendezvous(None, nodes, launched)
    if endpoint := told("rdzv_endpoint"):
        return Rendezvous(Place(endpoint[0], *parse_endpoint(endpoint[1], RENDEZVOUS_PORT)), nodes, launched)
    address, port = told("master_addr", "main_process_ip"), told("master_port", "main_process_port")
    # Launchers set these for their workers, and do not read them.
    if not launched and variables.get("MASTER_ADDR"):
        address = ("MASTER_ADDR", variables["MASTER_ADDR"])
    if not launched and variables.get("MASTER_PORT"):
        port = ("MASTER_PORT", variables["MASTER_PORT"])
    # torchrun takes a free port on a single node, and accelerate meets nowhere for a single process.
    is_deepspeed = any(word.rpartition("/")[2] == "deepspeed" for word in command[:8])
    if port is None and (nodes == 1 if launched else address is None) and not is_deepspeed:
        return Rendezvous(None, nodes, launched)
    number = _number(port[1]) if port is not None else DEFAULT_PORT
    source, host = address or (port[0] if port is not None else "the launcher's default", "127.0.0.1")
    return Rendezvous(Place(source, host.strip("[]"), number or None), nodes, launched)


def parse_services(variables: Mapping[str, str]) -> list[Place]:
    """Services that variables name. Through a proxy, the proxy resolves the names of the others."""
    proxies = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")
    found = [place for name in proxies if (place := _place_of(name, variables.get(name)))]
    if not found:
        found = [
            place
            for name in ("HF_ENDPOINT", "WANDB_BASE_URL")
            if (place := _place_of(name, variables.get(name)))
        ]
    return list({place.host: place for place in reversed(found)}.values())


def _place_of(source: str, url: str | None) -> Place | None:
    """The host of a URL, without the name and password that it may hold."""
    if not url:
        return None
    try:
        parts = urlsplit(url if "//" in url else f"//{url}")
        return Place(source, parts.hostname, parts.port) if parts.hostname else None
    except ValueError:
        return None


# --- names -----------------------------------------------------------------------------------------------------


def _resolve(host: str) -> list[str]:
    try:
        told = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        again = error.errno == socket.EAI_AGAIN
        raise OSError(None, "no name server answers" if again else "there is no such name") from None
    except UnicodeError:
        raise OSError(None, "cannot be a name") from None
    return list(dict.fromkeys(str(one[4][0]) for one in told))


def _is_here(address: str) -> bool:
    """Whether an address is this machine's own: only to those can be bound (ip(7))."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as asking:
        try:
            asking.bind((address.partition("%")[0], 0))
        except OSError:
            return False
    return True


def look_up(places: Sequence[Place]) -> list[Lookup]:
    """The addresses of several names, each asked for in a probe of its own."""
    chosen = places[:PLACES_AT_MOST]
    asked = [
        probes.Probe(host, lambda host=host: _resolve(host), list[str], LOOKUP_SECONDS)  # type: ignore[misc]
        for host in dict.fromkeys(place.host for place in chosen)
    ]
    answers = probes.ask(asked)
    found = []
    for place in chosen:
        answer = answers[place.host]
        addresses = tuple(answer.value) if isinstance(answer.value, list) else ()
        here = any(map(_is_here, addresses[:ADDRESSES_AT_MOST]))
        found.append(Lookup(place, addresses, answer.problem, answer.hung, here))
    return found


def read_names(command: Sequence[str], variables: Mapping[str, str]) -> Names:
    """The names in a command and its variables. Raises OSError where /proc cannot be read."""
    rendezvous = parse_rendezvous(command, variables)
    places = [rendezvous.place] if rendezvous.place is not None else []
    services = parse_services(variables)
    wants_own = rendezvous.launched or rendezvous.place is not None
    own = [Place("this machine", socket.gethostname())] if wants_own else []
    looked = look_up([*places, *own, *services])
    meeting = looked[0] if places else None
    mine = looked[len(places)] if own else None
    listener = None
    if meeting is not None and meeting.place.port is not None and meeting.here:
        listener = read_listener(meeting.place.port)
    return Names(rendezvous, meeting, tuple(looked[len(places) + len(own) :]), mine, listener)


# --- connections -----------------------------------------------------------------------------------------------


def _connect(addresses: Sequence[str], port: int) -> tuple[str, str]:
    """The verdict over the addresses of a name, all within CONNECT_SECONDS, and what the system said."""
    deadline = time.monotonic() + CONNECT_SECONDS
    verdict, text = Verdict.TIMEOUT, f"no answer within {CONNECT_SECONDS:g} s"
    tried = addresses[:ADDRESSES_AT_MOST]
    for place, address in enumerate(tried):
        left = (deadline - time.monotonic()) / (len(tried) - place)
        try:
            with socket.create_connection((address, port), timeout=max(0.05, left)):
                return Verdict.OPEN.value, address
        except TimeoutError:
            verdict, text = Verdict.TIMEOUT, f"no answer within {CONNECT_SECONDS:g} s"
        except ConnectionRefusedError:
            verdict, text = Verdict.REFUSED, "nobody listens there"
        except OSError as error:
            is_late = error.errno == errno.ETIMEDOUT
            verdict = Verdict.TIMEOUT if is_late else Verdict.UNREACHABLE
            text = error.strerror or str(error)
    return verdict.value, text


def read_reach(endpoints: Sequence[str]) -> Reach:
    """A connection to each `host:port`, made and closed at once. Raises OSError where no child can be made."""
    places = [Place("health.reach", *parse_endpoint(one)) for one in endpoints]
    looked = look_up(places)

    def probe_of(number: int, lookup: Lookup) -> probes.Probe:
        return probes.Probe(
            str(number),
            lambda: _connect(lookup.addresses, lookup.place.port or 0),
            tuple[str, str],
            CONNECT_SECONDS + 0.5,
        )

    answers = probes.ask([probe_of(at, one) for at, one in enumerate(looked) if one.addresses])
    attempts = []
    for number, lookup in enumerate(looked):
        answer = answers.get(str(number))
        if answer is None:
            text = "the name server does not answer" if lookup.hung else lookup.problem or "no address"
            attempts.append(Attempt(lookup.place, Verdict.UNRESOLVED, 0.0, text))
        elif isinstance(answer.value, tuple):
            verdict, text = answer.value
            attempts.append(Attempt(lookup.place, Verdict(verdict), answer.seconds, text))
        else:
            attempts.append(
                Attempt(lookup.place, Verdict.TIMEOUT, answer.seconds, answer.problem or "no answer")
            )
    return Reach(tuple(attempts))


# --- a port of this machine ------------------------------------------------------------------------------------


def parse_listening(text: str, port: int) -> list[int]:
    """The inodes of sockets that listen on a port: rows of /proc/net/tcp or tcp6 (proc_net(5))."""
    found = []
    for line in text.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 9 and fields[3] == _LISTENING and fields[1].endswith(f":{port:04X}"):
            found.append(int(fields[9]))
    return found


def read_listener(port: int, proc: Path = PROC) -> Listener | None:
    """Who listens on a port of this machine, None for nobody. Raises OSError where /proc does not tell it."""
    inodes = parse_listening((proc / "net" / "tcp").read_text(), port)
    if (proc / "net" / "tcp6").exists():
        inodes += parse_listening((proc / "net" / "tcp6").read_text(), port)
    if not inodes:
        return None
    wanted = {f"socket:[{inode}]" for inode in inodes}
    for process in processes.all_processes():
        if wanted & set(_open_files(proc / str(process.pid) / "fd")):
            return Listener(port, process.pid, process.name, tuple(processes.ancestors(process.pid)))
    return Listener(port)


def _open_files(folder: Path) -> Iterable[str]:
    try:
        for entry in os.scandir(folder):
            try:
                yield os.readlink(entry.path)  # noqa: PTH115 - a plain string is wanted
            except OSError:
                continue
    except OSError:
        return


# --- interfaces ------------------------------------------------------------------------------------------------


def read_links(system: Path = SYS, proc: Path = PROC) -> Links:
    """The interfaces and ports of this machine. Raises OSError where /sys does not tell of any."""
    names = sorted(one.name for one in (system / "class" / "net").iterdir() if (one / "flags").exists())
    with_six = _addressed_by_six(proc)
    return Links(
        tuple(_interface(system / "class" / "net" / name, with_six) for name in names[:INTERFACES_AT_MOST]),
        tuple(_read_ports(system / "class" / "infiniband")),
    )


def _addressed_by_six(proc: Path) -> set[str]:
    """Interfaces with an IPv6 address that is not of the link alone (scope 20 in /proc/net/if_inet6)."""
    rows = [line.split() for line in _told(proc / "net" / "if_inet6").splitlines()]
    return {row[5] for row in rows if len(row) == 6 and row[3] != "20"}


def _interface(folder: Path, with_six: set[str]) -> Interface:
    name = folder.name
    flags = _told(folder / "flags")
    is_up = bool(int(flags, 16) & _IS_UP) if flags.startswith("0x") else False
    return Interface(
        name,
        up=is_up and _told(folder / "operstate") not in ("down", "lowerlayerdown", "notpresent"),
        addressed=name in with_six or _has_four(name),
        packets=_big(folder / "statistics" / "rx_packets") + _big(folder / "statistics" / "tx_packets"),
        errors=_big(folder / "statistics" / "rx_errors") + _big(folder / "statistics" / "tx_errors"),
        dropped=_big(folder / "statistics" / "rx_dropped") + _big(folder / "statistics" / "tx_dropped"),
    )


def _big(file: Path) -> int:
    text = _told(file)
    return int(text) if text.isdigit() else 0


def _has_four(name: str) -> bool:
    """Whether an interface has an IPv4 address (netdevice(7), SIOCGIFADDR)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        try:
            fcntl.ioctl(asking.fileno(), _SIOCGIFADDR, struct.pack("256s", os.fsencode(name)[:15]))
        except OSError:
            return False
    return True


def _read_ports(adapters: Path) -> Iterable[Port]:
    for folder in sorted(adapters.glob("*/ports/*"))[:INTERFACES_AT_MOST]:
        state = _told(folder / "state").partition(":")[2].strip()
        number = _number(folder.name)
        if number is not None:
            downed = _told(folder / "counters" / "link_downed")
            link = _told(folder / "link_layer") or "InfiniBand"
            adapter = folder.parent.parent.name
            yield Port(adapter, number, state or "unknown", link, int(downed) if downed.isdigit() else None)


def _told(file: Path) -> str:
    try:
        return file.read_text(errors="replace").strip()
    except OSError:
        return ""
