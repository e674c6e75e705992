"""Tracebacks: Python's own reports of exceptions, found in lines of one or many processes, whole or garbled."""

import re

import msgspec

from trainguard.diagnosis.values import Line

HEADER = "Traceback (most recent call last)"
HANDLING = "During handling of the above exception"
CAUSED = "The above exception was the direct cause"
# Where a logger was called, which is no report of an exception.
STACK = "Stack (most recent call last)"
# So many lines of others may stand between a frame and the final line; then the report is torn.
PATIENCE = 60

_FRAME = re.compile(r'File "(?P<path>[^"]*)", line \d+(?:, in (?P<function>.+))?')
_FRAME_LINE = re.compile(r'^ +File "[^"]+", line \d+(?:, in \S|$)')
_FINAL = re.compile(r"^(?P<name>(?:[A-Za-z_]\w*\.)*[A-Za-z_]\w*)(?P<colon>: ?(?P<message>.*))?$")
_EXCEPTION_NAME = re.compile(
    r"(?:Error|Exception|Interrupt|Exit|Warning|Timeout|Expired|Abort|Aborted|Failure|Failed|Cancelled|Empty|Full|"
    r"Group|NotFound|Denied|Invalid|Iteration|Refused|Stop|Fault|Killed|Unavailable|Exhausted|Signal)\d?$"
)
_RAISE = re.compile(r"^\s+raise (?P<name>[A-Za-z_][\w.]*)\((?P<message>.*)$")
_QUOTED = re.compile(r'File "[^"]*", line \d')
_GROUP_EDGE = re.compile(r"^\s*(?:\| |\+ )+")
_GROUP_LINE = re.compile(r"^\s*\+-[+-]")
_INDENTED = re.compile(r"^(?:\s|\^|~)")
# What goes wrong while objects are cleared away is told so, and ends nothing.
_IGNORED = re.compile(r"^(?:Exception ignored |Error in atexit|Error in sys\.excepthook)")
_LIBRARY = re.compile(r"site-packages|dist-packages|/lib/python|<frozen|<string>|/lib64/python")
_CHILD = re.compile(r"^(?:Process |Exception in thread |Exception in Thread)")


class Traceback(msgspec.Struct, frozen=True):
    """One report: its final line, the exception's class and message, and where it was raised.

    `uncaught`: nobody caught it, so that its thread or process ended. `child`: of a worker or a thread.
    `ignored`: Python itself said that it goes on. `place` is the innermost frame outside of installed packages.
    `before` is the report that this one was chained to, `caused` whether as its direct cause. Where the log
    broke off, `final` is its last line of source.
    """

    header: Line
    final: Line
    name: str
    message: str
    place: str = ""
    uncaught: bool = False
    child: bool = False
    before: "Traceback | None" = None
    caused: bool = False
    ignored: bool = False


class _Open:
    """A report that is being read."""

    def __init__(self, header: Line, child: bool, before: Traceback | None, caused: bool) -> None:
        self.header = header
        self.child = child
        self.before = before
        self.caused = caused
        self.ignored = False
        self.top: str | None = None
        self.place = ""
        self.others = 0
        # A report that another program quotes stands in a margin.
        self.margin = (
            " " * max(0, len(header.body) - len(header.body.lstrip(" "))) if HEADER in header.body else ""
        )
        self.raised: tuple[Line, str, str] | None = None

    def frame(self, match: re.Match[str]) -> None:
        function = (match["function"] or "<module>").strip()
        if self.top is None:
            self.top = function
        self.raised = None
        if not self.place or not _LIBRARY.search(match["path"]):
            self.place = f"{match['path'].rpartition('/')[2]}:{function}"

    def closed(self, final: Line, name: str, message: str) -> Traceback:
        uncaught = self.child or self.top in (None, "<module>", "_run_module_as_main", "_run_code")
        return Traceback(
            self.header,
            final,
            name,
            message,
            place=self.place,
            uncaught=uncaught,
            child=self.child,
            before=self.before,
            caused=self.caused,
            ignored=self.ignored,
        )


class Reader:
    """Reads the lines of a log in order and hands out each report when its final line has come."""

    def __init__(self) -> None:
        self._open: dict[str, list[_Open]] = {}
        self._chain: dict[str, tuple[Traceback, bool | None]] = {}
        self._child: set[str] = set()
        self._ignored: set[str] = set()
        self._stacks: set[str] = set()

    def read(self, line: Line) -> tuple[bool, list[Traceback]]:
        """Whether the line is part of a report, and the reports that end with it."""
        body, stream = line.body, line.stream
        _, header, behind = body.partition(HEADER)
        if header:
            # A text that quotes a report has it on one line.
            if not _QUOTED.search(behind):
                self._begin(line)
            return True, []
        if STACK in body:
            self._stacks.add(stream)
            return True, []
        if stream in self._stacks:
            if _INDENTED.match(body):
                return True, []
            self._stacks.discard(stream)
        if body.startswith((HANDLING, CAUSED)):
            if stream in self._chain:
                self._chain[stream] = (self._chain[stream][0], body.startswith(CAUSED))
            return True, []
        if _IGNORED.match(body):
            self._ignored.add(stream)
            return True, []
        if _CHILD.match(body):
            self._child.add(stream)
            return True, []
        opened = self._open.get(stream)
        if not opened and _FRAME_LINE.match(body):
            # The log was cut, or another process has overwritten the header.
            self._begin(line)
            opened = self._open[stream]
        if not opened:
            if body.strip() not in ("", '"""', "'''"):
                self._child.discard(stream)
                self._ignored.discard(stream)
            return False, []
        return self._go_on(line, opened)

    def _begin(self, line: Line) -> None:
        stream = line.stream
        before, caused = self._chain.pop(stream, (None, None))
        child = stream in self._child or line.body.startswith("Original ")
        self._child.discard(stream)
        chained = before if caused is not None else None
        opened = _Open(line, child, chained, bool(caused))
        opened.ignored = stream in self._ignored
        self._open.setdefault(stream, []).append(opened)

    def _go_on(self, line: Line, opened: list[_Open]) -> tuple[bool, list[Traceback]]:
        current = opened[-1]
        grouped = "Group" in current.header.body or "| " in line.body[:12]
        body = _GROUP_EDGE.sub("", line.body) if grouped else line.body
        body = body.removeprefix(current.margin)
        if match := _FRAME.search(body):
            current.frame(match)
            return True, []
        if _INDENTED.match(body) or _GROUP_LINE.match(line.body) or not body:
            if match := _RAISE.match(body):
                current.raised = line, match["name"], match["message"]
            return True, []
        final = _read_final(body, current.others == 0)
        if final is None:
            current.others += 1
            if current.others > PATIENCE:
                opened.pop()
            return False, []
        opened.pop()
        report = current.closed(line, *final)
        # Two ranks that print at once leave two headers above the first final line: the second comes as well.
        self._chain[line.stream] = (report, None)
        return True, [report]

    def end(self) -> list[Traceback]:
        """The reports that the log broke off in, as far as their last line of source names the exception."""
        left = [one for opened in self._open.values() for one in opened]
        self._open = {}
        return [one.closed(*one.raised) for one in left if one.raised is not None]


def _read_final(body: str, behind_frame: bool) -> tuple[str, str] | None:
    match = _FINAL.match(body)
    if match is None:
        return None
    name, message = match["name"], match["message"] or ""
    last = name.rpartition(".")[2]
    if _EXCEPTION_NAME.search(last):
        # Ranks that print at once: the same name twice without a line end between.
        half = len(last) // 2
        return (last[:half] if len(last) % 2 == 0 and last[:half] == last[half:] else name), message
    # Any class may be raised: dotted, or in capitals right behind a frame. A logger's level is none.
    likely = "." in name or (behind_frame and not name.isupper())
    return (name, message) if match["colon"] and likely and last[:1].isupper() else None
