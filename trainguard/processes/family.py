"""Who belongs to a run: by descent, by the mark in the environment, by session, by what was seen before."""

import ctypes
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

import msgspec

from trainguard.identity import Identity
from trainguard.processes.identify import Process, all_processes, is_gone, read_process, same_process

RUN = "TRAINGUARD_RUN"
FOLDER = "TRAINGUARD_FOLDER"
DAEMON = "TRAINGUARD_DAEMON"
LEADER = "TRAINGUARD_PID"

_PR_SET_CHILD_SUBREAPER = 36
_ENVIRONMENT_LIMIT = 4 << 20


class Mark(msgspec.Struct, frozen=True):
    """What the environment of a run's process says: which run, whose run folder, which daemon.

    `leader` is the number of the run's first process, None while it stands at the gate.
    """

    run: str
    folder: str
    daemon: str
    leader: int | None


def become_subreaper() -> bool:
    """Make orphaned descendants children of this process, also after setsid (prctl(2)); says whether it could."""
    library = ctypes.CDLL(None, use_errno=True)
    return bool(library.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)


def read_mark(pid: int) -> Mark | None:
    """The mark in a process's environment, None if it has none or it may not be read."""
    try:
        descriptor = os.open(f"/proc/{pid}/environ", os.O_RDONLY | os.O_CLOEXEC)
        try:
            chunks = []
            while chunk := os.read(descriptor, _ENVIRONMENT_LIMIT):
                chunks.append(chunk)
        finally:
            os.close(descriptor)
    except OSError:
        return None
    return parse_mark(b"".join(chunks))


def parse_mark(environment: bytes) -> Mark | None:
    """The mark in a block of NUL-separated NAME=VALUE words."""
    if RUN.encode() + b"=" not in environment:
        return None
    words = {}
    for word in environment.split(b"\0"):
        name, equals, value = word.partition(b"=")
        if equals and name.startswith(b"TRAINGUARD_"):
            words[name.decode(errors="replace")] = os.fsdecode(value)
    if not {RUN, FOLDER, DAEMON} <= words.keys():
        return None
    leader = words.get(LEADER, "")
    return Mark(words[RUN], words[FOLDER], words[DAEMON], int(leader) if leader.isdigit() else None)


def read_command_line(pid: int) -> tuple[str, ...]:
    """The argument list of a process, empty if it has none or has ended."""
    try:
        text = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return ()
    return tuple(os.fsdecode(word) for word in text.rstrip(b"\0").split(b"\0")) if text else ()


def read_directory(pid: int) -> str | None:
    """The working directory of a process, None if it has ended or may not be asked."""
    try:
        return os.readlink(f"/proc/{pid}/cwd")  # noqa: PTH115 - a plain string is wanted
    except OSError:
        return None


def children_of(pid: int) -> list[int] | None:
    """The children of a process as the kernel lists them, None where it keeps no such list.

    The list may miss one while its siblings end (proc_tid_children(5)); `has_children` is the proof.
    """
    found: list[int] = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208
            with Path(f"/proc/{pid}/task/{task}/children").open("rb") as listing:
                found += [int(number) for number in listing.read().split()]
    except (FileNotFoundError, ProcessLookupError):
        return None if read_process(pid) is not None else []
    except OSError:
        return None
    return found


def has_children() -> bool:
    """Whether this process has any child, living or zombie: ECHILD is the kernel's own proof of none."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def reap(pid: int) -> int | None:
    """Collect one zombie child of ours; its wait status, None if there was nothing to collect."""
    try:
        reaped, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return None
    return status if reaped == pid else None


def ancestors(pid: int) -> list[int]:
    """The numbers of a process's parents, nearest first."""
    chain: list[int] = []
    process = read_process(pid)
    while process is not None and process.parent > 0 and process.parent not in chain:
        chain.append(process.parent)
        process = read_process(process.parent)
    return chain


def descendants(pid: int) -> list[Process]:
    """All living or zombie descendants of a process, parents before children."""
    found: dict[int, Process] = {}
    queue = [pid]
    while queue:
        children = children_of(queue.pop())
        if children is None:
            return _descendants_by_table(pid, list(all_processes()))
        for child in children:
            process = read_process(child) if child not in found else None
            if process is not None:
                found[child] = process
                queue.append(child)
    return list(found.values())


def _descendants_by_table(pid: int, table: Iterable[Process]) -> list[Process]:
    rows = {process.pid: process for process in table}
    return [row for row in rows.values() if row.pid != pid and pid in _ancestors(row.pid, rows)]


def _ancestors(pid: int, rows: Mapping[int, Process]) -> list[int]:
    chain: list[int] = []
    while pid in rows and rows[pid].parent not in chain and rows[pid].parent > 0:
        pid = rows[pid].parent
        chain.append(pid)
    return chain


def find_leader(folder: str, daemon: str) -> Process | None:
    """The living process whose mark says that it leads a run of this daemon in this run folder (a real path)."""
    for one in living(all_processes()):
        mark = read_mark(one.pid)
        if mark is not None and (mark.folder, mark.daemon, mark.leader) == (folder, daemon, one.pid):
            return one
    return None


def run_members(
    table: Collection[Process],
    known: Collection[Identity],
    session: int | None,
    mark_of: Callable[[Process], bool],
    never: Collection[int] = (),
) -> list[Process]:
    """Which rows of the process table belong to a run whose first process is not our child.

    Those that were `known` before (as identities), those of the daemon's `session` (None where that proves
    nothing), those that carry the run's mark, and the descendants of all these; `never` names numbers that
    cannot belong (this process, its helpers and its ancestors).
    """
    rows = {process.pid: process for process in table if process.pid not in never}
    remembered = {identity.pid: identity for identity in known}
    members = {
        pid
        for pid, row in rows.items()
        if (pid in remembered and same_process(row.identity, remembered[pid]))
        or (session is not None and row.session == session)
        or mark_of(row)
    }
    return [
        row for row in rows.values() if row.pid in members or members.intersection(_ancestors(row.pid, rows))
    ]


def living(processes: Iterable[Process]) -> list[Process]:
    """Those that can still run."""
    return [process for process in processes if not is_gone(process)]


def without_spared(processes: Collection[Process], spare: Collection[str]) -> list[Process]:
    """Those whom no rule spares: a spared name covers all that the process of that name started.

    A name is compared with the process's own (also before a colon, as in `tmux: server`), with its program
    and, for an interpreted one, with its script.
    """
    if not spare:
        return list(processes)
    rows = {process.pid: process for process in processes}
    spared = {pid for pid, row in rows.items() if _is_named(row, spare)}
    return [
        row
        for row in processes
        if row.pid not in spared and not spared.intersection(_ancestors(row.pid, rows))
    ]


def _is_named(process: Process, names: Collection[str]) -> bool:
    words = read_command_line(process.pid)[:2]
    own = {process.name, process.name.partition(":")[0], *(word.rpartition("/")[2] for word in words)}
    return bool(own.intersection(names)) or any(name[:15] == process.name for name in names if len(name) > 15)
