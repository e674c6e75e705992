"""Checks of the network: does what the settings name resolve and answer, and are the interfaces sound."""

from collections.abc import Iterator, Mapping, Sequence

from trainguard.checks.python_environment import VARIABLES
from trainguard.checks.values import (
    Absent,
    Check,
    Facts,
    Limit,
    Measure,
    Reading,
    Told,
    attention,
    bad,
    grade,
    ok,
)
from trainguard.health import Finding, Status
from trainguard.network import (
    Attempt,
    Interface,
    Links,
    Lookup,
    Names,
    Place,
    Port,
    Reach,
    Verdict,
    read_links,
    read_names,
    read_reach,
)
from trainguard.python_environment import Variables, read_variables
from trainguard.quantities import duration_text

REACH = Reading("connections", Reach, lambda settings, deep: read_reach(settings.health.reach), 6.0)
NAMES = Reading(
    "names",
    Names,
    lambda settings, deep: read_names(settings.daemon.command, read_variables(settings).values),
    5.0,
)
LINKS = Reading("interfaces", Links, lambda settings, deep: read_links(), 3.0)

INTERFACE_NAMES = ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME", "TP_SOCKET_IFNAME")
REMEDIES = {
    Verdict.REFUSED: "start the service there, or correct the port in health.reach",
    Verdict.TIMEOUT: "see whether that machine is up, and the firewalls between",
    Verdict.UNRESOLVED: "correct the name in health.reach, or /etc/hosts and /etc/resolv.conf",
    Verdict.UNREACHABLE: "see the interfaces and routes: ip address, ip route",
}
FACTS = {
    Verdict.REFUSED: "refuses a connection",
    Verdict.TIMEOUT: "does not answer",
    Verdict.UNRESOLVED: "has no address",
    Verdict.UNREACHABLE: "cannot be reached",
}


def _where(place: Place) -> str:
    host = f"[{place.host}]" if ":" in place.host else place.host
    return host if place.port is None else f"{host}:{place.port}"


def judge_reach(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    attempts = facts.of(Reach).attempts
    if not attempts:
        yield Absent("health.reach names nothing")
    for one in attempts:
        yield Measure(
            "network_reachable", float(one.verdict is Verdict.OPEN), _where(one.place), None, 1.0, True
        )
        yield _judge_attempt(one)


def _judge_attempt(one: Attempt) -> Finding:
    if one.verdict is Verdict.OPEN:
        return ok(_where(one.place), f"answers in {duration_text(one.seconds)}")
    return bad(_where(one.place), f"{FACTS[one.verdict]}: {one.text}", REMEDIES[one.verdict])


def judge_names(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    now = facts.of(Names)
    meeting = () if now.meeting is None else (now.meeting,)
    if not meeting and not now.others:
        yield Absent("neither the command nor its variables name a host")
    for lookup in (*meeting, *now.others):
        subject = f"{lookup.place.host} ({lookup.place.source})"
        if lookup.addresses:
            told = ", ".join(lookup.addresses[:3])
            is_address = lookup.addresses[0] == lookup.place.host
            yield ok(subject, "is an address" if is_address else f"is {told}")
            continue
        made = bad if lookup in meeting else attention
        remedy = f"correct {lookup.place.source}, or /etc/hosts and /etc/resolv.conf"
        yield made(subject, f"does not resolve: {_why(lookup)}", remedy)


def _why(lookup: Lookup) -> str:
    if lookup.hung:
        return f"no name server answers ({lookup.problem})"
    return lookup.problem or "it has no address"


def judge_port(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    now, daemon = facts.of(Names), facts.of(Variables).pid
    place = None if now.meeting is None else now.meeting.place
    if now.meeting is None or place is None or place.port is None:
        yield Absent("the command names no port to meet at")
        return
    if not now.meeting.here:
        yield Absent(f"the ranks meet at {_where(place)}, which is not this machine")
        return
    subject, holder = f"port {place.port}", now.listener
    if holder is None:
        state = "is free" if daemon is None else f"nobody listens on it, and the daemon runs as pid {daemon}"
        yield ok(subject, f"{state} ({place.source})")
        return
    who = "a process that this user cannot see"
    if holder.pid is not None:
        who = f"pid {holder.pid} ({holder.name})"
    if daemon is not None and daemon in (holder.pid, *holder.ancestors):
        yield ok(subject, f"is the daemon's: {who} listens on it")
    elif daemon is not None:
        # A daemon that has joined another's rendezvous listens on nothing.
        remedy = f"is it meant to meet there? else give the run a port of its own ({place.source})"
        yield attention(subject, f"is not the daemon's: {who} listens on it", remedy)
    else:
        remedy = f"see whose it is, and end it, or choose another port ({place.source})"
        yield bad(subject, f"is taken by {who}: the ranks of a start cannot meet there", remedy)


def judge_interface(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    now, variables = facts.of(Links), facts.of(Variables).values
    named = [name for name in INTERFACE_NAMES if variables.get(name)]
    if not named:
        yield Absent("no variable names an interface")
    for name in named:
        text = variables[name]
        chosen = chosen_interfaces(text, now.interfaces, is_exact=name != "NCCL_SOCKET_IFNAME")
        there = ", ".join(one.name for one in now.interfaces if one.up) or "none"
        remedy = f"up are here: {there}; correct {name}"
        if not chosen:
            yield bad(name, f"{text} fits no interface", remedy)
            continue
        usable = [one.name for one in chosen if one.up and one.addressed]
        if usable:
            yield ok(name, f"{text} is {', '.join(usable[:6])}")
        elif any(one.up for one in chosen):
            yield bad(name, f"{chosen[0].name} has no IP address", remedy)
        else:
            yield bad(name, f"{chosen[0].name} is down", f"ip link set {chosen[0].name} up, or: {remedy}")


def chosen_interfaces(text: str, interfaces: Sequence[Interface], is_exact: bool) -> list[Interface]:
    """Those that a list of names leaves: NCCL's are prefixes, `=` makes them whole, `^` excludes them.

    As the NCCL user guide has it; gloo and tensorpipe want whole names (torch ProcessGroupGloo.cpp).
    """
    if is_exact:
        names = [word.strip() for word in text.split(",")]
        return [one for one in interfaces if one.name in names]
    excludes = text.startswith("^")
    rest = text.removeprefix("^")
    whole = rest.startswith("=")
    names = [word.strip() for word in rest.removeprefix("=").split(",") if word.strip()]

    def is_named(name: str) -> bool:
        return name in names if whole else name.startswith(tuple(names))

    # Nobody who excludes some means to be left with the loopback.
    chosen = [one for one in interfaces if is_named(one.name) is not excludes]
    return [one for one in chosen if not (excludes and one.name == "lo")]


def judge_hostname(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    now = facts.of(Names)
    own, nodes = now.own, now.rendezvous.nodes
    if own is None:
        yield Absent("the command starts no ranks that meet")
        return
    subject = f"host name {own.place.host}"
    if not own.addresses:
        made = bad if nodes > 1 else attention
        yield made(
            subject,
            f"does not resolve: {_why(own)}",
            "gloo and torchrun want it: add it to /etc/hosts with this machine's address",
        )
    elif nodes > 1 and all(one.startswith("127.") or one == "::1" for one in own.addresses):
        remedy = "give it this machine's own address in /etc/hosts, or set GLOO_SOCKET_IFNAME"
        yield attention(
            subject, f"is {own.addresses[0]}, which the other {nodes - 1} nodes cannot reach", remedy
        )
    else:
        yield ok(subject, f"is {', '.join(own.addresses[:3])}")


def _uses_network(facts: Facts) -> bool:
    now = facts.of(Names)
    named = any(facts.of(Variables).values.get(name) for name in INTERFACE_NAMES)
    return bool(facts.settings.health.reach or now.others or now.rendezvous.nodes > 1 or named)


def judge_errors(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    if not _uses_network(facts):
        yield Absent("the settings name nothing to reach")
        return
    watched = [one for one in facts.of(Links).interfaces if one.name != "lo" and one.up]
    for one in watched:
        yield Measure("network_errors_total", float(one.errors), one.name)
        yield Measure("network_dropped_total", float(one.dropped), one.name)
        yield Measure("network_packets_total", float(one.packets), one.name)
        yield _judge_counters(facts, limits, one)
    if not watched:
        yield attention("interfaces", "none is up but the loopback", "ip link; ip address")


def _judge_counters(facts: Facts, limits: Mapping[str, float], one: Interface) -> Finding:
    def growth(name: str, value: int) -> float:
        earlier = facts.past.series(name, one.name)
        before = earlier[-1][1] if earlier else float(value)
        # They begin anew with the interface.
        return value - before if value >= before else float(value)

    earlier = facts.past.series("network_errors_total", one.name)
    if not earlier or earlier[-1][0] >= facts.now_wall:
        return ok(one.name, f"{one.errors} errors, {one.dropped} dropped packets; no earlier look")
    seconds = facts.now_wall - earlier[-1][0]
    errors = growth("network_errors_total", one.errors)
    dropped = growth("network_dropped_total", one.dropped)
    packets = growth("network_packets_total", one.packets)
    # A look a minute ago would make a rate of a single error.
    rate = errors / max(1.0, seconds / 3600)
    share = 100 * dropped / (packets + dropped) if dropped else 0.0
    fact = (
        f"{errors:.0f} errors and {dropped:.0f} dropped of {packets:.0f} packets in {duration_text(seconds)}"
    )
    if share >= limits["dropped"] and dropped >= limits["attention"]:
        return attention(one.name, fact, f"see which counter grows: ethtool -S {one.name}")
    return grade(
        rate,
        {"attention": limits["attention"]},
        one.name,
        fact,
        f"cable, transceiver or switch port: ethtool -S {one.name}",
    )


def judge_infiniband(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    ports = facts.of(Links).ports
    named = facts.of(Variables).values.get("NCCL_IB_HCA", "").lstrip("=")
    if not ports and named and not named.startswith("^"):
        yield bad("NCCL_IB_HCA", f"names {named}, and there is no adapter", "lsmod; ibstat; dmesg")
        return
    if not ports:
        yield Absent("there is no InfiniBand or RoCE adapter")
    for port in ports:
        active = port.state == "ACTIVE"
        yield Measure("infiniband_port_active", float(active), port.name)
        if port.downed is not None:
            yield Measure("infiniband_link_downed_total", float(port.downed), port.name)
        yield _judge_port_state(facts, port, named)


def _judge_port_state(facts: Facts, port: Port, named: str) -> Finding:
    subject = f"{port.link} port {port.name}"
    earlier = facts.past.series("infiniband_link_downed_total", port.name)
    before = earlier[-1][1] if earlier else None
    was_active = any(value for _, value in facts.past.series("infiniband_port_active", port.name))
    is_named = any(
        word.partition(":")[0] and port.adapter.startswith(word.partition(":")[0])
        for word in named.split(",")
    )
    remedy = f"cable, switch port, subnet manager: ibstat {port.adapter}"
    if port.state != "ACTIVE":
        if was_active or is_named:
            why = "was ACTIVE before" if was_active else f"NCCL_IB_HCA names {named}"
            return bad(subject, f"is {port.state}, and {why}", remedy)
        if port.state == "DOWN" and any(one.state == "ACTIVE" for one in facts.of(Links).ports):
            return ok(subject, "is DOWN, and was never seen in use")
        return attention(subject, f"is {port.state}, not ACTIVE", remedy)
    if before is not None and port.downed is not None and port.downed > before:
        fact = f"is ACTIVE, and went down {port.downed - before:.0f} times since the last look"
        return attention(subject, fact, remedy)
    return ok(subject, "is ACTIVE")


CHECKS = (
    Check(
        id="network-reach",
        component="network",
        explain="A TCP connection to each host:port of health.reach: refused, silent, unknown or unreachable.",
        reads=(REACH,),
        answers_for=(REACH,),
        judge=judge_reach,
        gates=True,
    ),
    Check(
        id="network-names",
        component="network",
        explain="Hosts that the command and its variables name (rendezvous, proxies, HF_ENDPOINT) resolve.",
        reads=(NAMES,),
        answers_for=(NAMES,),
        judge=judge_names,
        gates=True,
    ),
    Check(
        id="network-port",
        component="network",
        explain="The port where the ranks meet on this machine: held by another process, a start dies.",
        reads=(NAMES, VARIABLES),
        judge=judge_port,
        gates=True,
    ),
    Check(
        id="network-interface",
        component="network",
        explain="The interfaces that NCCL and gloo are told to use are there, up, and have an address.",
        reads=(LINKS, VARIABLES),
        judge=judge_interface,
        gates=True,
    ),
    Check(
        id="network-hostname",
        component="network",
        explain="This machine's own name resolves, for several nodes not to 127.0.1.1: gloo asks for it.",
        reads=(NAMES,),
        judge=judge_hostname,
    ),
    Check(
        id="network-errors",
        component="network",
        explain="Errors and dropped packets of the interfaces since the last health check.",
        reads=(LINKS, NAMES, VARIABLES),
        answers_for=(LINKS,),
        judge=judge_errors,
        worst=Status.ATTENTION,
        limits=(
            Limit("attention", 10.0, "errors/h", "a choice: a sound link counts none for days"),
            Limit("dropped", 0.1, "%", "a choice: TCP halves its pace at each loss"),
        ),
    ),
    Check(
        id="network-infiniband",
        component="network",
        explain="The ports of InfiniBand and RoCE adapters: not ACTIVE, or with a link that went down.",
        reads=(LINKS, VARIABLES),
        judge=judge_infiniband,
    ),
)
