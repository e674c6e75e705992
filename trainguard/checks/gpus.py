"""Checks of GPUs: does the driver answer, are all there, sound and as fast as they can be, and who holds them."""

import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

import msgspec

from trainguard.checks.daemon import SUPERVISION
from trainguard.checks.values import (
    Absent,
    Check,
    Facts,
    Limit,
    Measure,
    Reading,
    Told,
    Undecided,
    attention,
    bad,
    grade,
    ok,
    unknown,
)
from trainguard.command_line import counted
from trainguard.config import Settings
from trainguard.gpu import (
    Gpu,
    GpuProcess,
    Gpus,
    RemappedRows,
    Xid,
    XidLog,
    has_driver,
    parse_xids,
    read_gpus,
    same_bus,
)
from trainguard.health import Finding, Status
from trainguard.quantities import duration_text, size_text
from trainguard.supervision import Supervision

T = TypeVar("T")
DRIVER = "GPU driver"
ANSWER_SECONDS = 4.0
# A GPU that was there this long ago and is not now was taken out on purpose, or somebody has lived with it.
PAST_SECONDS = 7 * 86_400.0
LATE_FAULTS_SECONDS = 7 * 86_400.0
FELL_OFF_THE_BUS = 79
LOOKS, OLDER_LOOKS, KEPT_LOOKS = 5, 10, 60
SHOWN = 8
COOLING = "see to the fans, the filters and the air that comes in: nvidia-smi -q -d TEMPERATURE,PERFORMANCE"
RESET = "end what runs on it, then: nvidia-smi --gpu-reset -i {index}"
# What the hardware does to save itself, and what the driver does before that.
GRAVE_REASONS = ("hardware slowdown", "hardware thermal slowdown", "hardware power brake")
MILD_REASONS = ("software thermal slowdown",)


def read_xids() -> XidLog:
    """The kernel's messages of GPUs; that they cannot be read is told with them."""
    from trainguard.kernel_log import read_kernel_log

    try:
        lines = read_kernel_log()
    except OSError as error:
        return XidLog(problem=error.strerror or str(error), has_driver=has_driver())
    log = parse_xids((line.time, line.text) for line in lines)
    return msgspec.structs.replace(log, has_driver=has_driver())


GPUS = Reading("GPUs", Gpus, lambda settings, deep: read_gpus(ANSWER_SECONDS), ANSWER_SECONDS + 0.5)
XIDS = Reading("kernel log of GPUs", XidLog, lambda settings, deep: read_xids(), 7.0)


# --- what is told of several GPUs ------------------------------------------------------------------------------


def expected(facts: Facts) -> int | None:
    """How many GPUs there must be: by health.gpus, else the most of the past week; None where neither tells."""
    if facts.settings.health.gpus is not None:
        return facts.settings.health.gpus
    return _most_seen(facts) or None


def _most_seen(facts: Facts) -> int:
    seen = facts.past.series("gpu_count")
    return round(max((count for wall, count in seen if facts.now_wall - wall <= PAST_SECONDS), default=0.0))


def nothing_here(facts: Facts) -> Told:
    """What a check tells where no GPU has answered: not known where there should be one."""
    now = facts.of(Gpus)
    should_be = expected(facts) or (expected(facts) is None and now.kernel_module is not None)
    if now.hung or (now.error is not None and should_be):
        return Undecided(f"GPUs: {now.error or 'no answer'}, see gpu-driver")
    return Absent("no GPU answers here" if should_be else "there is no GPU")


def each(
    facts: Facts, what: str, pick: Callable[[Gpu], T | None], tell: Callable[[Gpu, T], Iterable[Told]]
) -> Iterator[Told]:
    """What is told of every GPU that knows this; those that are fine share a finding."""
    now = facts.of(Gpus)
    if not now.gpus:
        yield nothing_here(facts)
        return
    fine: list[tuple[int, Finding]] = []
    for gpu in now.gpus:
        value = pick(gpu)
        if value is None and gpu.error is not None:
            yield unknown(name_of(gpu), f"its {what} is not known: {gpu.error}", "see gpu-lost")
        for one in () if value is None else tell(gpu, value):
            if isinstance(one, Finding) and one.status is Status.OK:
                fine.append((gpu.index, one))
            else:
                yield one
    if fine:
        told = list(dict.fromkeys(one.fact for _, one in fine))
        more = " / ..." if len(told) > SHOWN else ""
        yield ok(names_of([index for index, _ in fine]), " / ".join(told[:SHOWN]) + more)
    else:
        yield Absent(f"no GPU here tells its {what}")


def name_of(gpu: Gpu) -> str:
    return f"GPU {gpu.index}"


def names_of(indices: Sequence[int]) -> str:
    """`GPU 0`, `GPUs 0-7`, `GPUs 0, 2`."""
    if len(indices) == 1:
        return f"GPU {indices[0]}"
    if list(indices) == list(range(indices[0], indices[-1] + 1)):
        return f"GPUs {indices[0]}-{indices[-1]}"
    return f"GPUs {', '.join(map(str, indices))}"


def is_at_load(gpu: Gpu, limits: Mapping[str, float]) -> bool:
    return gpu.utilization is not None and gpu.utilization > limits["load"]


# --- the driver and what it counts -----------------------------------------------------------------------------


def judge_driver(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    now = facts.of(Gpus)
    if now.hung:
        remedy = "see gpu-xid and the kernel log; if it stays so, reboot"
        yield bad(DRIVER, f"hangs: {now.error}", remedy)
    elif now.gpus and now.source == "nvidia-smi":
        remedy = "pip install nvidia-ml-py, and the driver's libnvidia-ml.so.1 where ldconfig -p finds it"
        yield attention(DRIVER, f"{now.error}; only nvidia-smi answers, which tells less", remedy)
    elif now.gpus or now.refused:
        version = f", driver {now.driver_version}" if now.driver_version else ""
        yield ok(DRIVER, f"{now.source} answers for {counted(len(now.gpus), 'GPU')}{version}")
    elif now.error is None:
        yield ok(DRIVER, f"{now.source} answers: no GPU") if expected(facts) else Absent("there is no GPU")
    else:
        yield _without_answer(facts, now.error)


def _without_answer(facts: Facts, error: str) -> Told:
    now, wanted = facts.of(Gpus), expected(facts)
    # Where the driver's own command is there and fails, a driver was meant to be.
    is_missing = ("Library Not Found" in error or "not installed" in error) and "nvidia-smi: " not in error
    is_loaded = now.kernel_module is not None or now.kernel_gpus is not None
    if wanted == 0 or (wanted is None and is_missing and not is_loaded):
        return Absent("there is no GPU, and none is expected")
    made = bad if wanted or (is_loaded and not is_missing) else attention
    if "mismatch" in error.lower():
        remedy = "see gpu-version: reboot"
    elif "not installed" in error:
        remedy = "pip install nvidia-ml-py"
    elif is_missing:
        remedy = "install the driver, or give the container its GPUs (docker run --gpus all)"
    elif "Not Loaded" in error:
        remedy = "modprobe nvidia; the kernel log tells why it does not load. health.gpus: 0 if none is meant"
    else:
        remedy = "see nvidia-smi and the kernel log"
    return made(DRIVER, f"gives no GPU: {error}", remedy)


def judge_version(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    now = facts.of(Gpus)
    libraries = [one for one in (now.library_version, now.driver_version) if one is not None]
    module = now.kernel_module
    is_refused = "mismatch" in (now.error or "").lower()
    other = next((one for one in libraries if module is not None and one != module), None)
    if is_refused or other is not None:
        library = other or next(iter(libraries), "of another version")
        remedy = "the driver was upgraded under the running machine, and nothing new starts on a GPU: reboot"
        yield bad(DRIVER, f"its library is {library}, the kernel module {module or 'another'}", remedy)
    elif libraries and module is not None:
        yield ok(DRIVER, f"library and kernel module are both {module}")
    elif now.source not in ("NVML", "nvidia-smi"):
        yield Absent("AMD's driver has no library that must equal it")
    elif not now.gpus:
        yield nothing_here(facts)
    else:
        yield Absent("the version of the kernel module is not told here")


def judge_count(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    now, count = facts.of(Gpus), len(facts.of(Gpus).gpus)
    wanted, seen = facts.settings.health.gpus, _most_seen(facts)
    if now.hung:
        yield unknown("GPUs", "are not counted, since the driver hangs", "see gpu-driver")
        return
    yield Measure("gpu_count", float(count), "", None, float(wanted) if wanted else None, True)
    remedy = "see gpu-driver, gpu-lost and the kernel log; set health.gpus if one was taken out"
    if wanted is not None and count < wanted:
        yield bad("GPUs", f"{count} of the {wanted} of health.gpus answer", remedy)
    elif wanted is not None and count > wanted:
        yield attention("GPUs", f"{count} answer, health.gpus says {wanted}", f"set health.gpus to {count}")
    elif now.kernel_gpus is not None and count < now.kernel_gpus and wanted is None:
        yield bad("GPUs", f"{count} of the {now.kernel_gpus} that the kernel module knows answer", remedy)
    elif wanted is None and count < seen:
        yield bad("GPUs", f"{count} answer, {seen} did in the past week", remedy)
    elif count:
        why = "as health.gpus says" if wanted else "health.gpus does not say how many there must be"
        yield ok("GPUs", f"{count} answer, {why}")
    else:
        yield Absent("there is no GPU, and none is expected")


def judge_lost(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    now = facts.of(Gpus)
    remedy = "drain the machine and reboot it, better cold; if it comes back: power, seat, then replace it"
    for index, text in now.refused.items():
        yield bad(f"GPU {index}", f"gives no answer: {text}", remedy)
    for gpu in now.gpus:
        words = (gpu.error or "").lower()
        if "lost" in words:
            yield bad(name_of(gpu), f"answers: {gpu.error}", remedy)
        elif "requires" in words:
            yield bad(name_of(gpu), f"answers: {gpu.error}", RESET.format(index=gpu.index))
        elif words:
            yield attention(name_of(gpu), f"answers to a question: {gpu.error}", "see nvidia-smi -q")
    sound = [gpu for gpu in now.gpus if gpu.error is None]
    for xid in facts.of(XidLog).xids:
        # One that was reset since then answers again.
        if xid.code == FELL_OFF_THE_BUS and not any(same_bus(gpu.pci_bus_id, xid.bus) for gpu in sound):
            yield bad(f"GPU at {xid.bus}", f"fell off the bus (Xid 79){_when(facts, xid.last)}", remedy)
    if sound:
        yield ok(names_of([gpu.index for gpu in sound]), "answers every question")
    elif not now.refused and not now.gpus:
        yield nothing_here(facts)


# --- heat and power --------------------------------------------------------------------------------------------


def judge_temperature(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    def tell(gpu: Gpu, degrees: int) -> Iterator[Told]:
        own = gpu.slowdown_temperature
        warm, hot = limits["attention"], limits["bad"]
        if own is not None and "gpu-temperature.bad" not in facts.settings.health.limits:
            hot = float(own)
        if own is not None and "gpu-temperature.attention" not in facts.settings.health.limits:
            warm = hot - (limits["bad"] - limits["attention"])
        yield Measure("gpu_temperature_celsius", float(degrees), name_of(gpu), warm, hot)
        fact = f"{degrees} °C" + (f", it slows down at {own} °C" if own is not None else "")
        yield grade(degrees, {"attention": warm, "bad": hot}, name_of(gpu), fact, COOLING)

    yield from each(facts, "temperature", lambda gpu: gpu.temperature, tell)


def judge_throttle(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    def tell(gpu: Gpu, reasons: tuple[str, ...]) -> Iterator[Told]:
        slowing = [one for one in reasons if one in GRAVE_REASONS + MILD_REASONS]
        heat = "" if gpu.temperature is None else f" at {gpu.temperature} °C"
        if not slowing:
            yield ok(name_of(gpu), "is not slowed down by heat or power supply")
            return
        made = bad if any(one in GRAVE_REASONS for one in slowing) else attention
        brake = "hardware power brake" in slowing
        remedy = "see to its power supply and cables, and to the limits of the rack" if brake else COOLING
        yield made(name_of(gpu), f"slows itself down{heat}: {', '.join(slowing)}", remedy)

    yield from each(facts, "reasons for a lower clock", lambda gpu: gpu.throttle_reasons, tell)


def judge_power(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    def tell(gpu: Gpu, both: tuple[float, float]) -> Iterator[Told]:
        limit, default = both
        if gpu.power_draw is not None:
            yield Measure("gpu_power_watts", gpu.power_draw, name_of(gpu))
        fact = f"may draw {limit:.0f} W, by default {default:.0f} W"
        remedy = f"unless that is meant: nvidia-smi -i {gpu.index} -pl {default:.0f}"
        yield grade(100 * limit / default, limits, name_of(gpu), fact, remedy, low_is_bad=True)

    def pick(gpu: Gpu) -> tuple[float, float] | None:
        limit, default = gpu.power_limit, gpu.power_limit_default
        return (limit, default) if limit is not None and default else None

    yield from each(facts, "power limit", pick, tell)


# --- memory errors ---------------------------------------------------------------------------------------------


def judge_uncorrected(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    def tell(gpu: Gpu, count: int) -> Iterator[Told]:
        yield Measure("gpu_uncorrected_errors_total", float(count), name_of(gpu), None, 1.0)
        ever = gpu.uncorrected_aggregate
        if count:
            remedy = (
                "results since then are in doubt; "
                + RESET.format(index=gpu.index)
                + "; replace it if more come"
            )
            yield bad(
                name_of(gpu), f"{counted(count, 'uncorrected memory error')} since the driver started", remedy
            )
        elif ever is not None and ever >= limits["attention"]:
            remedy = "watch it: dcgmi diag -r 3; more of them are a reason to have it replaced"
            yield attention(name_of(gpu), f"{ever} uncorrected memory errors in its life, none now", remedy)
        else:
            yield ok(name_of(gpu), "no uncorrected memory error since the driver started")

    yield from each(facts, "count of uncorrected errors", lambda gpu: gpu.uncorrected_volatile, tell)


def judge_corrected(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    def tell(gpu: Gpu, count: int) -> Iterator[Told]:
        yield Measure("gpu_corrected_errors_total", float(count), name_of(gpu))
        earlier = facts.past.series("gpu_corrected_errors_total", name_of(gpu))
        if not earlier or earlier[-1][0] >= facts.now_wall:
            yield ok(
                name_of(gpu), f"{count} corrected memory errors since the driver started, no earlier look"
            )
            return
        wall, before = earlier[-1]
        # The count begins anew with the driver.
        new = count - before if count >= before else count
        hours = (facts.now_wall - wall) / 3600
        # A look a minute ago would make a rate of a single error.
        rate = new / max(1.0, hours)
        fact = f"{counted(round(new), 'corrected memory error')} in {duration_text(hours * 3600)}"
        remedy = "corrected ones harm nothing, many foretell the others: dcgmi diag -r 3 at the next pause"
        yield grade(rate, limits, name_of(gpu), fact, remedy)

    yield from each(facts, "count of corrected errors", lambda gpu: gpu.corrected_volatile, tell)


def judge_remap(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    def tell(gpu: Gpu, rows: RemappedRows) -> Iterator[Told]:
        told = f"{rows.correctable + rows.uncorrectable} rows of memory are replaced"
        if rows.failed:
            remedy = "take it out of use: the board is to be replaced (nvidia-smi -q -d ROW_REMAPPER)"
            yield bad(name_of(gpu), "a faulty row of memory could not be replaced", remedy)
        elif rows.pending:
            remedy = f"at the next chance: {RESET.format(index=gpu.index)}"
            yield attention(name_of(gpu), "a faulty row of memory waits for a reset to be replaced", remedy)
        else:
            yield ok(name_of(gpu), f"{told}, none waits or failed")

    yield from each(facts, "replaced rows of memory", lambda gpu: gpu.remapped, tell)


def judge_retired(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    def tell(gpu: Gpu, is_pending: bool) -> Iterator[Told]:
        if is_pending:
            remedy = f"at the next chance: {RESET.format(index=gpu.index)}"
            yield attention(name_of(gpu), "a page of memory waits for a reset to be retired", remedy)
        else:
            yield ok(name_of(gpu), "no page of memory waits to be retired")

    yield from each(facts, "retired pages", lambda gpu: gpu.retired_pages_pending, tell)


# --- the kernel log --------------------------------------------------------------------------------------------


def judge_xid(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    log = facts.of(XidLog)
    if not log.has_driver and not log.xids and not expected(facts):
        yield Absent("no driver of a GPU is loaded")
        return
    if log.problem is not None:
        yield unknown("kernel log", f"is not known: {log.problem}", "run it as root, or join the group adm")
        return
    if not log.lines:
        yield unknown("kernel log", "holds no line, so that nothing of the GPUs is known")
        return
    serious = [one for one in log.xids if not one.harmless]
    yield Measure("gpu_xids_total", float(sum(one.count for one in serious)))
    old = 0
    for one in serious:
        age = None if one.last is None else max(0.0, facts.now_wall - one.last)
        grave = one.hardware and one.verdict in ("repair", "fix", "park")
        if not one.hardware and age is not None and age > limits["recent"]:
            old += one.count
            continue
        made = bad if grave and (age is None or age < LATE_FAULTS_SECONDS) else attention
        yield made(_device(one), _fact_of(facts, one), one.action or "see the Xid catalogue")
    if not any(one.hardware for one in serious):
        left = f"; {old} of programs, the last longer ago" if old else ""
        yield ok("kernel log", f"no fault of a GPU in its {log.lines} lines since the boot{left}")


def _device(xid: Xid) -> str:
    return "GPU" if xid.bus is None else f"GPU at {xid.bus.removeprefix('PCI:')}"


def _fact_of(facts: Facts, xid: Xid) -> str:
    number = xid.name if xid.code is None else f"Xid {xid.code}"
    times = f" {xid.count} times" if xid.count > 1 else ""
    return f"{number}{times}{_when(facts, xid.last)}: {xid.what or xid.text}".rstrip(".")


def _when(facts: Facts, wall: float | None) -> str:
    return "" if wall is None else f", {duration_text(max(0.0, facts.now_wall - wall))} ago"


# --- links -----------------------------------------------------------------------------------------------------


def judge_pcie(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    def tell(gpu: Gpu, link: tuple[int, int, int, int]) -> Iterator[Told]:
        generation, best_generation, width, best_width = link
        fact = f"PCIe generation {generation} of {best_generation}, {width} of {best_width} lanes"
        if generation >= best_generation and width >= best_width:
            yield ok(name_of(gpu), fact)
        elif is_at_load(gpu, limits):
            remedy = (
                "reseat the card or its riser; see the slot's settings in the BIOS, and AER in the kernel log"
            )
            yield attention(name_of(gpu), f"{fact}, at {gpu.utilization} % load", remedy)
        else:
            yield Absent("an idle GPU lowers its link on purpose")

    def pick(gpu: Gpu) -> tuple[int, int, int, int] | None:
        generation, best_generation = gpu.pcie_generation, gpu.pcie_generation_max
        width, best_width = gpu.pcie_width, gpu.pcie_width_max
        if generation is None or best_generation is None or width is None or best_width is None:
            return None
        return generation, best_generation, width, best_width

    yield from each(facts, "PCIe link", pick, tell)


def judge_nvlink(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    most = max((sum(gpu.nvlinks) for gpu in facts.of(Gpus).gpus if gpu.nvlinks), default=0)

    def tell(gpu: Gpu, links: tuple[bool, ...]) -> Iterator[Told]:
        active = sum(links)
        down = ", ".join(str(link) for link, is_active in enumerate(links) if not is_active)
        yield Measure("gpu_nvlinks_active", float(active), name_of(gpu), None, float(most), True)
        remedy = "collectives crawl or hang: see nvidia-smi nvlink -s, the fabric manager, and Xid 74"
        if not most:
            yield Absent("no NVLink is connected")
        elif active < most:
            yield bad(name_of(gpu), f"{active} NVLinks are active, on others {most}; not {down}", remedy)
        elif down:
            yield attention(name_of(gpu), f"{active} of {len(links)} NVLinks are active; not {down}", remedy)
        else:
            yield ok(name_of(gpu), f"all {active} NVLinks are active")

    yield from each(facts, "NVLinks", lambda gpu: gpu.nvlinks, tell)


# --- modes -----------------------------------------------------------------------------------------------------


def judge_persistence(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    def tell(gpu: Gpu, is_on: bool) -> Iterator[Told]:
        if is_on:
            yield ok(name_of(gpu), "persistence mode is on")
        else:
            fact = "persistence mode is off: the driver forgets the GPU between processes, and starts slowly"
            yield attention(name_of(gpu), fact, "start nvidia-persistenced, or nvidia-smi -pm 1")

    yield from each(facts, "persistence mode", lambda gpu: gpu.persistence, tell)


def judge_mig(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    modes = {gpu.mig for gpu in facts.of(Gpus).gpus if gpu.mig is not None}

    def tell(gpu: Gpu, is_split: bool) -> Iterator[Told]:
        mode = "on" if is_split else "off"
        if gpu.mig_pending is not None and gpu.mig_pending != is_split:
            fact = f"MIG is {mode}, and will be {'on' if gpu.mig_pending else 'off'} after a reset"
            yield attention(name_of(gpu), fact, RESET.format(index=gpu.index))
        elif is_split and len(modes) > 1:
            remedy = f"a run over all of them finds unlike devices: nvidia-smi -i {gpu.index} -mig 0"
            yield attention(name_of(gpu), "MIG is on, and off on others", remedy)
        else:
            yield ok(name_of(gpu), f"MIG is {mode}")

    yield from each(facts, "MIG mode", lambda gpu: gpu.mig, tell)


# --- who holds memory ------------------------------------------------------------------------------------------


def judge_processes(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    now = facts.of(Supervision)
    orphans = {one.pid for one in now.orphans}
    runs = {one.run for one in now.leaders if one.run is not None}
    leaders = {one.pid for one in (now.daemon, *now.leaders) if one is not None}

    def tell(gpu: Gpu, holders: tuple[GpuProcess, ...]) -> Iterator[Told]:
        own = hidden = small = 0
        for one in holders:
            held = "memory" if one.memory_used is None else size_text(one.memory_used)
            who = f"pid {one.pid} ({one.name})" if one.name else f"pid {one.pid}"
            if one.lives is False:
                remedy = f"wait a minute; if it stays: {RESET.format(index=gpu.index)}"
                yield bad(name_of(gpu), f"{held} are held by {who}, which is dead", remedy)
            elif one.pid in orphans:
                remedy = "comprehensive_health_check.py --fix stops the orphans of this daemon"
                yield bad(name_of(gpu), f"{held} are held by {who}, an orphan of this daemon", remedy)
            elif one.run in runs or leaders.intersection((one.pid, *one.ancestors)):
                own += 1
            elif one.lives is None:
                hidden += 1
            elif (one.memory_used is not None and one.memory_used < limits["attention"]) or not is_used(
                facts.settings, gpu
            ):
                small += 1
            else:
                whose = "" if one.uid is None else f" of user {one.uid}"
                remedy = f"see whose it is: ps -o user,pid,lstart,args -p {one.pid}; or use another GPU"
                yield attention(name_of(gpu), f"{held} are held by {who}{whose}, not of this run", remedy)
        parts = [
            (own, "of this run"),
            (hidden, "that cannot be seen from here"),
            (small, "of others, which matter little"),
        ]
        told = ", ".join(f"{counted(number, 'process')} {what}" for number, what in parts if number)
        yield ok(name_of(gpu), told or "nobody else holds memory")

    yield from each(facts, "processes", lambda gpu: gpu.processes, tell)


def is_used(settings: Settings, gpu: Gpu) -> bool:
    """Whether the daemon may use this GPU: all where its own CUDA_VISIBLE_DEVICES does not say otherwise."""
    visible = settings.daemon.environment.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return True
    names = [name.strip() for name in visible.split(",") if name.strip()]
    if not all(name.isdigit() or name.startswith("GPU-") for name in names):
        return True
    return any(
        name == str(gpu.index) or (gpu.uuid is not None and gpu.uuid.startswith(name)) for name in names
    )


def judge_memory(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    now = facts.of(Gpus)

    def tell(gpu: Gpu, used: int) -> Iterator[Told]:
        if gpu.processes or gpu.graphics_processes:
            yield ok(name_of(gpu), "its memory is held by processes that are known")
            return
        fact = f"{size_text(used)} are used, and no process holds them"
        remedy = f"a context that outlived its process: {RESET.format(index=gpu.index)}; else reboot"
        if not now.sees_all_processes and used >= limits["attention"]:
            yield Absent("in a container the driver does not tell of others' processes")
        else:
            yield grade(used, limits, name_of(gpu), fact, remedy)

    def pick(gpu: Gpu) -> int | None:
        return gpu.memory_used if gpu.processes is not None else None

    yield from each(facts, "memory and its holders", pick, tell)


# --- speed -----------------------------------------------------------------------------------------------------


def judge_clocks(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    def tell(gpu: Gpu, clocks: tuple[int, int]) -> Iterator[Told]:
        clock, best = clocks
        if not is_at_load(gpu, limits):
            yield Absent("no GPU is at load, where its clock would be high")
            return
        fact = f"{clock} of {best} MHz at {gpu.utilization} % load"
        remedy = "see gpu-throttle and gpu-power; nvidia-smi -q -d CLOCK shows locked and application clocks"
        yield grade(100 * clock / best, limits, name_of(gpu), fact, remedy, low_is_bad=True)

    def pick(gpu: Gpu) -> tuple[int, int] | None:
        clock, best = gpu.clock_sm, gpu.clock_sm_max
        return (clock, best) if clock is not None and best else None

    yield from each(facts, "clock", pick, tell)


def judge_slower(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    def tell(gpu: Gpu, use: int) -> Iterator[Told]:
        name, judged = name_of(gpu), False
        remedy = "see gpu-throttle, gpu-power, gpu-pcie and what changed since then"
        if is_at_load(gpu, limits) and gpu.clock_sm is not None:
            yield Measure("gpu_clock_at_load_mhz", float(gpu.clock_sm), name)
            usual = _usual(facts, "gpu_clock_at_load_mhz", name, LOOKS)
            if usual:
                judged = True
                fact = f"{gpu.clock_sm} MHz at load, usually {usual:.0f} MHz"
                yield grade(100 * gpu.clock_sm / usual, limits, name, fact, remedy, low_is_bad=True)
        if any(one.lives is not False for one in gpu.processes or ()):
            measure = "gpu_utilization_at_work_percent"
            yield Measure(measure, float(use), name)
            latest = [value for _, value in facts.past.series(measure, name)][-(LOOKS - 1) :]
            usual = _usual(facts, measure, name, OLDER_LOOKS, LOOKS - 1)
            if usual:
                judged = True
                busy = statistics.median([*latest, use])
                share = {"attention": limits["attention-utilization"]}
                fact = f"{busy:.0f} % busy in the last {LOOKS} looks, usually {usual:.0f} %"
                waits = "it waits: see the data loader, the disks and the other ranks"
                yield grade(100 * busy / usual, share, name, fact, waits, low_is_bad=True)
        if not judged:
            yield Absent("no GPU is at work that has a past of such looks")

    yield from each(facts, "utilization", lambda gpu: gpu.utilization, tell)


def _usual(facts: Facts, name: str, subject: str, at_least: int, without: int = 0) -> float | None:
    """The median of the earlier looks, the last so many left out; None for too few."""
    earlier = [value for _, value in facts.past.series(name, subject)]
    kept = earlier[: len(earlier) - without][-KEPT_LOOKS:]
    return statistics.median(kept) if len(kept) >= at_least else None


LOAD = Limit("load", 80.0, "%", "a choice: training keeps a GPU above it, a desktop does not")
MANUAL = "nvidia-smi(1)"

CHECKS = (
    Check(
        id="gpu-driver",
        component="gpus",
        explain="The driver answers within 4.5 s. A hang is a sick driver, or a slow start without persistence mode.",
        reads=(GPUS,),
        answers_for=(GPUS,),
        judge=judge_driver,
        gates=True,
    ),
    Check(
        id="gpu-version",
        component="gpus",
        explain="Library and kernel module are of one version. After an upgrade nothing starts until a reboot.",
        reads=(GPUS,),
        judge=judge_version,
        gates=True,
    ),
    Check(
        id="gpu-count",
        component="gpus",
        explain="As many GPUs answer as health.gpus says, else as the kernel module knows and the past week had.",
        reads=(GPUS,),
        judge=judge_count,
        gates=True,
    ),
    Check(
        id="gpu-lost",
        component="gpus",
        explain="Every GPU answers for itself: none is lost, fell off the bus (Xid 79) or wants a reset.",
        reads=(GPUS, XIDS),
        judge=judge_lost,
        gates=True,
    ),
    Check(
        id="gpu-temperature",
        component="gpus",
        explain="How hot each GPU is, against the temperature at which it slows itself down.",
        reads=(GPUS,),
        judge=judge_temperature,
        limits=(
            Limit("attention", 85.0, "°C", "a choice: 7 below bad, also where the device tells its own"),
            Limit("bad", 92.0, "°C", "a choice, where NVML tells no slowdown threshold of the device"),
        ),
    ),
    Check(
        id="gpu-throttle",
        component="gpus",
        explain="No GPU slows itself down for heat or power. One that does holds up all others of its run.",
        reads=(GPUS,),
        judge=judge_throttle,
    ),
    Check(
        id="gpu-ecc-uncorrected",
        component="gpus",
        explain="Memory errors that could not be corrected: what was computed with them cannot be trusted.",
        reads=(GPUS,),
        judge=judge_uncorrected,
        limits=(Limit("attention", 1.0, "errors", "a choice: any in the device's life is worth knowing"),),
        gates=True,
    ),
    Check(
        id="gpu-ecc-corrected",
        component="gpus",
        explain="The rate of corrected memory errors since the last health check: many foretell uncorrected ones.",
        reads=(GPUS,),
        judge=judge_corrected,
        worst=Status.ATTENTION,
        limits=(Limit("attention", 60.0, "errors per hour", "a choice: a healthy GPU has none for months"),),
    ),
    Check(
        id="gpu-row-remap",
        component="gpus",
        explain="Faulty rows of memory that wait for a reset to be replaced, or could not be replaced.",
        reads=(GPUS,),
        judge=judge_remap,
        gates=True,
    ),
    Check(
        id="gpu-retired-pages",
        component="gpus",
        explain="Pages of memory that wait for a reset to be retired (GPUs before Ampere).",
        reads=(GPUS,),
        judge=judge_retired,
        worst=Status.ATTENTION,
    ),
    Check(
        id="gpu-xid",
        component="gpus",
        explain="Faults of GPUs in the kernel log since the boot (Xid), with what NVIDIA's catalogue says to do.",
        reads=(XIDS,),
        answers_for=(XIDS,),
        judge=judge_xid,
        limits=(
            Limit("recent", 86_400.0, "seconds", "a choice: a program's own fault of yesterday is history"),
        ),
    ),
    Check(
        id="gpu-pcie",
        component="gpus",
        explain="At load each GPU's PCIe link has its full generation and width; idle ones lower it on purpose.",
        reads=(GPUS,),
        judge=judge_pcie,
        worst=Status.ATTENTION,
        limits=(LOAD,),
    ),
    Check(
        id="gpu-nvlink",
        component="gpus",
        explain="All NVLinks are active, as many on each GPU. One that is down makes collectives crawl.",
        reads=(GPUS,),
        judge=judge_nvlink,
    ),
    Check(
        id="gpu-persistence",
        component="gpus",
        explain="Persistence mode is on: the driver stays loaded between processes, and keeps its counts.",
        reads=(GPUS,),
        judge=judge_persistence,
        worst=Status.ATTENTION,
    ),
    Check(
        id="gpu-power",
        component="gpus",
        explain="The power limit in force is the device's default. A lower one makes training slower.",
        reads=(GPUS,),
        judge=judge_power,
        worst=Status.ATTENTION,
        limits=(Limit("attention", 100.0, "% of the default", f"{MANUAL}: Default Power Limit"),),
    ),
    Check(
        id="gpu-processes",
        component="gpus",
        explain="Who holds GPU memory: dead processes, orphans of this daemon, and others, with their names.",
        reads=(GPUS, SUPERVISION),
        judge=judge_processes,
        limits=(
            Limit(
                "attention", float(512 << 20), "bytes", "a choice: a context of CUDA alone takes about that"
            ),
        ),
    ),
    Check(
        id="gpu-memory-idle",
        component="gpus",
        explain="GPU memory in use without a process: a context that outlived its own, or a leak of the driver.",
        reads=(GPUS,),
        judge=judge_memory,
        limits=(
            Limit("attention", float(1 << 30), "bytes", "a choice: the driver itself takes some hundred MiB"),
            Limit("bad", float(8 << 30), "bytes", "a choice: a run that fills the GPU will fail"),
        ),
    ),
    Check(
        id="gpu-clocks",
        component="gpus",
        explain="At load the clock is near its maximum; far below, something holds it back.",
        reads=(GPUS,),
        judge=judge_clocks,
        worst=Status.ATTENTION,
        limits=(LOAD, Limit("attention", 60.0, "% of the maximum", "a choice: power alone takes less away")),
    ),
    Check(
        id="gpu-slower",
        component="gpus",
        explain="Clock at load and utilization at work of each GPU, against those of earlier health checks.",
        reads=(GPUS,),
        judge=judge_slower,
        worst=Status.ATTENTION,
        limits=(
            LOAD,
            Limit(
                "attention", 85.0, "% of its usual clock", "a choice: heat and power vary by a few percent"
            ),
            Limit(
                "attention-utilization", 60.0, "% of the usual", "a choice: the phase of a run varies more"
            ),
        ),
    ),
    Check(
        id="gpu-mig",
        component="gpus",
        explain="MIG is the same on all GPUs, and no change of it waits for a reset.",
        reads=(GPUS,),
        judge=judge_mig,
        worst=Status.ATTENTION,
    ),
)
