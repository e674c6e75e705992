"""Evidence: what the machine knows beyond the logs, asked for in ways that cannot hang."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from trainguard.command_line import counted, error_sentence
from trainguard.gpu import Gpus, ask_gpus
from trainguard.kernel_log import KMSG, KernelLine, has_kernel_lines, parse_kernel_log, read_kernel_log
from trainguard.launchers import read_slurm_state
from trainguard.quantities import size_text

KERNEL_LIMIT = 256 << 20
BLOCK = 1 << 20
SLURM_SECONDS = 15.0
# File systems in memory or on other machines: no device of this one fails below them.
DEVICELESS = frozenset(
    {"tmpfs", "ramfs", "devtmpfs", "nfs", "nfs4", "cifs", "ceph", "lustre", "beegfs", "gpfs"}
)


class Evidence(msgspec.Struct, frozen=True):
    """What is known beyond the logs: kernel lines, who else holds the GPUs, what the scheduler says.

    `devices` are the block devices below all that the run uses, None where these are not known.
    """

    kernel: tuple[KernelLine, ...] = ()
    gpu_foreign: tuple[str, ...] = ()
    scheduler_state: str | None = None
    devices: frozenset[str] | None = None


def gather(
    kernel_file: Path | None,
    gpus: bool,
    slurm_job: str | None,
    kernel: bool,
    notes: list[str],
    places: Sequence[Path] = (),
) -> Evidence:
    """Ask the machine for what was asked for; what it does not tell is a note.

    `kernel_file` may be `-`, which is stdin. The machine's own kernel log is read only with `kernel`: it says
    nothing of a run on another machine. `places` are paths that the run uses on this one.
    """
    lines: list[KernelLine] = []
    foreign: tuple[str, ...] = ()
    state = None
    try:
        if kernel_file == Path(KMSG):
            lines = read_kernel_log()
        elif kernel_file is not None:
            lines = parse_kernel_log(read_kernel_file(kernel_file, notes), now_wall=time.time())
        elif kernel:
            lines = read_kernel_log()
    except OSError as error:
        notes.append(error_sentence(error))
    if gpus:
        answer = ask_gpus()
        notes += [] if answer.error is None else [f"GPUs: {answer.error}"]
        foreign = foreign_processes(answer)
        notes += faults_of(answer)
    if slurm_job is not None:
        try:
            job = read_slurm_state(slurm_job, SLURM_SECONDS)
            notes.append(
                f"job {slurm_job}: "
                + ("Slurm does not know it" if job is None else f"Slurm says {job.state}")
            )
            state = None if job is None else "OUT_OF_MEMORY" if job.out_of_memory else job.state
        except (OSError, TimeoutError) as error:
            notes.append(f"job {slurm_job}: {error_sentence(error)}")
    is_own = kernel and kernel_file in (None, Path(KMSG))
    return Evidence(tuple(lines), foreign, state, devices_below(places) if is_own and lines else None)


def devices_below(places: Sequence[Path]) -> frozenset[str] | None:
    """The block devices that the file systems of these paths and of the root lie on, by the kernel's names.

    None where one of them lies on what is not known, as a container's overlay does.
    """
    from trainguard import disks

    if not places:
        return None
    found: set[str] = set()
    try:
        mounts = disks.read_mounts()
        for place in {"/", *(os.path.realpath(path) for path in places)}:
            mount = disks.mount_of(place, mounts)
            names = () if mount is None else disks.read_devices(mount)
            if not names and (mount is None or mount.kind not in DEVICELESS):
                return None
            found.update(names)
    except OSError:
        return None
    return frozenset(found)


def read_kernel_file(path: Path, notes: list[str], limit: int = KERNEL_LIMIT) -> bytes:
    """The first `limit` bytes of a kernel log, compressed or not; what is wrong with it is a note. Raises OSError."""
    from trainguard.scanner import reading  # a scan without a kernel log does without

    stream = os.fdopen(os.dup(0), "rb", buffering=0) if path == Path("-") else reading.open_log(path)[0]
    content = bytearray()
    block = memoryview(bytearray(BLOCK))
    with stream:
        try:
            source, _ = reading.decompressed(stream)
            while len(content) <= limit and (count := source.readinto(block)):
                content += block[:count]
        except reading.damage_errors() as error:
            read = counted(len(content), "byte")
            notes.append(f"{path}: damaged or cut short, {read} of it were read ({error_sentence(error)})")
    if len(content) > limit:
        notes.append(f"{path}: only its first {limit} bytes are read")
        del content[limit:]
    told = bytes(content)
    if not has_kernel_lines(told):
        notes.append(f"{path}: no line in it is marked as the kernel's; dmesg and journalctl -k print such")
    return told


def foreign_processes(answer: Gpus) -> tuple[str, ...]:
    """Who holds memory on the GPUs and is dead, or another user's."""
    found = []
    for one in answer.gpus:
        for process in one.processes or ():
            held = "" if process.memory_used is None else f" with {size_text(process.memory_used)}"
            if process.lives is False:
                found.append(f"pid {process.pid}, which is dead,{held} on GPU {one.index}")
            elif process.uid is not None and process.uid != os.geteuid():
                found.append(f"pid {process.pid} of user {process.uid}{held} on GPU {one.index}")
    return tuple(found)


def faults_of(answer: Gpus) -> tuple[str, ...]:
    """What the GPUs say of their own health that bears on a crash."""
    found = []
    for one in answer.gpus:
        if one.error is not None:
            found.append(f"GPU {one.index}: {one.error}")
        if one.uncorrected_volatile:
            found.append(
                f"GPU {one.index}: {counted(one.uncorrected_volatile, 'uncorrected memory error')} "
                "since the driver started"
            )
        if one.remapped is not None and one.remapped.failed:
            found.append(
                f"GPU {one.index}: remapping of a memory row has failed; the board is to be replaced"
            )
        if (one.remapped is not None and one.remapped.pending) or one.retired_pages_pending:
            found.append(f"GPU {one.index}: a memory row waits for a reset to be remapped")
    return tuple(found)
