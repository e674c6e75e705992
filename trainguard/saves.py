"""Saves: what lies where a run saves, how large and how old it is, and what was found in the newest ones."""

import os
import re
import stat
import time
from collections.abc import Collection, Iterable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import msgspec

from trainguard import probes, processes
from trainguard.checkpoints.listing import (
    Checkpoint,
    entries,
    find_folder,
    find_weights,
    is_loose,
    list_saves,
)
from trainguard.config import Settings
from trainguard.files import free_bytes, opened
from trainguard.identity import Identity
from trainguard.run_folder import RunFolder

if TYPE_CHECKING:  # they cost time, and only the child that reads needs them
    from trainguard.checkpoints.contents import Contents
    from trainguard.checkpoints.verdicts import Judgement

# The newest that are opened, and the newest of which only the files are listed.
JUDGED = 3
LISTED = 9
# What one checkpoint may take to be verified: of 64 ranks it takes some seconds.
JUDGE_SECONDS = 5.0
DEEP_CHECKPOINTS = 2
DEEP_SECONDS = 4 * 3600.0
LEFTOVERS_AT_MOST = 50
LINKS_AT_MOST = 200
RIGHTS_AT_MOST = 2000
ARGUMENTS_LIMIT = 1 << 20

_ASIDE = re.compile(r"0-(?:incomplete|suspect|weights-only)\..+\.(\d{8}T\d{6})(?:-\d+)?")
# transformers trainer.py before 4.42; torch distributed/checkpoint; what is written whole by renaming.
_TEMPORARY = re.compile(r"tmp-checkpoint-\d+|.+\.(?:tmp|part|tmp_save|saving)|\.tmp.+|\..+\.put-back")
_VALUES = re.compile(r"NaN|infinity|zero")


class Save(msgspec.Struct, frozen=True):
    """One checkpoint that was opened: `step` by its name (-1: none), `content_step` by its content.

    `verdict` is None where it could not be verified, `reason` says why. `agrees` is whether its framework writes the
    same step into both, `writing_seconds` from its first file to its last, `suspicion` what its numbers look like,
    `optimizer` a file that is named like an optimizer's state.
    """

    name: str
    step: int
    is_step: bool
    size: int
    wall: float | None
    verdict: str | None
    reason: str
    spoils: bool = False
    is_meant: bool = False
    content_step: int | None = None
    agrees: bool = False
    writing_seconds: float = 0.0
    suspicion: str | None = None
    layout: str | None = None
    optimizer: str | None = None

    @property
    def is_whole(self) -> bool:
        """Whether it holds all that this run saves."""
        return self.verdict == "complete" or self.is_meant


class Row(msgspec.Struct, frozen=True):
    """One of the newest checkpoints with a step, not opened: its size, its last change, and whether its shape lacks
    something."""

    name: str
    step: int
    size: int
    wall: float | None
    lacks: str | None = None


class Named(msgspec.Struct, frozen=True):
    """A pointer file and the checkpoint that it names; `problem` where it names none."""

    path: str
    target: str | None
    problem: str | None = None


class Leftover(msgspec.Struct, frozen=True):
    """What lies there and is no checkpoint any more, or none yet; `is_aside`: a watchdog has renamed it."""

    name: str
    size: int
    wall: float | None
    is_aside: bool


class Link(msgspec.Struct, frozen=True):
    """A symbolic link in the folder; `is_save`: it is named like a checkpoint."""

    name: str
    target: str
    dangles: bool
    is_save: bool


class Rights(msgspec.Struct, frozen=True):
    """What the user that the daemon runs as may do here: read and write the folder; `closed` is what it cannot read.

    `looked_at` files of the newest checkpoints were asked for. `mode` and `owner` are the folder's own.
    """

    uid: int
    writable: bool
    mode: int
    owner: int
    readable: bool = True
    closed: tuple[str, ...] = ()
    looked_at: int = 0


class Saves(msgspec.Struct, frozen=True):
    """All of that. `directory` is the setting, None where it names none, and `folder` where the checkpoints lie.

    `count` is how many there are, `judged` the newest ones, the newest first, `rows` more of those with a step, the
    oldest first. `interval_seconds` and `interval_steps` pass from save to save, `seconds` a save takes.
    `save_total_limit` is transformers' setting, by the newest checkpoint's own record of it. `overwritten`: there is
    one file, written over in place. `stray` are weights in no layout that is known. `lives`: the daemon does, or
    nobody knows; then it is not `is_sure`. `problem` is why the folder could not be listed.
    """

    directory: str | None
    folder: str | None = None
    lives: bool = True
    is_sure: bool = True
    count: int = 0
    judged: tuple[Save, ...] = ()
    rows: tuple[Row, ...] = ()
    interval_seconds: float | None = None
    interval_steps: float | None = None
    seconds: float | None = None
    free: int | None = None
    total: int | None = None
    save_total_limit: int | None = None
    overwritten: bool = False
    pointers: tuple[Named, ...] = ()
    pointer_expected: str | None = None
    leftovers: tuple[Leftover, ...] = ()
    more_leftovers: int = 0
    links: tuple[Link, ...] = ()
    rights: Rights | None = None
    stray: str | None = None
    problem: str | None = None


class Whole(msgspec.Struct, frozen=True):
    """What reading one checkpoint to its last byte has shown.

    `checked` of its `size` bytes were held against a checksum, `tensors` looked at number by number; `largest` is the
    largest magnitude in them. `unread` says why something could not be read; `vanished`: it was rotated away.
    """

    name: str
    size: int
    seconds: float
    faults: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    vanished: bool = False
    checked: int = 0
    tensors: int = 0
    largest: float | None = None


class Deep(msgspec.Struct, frozen=True):
    """What reading the newest whole checkpoints has shown; `asked` is false without --deep, `count` all there are."""

    asked: bool = False
    wholes: tuple[Whole, ...] = ()
    count: int = 0


# --- all at once -----------------------------------------------------------------------------------------------


def read_saves(settings: Settings) -> Saves:
    """What lies in the folder of the settings. Raises OSError where no child can be made."""
    directory = settings.checkpoints.directory
    if directory is None:
        return Saves(None)
    identity, lives = _daemon_of(settings)
    try:
        if not directory.exists():
            return Saves(str(directory), lives=lives)
        folder = find_folder(directory)
        listed = list_saves(folder)
    except OSError as error:
        problem = error.strerror or str(error)
        return Saves(str(directory), lives=lives, problem=problem, rights=_rights_of(directory, identity))
    numbered, loose = in_groups(listed)
    judged = judge(numbered, loose, lives)
    rows = _list_rows(numbered)
    interval_seconds, interval_steps = intervals_of(rows)
    whole = next((one for one in judged if one.is_whole), None)
    newest = next((one for one in judged if one.verdict is not None), None)
    about = os.statvfs(folder)
    leftovers, more = list_leftovers(folder)
    return Saves(
        directory=str(directory),
        folder=str(folder),
        lives=lives,
        is_sure=identity is not None,
        count=len(listed),
        judged=tuple(judged),
        rows=tuple(rows),
        interval_seconds=interval_seconds,
        interval_steps=interval_steps,
        seconds=_seconds_of(whole, interval_seconds),
        free=free_bytes(folder),
        total=about.f_blocks * about.f_frsize,
        save_total_limit=None if newest is None else read_save_total_limit(folder / newest.name),
        overwritten=not numbered and len(loose) == 1 and not loose[0].path.is_dir(),
        pointers=tuple(_list_pointers(folder)),
        pointer_expected=_pointer_of(newest),
        leftovers=leftovers,
        more_leftovers=more,
        links=tuple(list_links(folder)),
        rights=read_rights(folder, [folder / one.name for one in judged], identity),
        stray=None if listed else find_weights(folder),
    )


def in_groups(listed: Sequence[Checkpoint]) -> tuple[list[Checkpoint], list[Checkpoint]]:
    """Those that are told apart by a number in their names, and single files without a step, each oldest first."""
    loose = [one for one in listed if one.step < 0 or is_loose(one)]
    return [one for one in listed if one not in loose], loose


def judge(numbered: Sequence[Checkpoint], loose: Sequence[Checkpoint], lives: bool) -> list[Save]:
    """The newest ones, opened side by side, the newest first; of those without a number the newest only.

    One that gives no answer hides no other. Raises OSError where no child can be made.
    """
    chosen = [*numbered[-JUDGED:], *loose[-1:]]
    before = [
        *(numbered[max(0, place - 3) : place] for place in range(len(numbered))[-JUDGED:]),
        *([loose[max(0, len(loose) - 4) : -1]] if loose else []),
    ]
    asked = [
        # One that has a successor is not being written any more.
        probes.Probe(
            one.path.name,
            partial(_judge_one, one, siblings, lives and one in (*numbered[-1:], *loose[-1:])),
            Save,
            JUDGE_SECONDS,
        )
        for one, siblings in zip(chosen, before, strict=True)
    ]
    answers = probes.ask(asked)
    found = []
    for one in chosen:
        answer = answers[one.path.name]
        if isinstance(answer.value, Save):
            found.append(answer.value)
        else:
            reason = answer.problem or "no answer"
            found.append(Save(one.path.name, one.step, one.is_step, 0, None, None, reason))
    last = len(chosen) - len(loose[-1:])
    return [*reversed(found[:last]), *found[last:]]


def _judge_one(checkpoint: Checkpoint, siblings: Sequence[Checkpoint], lives: bool) -> Save:
    from trainguard.checkpoints.contents import list_files, read_checkpoint
    from trainguard.checkpoints.judging import STEPS_AGREE, judge_checkpoint

    contents = read_checkpoint(checkpoint)
    known = [list_files(one) for one in siblings]
    return save_of(contents, judge_checkpoint(contents, known, lives, time.time()), STEPS_AGREE)


def save_of(contents: "Contents", judgement: "Judgement", agreeing: Collection[str]) -> Save:
    """A judgement with the facts that it was made of."""
    from trainguard.checkpoints.judging import is_meant
    from trainguard.checkpoints.layouts import find

    checkpoint, layout = contents.checkpoint, contents.layout
    suspicion = next((fault.reason for fault in contents.faults if _VALUES.search(fault.reason)), None)
    return Save(
        name=checkpoint.path.name,
        step=checkpoint.step,
        is_step=checkpoint.is_step,
        size=contents.size_bytes,
        wall=contents.newest_mtime,
        verdict=judgement.verdict.value,
        reason=judgement.reason,
        spoils=judgement.spoils,
        is_meant=is_meant(judgement),
        content_step=contents.step,
        agrees=layout is not None and layout.name in agreeing,
        writing_seconds=contents.duration,
        suspicion=suspicion,
        layout=None if layout is None else layout.name,
        optimizer=find(contents.names, "*optim*"),
    )


def _daemon_of(settings: Settings) -> tuple[Identity | None, bool]:
    """The daemon on record, and whether it lives; without a record nobody knows that nothing writes here."""
    run = RunFolder(settings.logs.directory).load_state()[0].run
    if run is None or run.identity is None:
        return None, True
    return run.identity, run.ending is None and processes.read_living(run.identity) is not None


# --- sizes, ages, intervals ------------------------------------------------------------------------------------


def _list_rows(numbered: Sequence[Checkpoint]) -> list[Row]:
    from trainguard.checkpoints.contents import list_files
    from trainguard.checkpoints.judging import judge_checkpoint

    rows = []
    known = [list_files(one) for one in [one for one in numbered if one.is_step][-LISTED:]]
    for place, contents in enumerate(known):
        # By its shape alone: none is opened.
        judged = judge_checkpoint(contents, known[max(0, place - 3) : place], False, time.time())
        lacks = judged.reason if judged.verdict.value == "incomplete" else None
        checkpoint = contents.checkpoint
        rows.append(
            Row(checkpoint.path.name, checkpoint.step, contents.size_bytes, contents.newest_mtime, lacks)
        )
    return rows


def intervals_of(rows: Sequence[Row]) -> tuple[float | None, float | None]:
    """The seconds and the steps from one save to the next, by their medians; None for fewer than two."""
    times = [one.wall for one in rows if one.wall is not None]
    # A restart between two saves makes them lie further apart, or in another order.
    apart = [later - earlier for earlier, later in pairwise(times) if later > earlier]
    steps = [later.step - earlier.step for earlier, later in pairwise(rows) if later.step > earlier.step]
    return median(apart) if apart else None, median(steps) if steps else None


def _seconds_of(whole: Save | None, interval: float | None) -> float | None:
    """What a save takes, by its files' own times: one in a single file tells nothing, and one whose files somebody
    has touched later nothing true."""
    if whole is None or not whole.writing_seconds:
        return None
    return None if interval is not None and whole.writing_seconds > interval else whole.writing_seconds


def read_save_total_limit(path: Path) -> int | None:
    """How many checkpoints transformers keeps, by training_args.bin, which is not loaded; None where it says nothing.

    Never raises.
    """
    from trainguard.checkpoints.effort import Effort
    from trainguard.checkpoints.pickles import ExhaustedError, Thing, read_pickle
    from trainguard.checkpoints.verdicts import FaultError
    from trainguard.checkpoints.zips import read_entries, start_of

    try:
        with opened(path / "training_args.bin") as descriptor:
            effort = Effort()
            listed = read_entries(descriptor, 0, os.fstat(descriptor).st_size, effort)
            entry = next(one for one in listed if one.name.endswith("/data.pkl"))
            if entry.size > ARGUMENTS_LIMIT:
                return None
            content = effort.read(descriptor, entry.size, start_of(descriptor, entry))
        value = read_pickle(content, effort).value
    except (OSError, FaultError, ExhaustedError, StopIteration):
        return None
    state = value.state if isinstance(value, Thing) else None
    limit = state.get("save_total_limit") if isinstance(state, dict) else None
    return limit if type(limit) is int and limit > 0 else None


# --- beside the checkpoints ------------------------------------------------------------------------------------


def _list_pointers(folder: Path) -> Iterable[Named]:
    from trainguard.checkpoints.pointers import read_pointers

    for pointer in read_pointers(folder):
        target = None if pointer.target is None else pointer.target.name
        yield Named(str(pointer.path), target, pointer.problem)


def _pointer_of(save: Save | None) -> str | None:
    """The file that the framework of a checkpoint leads itself by, None where it has none."""
    from trainguard.checkpoints.layouts import LAYOUTS

    if save is None or save.layout is None:
        return None
    return next((layout.pointer for layout in LAYOUTS if layout.name == save.layout), None)


def list_leftovers(folder: Path) -> tuple[tuple[Leftover, ...], int]:
    """What was set aside and what was never finished, by name, with sizes; and how many more. Raises OSError."""
    from trainguard.checkpoints.contents import list_files

    found = []
    for entry in entries(folder):
        is_aside = _ASIDE.fullmatch(entry.name) is not None
        if is_aside or _TEMPORARY.fullmatch(entry.name):
            found.append((entry.name, is_aside))
    found.sort()
    leftovers = []
    for name, is_aside in found[:LEFTOVERS_AT_MOST]:
        contents = list_files(Checkpoint(-1, folder / name))
        stamp = _ASIDE.fullmatch(name)
        wall = _wall_of(stamp[1]) if stamp else contents.newest_mtime or _changed(folder / name)
        leftovers.append(Leftover(name, contents.size_bytes, wall, is_aside))
    return tuple(leftovers), len(found) - len(leftovers)


def _wall_of(text: str) -> float | None:
    try:
        return time.mktime(time.strptime(text, "%Y%m%dT%H%M%S"))
    except (ValueError, OverflowError):
        return None


def _changed(path: Path) -> float | None:
    try:
        return path.lstat().st_mtime
    except OSError:
        return None


def list_links(folder: Path) -> list[Link]:
    """The symbolic links in a folder. Raises OSError where it cannot be read."""
    from trainguard.checkpoints.layouts import rows_of

    links: list[Link] = []
    for entry in entries(folder):
        is_ours = entry.name.startswith("0-dangling.") or ".before-" in entry.name
        if is_ours or not entry.is_symlink() or len(links) >= LINKS_AT_MOST:
            continue
        try:
            target = os.readlink(entry.path)  # noqa: PTH115 - a plain string is wanted
            dangles = not os.path.exists(entry.path)  # noqa: PTH110
        except OSError:
            continue
        is_save = any(next(rows_of(entry.name, kind), None) is not None for kind in (True, False))
        links.append(Link(entry.name, target, dangles, is_save))
    return links


# --- rights ----------------------------------------------------------------------------------------------------


def read_rights(folder: Path, newest: Sequence[Path], identity: Identity | None) -> Rights:
    """What the daemon's user may do in a folder and with its newest checkpoints. Raises OSError."""
    about = folder.stat()
    uid = os.geteuid() if identity is None else identity.uid
    groups = groups_of(uid)
    closed, looked_at = [], 0
    for path in newest:
        for inner in _all_in(path):
            looked_at += 1
            if looked_at > RIGHTS_AT_MOST:
                break
            try:
                told = inner.stat()
            except OSError:
                continue
            wanted = os.R_OK | os.X_OK if stat.S_ISDIR(told.st_mode) else os.R_OK
            if not may(told, wanted, uid, groups):
                closed.append(str(inner.relative_to(folder)))
    return Rights(
        uid=uid,
        writable=may(about, os.W_OK | os.X_OK, uid, groups),
        mode=stat.S_IMODE(about.st_mode),
        owner=about.st_uid,
        readable=may(about, os.R_OK | os.X_OK, uid, groups),
        closed=tuple(closed),
        looked_at=looked_at,
    )


def _rights_of(folder: Path, identity: Identity | None) -> Rights | None:
    try:
        return read_rights(folder, (), identity)
    except OSError:
        return None


def may(about: os.stat_result, wanted: int, uid: int, groups: Collection[int]) -> bool:
    """Whether a user may do this by owner and mode; root may all. Access control lists are not looked at."""
    if uid == 0:
        return True
    shift = 6 if about.st_uid == uid else 3 if about.st_gid in groups else 0
    return about.st_mode >> shift & wanted == wanted


def groups_of(uid: int) -> frozenset[int]:
    """The groups of a user: this process's own, or what the user database says of another."""
    if uid == os.geteuid():
        return frozenset((os.getegid(), *os.getgroups()))
    import pwd

    try:
        known = pwd.getpwuid(uid)
    except KeyError:
        return frozenset()
    return frozenset(os.getgrouplist(known.pw_name, known.pw_gid))


def _all_in(path: Path) -> Iterable[Path]:
    """A checkpoint and all that lies in it; folders that cannot be listed are left at their names."""
    yield path
    for parent, folders, files in os.walk(path):
        yield from (Path(parent, name) for name in (*folders, *files))


# --- whole reading ---------------------------------------------------------------------------------------------


def read_deep(settings: Settings, deep: bool) -> Deep:
    """The newest whole checkpoints, read to their last byte. Raises OSError where the folder cannot be read."""
    directory = settings.checkpoints.directory
    if not deep or directory is None:
        return Deep(asked=deep)
    folder = find_folder(directory)
    listed = list_saves(folder)
    judged = judge(*in_groups(listed), _daemon_of(settings)[1])
    chosen = [one for one in judged if one.is_whole][:DEEP_CHECKPOINTS]
    deadline = time.monotonic() + DEEP_SECONDS - 5.0
    wholes = [
        _read_one(Checkpoint(one.step, folder / one.name), max(1.0, deadline - time.monotonic()))
        for one in chosen
    ]
    return Deep(True, tuple(wholes), len(listed))


def _read_one(checkpoint: Checkpoint, seconds: float) -> Whole:
    from trainguard.checkpoints.deep import faults_of, read_whole

    read = read_whole(checkpoint, seconds)
    changed = [f"{one.name} was written to while it was read" for one in read.files if one.changed]
    return Whole(
        name=checkpoint.path.name,
        size=read.size,
        seconds=read.seconds,
        faults=tuple(faults_of(read)),
        unread=(*read.problems, *changed),
        vanished=read.vanished,
        checked=sum(one.checked for one in read.files),
        tensors=sum(one.tensors for one in read.files),
        largest=read.largest,
    )
