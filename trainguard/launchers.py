"""Launchers and schedulers: what torchelastic and Slurm know of how a job ended."""

import errno
import re
import time
from pathlib import Path

import msgspec

from trainguard.commands import ask_command
from trainguard.files import read_small

ERROR_FILE_LIMIT = 8 << 20
TEXT_LIMIT = 64 << 10
_JOB = re.compile(r"[0-9]{1,12}(?:[_+][0-9]{1,9})?")
_FIELDS = "JobID,State,ExitCode,DerivedExitCode,Reason,NodeList"
_UNKNOWN_JOB = (b"Invalid job id", b"slurm_load_jobs error")
# Slurm's own code for a step that was killed for memory, in DerivedExitCode.
_OUT_OF_MEMORY_SIGNAL = 125


class ElasticError(msgspec.Struct, frozen=True):
    """One worker's failure as it wrote it itself: `Type: text`, its traceback, and seconds since 1970."""

    exception: str
    traceback: str | None
    timestamp: float | None


class SlurmState(msgspec.Struct, frozen=True):
    """A job as Slurm records it.

    Neither state nor codes prove much alone: a job whose step ran out of memory is FAILED 1:0, a time limit
    is 0:0, and exit status 137 is told as 9:0. Hence `out_of_memory`, which is of any of its steps. `exit`
    and `derived_exit` are pairs of exit status and signal.
    """

    job: str
    state: str
    exit: tuple[int, int] | None
    derived_exit: tuple[int, int] | None
    reason: str | None
    nodes: str | None
    out_of_memory: bool | None
    cancelled_by: int | None = None


def parse_error_file(content: bytes) -> ElasticError | None:
    """torchelastic's error file (torch/distributed/elastic/multiprocessing/errors), None for anything else."""
    try:
        told = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    message = told.get("message") if isinstance(told, dict) else None
    if isinstance(message, str):
        # The older form, which entry points without @record still write.
        return ElasticError(message[:TEXT_LIMIT], None, _number(told.get("timestamp")))
    if not isinstance(message, dict) or not isinstance(message.get("message"), str):
        return None
    extra = message.get("extraInfo")
    extra = extra if isinstance(extra, dict) else {}
    callstack = extra.get("py_callstack")
    return ElasticError(
        message["message"][:TEXT_LIMIT],
        callstack[-TEXT_LIMIT:] if isinstance(callstack, str) else None,
        _number(extra.get("timestamp")),
    )


def read_error_file(path: Path) -> ElasticError:
    """A worker's error file. Raises OSError where it cannot be read or is something else."""
    found = parse_error_file(read_small(path, ERROR_FILE_LIMIT))
    if found is None:
        raise OSError(errno.EINVAL, "is no error file of torchelastic", str(path))
    return found


def parse_sacct(text: str, job: str) -> SlurmState | None:
    """The answer of `sacct --parsable2` with its header, None where it does not know the job."""
    lines = [line.split("|") for line in text.splitlines() if "|" in line]
    if not lines:
        return None
    names, *values = lines
    rows = [dict(zip(names, row, strict=False)) for row in values]
    own = [row for row in rows if row.get("JobID", "") == job or row.get("JobID", "").startswith(f"{job}.")]
    whole = next((row for row in own if row["JobID"] == job), None)
    if whole is None or not whole.get("State"):
        return None
    state, *rest = whole["State"].split()
    derived = _pair(whole.get("DerivedExitCode"))
    killed = any(row.get("State", "").startswith("OUT_OF_ME") for row in own)
    return SlurmState(
        job=job,
        state=state.rstrip("+"),
        exit=_pair(whole.get("ExitCode")),
        derived_exit=derived,
        reason=_word(whole.get("Reason")),
        nodes=_word(whole.get("NodeList")),
        out_of_memory=killed or _is_out_of_memory(derived),
        cancelled_by=int(rest[1]) if len(rest) == 2 and rest[0] == "by" and rest[1].isdigit() else None,
    )


def parse_scontrol(text: str, job: str) -> SlurmState | None:
    """The answer of `scontrol --details show job`, None where it does not tell of the job.

    It tells of the job as a whole, so that no step ran out of memory is not known from it.
    """
    for record in re.split(r"\n\s*\n", text):
        number = re.match(r"\s*JobId=(\d+)(?: ArrayJobId=(\d+) ArrayTaskId=(\d+))?", record)
        if number is None or job not in (number[1], f"{number[2]}_{number[3]}"):
            continue
        # Only what begins a line is Slurm's own: a job's name or command may hold anything.
        state = re.search(r"^\s*JobState=(\S+)(?: Reason=(\S+))?", record, re.MULTILINE)
        if state is None:
            continue
        # A name cannot imitate the beginning of a line.
        code = re.search(r"^\s*Requeue=\d.* ExitCode=(\d+:\d+)", record, re.MULTILINE)
        more = re.search(r"^\s*DerivedExitCode=(\d+:\d+)", record, re.MULTILINE)
        nodes = re.search(r"^\s*NodeList=(\S+)", record, re.MULTILINE)
        derived = _pair(more[1]) if more else None
        killed = state[1] == "OUT_OF_MEMORY" or _is_out_of_memory(derived)
        return SlurmState(
            job=job,
            state=state[1],
            exit=_pair(code[1]) if code else None,
            derived_exit=derived,
            reason=_word(state[2]),
            nodes=_word(nodes[1]) if nodes else None,
            out_of_memory=True if killed else None,
        )
    return None


def read_slurm_state(job: str, seconds: float) -> SlurmState | None:
    """Ask Slurm for a job: its accounting, or else its controller, which forgets a job after minutes.

    None where Slurm does not know the job. Raises OSError where it cannot be asked, or does not answer.
    """
    if not _JOB.fullmatch(job):
        raise OSError(errno.EINVAL, "is no number of a Slurm job", job)
    deadline = time.monotonic() + seconds
    accounting = ["sacct", "--parsable2", f"--format={_FIELDS}", f"--jobs={job}"]
    failure: OSError | None = None
    try:
        # Half the time, so that a database that does not answer leaves some for the controller.
        reply = ask_command(accounting, seconds / 2)
        found = parse_sacct(reply.output.decode(errors="replace"), job)
        if found is not None:
            return found
        if reply.code:
            failure = _refused("sacct", reply.errors)
    except OSError as error:
        failure = error
    try:
        reply = ask_command(
            ["scontrol", "--details", "show", "job", job], max(0.1, deadline - time.monotonic())
        )
    except TimeoutError:
        raise OSError(
            errno.ETIMEDOUT, f"Slurm's controller gave no answer within {seconds:g} s", "scontrol"
        ) from None
    except FileNotFoundError:
        if failure is None:
            return None
        if isinstance(failure, FileNotFoundError):
            raise FileNotFoundError(
                errno.ENOENT, "Slurm's commands are not on this machine", "sacct"
            ) from None
        raise failure from None
    if reply.code and not any(words in reply.errors for words in _UNKNOWN_JOB):
        raise _refused("scontrol", reply.errors)
    return parse_scontrol(reply.output.decode(errors="replace"), job)


def _refused(command: str, errors: bytes) -> OSError:
    lines = errors.decode(errors="replace").strip().splitlines()
    return OSError(errno.EIO, lines[-1][:200] if lines else "failed without a word", command)


def _is_out_of_memory(derived: tuple[int, int] | None) -> bool:
    return derived is not None and derived[1] == _OUT_OF_MEMORY_SIGNAL


def _pair(text: str | None) -> tuple[int, int] | None:
    found = re.fullmatch(r"(\d{1,6}):(\d{1,6})", text or "")
    return (int(found[1]), int(found[2])) if found else None


def _word(text: str | None) -> str | None:
    return None if text in (None, "", "None", "(null)", "None assigned", "Unknown") else text


def _number(value: object) -> float | None:
    """torch writes its timestamp as text."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if 0 < number < 1e11 else None
