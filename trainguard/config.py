"""config.yaml: what it may say, what it comes to on this machine, and every problem in it at once.

The file is written by hand and commands are run from it, so it is read as a stranger's: one descriptor, a
bound on everything, no YAML tag or alias, and each problem told in a sentence with its dotted path.
"""

import math
import os
import signal
import stat
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
import yaml

SIZE_LIMIT = 1 << 20
DEPTH_LIMIT = 20
VALUE_LIMIT = 10_000
NUMBER_LIMIT = 100  # characters; Python takes quadratic time for a longer whole number
PROBLEM_LIMIT = 50
YEAR = 366 * 24 * 3600.0

PYTHON = "{python}"

# libyaml's loader where PyYAML was built with it: ten times as fast, and it stops at a thousand brackets.
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class ExpectedError(Exception):
    """What can go wrong without being a bug; its text is one sentence with the remedy."""


class ConfigError(ExpectedError):
    """Everything that is wrong with the configuration: one sentence per problem, in the file's order."""

    def __init__(self, problems: tuple[str, ...], path: Path = Path("config.yaml")) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems
        self.path = path


Meta = msgspec.Meta
Seconds = Annotated[float, Meta(gt=0, le=YEAR, description="a number above 0")]
Patience = Annotated[float, Meta(ge=0, le=YEAR, description="a number of at least 0")]
Interval = Annotated[float, Meta(ge=0.05, le=3600.0, description="a number from 0.05 to 3600")]
Factor = Annotated[float, Meta(ge=1, le=1000.0, description="a number from 1 to 1000")]
Count = Annotated[int, Meta(ge=1, le=1000, description="a whole number from 1 to 1000")]
MaybeCount = Annotated[
    Annotated[int, Meta(ge=0, le=1024)] | None,
    Meta(description="a whole number from 0 to 1024 or null"),
]
Limit = Annotated[float, Meta(ge=0, le=1e18, description="a number of at least 0")]
Switch = Annotated[bool, Meta(description="true or false")]
ONE_LINE = r"\A[^\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]{1,100}\Z"
Name = Annotated[str, Meta(pattern=ONE_LINE, description="one line of 1 to 100 characters")]
Location = Annotated[Path, Meta(description="a path")]
MaybeLocation = Annotated[Path | None, Meta(description="a path or null")]
Locations = Annotated[tuple[Path, ...], Meta(description="a list of paths")]
Mode = Annotated[Literal["act", "observe"], Meta(description="act or observe")]
Orphans = Annotated[Literal["stop", "drain", "report"], Meta(description="stop, drain or report")]


class Rung(msgspec.Struct, frozen=True):
    """One step of stopping: a signal's name, and how many seconds to wait for its effect."""

    signal: str
    wait: float


class Remedy(msgspec.Struct, frozen=True):
    """What a daemon is started with after a crash of one cause: more variables, and arguments at the end."""

    environment: dict[str, str] = {}
    arguments: tuple[str, ...] = ()


def default_names() -> dict[str, str]:
    """Which name the status file has for each of the four facts that are read from it."""
    return {"step": "current_step", "total": "total_steps", "loss": "loss", "work": "status"}


class DaemonSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The daemon: how it is started, where it writes, how it is stopped."""

    name: Name = "training"
    command: tuple[str, ...]
    directory: Location = Path()
    log: Location = Path("logs/training_output.log")
    pid_file: MaybeLocation = None
    environment: dict[str, str] = msgspec.field(default_factory=dict)
    stop: tuple[Rung, ...] = (Rung("SIGTERM", 60.0), Rung("SIGKILL", 10.0))


class ProgressSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where progress is seen, and for how many seconds none may be seen: see trainguard.policy.patience."""

    status_file: MaybeLocation = None
    status_names: dict[str, str] = msgspec.field(default_factory=default_names)
    log_file: MaybeLocation = None
    heartbeat_file: MaybeLocation = None
    timeout: Seconds = 600.0
    timeout_factor: Factor = 25.0
    timeout_cap: Seconds = 7200.0
    startup_timeout: Seconds = 3600.0
    mode: Mode = "act"


class CheckpointSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where the trainer saves, and for how many seconds a SIGKILL waits for a save (0: not at all).

    With `set_aside`, checkpoints that would spoil a resume are renamed before a start; with `prune`, old whole
    ones are deleted where a start would otherwise wait for room; with `keep_copy`, verified copies are kept of
    single files that are written over in place.
    """

    directory: MaybeLocation = None
    save_timeout: Patience = 600.0
    set_aside: Switch = True
    prune: Switch = False
    keep_copy: Switch = False


class WatchdogSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How the watchdog looks, in seconds, and what it does with processes that a daemon left behind."""

    poll_interval: Interval = 30.0
    orphans: Orphans = "stop"
    orphan_grace: Patience = 5.0
    drain_timeout: Seconds = 600.0
    spare: tuple[str, ...] = ("tensorboard", "tmux", "screen", "wandb-service")
    summary_interval: Seconds = 900.0


class RestartSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How often a daemon is started again: `max_restarts` in any `window` seconds.

    The same cause may end it `same_cause` times in a day; `on_crash` has remedies by cause or type.
    """

    max_restarts: Count = 3
    window: Seconds = 300.0
    rounds: Count = 3
    parked_retry: Seconds = 3600.0
    after_success: Switch = False
    same_cause: Count = 10
    on_crash: dict[str, Remedy] = msgspec.field(default_factory=dict)


class DetectorSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What the crash detector reads besides the daemon's log, and how many seconds the watchdog gives it."""

    logs: Locations = ()
    signatures: MaybeLocation = None
    time_limit: Seconds = 60.0


class HealthSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What the health check expects of the machine, which checks it leaves out, and limits of one's own.

    `gpus` is how many there must be, `mounts` are folders that must be mounts of their own, `reach` is host:port
    each, `limits` are by check and name (`disk-free.bad`), in the units that `--list` tells.
    """

    gpus: MaybeCount = None
    mounts: Locations = ()
    reach: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    limits: dict[str, float] = msgspec.field(default_factory=dict)


class LogSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The run folder: state, incidents, history, lock."""

    directory: Location = Path("logs")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All of config.yaml, from the file `path`; from `load_settings`, every path is absolute."""

    path: Path
    daemon: DaemonSettings
    progress: ProgressSettings = msgspec.field(default_factory=ProgressSettings)
    checkpoints: CheckpointSettings = msgspec.field(default_factory=CheckpointSettings)
    watchdog: WatchdogSettings = msgspec.field(default_factory=WatchdogSettings)
    restart: RestartSettings = msgspec.field(default_factory=RestartSettings)
    detector: DetectorSettings = msgspec.field(default_factory=DetectorSettings)
    health: HealthSettings = msgspec.field(default_factory=HealthSettings)
    logs: LogSettings = msgspec.field(default_factory=LogSettings)


SECTIONS: dict[str, Any] = {
    field.name: field.type for field in msgspec.structs.fields(Settings) if field.name != "path"
}


# ---- the file -----------------------------------------------------------------------------------------


def read_config(path: Path) -> str:
    """The text of the configuration file, at most 1 MiB of UTF-8.

    Raises ConfigError: also for anything but a regular file, and for one that somebody else could have
    written, since commands are run from it. Looks at the opened file, so that no exchange slips between.
    """

    def refuse(sentence: str) -> ConfigError:
        return ConfigError((sentence,), path)

    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except FileNotFoundError:
        raise refuse("no such file; name another with --config FILE") from None
    except (OSError, ValueError) as error:
        raise refuse(f"cannot be opened: {reason(error)}") from None
    try:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            raise refuse(f"is {kind(about.st_mode)}, not a file; name another with --config FILE")
        if about.st_uid not in (os.geteuid(), 0):
            raise refuse(
                f"belongs to user {about.st_uid}, who could have commands run as user {os.geteuid()}; "
                f"run this as that user, or take the file over: chown {os.geteuid()} {path}"
            )
        if about.st_mode & stat.S_IWOTH:
            raise refuse(f"can be written by every user, and commands are run from it; chmod o-w {path}")
        content = b""
        while len(content) <= SIZE_LIMIT and (part := os.read(descriptor, SIZE_LIMIT + 1)):
            content += part
    except OSError as error:
        raise refuse(f"cannot be read: {reason(error)}") from None
    finally:
        os.close(descriptor)
    if len(content) > SIZE_LIMIT:
        raise refuse("is larger than 1 MiB, which no configuration is; name another with --config FILE")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise refuse(f"line {line}: is not UTF-8 text; save the file as UTF-8") from None


KINDS = {stat.S_IFDIR: "a folder", stat.S_IFREG: "a file", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}


def reason(error: Exception) -> str:
    """What the system says about an error, without the number and the path."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def kind(mode: int) -> str:
    """What a file of this st_mode is, in a word."""
    return KINDS.get(stat.S_IFMT(mode), "a device")


# ---- its text as a tree -------------------------------------------------------------------------------


class Written(msgspec.Struct, frozen=True):
    """A scalar: its value by YAML's rules, and as it stands in the file (`2.10`, not 2.1)."""

    value: bool | int | float | str | None
    text: str


Tree: TypeAlias = Written | list["Tree"] | dict[str, "Tree"]


class Branch(msgspec.Struct):
    """A list or mapping that is being read; `lines` tells where each of a mapping's names was first given."""

    container: list[Any] | dict[str, Any]
    path: str
    name: str | None = None
    lines: dict[str, int] = {}

    def wants_name(self) -> bool:
        """Whether the next event is a name of this mapping."""
        return self.name is None and isinstance(self.container, dict)

    def inside(self, name: str) -> str:
        """The dotted path of one of a mapping's names."""
        return f"{self.path}.{clipped(name)}" if self.path else clipped(name)

    def take_name(self, name: str, line: int, problems: list[str]) -> None:
        """Keep the name that the next value belongs to."""
        self.name = name
        if first := self.lines.get(name):
            problems.append(f"{self.inside(name)}: given twice, on lines {first} and {line}; keep one")
        self.lines.setdefault(name, line)

    def take_value(self, value: Any) -> str:
        """Put a value in its place; gives its dotted path. A name given twice keeps its first value."""
        if isinstance(self.container, list):
            self.container.append(value)
            return f"{self.path}[{len(self.container) - 1}]" if self.path else ""
        name, self.name = self.name or "", None
        self.container.setdefault(name, value)
        return self.inside(name)


def parse_tree(text: str) -> tuple[Tree | None, list[str]]:
    """YAML text as lists, mappings and scalars (None for a text without any), and what is wrong with it.

    Reads YAML's events one by one, which needs no recursion however deep the text goes, and stops at the
    limits. Raises ValueError with one sentence where the rest of the text cannot be read.
    """
    if odd := yaml.reader.Reader.NON_PRINTABLE.search(text):
        line, column = text.count("\n", 0, odd.start()) + 1, odd.start() - text.rfind("\n", 0, odd.start())
        raise ValueError(f"line {line}, column {column}: YAML forbids character {odd.group()!a}; remove it")
    loader = LOADER(text)
    try:
        return build(loader)
    except yaml.YAMLError as error:
        raise ValueError(syntax_sentence(error, text)) from None
    finally:
        loader.dispose()


def build(loader: Any) -> tuple[Tree | None, list[str]]:
    """The tree that a YAML loader's events describe. Raises like `parse_tree`, and yaml.YAMLError."""
    root: list[Any] = []
    branches = [Branch(root, "")]
    problems: list[str] = []
    values = documents = 0
    while loader.check_event():
        event = loader.get_event()
        line = event.start_mark.line + 1
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                raise ValueError(f"line {line}: a second document begins (`---`); keep one")
        elif isinstance(event, yaml.CollectionEndEvent):
            branches.pop()
        elif isinstance(event, yaml.NodeEvent):
            values += 1
            if values > VALUE_LIMIT:
                raise ValueError(f"line {line}: more than {VALUE_LIMIT} values, which no configuration needs")
            if not branches[-1].wants_name():
                value = read_event(loader, event, line)
                path = branches[-1].take_value(value)
                if not isinstance(value, Written):
                    branches.append(Branch(value, path, lines={}))
            elif isinstance(event, yaml.ScalarEvent):
                branches[-1].take_name(event.value, line, problems)
            else:
                raise ValueError(f"line {line}: a name is expected here, as in `name: value`")
            if len(branches) > DEPTH_LIMIT:
                raise ValueError(f"line {line}: more than {DEPTH_LIMIT} levels, which no configuration needs")
    return (root[0] if root else None), problems


SCALAR_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str")}


def read_event(loader: Any, event: Any, line: int) -> Written | list[Any] | dict[str, Any]:
    """An event's value, empty for a list or mapping. What YAML would take for a date stays text."""
    if isinstance(event, yaml.AliasEvent):
        raise ValueError(f"line {line}: *{clipped(str(event.anchor))} repeats a value; write the value out")
    explicit = event.tag not in (None, "!")
    if explicit and (event.tag not in SCALAR_TAGS or not isinstance(event, yaml.ScalarEvent)):
        raise ValueError(f"line {line}: the tag `{clipped(event.tag)}` is not supported; remove it")
    if isinstance(event, yaml.MappingStartEvent):
        return {}
    if isinstance(event, yaml.SequenceStartEvent):
        return []
    text: str = event.value
    tag = event.tag if explicit else loader.resolve(yaml.ScalarNode, text, event.implicit)
    if tag.endswith(":str") or tag not in SCALAR_TAGS:
        return Written(text, text)
    if len(text) > NUMBER_LIMIT:
        raise ValueError(f"line {line}: a number of {len(text)} characters; write a shorter one")
    try:
        return Written(loader.construct_object(yaml.ScalarNode(tag, text)), text)
    except (ValueError, LookupError, ArithmeticError, yaml.YAMLError):
        raise ValueError(f"line {line}: `{clipped(text)}` is no {tag.rpartition(':')[2]}") from None


def syntax_sentence(error: yaml.YAMLError, text: str) -> str:
    """A YAML syntax error in one sentence, with line and column counted from 1."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return f"is not YAML: {clipped(' '.join(str(error).split()), 200)}"
    lines = text.splitlines()
    written = lines[mark.line] if mark.line < len(lines) else ""
    place = f"line {mark.line + 1}, column {mark.column + 1}"
    indentation = written[: len(written) - len(written.lstrip())]
    if "\t" in indentation or written[mark.column : mark.column + 1] == "\t":
        return f"{place}: a tab indents or separates here; YAML wants spaces"
    sentence = f"{place}: is not YAML: {getattr(error, 'problem', None) or 'syntax error'}"
    context, start = getattr(error, "context", None), getattr(error, "context_mark", None)
    if context:
        sentence += f", {context}"
    if context and start is not None and start.line != mark.line:
        sentence += f" that begins on line {start.line + 1}"
    return sentence


# ---- the tree as settings -----------------------------------------------------------------------------


def load_settings(path: Path) -> Settings:
    """The settings in the file `path`, complete and with absolute paths.

    A relative path counts from the file's own folder, a leading `~` is the user's home, and no symbolic
    link is resolved. Raises ConfigError with all problems.
    """
    try:
        path = path.absolute()
    except OSError as error:
        raise ConfigError((f"the current folder is gone: {reason(error)}",), path) from None
    text = read_config(path)
    try:
        tree, problems = parse_tree(text)
    except ValueError as error:
        raise ConfigError((str(error),), path) from None
    if tree is None or (isinstance(tree, Written) and tree.value is None):
        raise ConfigError(("is empty; it needs at least a section `daemon:` with a `command:`",), path)
    if not isinstance(tree, dict):
        raise ConfigError((f"expected sections such as `daemon:`, got {shown(tree)}",), path)
    sections: dict[str, Any] = {}
    for name in [*tree, *(name for name in SECTIONS if name not in tree)]:
        if name in SECTIONS:
            sections[name] = read_section(name, tree.get(name, {}), path.parent, problems)
        else:
            problems.append(unknown(name, SECTIONS, "section"))
    if problems:
        if len(problems) > PROBLEM_LIMIT:
            problems = [*problems[:PROBLEM_LIMIT], f"and {len(problems) - PROBLEM_LIMIT} problems more"]
        raise ConfigError(tuple(problems), path)
    return Settings(path=path, **sections)


def read_section(section: str, tree: Tree, folder: Path, problems: list[str]) -> Any:
    """One section as its Struct, or None with sentences added to `problems`."""
    if isinstance(tree, Written) and tree.value is None:
        tree = {}  # all of its lines are commented out
    if not isinstance(tree, dict):
        problems.append(f"{section}: expected a section of names and values, got {shown(tree)}")
        return None
    before = len(problems)
    fields = {field.name: field for field in msgspec.structs.fields(SECTIONS[section])}
    values: dict[str, Any] = {}
    for name, value in tree.items():
        path = f"{section}.{clipped(name)}"
        if name not in fields:
            problems.append(unknown(name, fields, "setting", f"{section}."))
        elif path in RULES:
            values[name] = RULES[path](path, value, problems)
        else:
            values[name] = read_value(path, value, fields[name].type, folder, problems)
    for field in fields.values():
        if field.name in values:
            continue
        if field.required:
            problems.append(f'{section}.{field.name}: missing; write it as in ["{PYTHON}", train.py]')
        elif isinstance(field.default, Path):
            values[field.name] = folder / field.default
    return None if len(problems) > before else SECTIONS[section](**values)


def read_value(path: str, tree: Tree, wanted: Any, folder: Path, problems: list[str]) -> Any:
    """One value, converted by msgspec to a field's type; None with a sentence added where that fails.

    Where text is wanted, a number counts as the text that stands in the file.
    """

    def convert(_: type, value: object) -> Path:
        if not isinstance(value, str):
            raise TypeError
        return located(value, folder)

    if wanted == Locations and isinstance(tree, list):
        places = enumerate(tree)
        return tuple(read_value(f"{path}[{index}]", one, Location, folder, problems) for index, one in places)
    meta: Any = wanted.__metadata__[0]
    expected, cause = meta.description, ""
    if isinstance(tree, Written):
        numeric = isinstance(tree.value, int | float) and not isinstance(tree.value, bool)
        for value in (tree.value, tree.text) if numeric else (tree.value,):
            try:
                return msgspec.convert(value, wanted, dec_hook=convert)
            except msgspec.ValidationError as error:
                cause = cause or str(error.__cause__ or "")
        if isinstance(tree.value, str) and meta.ge is not meta.gt and is_number(tree.text):
            cause = "write it in plain digits without quotes"
        if numeric and meta.le is not None and tree.value > meta.le:
            expected = (
                f"{'a whole number' if isinstance(meta.le, int) else 'a number'} of at most {meta.le:.15g}"
            )
    problems.append(f"{path}: expected {expected}, got {shown(tree)}{f'; {cause}' if cause else ''}")
    return None


def is_number(text: str) -> bool:
    """Whether this text is a number to Python, though none to YAML (such as 1e3, or one in quotes)."""
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def located(text: str, folder: Path) -> Path:
    """A path as written, made absolute from `folder`. Raises ValueError with what is wrong with it."""
    if fault := text_fault(text):
        raise ValueError(fault)
    try:
        return folder / Path(text).expanduser()
    except RuntimeError:
        raise ValueError(f"there is no user {clipped(text.split('/')[0][1:])} with a home folder") from None


def text_fault(text: str) -> str:
    """Why no path, argument or variable can be this text; empty where it can."""
    if "\0" in text:
        return "it holds a NUL character"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "it holds half of a surrogate pair"
    return "" if text else "it is empty"


def read_text(path: str, tree: Tree, problems: list[str], empty: bool = False) -> str:
    """One text: a number counts as written, a yes/no value must be quoted. Adds a sentence for all else."""
    if isinstance(tree, Written) and tree.value is not None and not isinstance(tree.value, bool):
        fault = text_fault(tree.text)
        if not fault or (empty and not tree.text):
            return tree.text
        problems.append(f"{path}: expected text, got {shown(tree)}; {fault}")
    elif isinstance(tree, dict) and list(tree) == ["python"]:
        problems.append(f'{path}: expected text, got a mapping; put it in quotes: "{PYTHON}"')
    else:
        remedy = "; put it in quotes" if isinstance(tree, Written) else ""
        problems.append(f"{path}: expected text, got {shown(tree)}{remedy}")
    return ""


def read_words(path: str, tree: Tree, problems: list[str]) -> tuple[str, ...]:
    """A list of texts, none of them empty."""
    if not isinstance(tree, list):
        problems.append(f"{path}: expected a list of words such as [one, two], got {shown(tree)}")
        return ()
    return tuple(read_text(f"{path}[{index}]", word, problems) for index, word in enumerate(tree))


def read_command(path: str, tree: Tree, problems: list[str]) -> tuple[str, ...]:
    """The argument list, with the word `{python}` replaced by the interpreter that runs this."""
    words = read_words(path, tree, problems)
    if isinstance(tree, list) and not tree:
        problems.append(f'{path}: is empty; name the program, as in ["{PYTHON}", train.py]')
    if PYTHON in words and not sys.executable:
        problems.append(f"{path}: Python does not know its own path; write it out instead of {PYTHON}")
    return tuple(sys.executable if word == PYTHON else word for word in words)


def read_environment(path: str, tree: Tree, problems: list[str]) -> dict[str, str]:
    """Names and values of variables; environ(7) forbids `=` in a name and NUL in both."""
    if not isinstance(tree, dict):
        problems.append(f"{path}: expected names and values, got {shown(tree)}")
        return {}
    for name in tree:
        fault = "it holds a `=`" if "=" in name else text_fault(name)
        if fault:
            problems.append(f"{path}: expected the name of a variable, got {clipped(repr(name))}; {fault}")
    return {name: read_text(f"{path}.{clipped(name)}", value, problems, True) for name, value in tree.items()}


def read_ladder(path: str, tree: Tree, problems: list[str]) -> tuple[Rung, ...]:
    """The rungs of stopping, at least one."""
    if not isinstance(tree, list) or not tree:
        got = "an empty one" if tree == [] else shown(tree)
        problems.append(f"{path}: expected a list such as [[SIGTERM, 60], [SIGKILL, 10]], got {got}")
        return ()
    return tuple(read_rung(f"{path}[{index}]", rung, problems) for index, rung in enumerate(tree))


def read_rung(path: str, tree: Tree, problems: list[str]) -> Rung:
    """A signal's name and a number of seconds."""
    if not isinstance(tree, list) or len(tree) != 2:
        problems.append(f"{path}: expected a signal and seconds such as [SIGTERM, 60], got {shown(tree)}")
        return Rung("SIGTERM", 0)
    name = read_text(f"{path}[0]", tree[0], problems)
    signals = signal.Signals.__members__
    if name and name not in signals:
        near = f"SIG{name.upper().removeprefix('SIG')}"
        hint = f"; did you mean `{near}`?" if near in signals else did_you_mean(name, signals)
        problems.append(f"{path}[0]: expected a signal such as SIGTERM, got {clipped(repr(name))}{hint}")
    return Rung(name, read_value(f"{path}[1]", tree[1], Patience, Path(), problems))


def read_on_crash(path: str, tree: Tree, problems: list[str]) -> dict[str, Remedy]:
    """Remedies by the name of a cause or a type."""
    if not isinstance(tree, dict):
        problems.append(
            f"{path}: expected causes such as {{cuda_oom: {{arguments: [...]}}}}, got {shown(tree)}"
        )
        return {}
    return {name: read_remedy(f"{path}.{clipped(name)}", one, problems) for name, one in tree.items()}


def read_remedy(path: str, tree: Tree, problems: list[str]) -> Remedy:
    """Variables and arguments."""
    known = ("environment", "arguments")
    if not isinstance(tree, dict):
        problems.append(f"{path}: expected {' and '.join(known)}, got {shown(tree)}")
        return Remedy()
    problems += (unknown(name, known, "setting", f"{path}.") for name in tree if name not in known)
    environment = read_environment(f"{path}.environment", tree.get("environment", {}), problems)
    return Remedy(environment, read_words(f"{path}.arguments", tree.get("arguments", []), problems))


def read_status_names(path: str, tree: Tree, problems: list[str]) -> dict[str, str]:
    """The four names of the status file; one that is not given keeps its default."""
    names = default_names()
    if not isinstance(tree, dict):
        problems.append(f"{path}: expected names such as {{step: {names['step']}}}, got {shown(tree)}")
        return names
    for name, value in tree.items():
        if name not in names:
            problems.append(unknown(name, names, "name", f"{path}."))
            continue
        names[name] = read_text(f"{path}.{name}", value, problems)
        if names[name] and not all(names[name].split(".")):
            problems.append(f"{path}.{name}: expected a name or a dotted path, got {shown(value)}")
    return names


def read_endpoints(path: str, tree: Tree, problems: list[str]) -> tuple[str, ...]:
    """A list of `host:port`; an IPv6 address stands in brackets."""
    words = read_words(path, tree, problems)
    for index, word in enumerate(words):
        host, _, port = word.rpartition(":")
        is_port = port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) < 1 << 16
        if word and not (host and is_port and (":" not in host or host.startswith("["))):
            problems.append(
                f"{path}[{index}]: expected host:port such as 10.0.0.1:29500, got {clipped(repr(word))}"
            )
    return words


def read_limits(path: str, tree: Tree, problems: list[str]) -> dict[str, float]:
    """Numbers by check and name; which there are, only the health check knows."""
    if not isinstance(tree, dict):
        problems.append(f"{path}: expected limits such as {{disk-free.bad: 5.0e+9}}, got {shown(tree)}")
        return {}
    return {
        name: read_value(f"{path}.{clipped(name)}", value, Limit, Path(), problems)
        for name, value in tree.items()
    }


# The settings that are more than one value; all others are converted by their field's type.
RULES: dict[str, Callable[[str, Tree, list[str]], object]] = {
    "daemon.command": read_command,
    "daemon.environment": read_environment,
    "daemon.stop": read_ladder,
    "health.limits": read_limits,
    "health.reach": read_endpoints,
    "health.skip": read_words,
    "progress.status_names": read_status_names,
    "restart.on_crash": read_on_crash,
    "watchdog.spare": read_words,
}


def unknown(name: str, known: Iterable[str], noun: str, prefix: str = "") -> str:
    """The sentence for a name that means nothing."""
    hint = did_you_mean(name, known) or f"; there are: {', '.join(known)}"
    return f"{prefix}{clipped(name)}: unknown {noun}{hint}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean X?` for the nearest known name, empty where none is near."""
    import difflib  # costs memory, and only a misspelt file needs it

    near = difflib.get_close_matches(name[:NUMBER_LIMIT], list(known), 1)
    return f"; did you mean `{near[0]}`?" if near else ""


def shown(tree: Tree) -> str:
    """A value for a sentence: short, and safe on a terminal."""
    if isinstance(tree, list):
        return f"a list of {len(tree)}"
    if isinstance(tree, dict):
        return "a mapping"
    if tree.value is None:
        return "nothing"
    if isinstance(tree.value, bool):
        return f"the yes/no value `{tree.text}`"
    if isinstance(tree.value, float) and not math.isfinite(tree.value):
        return f"`{tree.text}`"
    return clipped(repr(tree.text)) if isinstance(tree.value, str) else tree.text


def clipped(text: str, limit: int = 60) -> str:
    """Text on one printable line of at most `limit` characters."""
    text = text if len(text) <= limit else f"{text[: limit - 3]}..."
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


# ---- the settings on this machine ---------------------------------------------------------------------


def resolve_program(word: str, directory: Path, search_path: str) -> Path | None:
    """The executable file that `word` starts, None where there is none.

    Like execvp(3) in a child that has changed to `directory`: a word with a slash is a path from there, any
    other is looked for in the folders of `search_path` (the text of PATH), also counted from there.
    """
    folders = [""] if "/" in word else search_path.split(":")
    places = [directory / folder / word for folder in folders]
    return next((place for place in places if stat.S_ISREG(mode_of(place)) and may(place, os.X_OK)), None)


def mode_of(path: Path) -> int:
    """st_mode of what `path` leads to; 0 where nothing can be seen there."""
    try:
        return path.stat().st_mode
    except (OSError, ValueError):
        return 0


def may(path: Path, access: int) -> bool:
    """Whether this process may (os.R_OK, os.W_OK, os.X_OK), also told False by a read-only file system."""
    return os.access(path, access, effective_ids=os.access in os.supports_effective_ids)


def search_path(settings: Settings) -> str:
    """The PATH that the daemon will have."""
    return settings.daemon.environment.get("PATH", os.environ.get("PATH", os.defpath))


def describe(settings: Settings) -> list[tuple[str, str]]:
    """What each path and each word of the command comes to here: dotted name and text. Creates nothing."""
    daemon = settings.daemon
    program = resolve_program(daemon.command[0], daemon.directory, search_path(settings))
    rows = [("file", str(settings.path)), ("daemon.command[0]", str(program or program_fault(settings)))]
    for index, word in enumerate(daemon.command[1:], 1):
        if mode_of(daemon.directory / word):
            rows.append((f"daemon.command[{index}]", str(daemon.directory / word)))
    made_here = {"daemon.log", "logs.directory"}
    for section in SECTIONS:
        values = getattr(settings, section)
        for field in msgspec.structs.fields(values):
            value, name = getattr(values, field.name), f"{section}.{field.name}"
            if isinstance(value, Path):
                missing = "will be made" if name in made_here else "not there yet"
                there = kind(mode_of(value)) if mode_of(value) else missing
                rows.append((name, f"{value} ({there})"))
            elif field.type == MaybeLocation:
                rows.append((name, "none"))
            elif field.type == Locations:
                rows += [(f"{name}[{index}]", str(place)) for index, place in enumerate(value)]
    return rows


def program_fault(settings: Settings) -> str:
    """Why the command's first word starts nothing."""
    word = settings.daemon.command[0]
    if "/" not in word:
        return "not found in PATH"
    place = settings.daemon.directory / word
    return f"{place} is not an executable file" if mode_of(place) else f"{place} does not exist"


def check_paths(settings: Settings) -> list[str]:
    """What keeps these settings from working on this machine, in sentences. Creates nothing."""
    daemon = settings.daemon
    problems = []
    if not stat.S_ISDIR(mode_of(daemon.directory)):
        problems.append(f"daemon.directory: {daemon.directory} is no folder; make it or name another")
    elif not resolve_program(daemon.command[0], daemon.directory, search_path(settings)):
        word = clipped(repr(daemon.command[0]))
        problems.append(f"daemon.command[0]: {word}: {program_fault(settings)}; install it or name another")
    elif daemon.command[0] == sys.executable and daemon.command[1:2] and daemon.command[1].endswith(".py"):
        script = daemon.directory / daemon.command[1]
        if not mode_of(script):
            problems.append(f"daemon.command[1]: {script} does not exist; it counts from daemon.directory")
    mode = mode_of(daemon.log)
    if mode and (stat.S_ISDIR(mode) or stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
        problems.append(f"daemon.log: {daemon.log} is {kind(mode)}; name a file")
    elif mode and not may(daemon.log, os.W_OK):
        problems.append(f"daemon.log: {daemon.log} cannot be written; name another or change its permissions")
    elif not mode and (fault := folder_fault(daemon.log.parent)):
        problems.append(f"daemon.log: {fault}")
    saves = settings.checkpoints
    if saves.directory is None and (saves.prune or saves.keep_copy):
        name = "prune" if saves.prune else "keep_copy"
        problems.append(f"checkpoints.{name}: does nothing without checkpoints.directory; name that folder")
    if saves.directory is not None and (mode := mode_of(saves.directory)) and not stat.S_ISDIR(mode):
        problems.append(f"checkpoints.directory: {saves.directory} is {kind(mode)}, no folder; name another")
    rows = settings.detector.signatures
    if rows is not None and not stat.S_ISREG(mode_of(rows)):
        problems.append(f"detector.signatures: {rows} is no file; make it or write null")
    if fault := folder_fault(settings.logs.directory):
        problems.append(f"logs.directory: {fault}")
    return problems


def folder_fault(folder: Path) -> str:
    """Why files cannot be made in `folder`, or the folder itself not be made; empty where they can."""
    nearest = folder
    while not os.path.lexists(nearest) and nearest != nearest.parent:
        nearest = nearest.parent
    if not mode_of(nearest) and nearest.is_symlink():
        return f"{nearest} is a symbolic link to nothing; make its target or name another folder"
    if not stat.S_ISDIR(mode_of(nearest)):
        return f"{nearest} is no folder; name another"
    if not may(nearest, os.W_OK | os.X_OK):
        return f"{folder} cannot be {'written' if nearest == folder else 'made'}: no permission in {nearest}"
    return ""


def make_folders(settings: Settings) -> None:
    """Make the run folder and the folder of the daemon's log. Raises ConfigError."""
    problems = []
    folders = {"logs.directory": settings.logs.directory, "daemon.log": settings.daemon.log.parent}
    for name, folder in folders.items():
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            problems.append(f"{name}: {folder} cannot be made: {reason(error)}; name another folder")
    if problems:
        raise ConfigError(tuple(problems), settings.path)
