"""Checks of orphans: processes, shared memory and files that a run left behind when it ended."""

from collections.abc import Iterator, Mapping

from trainguard.checks.daemon import SUPERVISION
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
from trainguard.health import Status
from trainguard.leftovers import SharedMemory, Temporary, read_shared_memory, read_temporary, total_of
from trainguard.policy import Phase
from trainguard.quantities import size_text
from trainguard.supervision import Supervision

SHARED_MEMORY = Reading("shared memory", SharedMemory, lambda settings, deep: read_shared_memory(), 4.0)
TEMPORARY = Reading(
    "run folder's files", Temporary, lambda settings, deep: read_temporary(settings.logs.directory), 3.0
)
SHOWN = 4


def judge_processes(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    now = facts.of(Supervision)
    yield Measure("orphan_processes", float(len(now.orphans)), "", None, 1.0)
    if not now.orphans:
        yield ok("orphans", "no process of a former run lives")
        return
    shown = ", ".join(f"{one.pid} ({one.name}, state {one.state})" for one in now.orphans[:SHOWN])
    more = len(now.orphans) - SHOWN
    fact = f"{len(now.orphans)} processes of a former run live: pid {shown}" + (
        f" and {more} more" if more > 0 else ""
    )
    stuck = [one for one in now.orphans if one.state == "D"]
    if stuck:
        fact += f"; {len(stuck)} of them wait in the kernel, where no signal reaches them"
    if now.watchdog is not None and now.state.phase in (Phase.STOPPING, Phase.CLEARING):
        yield attention("orphans", fact, "the watchdog is at it: daemon_watchdog.py --status")
    else:
        remedy = "they hold GPU memory, ports and files: comprehensive_health_check.py --fix stops them"
        yield bad("orphans", fact, remedy)


def judge_shared_memory(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    now = facts.of(SharedMemory)
    size, count = total_of(now.leftovers), len(now.leftovers)
    yield Measure("orphan_shared_memory_bytes", float(size), "", limits["attention"])
    if not count:
        yield ok("/dev/shm", f"{now.looked_at} files, none of a dead process of this user")
        return
    share = 100 * size / now.total if now.total else 0.0
    names = ", ".join(one.path for one in now.leftovers[:SHOWN])
    fact = f"{count} files of dead processes hold {size_text(size)} ({share:.0f} % of it): {names}"
    if now.hidden:
        fact += f"; {now.hidden} processes may not be asked whether they use them"
    yield grade(size, limits, "/dev/shm", fact, "nobody has them open: remove them, it is memory")


def judge_temporary(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    now, folder = facts.of(Temporary), str(facts.settings.logs.directory)
    size, count = total_of(now.leftovers), len(now.leftovers)
    yield Measure("orphan_temporary_bytes", float(size))
    if not now.looked_at:
        yield Absent("the run folder has no file yet")
    elif not count:
        yield ok(folder, f"{now.looked_at} files, none of them half-written and old")
    else:
        shown = ", ".join(one.path.removeprefix(f"{folder}/") for one in now.leftovers[:SHOWN])
        fact = f"{count} half-written files of more than an hour ago hold {size_text(size)}: {shown}"
        yield attention(folder, fact, "who wrote them was killed: remove them")


CHECKS = (
    Check(
        id="orphan-processes",
        component="orphans",
        explain="Processes that bear this run folder's mark and belong to no living run: they hold the GPU.",
        reads=(SUPERVISION,),
        judge=judge_processes,
        fix="stop-orphans",
    ),
    Check(
        id="orphan-shared-memory",
        component="orphans",
        explain="Files in /dev/shm whose creators are dead and that nobody has open: memory until the next boot.",
        reads=(SHARED_MEMORY,),
        answers_for=(SHARED_MEMORY,),
        judge=judge_shared_memory,
        worst=Status.ATTENTION,
        limits=(Limit("attention", float(16 << 20), "bytes", "a choice: less is in nobody's way"),),
        fix="leftover-shared-memory",
    ),
    Check(
        id="orphan-temporary",
        component="orphans",
        explain="Half-written files in the run folder, from watchdogs and detectors that were killed as they wrote.",
        reads=(TEMPORARY,),
        answers_for=(TEMPORARY,),
        judge=judge_temporary,
        worst=Status.ATTENTION,
        fix="leftover-files",
    ),
)
