"""What the command lines of the four scripts share: arguments, the error boundary, coloured marks."""

import argparse
import os
import select
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn, TextIO

import msgspec

from trainguard import VERSION, moments
from trainguard.config import (
    ConfigError,
    ExpectedError,
    Settings,
    check_paths,
    clipped,
    describe,
    did_you_mean,
    load_settings,
)
from trainguard.health import Status, painted
from trainguard.probes import escaped

# Bytes; less is read before a bar could be seen.
LONG = 256 << 20


class Parser(argparse.ArgumentParser):
    """An argument parser whose wrong usage is exit code 3: 2 would be read as a critical machine."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(Status.UNKNOWN, f"{self.prog}: {message}; see {self.prog} --help\n")


def parser(doc: str | None, script_path: str | Path) -> Parser:
    """A parser with the options that every script has; a script adds its own.

    `doc` is the script's docstring, which --help prints; `script_path` its `__file__`. Parsed, they
    are `config` (Path; default: config.yaml beside the script, also where a link leads to it) and
    `check_config` (bool).
    """
    script = Path(script_path).resolve()
    made = Parser(
        prog=script.name,
        description=(doc or "").strip().replace("%(prog)s", script.name),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument(
        "--config",
        metavar="FILE",
        type=path_of,
        default=script.parent / "config.yaml",
        help="the settings (default: config.yaml beside this script)",
    )
    made.add_argument(
        "--check-config",
        action="store_true",
        help="say what the settings come to on this machine, and exit: 0 if they will do, 3 if not",
    )
    made.add_argument("--version", action="version", version=f"{script.name} {VERSION}")
    return made


def filled(text: str) -> str:
    """An argument that may not be empty, as an unset variable of a shell is. Raises ArgumentTypeError."""
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty; is a variable not set?")
    return text


def path_of(text: str) -> Path:
    """An argument that names a file. Raises ArgumentTypeError where it is empty."""
    return Path(filled(text))


def moment_of(text: str) -> float:
    """An argument that names a moment, in seconds since 1970. Raises ArgumentTypeError."""
    if (moment := moments.moment_before(time.time(), text)) is None:
        raise argparse.ArgumentTypeError(
            f"{text}: no time such as 2026-01-05, '2026-01-05 03:00', 90m or '2d ago'"
        )
    return moment


def check_config(path: Path) -> Status:
    """Print what the settings in `path` come to here (stdout) and every problem (stderr): OK, or UNKNOWN.

    Creates nothing. Exit code 3 for a problem, not 2: it is about the question, not the machine's health.
    """
    try:
        settings = load_settings(path)
    except ConfigError as error:
        return tell_problems(error)
    rows = describe(settings)
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        print(f"{name:<{width}}  {text}")
    if problems := [*check_paths(settings), *check_causes(settings)]:
        sys.stdout.flush()  # the rows come before the problems, also where both go to one file
        return tell_problems(ConfigError(tuple(problems), settings.path))
    print(marked(Status.OK, f"{near(path)}: these settings will do"))
    return Status.OK


def check_causes(settings: Settings) -> list[str]:
    """What is wrong with the names in restart.on_crash, in sentences."""
    if not settings.restart.on_crash:
        return []
    from trainguard.crash_types import CAUSES, TYPES  # costs memory, and few name any

    known = {**TYPES, **CAUSES}
    strange = [name for name in settings.restart.on_crash if name not in known]
    return [
        f"restart.on_crash.{clipped(name)}: no crash type and no cause{did_you_mean(name, known)}; "
        "crash_detector.py --list names them all"
        for name in strange
    ]


def tell_problems(error: ConfigError) -> Status:
    """One line per problem on stderr; UNKNOWN."""
    for sentence in sentences_of(error):
        complain(marked(Status.BAD, sentence, sys.stderr))
    return Status.UNKNOWN


def guarded(body: Callable[[], int], script: str) -> int:
    """The exit code of `body`, also where it raises: the one place that turns exceptions into sentences.

    `script` is the script's name or `__file__`. A wrong configuration, an expected error or an OSError is a
    sentence on stderr and 3, a bug a trace and 3, ctrl-C 3. A reader that closed stdout (`| head`) is no
    error: a body that had ended keeps its code. The code of a SystemExit (argparse's) is returned as well.
    """
    name = Path(script).name
    if sys.stdout is not None and hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file name need not be text
    code: int = Status.UNKNOWN
    try:
        code = int(body())
        flush()
    except ConfigError as error:
        tell_problems(error)
    except SystemExit as stop:
        code = exit_code(stop)
        flush_quietly()
    except BrokenPipeError as error:
        if reader_is_gone():
            drop_output()
        else:
            code = Status.UNKNOWN
            complain(f"{name}: {error_sentence(error)}")
    except (ExpectedError, OSError) as error:
        code = Status.UNKNOWN
        complain(f"{name}: {error_sentence(error)}")
        flush_quietly()
    except KeyboardInterrupt:
        code = Status.UNKNOWN
        complain(f"{name}: interrupted")
        flush_quietly()
    except Exception:
        import traceback  # costs memory, and only a bug needs it

        code = Status.UNKNOWN
        complain(f"{traceback.format_exc()}{name}: this is a bug in {name}; the trace above says where")
        flush_quietly()
    return code


def exit_code(stop: SystemExit) -> int:
    """The code that `stop` carries, as the interpreter reads it; a text is told on stderr, with code 3."""
    if stop.code is None or isinstance(stop.code, int):
        return stop.code or 0
    complain(str(stop.code))
    return Status.UNKNOWN


def error_sentence(error: Exception) -> str:
    """An expected error in one line: of an OSError, the file and what the system says about it."""
    if not isinstance(error, OSError) or not error.strerror:
        return printable(" ".join(str(error).split())) or type(error).__name__
    return printable(f"{error.filename}: {error.strerror}") if error.filename is not None else error.strerror


def sentences_of(error: Exception) -> list[str]:
    """An expected error, or each problem of a configuration, in one line."""
    if isinstance(error, ConfigError):
        return [f"{near(error.path)}: {problem}" for problem in error.problems]
    return [error_sentence(error)]


def flush() -> None:
    """Write out what was printed. Raises OSError."""
    if sys.stdout is not None and not sys.stdout.closed:
        sys.stdout.flush()


def flush_quietly() -> None:
    """Write out what was printed, or drop it where that fails."""
    try:
        flush()
    except OSError:
        drop_output()


def drop_output() -> None:
    """Lead stdout nowhere: the interpreter flushes it at its end, and would complain with code 120."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def reader_is_gone() -> bool:
    """Whether nobody reads stdout any more: poll(2) says POLLERR of such a pipe, POLLHUP of a socket."""
    try:
        watched = select.poll()
        watched.register(sys.stdout.fileno(), 0)
        return any(event & (select.POLLERR | select.POLLHUP) for _, event in watched.poll(0))
    except (AttributeError, OSError, ValueError):
        return False


def complain(text: str) -> None:
    """A line on stderr, if there is one that can be written: the exit code says the rest."""
    if sys.stderr is None:
        return
    try:
        print(text, file=sys.stderr, flush=True)
    except (OSError, ValueError):
        return


def tell_notes(notes: Iterable[str]) -> None:
    """Notes on stderr, a line each."""
    for note in notes:
        complain(marked(Status.ATTENTION, note, sys.stderr))


def marked(status: Status, text: str, stream: TextIO | None = None) -> str:
    """`WARN  text`, the mark in colour where `stream` (default: stdout) is a terminal.

    A text may name a file, and a file's name may hold what would steer the terminal.
    """
    return f"{painted(status, stream or sys.stdout)}  {printable(text)}"


def printable(text: str) -> str:
    """Text on one line, with what cannot be printed as an escape."""
    return clipped(text, len(text))


def counted(count: int, noun: str) -> str:
    """`1 log`, `2 logs`, `2 crashes`."""
    ending = "" if count == 1 else "es" if noun.endswith(("s", "sh", "ch", "x")) else "s"
    return f"{count} {noun}{ending}"


def json_of(content: object) -> str:
    """JSON for a person and a program alike. What is no text, as a file's name need not be, is escaped."""
    try:
        encoded = msgspec.json.encode(content)
    except UnicodeEncodeError:
        encoded = msgspec.json.encode(escaped(msgspec.to_builtins(content)))
    return msgspec.json.format(encoded, indent=2).decode()


@contextmanager
def progress_bar(what: str, total: int) -> Iterator[Callable[[int], None] | None]:
    """A bar on a terminal for work that takes long: hands out what is called with each number of bytes done."""
    if total < LONG or sys.stderr is None or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.advance(task, done)


def near(path: Path) -> Path:
    """`path` as it is seen from the current folder, where it lies below it; else as it is."""
    try:
        return path.relative_to(Path.cwd())
    except (ValueError, OSError):
        return path
