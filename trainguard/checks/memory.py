"""Checks of memory: is there enough, is any of it swapped or stalled, and has the kernel killed for it."""

from collections.abc import Iterator, Mapping

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
from trainguard.health import Status
from trainguard.memory import Memory, read_memory
from trainguard.quantities import size_text

MEMORY = Reading("memory", Memory, lambda settings, deep: read_memory(), 2.0)
SUBJECT = "memory"


def judge_available(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    now = facts.of(Memory)
    share = 100 * now.available / now.total
    yield Measure("memory_available_percent", share, "", limits["attention"], limits["bad"], True)
    fact = f"{size_text(now.available)} of {size_text(now.total)} available"
    remedy = "see which process grows: ps aux --sort=-rss | head"
    yield grade(share, limits, SUBJECT, fact, remedy, low_is_bad=True)


def judge_swap(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    now = facts.of(Memory)
    if not now.swap_total:
        yield Absent("this machine has no swap")
        return
    used = now.swap_total - now.swap_free
    share = 100 * used / now.swap_total
    yield Measure("swap_used_percent", share, "", limits["attention"])
    fact = f"{size_text(used)} of {size_text(now.swap_total)} used"
    yield grade(share, limits, "swap", fact, "training that is swapped out crawls: free memory")


def judge_stalled(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    now = facts.of(Memory)
    if now.stalled is None:
        yield Absent("this kernel keeps no pressure (PSI)")
        return
    yield Measure("memory_stalled_percent", now.stalled, "", limits["attention"], limits["bad"])
    fact = f"in {now.stalled:.1f} % of the last minute every process waited for memory"
    remedy = "end what else uses memory, or fewer data-loader workers"
    yield grade(now.stalled, limits, SUBJECT, fact, remedy)


def judge_allowance(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    allowed = facts.of(Memory).allowance
    if allowed is None:
        yield Absent("no cgroup is seen that limits memory")
        return
    share = 100 * (allowed.limit - allowed.used) / allowed.limit if allowed.limit else 0.0
    yield Measure("cgroup_memory_left_percent", share, "", limits["attention"], limits["bad"], True)
    fact = f"{size_text(allowed.used)} of the {size_text(allowed.limit)} that the cgroup allows are used"
    remedy = "beyond it the kernel kills: raise the limit (docker --memory, Slurm --mem, MemoryMax)"
    yield grade(share, limits, "memory cgroup", fact, remedy, low_is_bad=True)


def judge_kills(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    kills = facts.of(Memory).oom_kills
    if kills is None:
        yield Absent("no cgroup counts here")
        return
    yield Measure("oom_kills_total", kills)
    earlier = [value for _, value in facts.past.series("oom_kills_total")]
    # The counter begins anew with the cgroup.
    before = earlier[-1] if earlier and earlier[-1] <= kills else 0
    if kills > before:
        since = " since the last health check" if earlier else ""
        victims = f"{kills - before:.0f} process{'es' if kills - before > 1 else ''}"
        yield attention(
            "memory cgroup",
            f"the kernel has killed {victims} for memory{since}",
            "crash_detector.py names the victim; raise the limit or lower the use",
        )
    else:
        yield ok(
            "memory cgroup",
            "the kernel has killed nothing for memory" + (" since the last look" if earlier else ""),
        )


def judge_commit(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    now = facts.of(Memory)
    if now.overcommit is None:
        yield unknown("overcommit", "vm.overcommit_memory is not told")
    elif now.overcommit != 2:
        yield ok("overcommit", f"vm.overcommit_memory is {now.overcommit}: promises are not limited")
    else:
        left = now.commit_limit - now.committed
        fact = f"vm.overcommit_memory is 2, and {size_text(max(0, left))} more can be promised"
        remedy = "workers that fork will fail; sysctl vm.overcommit_memory=0"
        yield grade(left, limits, "overcommit", fact, remedy, low_is_bad=True)


def judge_huge_pages(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    now = facts.of(Memory)
    idle = now.huge_pages_free * now.huge_page_size
    share = 100 * idle / now.total
    fact = f"{size_text(idle)} are set aside for huge pages and unused"
    yield grade(share, limits, "huge pages", fact, "nobody else can use them: sysctl vm.nr_hugepages=0")


CHECKS = (
    Check(
        id="memory-available",
        component="memory",
        explain="Memory that a new process could get. Below it the kernel begins to kill, the largest process first.",
        reads=(MEMORY,),
        answers_for=(MEMORY,),
        judge=judge_available,
        limits=(
            Limit("attention", 10.0, "%", "a choice: time to act before the kernel does"),
            Limit("bad", 3.0, "%", "a choice: what one more batch of data may take"),
        ),
        gates=True,
    ),
    Check(
        id="memory-swap",
        component="memory",
        explain="Swap in use. A training process that was swapped out runs a hundred times slower and looks hung.",
        reads=(MEMORY,),
        judge=judge_swap,
        worst=Status.ATTENTION,
        limits=(Limit("attention", 50.0, "%", "a choice: idle services leave less there"),),
    ),
    Check(
        id="memory-stalled",
        component="memory",
        explain="The share of a minute in which all processes waited for memory (PSI): thrashing, before a kill.",
        reads=(MEMORY,),
        judge=judge_stalled,
        limits=(
            Limit("attention", 5.0, "%", "Documentation/accounting/psi.rst: full is time lost for good"),
            Limit(
                "bad", 20.0, "%", "a choice: a third of systemd-oomd.conf(5), DefaultMemoryPressureLimit=60%"
            ),
        ),
    ),
    Check(
        id="memory-cgroup",
        component="memory",
        explain="What is left below the limit of this cgroup and those above it (container, Slurm job, unit).",
        reads=(MEMORY,),
        judge=judge_allowance,
        limits=(
            Limit("attention", 10.0, "%", "as for the machine"),
            Limit("bad", 3.0, "%", "as for the machine"),
        ),
        gates=True,
    ),
    Check(
        id="memory-kills",
        component="memory",
        explain="Processes that the kernel has killed for memory in this cgroup since the last health check.",
        reads=(MEMORY,),
        judge=judge_kills,
        worst=Status.ATTENTION,
    ),
    Check(
        id="memory-commit",
        component="memory",
        explain="Where vm.overcommit_memory is 2, what can still be promised: a fork of a large process needs it.",
        reads=(MEMORY,),
        judge=judge_commit,
        worst=Status.ATTENTION,
        limits=(
            Limit(
                "attention",
                float(4 << 30),
                "bytes",
                "a choice: what a process with workers promises at a fork",
            ),
        ),
    ),
    Check(
        id="memory-huge-pages",
        component="memory",
        explain="Memory that is set aside for huge pages and used by nobody.",
        reads=(MEMORY,),
        judge=judge_huge_pages,
        worst=Status.ATTENTION,
        limits=(Limit("attention", 10.0, "%", "a choice: too much to have for nobody"),),
    ),
)
