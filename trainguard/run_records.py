"""Run records: what the run folder remembers of crashes, and the copies of checkpoints that it keeps."""

import msgspec

from trainguard.config import Settings
from trainguard.history import HISTORY_FILE

COPIES_AT_MOST = 100


class Remembered(msgspec.Struct, frozen=True):
    """The crash history: how many crashes, the newest by its type and cause, and what is wrong with the file."""

    path: str
    is_there: bool
    count: int = 0
    newest: str | None = None
    newest_wall: float | None = None
    verdict: str = ""
    problems: tuple[str, ...] = ()


class KeptCopy(msgspec.Struct, frozen=True):
    """A checkpoint that is written over in place, when it was changed, and when what its copy shows was."""

    path: str
    wall: float
    copied_wall: float | None = None
    copied_size: int | None = None
    size: int = 0


class Copies(msgspec.Struct, frozen=True):
    """The copies that checkpoints.keep_copy asks for; `is_wanted` is false where it does not."""

    is_wanted: bool
    directory: str | None = None
    rows: tuple[KeptCopy, ...] = ()


def read_history(settings: Settings) -> Remembered:
    """The crash history, read only. Raises OSError where the folder cannot be looked at."""
    from trainguard.history import History  # with SQLite, which costs memory

    path = settings.logs.directory / HISTORY_FILE
    try:
        path.lstat()
    except FileNotFoundError:
        return Remembered(str(path), False)
    history = History(path, writable=False)
    try:
        summary = history.summary()
    finally:
        history.close()
    newest = max(summary.seen, key=lambda one: one.last_seen, default=None)
    problems = [note.removeprefix(f"the crash history {path} ") for note in history.notes]
    return Remembered(
        path=str(path),
        is_there=True,
        count=summary.count,
        newest=None if newest is None else newest.cause or newest.type,
        newest_wall=None if newest is None else newest.last_seen,
        verdict=summary.trend.verdict,
        problems=tuple(problems),
    )


def read_copies(settings: Settings) -> Copies:
    """The copies of what the trainer writes over. Raises OSError where the folder cannot be read."""
    directory = settings.checkpoints.directory
    if not settings.checkpoints.keep_copy or directory is None:
        return Copies(settings.checkpoints.keep_copy)
    from trainguard.copies.keeping import list_overwritten, place_of

    rows = []
    for original in list_overwritten(directory)[:COPIES_AT_MOST]:
        try:
            about = original.stat()
        except FileNotFoundError:
            continue
        try:
            copy = place_of(settings.logs.directory, original).stat()
        except FileNotFoundError:
            rows.append(KeptCopy(str(original), about.st_mtime, size=about.st_size))
            continue
        # A copy bears the time of its original.
        rows.append(KeptCopy(str(original), about.st_mtime, copy.st_mtime, copy.st_size, about.st_size))
    return Copies(True, str(directory), tuple(rows))
