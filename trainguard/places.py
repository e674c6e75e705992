"""Places: the paths that the settings name and what lies there, each looked at by itself, since any may hang."""

import os
import stat
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import msgspec

from trainguard import probes
from trainguard.config import (
    Settings,
    check_paths,
    kind,
    load_settings,
    may,
    mode_of,
    resolve_program,
    search_path,
)

PLACE_SECONDS = 2.0
DETECTOR_LOGS_AT_MOST = 20


class Place(msgspec.Struct, frozen=True):
    """One path of the settings: `kind` is what it is, None where there is nothing; `uid` and `mode` are its own.

    `parent` is whether the folder that it belongs in is one, `writable` whether files can be made there, in the
    place itself if it is a folder. `problem` is why nothing is known of it.
    """

    setting: str
    path: str
    kind: str | None = None
    uid: int | None = None
    gid: int | None = None
    mode: int | None = None
    wall: float | None = None
    parent: bool = False
    writable: bool = False
    problem: str | None = None


class Places(msgspec.Struct, frozen=True):
    """The configuration on this machine.

    `problems` are what config.check_paths tells, None where it did not answer; `invalid` what is wrong with the
    file as it is now. `program` is the file that the command starts, `scripts` its words that are names of Python
    files, with whether each is there.
    """

    rows: tuple[Place, ...]
    problems: tuple[str, ...] | None
    invalid: tuple[str, ...]
    program: str | None
    scripts: dict[str, bool]
    uid: int


def places_of(settings: Settings) -> Iterator[tuple[str, Path]]:
    """Each path that the settings name, with the dotted name of its setting."""
    yield "file", settings.path
    yield "daemon.directory", settings.daemon.directory
    yield "daemon.log", settings.daemon.log
    yield "logs.directory", settings.logs.directory
    named = {
        "daemon.pid_file": settings.daemon.pid_file,
        "progress.status_file": settings.progress.status_file,
        "progress.log_file": settings.progress.log_file,
        "progress.heartbeat_file": settings.progress.heartbeat_file,
        "checkpoints.directory": settings.checkpoints.directory,
        "detector.signatures": settings.detector.signatures,
    }
    yield from ((name, path) for name, path in named.items() if path is not None)
    for index, path in enumerate(settings.detector.logs[:DETECTOR_LOGS_AT_MOST]):
        yield f"detector.logs[{index}]", path


def read_places(settings: Settings) -> Places:
    """All of them, side by side. Raises OSError where no child can be made."""
    asked = [
        probes.Probe(name, partial(read_place, name, path), Place, PLACE_SECONDS)
        for name, path in places_of(settings)
    ]
    asked += [
        probes.Probe("problems", lambda: check_paths(settings), tuple[str, ...], PLACE_SECONDS),
        probes.Probe("invalid", lambda: _what_is_invalid(settings.path), tuple[str, ...], PLACE_SECONDS),
        probes.Probe("program", lambda: _program_of(settings), str | None, PLACE_SECONDS),
        probes.Probe("scripts", lambda: _scripts_of(settings), dict[str, bool], PLACE_SECONDS),
    ]
    answers = probes.ask(asked)
    rows = tuple(_row(name, path, answers[name]) for name, path in places_of(settings))
    problems, invalid = answers["problems"].value, answers["invalid"]
    program, scripts = answers["program"].value, answers["scripts"].value
    return Places(
        rows=rows,
        problems=problems if isinstance(problems, tuple) else None,
        invalid=invalid.value if isinstance(invalid.value, tuple) else (invalid.problem or "cannot be read",),
        program=program if isinstance(program, str) else None,
        scripts=scripts if isinstance(scripts, dict) else {},
        uid=os.geteuid(),
    )


def _row(name: str, path: Path, answer: probes.Answer) -> Place:
    if isinstance(answer.value, Place):
        return answer.value
    return Place(name, str(path), problem=answer.problem or "cannot be looked at")


def read_place(name: str, path: Path) -> Place:
    """What lies at a path. Raises OSError where that cannot be found out."""
    parent = stat.S_ISDIR(mode_of(path.parent))
    try:
        about = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        writable = parent and may(path.parent, os.W_OK | os.X_OK)
        return Place(name, str(path), parent=parent, writable=writable)
    is_folder = stat.S_ISDIR(about.st_mode)
    writable = may(path, os.W_OK | os.X_OK if is_folder else os.W_OK)
    return Place(
        name,
        str(path),
        kind(about.st_mode),
        about.st_uid,
        about.st_gid,
        stat.S_IMODE(about.st_mode),
        about.st_mtime,
        parent,
        writable,
    )


def _what_is_invalid(path: Path) -> tuple[str, ...]:
    from trainguard.config import ConfigError

    try:
        load_settings(path)
    except ConfigError as error:
        return error.problems
    return ()


def _program_of(settings: Settings) -> str | None:
    daemon = settings.daemon
    found = resolve_program(daemon.command[0], daemon.directory, search_path(settings))
    return None if found is None else str(found)


def _scripts_of(settings: Settings) -> dict[str, bool]:
    """The first word that names a Python file is what the program runs; what comes behind it are arguments."""
    daemon = settings.daemon
    script = next((word for word in daemon.command[1:] if word.endswith(".py") and word[0] != "-"), None)
    if script is None:
        return {}
    place = daemon.directory / script
    return {str(place): stat.S_ISREG(mode_of(place))}
