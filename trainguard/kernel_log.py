"""The kernel log: what the kernel and its drivers said, as lines with their wall time."""

import errno
import os
import re
import time
from collections import deque
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone

import msgspec

from trainguard.commands import ask_command

HINT = "needs root or the group adm / sysctl kernel.dmesg_restrict; give it as a file with --kernel-log"
LINE_LIMIT = 8 << 10
RECORDS_LIMIT = 100_000
READ_SECONDS = 5.0
# Documentation/ABI/testing/dev-kmsg: one read gives one record; the kernel's own limit is 8 KiB with its escapes.
_RECORD_LIMIT = 16 << 10
KMSG = "/dev/kmsg"
_DAY = 86_400.0

_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_COLOURED = re.compile(rb"\x1b\[[0-9;]*[A-Za-z]")
_RECORD = re.compile(r"\d{1,10},\d{1,20},(\d{1,20}),[-c+](?:,[^;]*)?;(.*)", re.DOTALL)
_ESCAPE = re.compile(rb"\\x([0-9a-f]{2})")
_LEVEL = re.compile(r"<\d{1,3}>|[a-z0-9]{3,8} *:[a-z]{3,6} *: ")
_MONOTONIC = re.compile(r"\[ *(\d{1,12}\.\d{3,9})\] ?(?:\[ *[TC]\d+\] ?)?")
_RELATIVE = re.compile(r"\[(?: *\+\d+\.\d+|[A-Z][a-z]{2} ?\d{1,2} \d\d:\d\d)\] ?")
_LONG_DATE = re.compile(r"\[[A-Z][a-z]{2} ([A-Z][a-z]{2}) +(\d{1,2}) (\d\d):(\d\d):(\d\d) (\d{4})\] ?")
_SHORT_DATE = re.compile(r"([A-Z][a-z]{2}) +(\d{1,2}) (\d\d):(\d\d):(\d\d)(\.\d{1,9})? ")
_ISO_DATE = re.compile(
    r"(?:[A-Z][a-z]{2} )?(\d{4})-(\d\d)-(\d\d)[T ](\d\d):(\d\d):(\d\d)([.,]\d{1,9})?"
    r"(Z|[+-]\d\d:?\d\d| [A-Z]{3,5}(?= ))? ?"
)
_UNIX_TIME = re.compile(r"(\d{9,11}\.\d{1,9}) ")
_KERNEL = re.compile(r"\S+ kernel: ?")
_PROGRAM = re.compile(r"\S+ (?=[^\s:\[]{1,64}(?:\[\d+\])?: )")
# What only the kernel's lines bear: a record's head, a level, its clock, a date of dmesg's, its name in a syslog.
_KERNELS = re.compile(
    rb"""(?mx) ^(?:
        \d{1,10},\d{1,20},\d{1,20},[-c+]
        | <\d{1,3}>
        | [a-z0-9]{3,8}[ ]*:[a-z]{3,6}[ ]*:[ ]
        | \[[ ]*[+]?\d{1,12}\.\d{3,9}\]
        | \[[A-Z][a-z]{2}[ ]?(?:[A-Z][a-z]{2}[ ]+)?\d{1,2}[ ]\d\d:\d\d
        | \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d,\d{6}[-+]
        | .{1,120}[ ]kernel:[ ]
    )"""
)
_JOURNAL_REMARK = re.compile(r"-- .* --$|-- cursor: ")
_MONTHS = {
    name: number
    for number, name in enumerate(
        ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"), start=1
    )
}
_NOT_ALLOWED = (b"insufficient permissions", b"not seeing messages", b"No journal files")


class KernelLine(msgspec.Struct, frozen=True):
    """One line of the kernel log: seconds since 1970, None where that cannot be told, and the bare text.

    A line of another program, in a log that holds all of them, keeps that program's name.
    """

    time: float | None
    text: str


def parse_kernel_log(
    text: bytes, boot_wall: float | None = None, now_wall: float | None = None
) -> list[KernelLine]:
    """The lines of a kernel log, as /dev/kmsg, dmesg, `journalctl -k` or syslog write it.

    `boot_wall` is when that machine booted (seconds since 1970): without it, times since boot stay unknown.
    `now_wall` gives the year to dates that have none: the last year in which they are not in the future.
    """
    lines = []
    for raw in text.split(b"\n"):
        line = _COLOUR.sub("", raw[:LINE_LIMIT].decode(errors="replace")).rstrip("\r\0 ")
        # In /dev/kmsg, lines with a leading blank are a record's dictionary.
        if not line.strip() or line.startswith((" SUBSYSTEM=", " DEVICE=")) or _JOURNAL_REMARK.match(line):
            continue
        lines += _parse_line(line, boot_wall, now_wall)
    return lines


def has_kernel_lines(text: bytes) -> bool:
    """Whether any line is marked as the kernel's; those of `dmesg -t` are not."""
    return _KERNELS.search(_COLOURED.sub(b"", text)) is not None


def read_kernel_log(since: float | None = None) -> list[KernelLine]:
    """The kernel log of this machine from `since` (seconds since 1970) on, or all that it still holds.

    Raises OSError, with one sentence that says what to do, where it may not be read or is not there.
    """
    try:
        lines = _read_kmsg()
    except OSError:
        return _read_journal(since)
    return [line for line in lines if since is None or line.time is None or line.time >= since]


def _read_kmsg() -> list[KernelLine]:
    records: deque[bytes] = deque(maxlen=RECORDS_LIMIT)
    began = time.monotonic()
    descriptor = os.open(KMSG, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        # Opened at its first record; what is written while it is read could go on for ever.
        while time.monotonic() - began < READ_SECONDS:
            try:
                record = os.read(descriptor, _RECORD_LIMIT)
            except BlockingIOError:
                break
            except OSError as error:
                # The record was overwritten before it was read: the next read goes on behind it.
                if error.errno == errno.EPIPE:
                    continue
                raise
            if not record:
                break
            records.append(record.partition(b"\n")[0])
            told = record.split(b",", 3)
            if len(told) == 4 and told[2].isdigit() and int(told[2]) / 1e6 > began:
                break
    finally:
        os.close(descriptor)
    # The kernel's clock stands still in a suspend, so records from before one come out later than they were;
    # from the time since boot as it is now, the newest are right.
    return parse_kernel_log(b"\n".join(records), boot_wall=time.time() - time.monotonic())


def _read_journal(since: float | None) -> list[KernelLine]:
    arguments = ["journalctl", "-k", "--no-pager", "-o", "short-unix", f"--lines={RECORDS_LIMIT}"]
    if since is not None:
        arguments.append(f"--since=@{int(since)}")
    try:
        reply = ask_command(arguments, READ_SECONDS)
    except TimeoutError:
        raise OSError(
            errno.ETIMEDOUT, f"journalctl gave no answer within {READ_SECONDS:g} s", "kernel log"
        ) from None
    except OSError:
        raise _unreadable() from None
    lines = parse_kernel_log(reply.output)
    # An empty journal may be one that is hidden from this user: that nothing was said is then not known.
    if not lines and (reply.code or any(words in reply.errors for words in _NOT_ALLOWED)):
        raise _unreadable()
    return lines


def _unreadable() -> OSError:
    return OSError(errno.EACCES, f"the kernel log may not be read ({HINT})")


def _parse_line(line: str, boot_wall: float | None, now_wall: float | None) -> list[KernelLine]:
    record = _RECORD.fullmatch(line)
    if record:
        moment = _since_boot(int(record[1]) / 1e6, boot_wall)
        return [KernelLine(moment, part) for part in _unescape(record[2]).split("\n")]
    level = _LEVEL.match(line)
    if level:
        line = line[level.end() :]
    moment, rest, names_host = _date(line, now_wall)
    if names_host:
        head = _KERNEL.match(rest) or _PROGRAM.match(rest)
        rest = rest[head.end() :] if head else rest
    # syslog and the journal may keep the kernel's own clock in the text.
    clock = _MONOTONIC.match(rest)
    if clock:
        rest = rest[clock.end() :]
        if moment is None:
            moment = _since_boot(float(clock[1]), boot_wall)
            head = _KERNEL.match(rest)
            rest = rest[head.end() :] if head else rest
    return [KernelLine(moment, rest)]


def _unescape(text: str) -> str:
    """The kernel writes bytes that cannot be printed as `\\x1b` in a record."""
    return _ESCAPE.sub(lambda found: bytes([int(found[1], 16)]), text.encode()).decode(errors="replace")


def _date(line: str, now_wall: float | None) -> tuple[float | None, str, bool]:
    """The wall time that a line begins with, what follows, and whether that begins with a host's name."""
    names_host = True
    if found := _LONG_DATE.match(line):
        month, day, hour, minute, second, year = found.groups()
        moment = _local(int(year), _MONTHS.get(month, 0), day, hour, minute, second, None)
        names_host = False
    elif found := _ISO_DATE.match(line):
        moment = _iso(found.groups())
        # dmesg's own form of it has a comma, and no name.
        names_host = not (found[7] or "").startswith(",")
    elif found := _UNIX_TIME.match(line):
        moment = float(found[1])
    elif found := _SHORT_DATE.match(line):
        moment = _without_year(found, now_wall)
    elif found := _RELATIVE.match(line):
        moment, names_host = None, False
    else:
        return None, line, False
    return moment, line[found.end() :], names_host


def _iso(parts: Sequence[str | None]) -> float | None:
    year, month, day, hour, minute, second, fraction, zone = (part or "" for part in parts)
    zone = zone.strip()
    local = _local(int(year), int(month), day, hour, minute, second, fraction)
    if local is None or not zone or (zone.isalpha() and zone not in ("Z", "UTC", "GMT")):
        return local
    offset = timedelta(0)
    if not zone.isalpha():
        digits = zone[1:].replace(":", "")
        offset = timedelta(hours=int(digits[:2]), minutes=int(digits[2:])) * (-1 if zone[0] == "-" else 1)
    try:
        whole = datetime(
            int(year), int(month), int(day), int(hour), int(minute), min(int(second), 59), tzinfo=timezone.utc
        )
        return (whole - offset).timestamp() + _fraction(fraction)
    except (ValueError, OverflowError):
        return None


def _without_year(found: "re.Match[str]", now_wall: float | None) -> float | None:
    if now_wall is None:
        return None
    month, day, hour, minute, second, fraction = found.groups()
    year = time.localtime(now_wall).tm_year
    # Four years back, for a 29th of February.
    for candidate in range(year + 1, year - 5, -1):
        moment = _local(candidate, _MONTHS.get(month, 0), day, hour, minute, second, fraction)
        if moment is not None and moment <= now_wall + _DAY:
            return moment
    return None


def _local(
    year: int, month: int, day: str, hour: str, minute: str, second: str, fraction: str | None
) -> float | None:
    try:
        moment = datetime(year, month, int(day), int(hour), int(minute), min(int(second), 59))
        return moment.timestamp() + _fraction(fraction)
    except (ValueError, OverflowError, OSError):
        return None


def _fraction(text: str | None) -> float:
    return float("0." + text[1:]) if text else 0.0


def _since_boot(seconds: float, boot_wall: float | None) -> float | None:
    return None if boot_wall is None else boot_wall + seconds
