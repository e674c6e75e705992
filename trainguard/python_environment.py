"""The daemon's Python: which one its command starts, what is installed there, and the variables that it gets.

Nothing of it is imported or run: names of folders, METADATA, RECORD and `torch/version.py` are read as text.
"""

import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from trainguard import files, probes, processes
from trainguard.config import Settings

PROC = Path("/proc")
REQUIREMENTS = Path(__file__).resolve().parent.parent / "requirements.txt"
COMPATIBILITY = Path("/usr/local/cuda/compat")
ENTRIES_AT_MOST = 20_000
PACKAGES_AT_MOST = 3_000
FOLDERS_AT_MOST = 64
TREE_AT_MOST = 200
FOLDER_SECONDS = 1.0
_HEAD = 64 << 10
_WHOLE_HEADER = 1 << 20
_RECORD_HEAD = 16 << 10
_ENVIRONMENT_LIMIT = 4 << 20
_HOPS = 4

_PYTHON = re.compile(r"(?:python|pypy)\d*(?:\.\d+)*t?")
_MINOR = re.compile(r"(\d+)\.(\d+)")
_WRAPPERS = {"chrt", "env", "ionice", "nice", "nohup", "numactl", "setsid", "stdbuf", "taskset", "timeout"}
# Where they start a Python, they choose it themselves, perhaps in a container or on another machine.
_OPAQUE = re.compile(
    "apptainer|bash|conda|dash|docker|enroot|fish|hatch|kubectl|ksh|make|mamba|micromamba|mpiexec|mpirun|nerdctl"
    "|pdsh|pipenv|pixi|podman|poetry|screen|sh|singularity|srun|ssh|su|sudo|systemd-run|tmux|uv|zsh"
)
# What a wrapper is given before the command: options, variables, numbers such as `-n 10`, `0-3`, `5m`.
_OF_WRAPPER = re.compile(r"-.*|\w+=.*|[\d.,:-]+[smhd]?", re.DOTALL)
# pip's form where the path of the interpreter is too long for a first line.
_LONG_SHEBANG = re.compile(rb"'''exec' \"?([^\"\n]+?)\"? \"\$0\"")

_REQUIRES = re.compile(rb"^Requires-Dist:[ \t]*(([A-Za-z0-9][\w.-]*)[^\r\n]*)", re.MULTILINE)
_WATCHED = re.compile(
    "accelerate|apex|bitsandbytes|deepspeed|diffusers|flash-attn|huggingface-hub|lightning|numpy|peft"
    "|pytorch-lightning|safetensors|tokenizers|torch|torchao|torchaudio|torchdata|torchtext|torchvision"
    "|transformer-engine|transformers|triton|xformers|nvidia-.*|cuda-.*"
)
_BUILT_FOR_TORCH = re.compile(r"torch(\d+\.\d+)")
_LIBRARY = re.compile(r"(lib(?:cu|nccl|nv)\w*\.so\.\d+)")
_KERNEL_MODULE = re.compile(r"Kernel Module.*?\s(\d+(?:\.\d+)+)\s")
# Of a daemon's environment only this leaves the probe: the rest may hold secrets.
_KEPT = re.compile(
    r"(?:CUDA|GLOO|LD|MASTER|NCCL|PET|PYTHON|PYTORCH|TORCH|TP)\w*|HF_ENDPOINT|WANDB_BASE_URL|PATH|HOME"
    r"|(?i:https?_proxy|all_proxy|no_proxy)"
)


class Variables(msgspec.Struct, frozen=True):
    """The variables that steer training: those of the living daemon `pid`, else those that a start would give it.

    `problem` is why the living daemon's could not be read.
    """

    values: dict[str, str]
    pid: int | None = None
    problem: str | None = None


class Interpreter(msgspec.Struct, frozen=True):
    """A Python: `version` as far as its files tell it, `places` are its folders of packages in the order of search.

    `base` is the version that the program really is, where it is a virtual environment made for another one.
    """

    program: str
    version: str
    places: tuple[str, ...]
    virtual: bool = False
    base: str | None = None


class Demand(msgspec.Struct, frozen=True):
    """What one package's METADATA wants of another: `text` such as `torch==2.6.0`; `found` None: not installed."""

    by: str
    by_version: str
    name: str
    text: str
    found: str | None
    met: bool


class Torch(msgspec.Struct, frozen=True):
    """What `torch/version.py` tells: the version with its build, and for which CUDA or ROCm it was built."""

    version: str
    cuda: str | None = None
    hip: str | None = None


class Shadow(msgspec.Struct, frozen=True):
    """A library in a folder of LD_LIBRARY_PATH that torch also brings along, or that LD_PRELOAD names."""

    variable: str
    place: str
    libraries: tuple[str, ...]
    problem: str | None = None


class Environment(msgspec.Struct, frozen=True):
    """The daemon's Python and what is installed in it; `interpreter` is None where `problem` says why.

    `starts_none` is whether the command is a program of another kind. `packages` are versions by normalised name,
    the first in the order of search. `leftovers` are folders that pip left behind when it was interrupted,
    `doubled` packages that are there in several versions, `hollow` those whose files are gone. `driver` is the
    version of the loaded NVIDIA kernel module, `compatibility` a libcuda that works with an older one.
    """

    program: str
    problem: str | None = None
    starts_none: bool = False
    interpreter: Interpreter | None = None
    packages: dict[str, str] = {}
    demands: tuple[Demand, ...] = ()
    leftovers: tuple[str, ...] = ()
    doubled: tuple[str, ...] = ()
    hollow: tuple[str, ...] = ()
    torch: Torch | None = None
    driver: str | None = None
    compatibility: str | None = None
    own_libraries: int = 0
    shadows: tuple[Shadow, ...] = ()


class OwnPackages(msgspec.Struct, frozen=True):
    """What requirements.txt wants for the Python that runs this, and what is there: pairs of want and found."""

    python: str
    fitting: tuple[tuple[str, str], ...]
    wrong: tuple[tuple[str, str | None], ...]


# --- the variables ---------------------------------------------------------------------------------------------


def parse_environment(block: bytes) -> dict[str, str]:
    """A block of NUL-separated NAME=VALUE words, as in /proc/PID/environ."""
    pairs = (word.decode(errors="replace").partition("=") for word in block.split(b"\0"))
    return {name: value for name, equals, value in pairs if equals}


def read_variables(settings: Settings) -> Variables:
    """What the daemon has, or would be given. Raises OSError where the process table cannot be read."""
    leader = processes.find_leader(os.path.realpath(settings.logs.directory), settings.daemon.name)
    given = processes.environment_of_run(
        os.environ, settings.daemon.environment, processes.Mark("", "", "", None)
    )
    if leader is None:
        return Variables(_kept(given))
    try:
        with (PROC / str(leader.pid) / "environ").open("rb") as file:
            return Variables(_kept(parse_environment(file.read(_ENVIRONMENT_LIMIT))), leader.pid)
    except OSError as error:
        return Variables(_kept(given), leader.pid, error.strerror or str(error))


def _kept(variables: Mapping[str, str]) -> dict[str, str]:
    return {name: _text(value) for name, value in variables.items() if _KEPT.fullmatch(name)}


def _text(value: str) -> str:
    """The same as text that can be sent on: what the system gives need not be UTF-8."""
    return value.encode(errors="surrogateescape").decode(errors="replace")


# --- which Python ----------------------------------------------------------------------------------------------


class _NoPythonError(Exception):
    """Why the command leads to no Python that can be looked at; `is_other` where it starts none at all."""

    def __init__(self, why: str, is_other: bool = False) -> None:
        super().__init__(why)
        self.is_other = is_other


def parse_shebang(head: bytes) -> tuple[str, ...] | None:
    """The words of a script's first line, None for no script; also pip's form for long paths (execve(2))."""
    if not head.startswith(b"#!"):
        return None
    first, _, rest = head[2:].partition(b"\n")
    words = tuple(word.decode(errors="replace") for word in first.split())
    if words and words[0] == "/bin/sh" and (found := _LONG_SHEBANG.match(rest)):
        return (found[1].decode(errors="replace"),)
    return words


def _python_of(command: Sequence[str], directory: Path, search: str) -> Path:
    """The Python that a command starts, by an unresolved path."""
    words = tuple(command)
    for _ in range(_HOPS):
        while words and Path(words[0]).name in _WRAPPERS:
            words = words[1:]
            while words and _OF_WRAPPER.fullmatch(words[0]):
                words = words[1:]
        if not words:
            raise _NoPythonError("the command names no program")
        name = Path(words[0]).name
        if _OPAQUE.fullmatch(name):
            raise _NoPythonError(f"{name} chooses what it starts")
        program = _located(words[0], directory, search)
        if program is None:
            raise _NoPythonError(f"{words[0]} is not there, or may not be run")
        with files.opened(program) as descriptor:
            script = parse_shebang(os.pread(descriptor, 4096, 0))
        # One that is a script is a version manager's, such as pyenv's.
        if _PYTHON.fullmatch(name) and script is None:
            return program
        if not script:
            raise _NoPythonError(f"{name} is a program of its own", is_other=True)
        words = script
    raise _NoPythonError(f"{command[0]} leads through too many scripts")


def _located(word: str, directory: Path, search: str) -> Path | None:
    """Where a program lies, as execvp(3) looks for it."""
    if "/" in word:
        candidates = [directory / word]
    else:
        candidates = [directory / folder / word for folder in search.split(":")[:FOLDERS_AT_MOST]]
    return next((one for one in candidates if one.is_file() and os.access(one, os.X_OK)), None)


def _python_of_living(pid: int, search: str) -> Path | None:
    """The Python that the living daemon or one of its descendants runs."""
    for process in (pid, *(one.pid for one in processes.descendants(pid)[:TREE_AT_MOST])):
        line, directory = processes.read_command_line(process), processes.read_directory(process)
        if line and directory and _PYTHON.fullmatch(Path(line[0]).name):
            return _located(line[0], Path(directory), search)
    return None


def parse_settings(text: str) -> dict[str, str]:
    """The `name = value` lines of a pyvenv.cfg."""
    pairs = (line.partition("=") for line in text.splitlines())
    return {name.strip().lower(): value.strip() for name, equals, value in pairs if equals}


def read_interpreter(program: Path, variables: Mapping[str, str], directory: Path = Path()) -> Interpreter:
    """A Python by its files, as CPython's own site.py and getpath.py look for them. Raises OSError.

    A relative folder of PYTHONPATH counts from `directory`.
    """
    real = Path(os.path.realpath(program))
    config = next((file for folder in program.parents[:2] if (file := folder / "pyvenv.cfg").is_file()), None)
    minor, prefix = _base_of(real)
    if config is None:
        if minor is None:
            raise OSError(None, "no lib/python3.X/os.py lies beside it", str(program))
        version = _patch_level(prefix, minor) or minor
        places = _base_places(prefix, minor, variables)
        return Interpreter(str(program), version, _there([*_search_path(variables, directory), *places]))
    told = parse_settings(files.read_small(config).decode(errors="replace"))
    written = told.get("version") or told.get("version_info") or minor or ""
    version = ".".join(re.findall(r"\d+", written)[:3])
    own = ".".join(version.split(".")[:2])
    places = [config.parent / lib / f"python{own}" / "site-packages" for lib in ("lib", "lib64")]
    if told.get("include-system-site-packages", "").lower() == "true" and minor is not None:
        places += _base_places(prefix, minor, variables)
    base = minor if minor is not None and minor != own else None
    return Interpreter(
        str(program), version, _there([*_search_path(variables, directory), *places]), True, base
    )


def _base_of(real: Path) -> tuple[str | None, Path]:
    """The minor version and the prefix of a real program."""
    named = _MINOR.search(real.name)
    for folder in real.parents[1:4]:
        found = sorted(folder.glob("lib/python3.*/os.py"))
        minors = [file.parent.name.removeprefix("python") for file in found[:20]]
        if named is not None and named[0] in minors:
            return named[0], folder
        if named is None and len(minors) == 1:
            return minors[0], folder
    return (named[0] if named else None), real.parent.parent


def _patch_level(prefix: Path, minor: str) -> str | None:
    try:
        text = files.read_small(prefix / "include" / f"python{minor}" / "patchlevel.h").decode(
            errors="replace"
        )
    except OSError:
        return None
    found = re.search(r'#define\s+PY_VERSION\s+"([^"]+)"', text)
    return found[1] if found else None


def _base_places(prefix: Path, minor: str, variables: Mapping[str, str]) -> list[Path]:
    home = variables.get("HOME")
    no_user = variables.get("PYTHONNOUSERSITE") or not home
    user = [] if no_user else [Path(home or "") / ".local" / "lib" / f"python{minor}" / "site-packages"]
    major = minor.partition(".")[0]
    # The last two are Debian's.
    return [
        *user,
        prefix / "lib" / f"python{minor}" / "site-packages",
        prefix / "lib64" / f"python{minor}" / "site-packages",
        prefix / "local" / "lib" / f"python{minor}" / "dist-packages",
        prefix / "lib" / f"python{major}" / "dist-packages",
    ]


def _search_path(variables: Mapping[str, str], directory: Path) -> list[Path]:
    return [directory / one for one in variables.get("PYTHONPATH", "").split(":")[:FOLDERS_AT_MOST] if one]


def _there(places: Iterable[Path]) -> tuple[str, ...]:
    """Those that are there, each once, also where a link (lib64) leads to another."""
    real = {os.path.realpath(place): str(place) for place in reversed(list(places)) if place.is_dir()}
    return tuple(reversed(real.values()))


# --- what is installed -----------------------------------------------------------------------------------------


def normalised(name: str) -> str:
    """A package's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


class _Found(msgspec.Struct, frozen=True):
    """An entry of a folder of packages: its name and version, and its own folder of facts where it has one."""

    name: str
    version: str
    place: Path
    info: Path | None


def parse_entry(name: str) -> tuple[str, str] | None:
    """Package and version of a folder or file `torch-2.6.0+cu126.dist-info`; None for anything else."""
    stem, _, kind = name.rpartition(".")
    if kind not in ("dist-info", "egg-info") or stem.startswith("~"):
        return None
    package, dash, version = re.sub(r"-py\d[\d.]*$", "", stem).rpartition("-")
    return (normalised(package), version) if dash and package and version else None


def _entries(place: str) -> list[str]:
    with os.scandir(place) as entries:
        return [_text(entry.name) for entry, _ in zip(entries, range(ENTRIES_AT_MOST), strict=False)]


def _installed(places: Iterable[str]) -> tuple[list[_Found], list[str], list[str]]:
    """What is installed, the nearest first; what pip left behind; and what is there twice."""
    found: list[_Found] = []
    leftovers: list[str] = []
    doubled: list[str] = []
    seen: dict[str, str] = {}
    for place in places:
        here: dict[str, str] = {}
        for name in sorted(_entries(place)):
            if name.startswith("~"):
                leftovers.append(f"{place}/{name}")
            parsed = parse_entry(name)
            if parsed is None or len(found) >= PACKAGES_AT_MOST:
                continue
            package, version = parsed
            if package in here and here[package] != version:
                doubled.append(f"{package} {here[package]} and {version} in {place}")
            here.setdefault(package, version)
            if seen.setdefault(package, place) == place:
                info = Path(place) / name if name.endswith(".dist-info") else None
                found.append(_Found(package, version, Path(place), info))
    return found, leftovers, doubled


def parse_requires(metadata: bytes) -> list[tuple[str, str]]:
    """Name and text of each Requires-Dist in a METADATA file's header (core metadata specification)."""
    end = re.search(rb"\r?\n\r?\n", metadata)
    header = metadata if end is None else metadata[: end.start()]
    return [
        (normalised(found[2].decode()), found[1].decode(errors="replace").strip())
        for found in _REQUIRES.finditer(header)
    ]


def _read_head(file: Path, limit: int) -> bytes:
    with files.opened(file) as descriptor:
        return os.pread(descriptor, limit, 0)


def demands_of(
    package: str, version: str, metadata: bytes, packages: Mapping[str, str], python: str
) -> Iterator[Demand]:
    """What a package wants of those that are watched, where it applies to this version of Python without extras."""
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.version import InvalidVersion, Version

    full = python if python.count(".") >= 2 else f"{python}.0"
    marks = {
        "extra": "",
        "python_full_version": full,
        "python_version": ".".join(python.split(".")[:2]),
    }
    for name, text in parse_requires(metadata):
        if not _WATCHED.fullmatch(name):
            continue
        try:
            wanted = Requirement(text)
            if wanted.marker is not None and not wanted.marker.evaluate(marks):
                continue
            found = packages.get(name)
            met = found is not None and wanted.specifier.contains(Version(found), prereleases=True)
        except (InvalidRequirement, InvalidVersion):
            continue
        yield Demand(package, version, name, f"{name}{wanted.specifier}", found, met)
    # flash-attn and others tell it in their version: 2.7.4+cu12torch2.6cxx11abiTRUE.
    built, torch = _BUILT_FOR_TORCH.search(version), packages.get("torch")
    if built is not None and torch is not None:
        met = torch.split(".")[:2] == built[1].split(".")
        yield Demand(package, version, "torch", f"torch=={built[1]}.*", torch, met)


def _is_hollow(one: _Found) -> bool:
    """Whether the first files that RECORD names are all gone; a package without a RECORD is not judged."""
    if one.info is None:
        return False
    try:
        lines = _read_head(one.info / "RECORD", _RECORD_HEAD).decode(errors="replace").splitlines()
    except OSError:
        return False
    named = [line.partition(",")[0].strip('"') for line in lines[:-1]]
    own = [
        name
        for name in named
        if name.endswith((".py", ".so", ".pth")) and ".dist-info/" not in name and not name.startswith("..")
    ]
    return bool(own) and not any((one.place / name).exists() for name in own[:3])


def parse_torch(text: str) -> Torch | None:
    """`torch/version.py`, as text."""
    told = dict(re.findall(r"^(\w+)(?:\s*:[^=\n]+)?\s*=\s*['\"]([^'\"]+)['\"]", text, re.MULTILINE))
    version = told.get("__version__")
    return None if version is None else Torch(version, told.get("cuda"), told.get("hip"))


def _read_torch(places: Iterable[str]) -> tuple[Torch | None, str | None]:
    for place in places:
        try:
            text = files.read_small(Path(place) / "torch" / "version.py").decode(errors="replace")
        except OSError:
            continue
        return parse_torch(text), place
    return None, None


def parse_driver(text: str) -> str | None:
    """The version in /proc/driver/nvidia/version, of the closed or the open kernel module."""
    found = _KERNEL_MODULE.search(text)
    return found[1] if found else None


def _read_driver(proc: Path) -> str | None:
    try:
        return parse_driver((proc / "driver" / "nvidia" / "version").read_text(errors="replace"))
    except OSError:
        return None


def libraries_in(names: Iterable[str]) -> set[str]:
    """The libraries of CUDA, cuDNN and NCCL among file names, each as the loader calls it: `libcudnn.so.9`."""
    return {found[1] for name in names if (found := _LIBRARY.match(name))}


def _own_libraries(place: str) -> set[str]:
    folders = [
        Path(place) / "torch" / "lib",
        *sorted((Path(place) / "nvidia").glob("*/lib"))[:FOLDERS_AT_MOST],
    ]
    found: set[str] = set()
    for folder in folders:
        if folder.is_dir():
            found |= libraries_in(_entries(str(folder)))
    return found


def _read_shadows(variables: Mapping[str, str], own: set[str]) -> tuple[list[Shadow], str | None]:
    """What would be loaded before torch's own libraries, and a libcuda for older drivers on that path."""
    folders = list(dict.fromkeys(filter(None, variables.get("LD_LIBRARY_PATH", "").split(":"))))
    probing = [
        probes.Probe(folder, lambda folder=folder: _entries(folder), list[str], FOLDER_SECONDS)  # type: ignore[misc]
        for folder in folders[:FOLDERS_AT_MOST]
    ]
    shadows, compatibility = [], None
    for folder, answer in probes.ask(probing).items():
        names = answer.value if isinstance(answer.value, list) else []
        if answer.hung:
            shadows.append(Shadow("LD_LIBRARY_PATH", folder, (), f"hangs: {answer.problem}"))
        if same := tuple(sorted(own & libraries_in(names))):
            shadows.append(Shadow("LD_LIBRARY_PATH", folder, same))
        if "libcuda.so.1" in names and "compat" in Path(folder).parts:
            compatibility = folder
    for word in filter(None, re.split(r"[:\s]+", variables.get("LD_PRELOAD", ""))):
        library = tuple(libraries_in([Path(word).name])) or tuple(
            re.findall(r"^lib(?:cudart|cudnn|nccl)\.so$", Path(word).name)
        )
        is_gone = "/" in word and not Path(word).exists()
        if library or is_gone:
            problem = "is not there: the loader says so at each start" if is_gone else None
            shadows.append(Shadow("LD_PRELOAD", word, library, problem))
    return shadows, compatibility


def read_environment(
    settings: Settings, variables: Variables, proc: Path = PROC, compatibility: Path = COMPATIBILITY
) -> Environment:
    """The daemon's Python. Raises OSError where one that was found cannot be looked at."""
    command, directory = settings.daemon.command, settings.daemon.directory
    search = variables.values.get("PATH", os.defpath)
    driver = _read_driver(proc)
    try:
        program = _python_of(command, directory, search)
    except (_NoPythonError, OSError) as error:
        is_other = isinstance(error, _NoPythonError) and error.is_other
        living = None if variables.pid is None else _python_of_living(variables.pid, search)
        if living is None:
            return Environment(command[0], str(error), is_other, driver=driver)
        program = living
    interpreter = read_interpreter(program, variables.values, directory)
    found, leftovers, doubled = _installed(interpreter.places)
    packages = {one.name: one.version for one in found}
    demands: list[Demand] = []
    hollow = []
    for one in found:
        if _is_hollow(one):
            hollow.append(f"{one.name} {one.version}")
        if one.info is None:
            continue
        try:
            metadata = _read_head(one.info / "METADATA", _HEAD)
            if len(metadata) == _HEAD and not re.search(rb"\r?\n\r?\n", metadata):
                metadata = _read_head(one.info / "METADATA", _WHOLE_HEADER)
        except FileNotFoundError:
            hollow.append(f"{one.name} {one.version} (without METADATA)")
            continue
        except OSError:
            continue
        demands += demands_of(one.name, one.version, metadata, packages, interpreter.version)
    torch, place = _read_torch(interpreter.places)
    own = set() if place is None else _own_libraries(place)
    shadows, forward = _read_shadows(variables.values, own)
    if forward is None and (compatibility / "libcuda.so.1").exists():
        forward = str(compatibility)
    return Environment(
        program=command[0],
        interpreter=interpreter,
        packages=packages,
        demands=tuple(demands),
        leftovers=tuple(leftovers),
        doubled=tuple(doubled),
        hollow=tuple(dict.fromkeys(hollow)),
        torch=torch,
        driver=driver,
        compatibility=forward,
        own_libraries=len(own),
        shadows=tuple(shadows),
    )


# --- this project's own ----------------------------------------------------------------------------------------


def read_own_packages(file: Path = REQUIREMENTS) -> OwnPackages:
    """Whether what requirements.txt wants is installed for this Python. Raises OSError."""
    from importlib import metadata

    from packaging.requirements import InvalidRequirement, Requirement

    fitting: list[tuple[str, str]] = []
    wrong: list[tuple[str, str | None]] = []
    for line in files.read_small(file).decode(errors="replace").splitlines():
        text = line.partition("#")[0].strip()
        if not text or text.startswith("-"):
            continue
        try:
            wanted = Requirement(text)
        except InvalidRequirement:
            raise OSError(None, f"is no list of requirements: {text[:60]}", str(file)) from None
        if wanted.marker is not None and not wanted.marker.evaluate():
            continue
        try:
            version = metadata.version(wanted.name)
        except metadata.PackageNotFoundError:
            wrong.append((text, None))
            continue
        is_right = wanted.specifier.contains(version, prereleases=True)
        (fitting if is_right else wrong).append((text, version))
    return OwnPackages(sys.executable, tuple(fitting), tuple(wrong))
