"""Sources: where a run tells its progress, and the follower that reads what is new in them."""

import errno
import os
import re
import stat
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from trainguard.files import read_range, read_small
from trainguard.health import Finding, Status
from trainguard.progress.counting import Progress, note
from trainguard.progress.lines import LINE_LIMIT, STEP_LIMIT, Mark, Role, parse_segment
from trainguard.progress.words import parse_words, parse_work

LOOK_LIMIT = 8 << 20
FIRST_LOOK_LIMIT = 1 << 20
CHUNK = 256 << 10
ANCHOR = 64
EDGE = 64 << 10
# A file's time moves in ticks of up to 10 ms (and of 2 s on FAT), so one that changed just now is read again.
SETTLED_SECONDS = 2.0
CLOCK_SKEW_SECONDS = 5.0

_NOT_A_NUMBER = re.compile(rb"(?<=[\[:,\s])(-?Infinity|NaN)(?=\s*[,\]}])")
_GLOBAL_MAXIMUM = re.compile(rb'"max_steps": ?([0-9]{1,15})\b')


class Checkpoint(Protocol):
    """What the follower asks of a saved checkpoint."""

    @property
    def step(self) -> int: ...
    @property
    def path(self) -> Path: ...


class Follower:
    """Follows one run through all that it writes; a look reads only what is new, and never raises OSError.

    `log` is the daemon's output, which is this run's from byte `start_offset` on. `began_wall`, seconds since
    1970, is when the run began: the other files outlive runs, so what they said before is a baseline and not
    shown. `status_file` is a JSON object; `status_names` says which of its values are the `step`, `total`,
    `loss` and `epoch`, by name or by dotted path. In `checkpoint_directory` the follower looks for
    trainer_log.jsonl and, through `list_checkpoints`, for checkpoints and their trainer_state.json. A change
    of `heartbeat_file`'s modification time is an advance as long as nothing has told a step.
    """

    def __init__(
        self,
        log: Path,
        start_offset: int,
        *,
        began_wall: float,
        status_file: Path | None = None,
        status_names: Mapping[str, str] | None = None,
        checkpoint_directory: Path | None = None,
        list_checkpoints: Callable[[Path], Sequence[Checkpoint]] | None = None,
        heartbeat_file: Path | None = None,
    ) -> None:
        self._log = _Log(log, start_offset)
        self._sources: list[_Source] = []
        if heartbeat_file:
            self._sources.append(_Heartbeat(heartbeat_file))
        if checkpoint_directory and list_checkpoints:
            self._sources.append(_Checkpoints(checkpoint_directory, list_checkpoints, began_wall))
        if checkpoint_directory:
            self._sources.append(_Journal(checkpoint_directory / "trainer_log.jsonl", began_wall))
        if status_file:
            self._sources.append(_StatusFile(status_file, status_names or {}, began_wall))
        self._sources.append(self._log)
        self._progress = Progress()
        self._told: set[Finding] = set()

    def look(self) -> tuple[Progress, tuple[Finding, ...]]:
        """The progress by now, and the findings that are new: one that stays is told once, until it changes.

        What the first look finds already counts in `advances` too, so compare the later looks with it.
        """
        now_wall = time.time()
        for source in self._sources:
            for mark in source.read(now_wall):
                self._progress = note(self._progress, mark)
        problems = {source.problem for source in self._sources if source.problem}
        news = tuple(sorted(problems - self._told, key=str))
        self._told = problems
        shown = self._progress
        for mark in self._log.unfinished():
            shown = note(shown, mark)
        return shown, news

    def close(self) -> None:
        """Let go of the open files; a deleted log would otherwise keep its space."""
        for source in self._sources:
            source.close()


class _Source:
    """One place to read; `problem` is what is wrong with it now."""

    problem: Finding | None = None

    def read(self, now_wall: float) -> Iterator[Mark]:
        """The marks that are new since the last time."""
        raise NotImplementedError

    def close(self) -> None:
        """Nothing is open."""


class _Tail:
    """One open file: what was read, and the line that has not ended yet."""

    def __init__(self, path: Path, offset: int) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        about = os.fstat(self.descriptor)
        self.identity = (about.st_dev, about.st_ino)
        self.offset = offset
        self.anchor = b""
        self.pending = b""
        self.skipping = False
        self.idle = False

    def segments(self, limit: int) -> Iterator[bytes]:
        """What stands between the line ends (`\\n`, `\\r`) in the last `limit` of the new bytes."""
        size = os.fstat(self.descriptor).st_size
        self.idle = size == self.offset
        if self.idle:
            return
        if size < self.offset or self._overwritten():
            self._jump(0, skipping=False)
        if size - self.offset > limit:
            # From one byte earlier, so that a line which begins just there is whole.
            self._jump(size - limit - 1, skipping=True)
        while self.offset < size:
            data = os.pread(self.descriptor, min(CHUNK, size - self.offset), self.offset)
            if not data:
                return
            self.offset += len(data)
            self.anchor = (self.anchor + data)[-ANCHOR:]
            segments = (self.pending + data).replace(b"\r", b"\n").split(b"\n")
            # Only the first 64 KiB of a line count, so no more of it need be kept.
            self.pending = segments.pop()[:LINE_LIMIT]
            for segment in segments:
                if self.skipping:
                    self.skipping = False
                elif segment:
                    yield segment

    def _jump(self, offset: int, skipping: bool) -> None:
        self.offset, self.anchor, self.pending, self.skipping = offset, b"", b"", skipping

    def _overwritten(self) -> bool:
        """Whether the file was emptied and grew past where we were: then other bytes lead up to there."""
        before = os.pread(self.descriptor, len(self.anchor), self.offset - len(self.anchor))
        return before != self.anchor

    def deleted(self) -> bool:
        return os.fstat(self.descriptor).st_nlink == 0

    def close(self) -> None:
        os.close(self.descriptor)


class _Log(_Source):
    """A growing text, followed through rotation.

    A daemon whose log was renamed or deleted goes on writing to the file that it has open, until it opens the
    new one; so the former file stays open and is read as well, until the name is given a third time. A former
    one without a name is let go of once it rests and the new one has content, since its space would never come
    back. A file that was emptied is read from its beginning.
    """

    def __init__(self, path: Path, offset: int, subject: str = "log", expected: bool = True) -> None:
        self.path = path
        self.subject = f"{subject} {path}"
        self.expected = expected
        self.start = offset
        self.limit = FIRST_LOOK_LIMIT
        self.tails: list[_Tail] = []

    def read(self, now_wall: float) -> Iterator[Mark]:
        self.problem = None
        try:
            self._open_another()
        except (FileNotFoundError, NotADirectoryError):
            if self.expected:
                fact = "deleted or renamed; the open file is still read" if self.tails else "does not exist"
                remedy = "let the daemon write to this path"
                self.problem = Finding(Status.ATTENTION, self.subject, fact, remedy)
        except OSError as error:
            self.problem = _unreadable(self.subject, error)
        for tail in tuple(self.tails):
            try:
                for segment in tail.segments(self.limit):
                    yield from parse_told(segment)
            except OSError as error:
                # A handle that went stale, on a network file system, is opened again at the next look.
                self.problem = _unreadable(self.subject, error)
                self.start = tail.offset
                self.tails.remove(tail)
                tail.close()
        if self.tails:
            self.limit = LOOK_LIMIT
        while self._is_left():
            self.tails.pop(0).close()

    def unfinished(self) -> Iterator[Mark]:
        """The marks in a last line that looks whole but has not ended: a bar's end comes with the next bar.

        A bar ends in `]`, then perhaps in blanks and the codes that lead back to the line of an outer bar.
        What a former file ends in is of the past once the new one has content.
        """
        tail = next((tail for tail in reversed(self.tails) if tail.offset), None)
        if tail and not tail.skipping and b"]" in tail.pending.rstrip(b" ")[-16:]:
            yield from parse_segment(tail.pending)

    def close(self) -> None:
        for tail in self.tails:
            tail.close()
        self.tails = []

    def _open_another(self) -> None:
        about = os.stat(self.path)  # noqa: PTH116 - half the cost of Path.stat, at each look
        if self.tails and self.tails[-1].identity == (about.st_dev, about.st_ino):
            return
        # Asked before it is opened: opening a FIFO wakes its writer, and a device may do anything.
        if not stat.S_ISREG(about.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(self.path))
        self.tails.append(_Tail(self.path, 0 if self.tails else self.start))

    def _is_left(self) -> bool:
        """Whether nobody will read or write the oldest of the open files any more."""
        if len(self.tails) != 2:
            return len(self.tails) > 2
        former, newest = self.tails
        return former.idle and newest.offset > 0 and former.deleted()


class _Journal(_Log):
    """LLaMA-Factory's trainer_log.jsonl: a log without a known beginning, since a resumed run appends to it.

    What stands in it at the first look is a baseline, and its last line shown if it is of this run.
    """

    def __init__(self, path: Path, began_wall: float) -> None:
        super().__init__(path, 0, "training log", expected=False)
        self.began_wall = began_wall
        self.looked = False

    def read(self, now_wall: float) -> Iterator[Mark]:
        if self.looked:
            yield from super().read(now_wall)
            return
        self.looked = True
        marks = list(super().read(now_wall))
        if marks and self.tails:
            about = os.fstat(self.tails[-1].descriptor)
            yield msgspec.structs.replace(marks[-1], stale=not _is_of_run(about, self.began_wall, now_wall))


class _File(_Source):
    """A file, or a folder, that is read whole when it has changed."""

    def __init__(self, path: Path, subject: str) -> None:
        self.path = path
        self.subject = f"{subject} {path}"
        self.seen: tuple[int, ...] | None = None
        self.first = True

    def changed(self, now_wall: float) -> os.stat_result | None:
        """What is known of the file if it is worth reading; None if it has not changed or does not exist."""
        try:
            about = os.stat(self.path)  # noqa: PTH116 - as above
        except (FileNotFoundError, NotADirectoryError):
            self.seen, self.problem, self.first = None, None, False
            return None
        except OSError as error:
            self.seen, self.problem = None, _unreadable(self.subject, error)
            return None
        state = (about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns)
        if state == self.seen:
            return None
        settled = not 0 <= now_wall - about.st_mtime < SETTLED_SECONDS
        self.seen = state if settled else None
        self.problem = None
        return about


class _StatusFile(_File):
    """A JSON object that the daemon replaces; what cannot be read leaves the last good values standing."""

    def __init__(self, path: Path, names: Mapping[str, str], began_wall: float) -> None:
        super().__init__(path, "status file")
        self.names = names
        self.began_wall = began_wall

    def read(self, now_wall: float) -> Iterator[Mark]:
        about = self.changed(now_wall)
        if about is None:
            return
        stale = self.first and not _is_of_run(about, self.began_wall, now_wall)
        if about.st_mtime > now_wall + CLOCK_SKEW_SECONDS:
            remedy = "set the clocks right"
            self.problem = Finding(Status.ATTENTION, self.subject, "was modified in the future", remedy)
        try:
            values = _decode(read_small(self.path))
        except OSError as error:
            self.problem = _unreadable(self.subject, error)
            return
        except (msgspec.DecodeError, RecursionError):
            remedy = "write it to another name and rename it over this one"
            self.problem = Finding(Status.ATTENTION, self.subject, "no JSON, or only a part of it", remedy)
            return
        self.first = False
        yield from self._mark(values, stale)

    def _mark(self, values: object, stale: bool) -> Iterator[Mark]:
        found = {what: _at(values, path) for what, path in self.names.items()}
        step, total = _count(found.get("step")), _count(found.get("total"))
        loss, epoch = _real(found.get("loss")), _real(found.get("epoch"))
        epoch = epoch if epoch is not None and 0 <= epoch < STEP_LIMIT else None
        work = parse_work(found.pop("work", None))
        good = {"step": step, "total": total, "loss": loss, "epoch": epoch}
        if not isinstance(values, dict):
            bad = "is no JSON object"
        elif wrong := sorted(
            self.names[what] for what, value in found.items() if value is not None and good.get(what) is None
        ):
            bad = f"has no usable number as {', '.join(wrong)}"
        elif "step" in self.names and not _has(values, self.names["step"]):
            bad = f"has no {self.names['step']}"
        else:
            bad = ""
        if bad:
            self.problem = Finding(Status.ATTENTION, self.subject, bad, "set its names in the settings right")
        if work is not None or any(value is not None for value in good.values()):
            yield Mark(
                "status file",
                "status file",
                step=step,
                total=total or None,
                loss=loss,
                epoch=epoch,
                stale=stale,
                work=work,
            )


class _Checkpoints(_File):
    """The folder of checkpoints: the largest step that this run saved, and the newest one's trainer state."""

    def __init__(
        self, path: Path, list_checkpoints: Callable[[Path], Sequence[Checkpoint]], began_wall: float
    ) -> None:
        super().__init__(path, "checkpoint folder")
        self.list_checkpoints = list_checkpoints
        self.began_wall = began_wall
        self.state: _TrainerState | None = None

    def read(self, now_wall: float) -> Iterator[Mark]:
        first = self.first
        about = self.changed(now_wall)
        self.first = False
        if about is not None:
            try:
                checkpoints = self.list_checkpoints(self.path)
            except OSError as error:
                self.problem = _unreadable(self.subject, error)
                checkpoints = ()
            own = [checkpoint for checkpoint in checkpoints if self._is_own(checkpoint, now_wall)]
            newest = max(own or checkpoints, key=lambda checkpoint: checkpoint.step, default=None)
            if newest and (self.state is None or self.state.path.parent != newest.path):
                self.state = _TrainerState(newest.path / "trainer_state.json", stale=not own)
            step = newest.step if newest and own else None
        else:
            step = None
        if first or step is not None:
            # Zero, and not shown, where this run has saved nothing yet: then its first one is an advance.
            yield Mark("checkpoint", "checkpoint", step=step or 0, stale=step is None)
        if self.state:
            yield from self.state.read(now_wall)

    def _is_own(self, checkpoint: Checkpoint, now_wall: float) -> bool:
        try:
            return _is_of_run(checkpoint.path.stat(), self.began_wall, now_wall)
        except OSError:
            return False


class _TrainerState(_File):
    """A checkpoint's trainer_state.json, for its `max_steps`.

    transformers writes it sorted by name, with the history of all logged lines in the middle: tens of
    megabytes in a long run, so only its two ends are read. That it cannot be read is no finding here: whether
    a checkpoint is whole is judged elsewhere.
    """

    def __init__(self, path: Path, stale: bool) -> None:
        super().__init__(path, "trainer state")
        self.stale = stale

    def read(self, now_wall: float) -> Iterator[Mark]:
        about = self.changed(now_wall)
        if about is None:
            return
        try:
            ends = read_range(self.path, max(0, about.st_size - EDGE), about.st_size)
            if about.st_size > EDGE:
                ends = read_range(self.path, 0, EDGE) + b"\n" + ends
        except OSError:
            return
        found = _GLOBAL_MAXIMUM.findall(ends)
        if found and int(found[-1]):
            yield Mark("trainer state", "trainer state", total=int(found[-1]), stale=self.stale)


class _Heartbeat(_File):
    """A file that the daemon touches; only its modification time is looked at."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "heartbeat")

    def read(self, now_wall: float) -> Iterator[Mark]:
        about = self.changed(now_wall)
        if about is None:
            return
        if not stat.S_ISREG(about.st_mode):
            remedy = "let the daemon touch a file"
            self.problem = Finding(Status.ATTENTION, self.subject, "not a regular file", remedy)
            return
        # In milliseconds it stays below 2**53 until long after the year 200,000.
        yield Mark("heartbeat", "heartbeat", Role.BEAT, step=about.st_mtime_ns // 1_000_000)


def parse_told(segment: bytes) -> list[Mark]:
    """The marks between two line ends: how far the run is, else what it says it is at."""
    marks = parse_segment(segment)
    if marks:
        return marks
    words = parse_words(segment)
    return [] if words is None else [words]


def _is_of_run(about: os.stat_result, began_wall: float, now_wall: float) -> bool:
    """Whether a file was changed since the run began. One from the future proves nothing."""
    return began_wall <= about.st_mtime <= now_wall + CLOCK_SKEW_SECONDS


def _unreadable(subject: str, error: OSError) -> Finding:
    reason = error.strerror or "cannot be read"
    return Finding(Status.UNKNOWN, subject, reason[:1].lower() + reason[1:], "make it a readable file")


def _decode(content: bytes) -> object:
    """JSON, also as Python's json.dump writes it: with NaN and Infinity. Raises msgspec.DecodeError."""
    try:
        return msgspec.json.decode(content)
    except msgspec.DecodeError:
        return msgspec.json.decode(_NOT_A_NUMBER.sub(rb'"\1"', content))


def _at(values: object, path: str) -> object:
    for name in path.split("."):
        values = values.get(name) if isinstance(values, dict) else None
    return values


def _has(values: object, path: str) -> bool:
    *folders, name = path.split(".")
    parent = _at(values, ".".join(folders)) if folders else values
    return isinstance(parent, dict) and name in parent


def _count(value: object) -> int | None:
    """A count of steps in JSON: a whole number of 0 to 2**53 - 1, and neither true nor a string."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if not 0 <= value < STEP_LIMIT or value != int(value):
        return None
    return int(value)


def _real(value: object) -> float | None:
    """A number in JSON, or one of the three names for what JSON cannot write."""
    if value in ("NaN", "Infinity", "-Infinity"):
        return float(str(value))
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > sys.float_info.max:
        return None
    return float(value)
