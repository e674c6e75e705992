"""Records: what repairs have done, kept in the run folder's `repairs/`, a file each, and a folder for what moved."""

import contextlib
import fcntl
import os
import re
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from trainguard import files
from trainguard.repairs.folders import Refused
from trainguard.repairs.values import Record

FOLDER = "repairs"
LIMIT = 64 << 20
_NAME = re.compile(r"\d{8}T\d{6}-[a-z-]+(?:-\d+)?\.json")


def folder_of(run_folder: Path) -> Path:
    """Where the records of a run folder lie."""
    return run_folder / FOLDER


def kept_by(run_folder: Path, record_id: str) -> Path:
    """Where what a repair moved away lies."""
    return folder_of(run_folder) / record_id


def list_records(run_folder: Path) -> list[Record]:
    """The records that can be read, the oldest first. Raises OSError where the folder cannot be read."""
    try:
        names = sorted(os.listdir(folder_of(run_folder)))  # noqa: PTH208
    except FileNotFoundError:
        return []
    found = (read(run_folder, name.removesuffix(".json")) for name in names if _NAME.fullmatch(name))
    return sorted((record for record in found if record is not None), key=lambda record: record.at_wall)


def read(run_folder: Path, record_id: str) -> Record | None:
    """One record, None where there is none that can be understood, or that somebody else could have written."""
    if not _NAME.fullmatch(f"{record_id}.json"):
        return None
    try:
        with files.opened(folder_of(run_folder) / f"{record_id}.json", follow=False) as descriptor:
            about = os.fstat(descriptor)
            if about.st_uid != os.geteuid() or about.st_mode & 0o022 or about.st_size > LIMIT:
                return None
            content = bytearray()
            while piece := os.read(descriptor, 1 << 20):
                content += piece
        record = msgspec.json.decode(bytes(content), type=Record)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None
    return record if record.id == record_id else None


def write(run_folder: Path, record: Record) -> None:
    """Keep a record, durably. Raises OSError."""
    folder = folder_of(run_folder)
    path = folder / f"{record.id}.json"
    files.write_whole(path, msgspec.json.format(msgspec.json.encode(record)) + b"\n")
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def new_id(run_folder: Path, repair: str, now_wall: float) -> str:
    """An id that no record has."""
    name = f"{time.strftime('%Y%m%dT%H%M%S', time.localtime(now_wall))}-{repair}"
    folder, free, number = folder_of(run_folder), name, 1
    while os.path.lexists(folder / f"{free}.json") or os.path.lexists(folder / free):
        number += 1
        free = f"{name}-{number}"
    return free


@contextlib.contextmanager
def held(run_folder: Path) -> Iterator[int]:
    """Be the only one who repairs, until the block ends; gives the descriptor that holds it.

    Raises Refused where somebody else repairs, or could write here, and OSError.
    """
    folder = folder_of(run_folder)
    folder.mkdir(mode=0o700, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        about = os.fstat(descriptor)
        if about.st_uid != os.geteuid() or stat.S_IMODE(about.st_mode) & 0o022:
            raise Refused(f"{folder} belongs to user {about.st_uid}, or others may write to it")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refused("another repair is under way") from None
        yield descriptor
    finally:
        os.close(descriptor)
