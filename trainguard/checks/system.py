"""Checks of the CPUs and the operating system: is the machine free to train, and is it the one it was."""

from collections.abc import Iterator, Mapping

from trainguard import moments
from trainguard.checks.values import (
    Absent,
    Check,
    Facts,
    Limit,
    Measure,
    Reading,
    Told,
    attention,
    grade,
    ok,
    unknown,
)
from trainguard.config import Settings
from trainguard.health import Status
from trainguard.quantities import duration_text, size_text
from trainguard.system import (
    APART_SECONDS,
    Clock,
    ProcessLimits,
    System,
    Troubled,
    Upgrades,
    read_clock,
    read_limits,
    read_system,
    read_troubled,
    read_upgrades,
)

LOCKED_BYTES = 1 << 30


def read_daemons_limits(settings: Settings) -> ProcessLimits:
    """The limits of the daemon that the run folder names, where it lives. Raises OSError."""
    from trainguard import processes
    from trainguard.run_folder import RunFolder

    run = RunFolder(settings.logs.directory).load_state()[0].run
    living = None if run is None or run.identity is None else processes.read_living(run.identity)
    return read_limits(None if living is None else living.pid)


SYSTEM = Reading("system", System, lambda settings, deep: read_system(), 2.0)
CLOCK = Reading("clock", Clock, lambda settings, deep: read_clock(), 2.0)
TROUBLED = Reading(
    "processes in trouble", Troubled, lambda settings, deep: read_troubled(), APART_SECONDS + 3.0
)
LIMITS = Reading(
    "limits of the daemon", ProcessLimits, lambda settings, deep: read_daemons_limits(settings), 2.0
)
UPGRADES = Reading("upgrades", Upgrades, lambda settings, deep: read_upgrades(), 3.0)


def judge_load(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    now = facts.of(System)
    share = now.load[1] / now.cores
    yield Measure("load_per_core", share, "", limits["attention"])
    fact = f"{now.load[1]:.1f} over 5 minutes on {now.cores} cores ({share:.2f} per core)"
    yield grade(share, limits, "load", fact, "see what else runs: top; or fewer data-loader workers")


def judge_pressure(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    now = facts.of(System)
    told = (
        (
            "cpu",
            now.cpu_pressure,
            "some process waited for a CPU",
            "fewer workers, or end what else computes",
        ),
        (
            "io",
            now.io_pressure,
            "all that runs waited for a disk",
            "see iostat -x 1; cache or stage the data",
        ),
    )
    if now.cpu_pressure is None and now.io_pressure is None:
        yield Absent("this kernel keeps no pressure (PSI)")
    for name, share, what, remedy in told:
        if share is not None:
            yield Measure(f"{name}_pressure_percent", share, "", limits[name])
            fact = f"in {share:.1f} % of the last minute {what}"
            yield grade(share, {"attention": limits[name]}, f"pressure {name}", fact, remedy)


def judge_zombies(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    seen = facts.of(Troubled)
    count = sum(one.count for one in seen.zombies)
    yield Measure("zombies", count, "", limits["attention"])
    if not count:
        yield ok("zombies", f"none among {seen.seen} processes")
        return
    parents = ", ".join(f"{one.count} of {one.name} (pid {one.parent})" for one in seen.zombies[:3])
    remedy = (
        f"restart {seen.zombies[0].name} (pid {seen.zombies[0].parent}), which does not collect its children"
    )
    if seen.zombies[0].parent == 1:
        remedy = "in a container: docker run --init, so that somebody collects them"
    yield grade(count, limits, "zombies", f"{count}: {parents}", remedy)


def judge_blocked(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    seen = facts.of(Troubled)
    yield Measure("blocked_processes", len(seen.blocked))
    for one in seen.blocked[:10]:
        where = "" if one.channel is None else f" in {one.channel}"
        fact = f"waits uninterruptibly (state D){where} for {duration_text(one.seconds)} and more"
        yield attention(
            f"process {one.pid} ({one.name})", fact, "a disk, server or driver does not answer: see dmesg"
        )
    if len(seen.blocked) > 10:
        yield attention("processes", f"{len(seen.blocked) - 10} more wait like that", "see dmesg")
    if not seen.blocked:
        yield ok("processes", f"none of {seen.seen} stays in an uninterruptible wait")


def judge_clock(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    clock = facts.of(Clock)
    bound = f"wrong by at most {duration_text(clock.error_seconds)}"
    if clock.synchronised:
        yield Measure("clock_error_seconds", clock.error_seconds, "", limits["attention"])
        remedy = "see chronyc tracking or timedatectl timesync-status"
        yield grade(clock.error_seconds, limits, "clock", f"is kept right, {bound}", remedy)
    else:
        remedy = "start chrony or systemd-timesyncd; in a container see the machine below it"
        yield attention("clock", "nothing that the kernel knows of keeps it right", remedy)


def judge_jump(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    now = facts.of(System)
    last = next((one for one in reversed(facts.past.samples) if one.boot == now.boot), None)
    if last is None:
        yield Absent("no earlier health check since the boot")
        return
    jump = (now.wall - last.wall) - (now.since_boot - last.since_boot)
    yield Measure("clock_jump_seconds", jump)
    if abs(jump) < limits["attention"]:
        yield ok("clock", f"went with the kernel's since {moments.text_of(last.wall)} ({jump:+.3f} s)")
        return
    way = "forward" if jump > 0 else "back"
    fact = (
        f"was set {way} by {duration_text(abs(jump))} since the health check of {moments.text_of(last.wall)}"
    )
    remedy = "times in logs and of files are not comparable across it; see who set it"
    yield attention("clock", fact, remedy)


def judge_boot(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    now = facts.of(System)
    yield Measure("up_seconds", now.since_boot)
    looks = [one for one in facts.past.samples if "system-boot" in one.statuses]
    began = moments.text_of(now.wall - now.since_boot)
    if not looks:
        yield ok("machine", f"has run since {began}; no earlier health check to compare with")
    elif looks[-1].boot == now.boot:
        yield ok("machine", f"has run since {began}, in the same boot as at the last health check")
    elif now.orderly:
        yield ok("machine", f"was booted anew at {began}, after an orderly shutdown")
    else:
        how = "no orderly shutdown is recorded" if now.orderly is False else "why is not recorded"
        fact = f"was booted anew at {began} since the last health check; {how}"
        remedy = (
            "a crash or a power cut: see journalctl -b -1 -e and the machine's own event log (ipmitool sel)"
        )
        yield attention("machine", fact, remedy)


def _share_used(
    facts: Facts, limits: Mapping[str, float], subject: str, used: int, most: int, remedy: str
) -> Iterator[Told]:
    share = 100 * used / most if most else 100.0
    name = subject.replace(" ", "_")
    yield Measure(f"{name}_used_percent", share, "", limits["attention"], limits["bad"])
    yield grade(share, limits, subject, f"{used} of {most} in use ({share:.1f} %)", remedy)


def judge_files(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    now = facts.of(System)
    if now.files is None or now.files_limit is None:
        yield unknown("open files", "the kernel does not tell how many there are (/proc/sys/fs/file-nr)")
        return
    remedy = "sysctl fs.file-max, and see who holds them: lsof | awk '{print $1}' | sort | uniq -c"
    yield from _share_used(facts, limits, "open files", now.files, now.files_limit, remedy)


def judge_processes(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    now = facts.of(System)
    if now.threads is None or now.threads_limit is None:
        yield unknown("threads", "the kernel does not tell their limit (kernel.threads-max)")
    else:
        remedy = "see who has them: ps -eLf; sysctl kernel.pid_max, kernel.threads-max"
        yield from _share_used(facts, limits, "threads", now.threads, now.threads_limit, remedy)
    if now.tasks is not None:
        remedy = "raise it: docker --pids-limit, TasksMax= of the unit; or fewer workers"
        yield from _share_used(facts, limits, "cgroup tasks", now.tasks.used, now.tasks.limit, remedy)


def judge_limits(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    told = facts.of(ProcessLimits)
    for name, word, unit, remedy in (
        (
            "Max open files",
            "files",
            "open files",
            "ulimit -n 65536 before the start, or LimitNOFILE= of the unit",
        ),
        ("Max processes", "processes", "processes", "ulimit -u unlimited before the start, or LimitNPROC="),
    ):
        if name not in told.limits:
            yield unknown(f"limit of {unit}", f"is not told for {told.whose}")
            continue
        most = told.limits[name]
        amount = "unlimited" if most is None else str(most)
        fact = f"{told.whose} may have {amount}"
        yield grade(
            float("inf") if most is None else most,
            {level: limits[f"{level}-{word}"] for level in ("attention", "bad")},
            f"limit of {unit}",
            fact,
            remedy,
            True,
        )
    yield from _judge_open_files(told, limits)
    for name, what, remedy in (
        ("Max file size", "a file may have", "a larger checkpoint is cut with SIGXFSZ: ulimit -f unlimited"),
        (
            "Max address space",
            "the address space may have",
            "CUDA maps far more than it uses: ulimit -v unlimited",
        ),
    ):
        if (most := told.limits.get(name)) is not None:
            yield attention(f"limit of {name[4:]}", f"{what} only {size_text(most)} in {told.whose}", remedy)
    locked = told.limits.get("Max locked memory")
    if locked is not None and locked < LOCKED_BYTES and told.infiniband:
        fact = (
            f"{told.whose} may lock only {size_text(locked)}, and InfiniBand registers its buffers as locked"
        )
        yield attention(
            "limit of locked memory", fact, "ulimit -l unlimited before the start, or LimitMEMLOCK="
        )


def _judge_open_files(told: ProcessLimits, limits: Mapping[str, float]) -> Iterator[Told]:
    most = told.limits.get("Max open files")
    if told.open_files is None or not most:
        return
    share = 100 * told.open_files / most
    yield Measure("daemon_open_files_percent", share, "", limits["attention-used"])
    remedy = "it leaks them, or its limit is too low: ls -l /proc/PID/fd, and restart it with a higher one"
    fact = f"{told.open_files} of {most} used by {told.whose}"
    yield grade(share, {"attention": limits["attention-used"]}, "open files", fact, remedy)


def judge_reboot(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    seen = facts.of(Upgrades)
    if seen.reboot_wanted is not None:
        who = f" by {', '.join(seen.reboot_wanted[:5])}" if seen.reboot_wanted else ""
        yield attention(
            "machine", f"a reboot is asked for{who}", "reboot between two runs, before the next start"
        )
    if seen.modules is False:
        fact = f"the modules of the running kernel {seen.kernel} are gone: no driver can be loaded any more"
        yield attention("kernel", fact, "reboot into the kernel that was installed, before the next start")
    elif seen.modules:
        yield ok("kernel", f"the modules of the running kernel {seen.kernel} are there")
    elif seen.reboot_wanted is None:
        yield Absent("neither kernel modules nor a request to reboot are kept here, as in a container")


def judge_upgrades(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    seen = facts.of(Upgrades)
    for one in seen.changes[-5:]:
        fact = f"{one.what} at {moments.text_of(one.wall)}, after the boot"
        yield attention(
            f"package {one.package}", fact, "reboot before the next start, or no GPU can be opened"
        )
    for file in seen.unreadable:
        yield unknown(
            f"log {file}", "cannot be read, so that upgrades are not known", "run as root or group adm"
        )
    if not seen.logs and not seen.unreadable:
        yield Absent("no log of dpkg or dnf here")
    elif not seen.changes and not seen.unreadable:
        yield ok("GPU drivers", f"not upgraded since the boot, as {', '.join(seen.logs)} tells")


def judge_thermal(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    now = facts.of(System)
    if now.throttled is None:
        yield Absent("the CPUs here do not count it")
        return
    yield Measure("cpu_throttles_total", now.throttled)
    past = [one for one in facts.past.samples if one.boot == now.boot and "cpu_throttles_total" in one.values]
    if not past:
        yield ok(
            "CPU", f"slowed for heat {now.throttled} times since the boot; no earlier health check in it"
        )
        return
    hours = max(1e-9, (now.since_boot - past[-1].since_boot) / 3600)
    more = now.throttled - past[-1].values["cpu_throttles_total"]
    fact = f"slowed for heat {more:.0f} times in {duration_text(hours * 3600)}, since the last health check"
    yield grade(more / hours, limits, "CPU", fact, "see the fans, the dust and the room: sensors")


def judge_cores(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    now = facts.of(System)
    usable = now.allowed if now.quota is None else min(float(now.allowed), now.quota)
    yield Measure("cpus_usable", usable, "", limits["attention"], low_is_bad=True)
    fact = f"{usable:g} of the machine's {now.cores} may be used"
    if usable < limits["attention"] and usable < now.cores:
        yield attention("CPUs", fact, "ask for more (Slurm --cpus-per-task, docker --cpus, taskset)")
    elif now.quota is not None and now.quota < limits["quota-share"] / 100 * now.allowed:
        fact = f"the cgroup's quota is {now.quota:g} CPUs, and programs see {now.allowed}"
        remedy = (
            f"they start a thread for each: set num_workers and OMP_NUM_THREADS to {max(1, int(now.quota))}"
        )
        yield attention("CPUs", fact, remedy)
    else:
        yield ok("CPUs", fact)


CHECKS = (
    Check(
        id="system-load",
        component="system",
        explain="How many processes want a core, for each core: others at work make the data loaders late.",
        reads=(SYSTEM,),
        answers_for=(SYSTEM,),
        judge=judge_load,
        worst=Status.ATTENTION,
        limits=(Limit("attention", 3.0, "per core", "a choice: two wait for each that runs"),),
    ),
    Check(
        id="system-pressure",
        component="system",
        explain="The share of a minute in which processes waited for a CPU, or all for a disk (PSI).",
        reads=(SYSTEM,),
        judge=judge_pressure,
        worst=Status.ATTENTION,
        limits=(
            Limit("cpu", 80.0, "%", "a choice: with a worker for each core some wait is usual"),
            Limit("io", 30.0, "%", "a choice: a third of the time nothing could run"),
        ),
    ),
    Check(
        id="system-zombies",
        component="system",
        explain="Ended processes whose parent does not collect them: each keeps its number, and the parent is ill.",
        reads=(TROUBLED,),
        answers_for=(TROUBLED,),
        judge=judge_zombies,
        worst=Status.ATTENTION,
        limits=(
            Limit("attention", 20.0, "zombies", "a choice: a few between death and collection are usual"),
        ),
    ),
    Check(
        id="system-blocked",
        component="system",
        explain="Processes that stay in one uninterruptible wait: no signal ends them, what they wait for is ill.",
        reads=(TROUBLED,),
        judge=judge_blocked,
        worst=Status.ATTENTION,
    ),
    Check(
        id="system-clock",
        component="system",
        explain="Whether something keeps the clock right: logs of several machines, certificates and tokens need it.",
        reads=(CLOCK,),
        answers_for=(CLOCK,),
        judge=judge_clock,
        worst=Status.ATTENTION,
        limits=(Limit("attention", 1.0, "seconds", "a choice: logs of two machines cannot be put in order"),),
    ),
    Check(
        id="system-clock-jump",
        component="system",
        explain="Whether the clock was set since the last health check: ages of files and logs lie across that.",
        reads=(SYSTEM,),
        judge=judge_jump,
        worst=Status.ATTENTION,
        limits=(Limit("attention", 5.0, "seconds", "a choice: more than a correction after the boot"),),
    ),
    Check(
        id="system-boot",
        component="system",
        explain="Whether the machine was booted anew, and not by an orderly shutdown, since the last health check.",
        reads=(SYSTEM,),
        judge=judge_boot,
        worst=Status.ATTENTION,
    ),
    Check(
        id="system-files",
        component="system",
        explain="Open files of the whole machine against fs.file-max: at it nobody can open one.",
        reads=(SYSTEM,),
        judge=judge_files,
        limits=(
            Limit("attention", 80.0, "%", "a choice"),
            Limit("bad", 95.0, "%", "a choice: the next program with workers may take the rest"),
        ),
        gates=True,
    ),
    Check(
        id="system-processes",
        component="system",
        explain="Threads against kernel.threads-max, kernel.pid_max and the pids cgroup: at it no worker can start.",
        reads=(SYSTEM,),
        judge=judge_processes,
        limits=(
            Limit("attention", 80.0, "%", "a choice"),
            Limit("bad", 95.0, "%", "a choice: the next program with workers may take the rest"),
        ),
        gates=True,
    ),
    Check(
        id="system-limits",
        component="system",
        explain="The limits (ulimit) of the daemon that lives, or else of this shell: open files, processes, sizes.",
        reads=(LIMITS,),
        answers_for=(LIMITS,),
        judge=judge_limits,
        limits=(
            Limit(
                "attention-files", 4096.0, "files", "a choice: data loaders hold a file for each tensor sent"
            ),
            Limit("bad-files", 256.0, "files", "a choice: Python with torch alone has a hundred"),
            Limit(
                "attention-processes", 4096.0, "processes", "a choice: threads count, a core takes several"
            ),
            Limit("bad-processes", 256.0, "processes", "a choice: the threads of one training process"),
            Limit("attention-used", 80.0, "%", "a choice"),
        ),
        fix="raise-open-files",
    ),
    Check(
        id="system-reboot",
        component="system",
        explain="Whether a reboot is due: an upgrade asks for it, or the running kernel's modules were removed.",
        reads=(UPGRADES,),
        answers_for=(UPGRADES,),
        judge=judge_reboot,
        worst=Status.ATTENTION,
    ),
    Check(
        id="system-upgrades",
        component="system",
        explain="GPU driver packages upgraded since the boot: library and kernel module no longer fit each other.",
        reads=(UPGRADES,),
        judge=judge_upgrades,
        worst=Status.ATTENTION,
    ),
    Check(
        id="system-thermal",
        component="system",
        explain="How often the CPUs were slowed for heat since the last health check.",
        reads=(SYSTEM,),
        judge=judge_thermal,
        worst=Status.ATTENTION,
        limits=(Limit("attention", 60.0, "times an hour", "a choice: once a minute is no passing peak"),),
    ),
    Check(
        id="system-cores",
        component="system",
        explain="CPUs that this process may use against those it sees: libraries start a thread for each seen.",
        reads=(SYSTEM,),
        judge=judge_cores,
        worst=Status.ATTENTION,
        limits=(
            Limit("attention", 2.0, "CPUs", "a choice: one for training, one for its data loader"),
            Limit("quota-share", 100.0, "%", "a choice: a quota below what is seen misleads programs"),
        ),
    ),
)
