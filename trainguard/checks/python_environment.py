"""Checks of the daemon's Python: do its packages fit each other, the driver and the GPUs, and what steers them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from trainguard.checks.values import (
    Absent,
    Check,
    Facts,
    Reading,
    Told,
    attention,
    bad,
    ok,
    unknown,
)
from trainguard.config import did_you_mean
from trainguard.health import Status
from trainguard.python_environment import (
    Demand,
    Environment,
    OwnPackages,
    Torch,
    Variables,
    read_environment,
    read_own_packages,
    read_variables,
)

SUBJECT = "daemon's Python"
SHOWN = 6
# The oldest driver for a CUDA major release, by minor version compatibility: CUDA Toolkit release notes, table 2.
OLDEST_DRIVER = {11: "450.80.02", 12: "525.60.13", 13: "580.65.06"}
# What any release of torch has known: c10/core/AllocatorConfig.h and c10/cuda/CUDAAllocatorConfig.h, 1.10 to 2.13.
ALLOCATOR_OPTIONS = (
    "backend",
    "expandable_segments",
    "expandable_segments_reserve",
    "expandable_segments_reserve_by_class",
    "garbage_collection_threshold",
    "graph_capture_record_stream_reuse",
    "large_segment_size_mb",
    "max_non_split_rounding_mb",
    "max_split_size_mb",
    "per_process_memory_fraction",
    "pinned_free_catch_all",
    "pinned_max_cached_size_mb",
    "pinned_max_round_threshold_mb",
    "pinned_num_register_threads",
    "pinned_reserve_segment_size_mb",
    "pinned_use_background_threads",
    "pinned_use_cuda_host_register",
    "pinned_use_hip_host_register",
    "release_lock_on_cudamalloc",
    "release_lock_on_hipmalloc",
    "roundup_bypass_threshold_mb",
    "roundup_power2_divisions",
    "throw_on_cudamalloc_oom",
)
ALLOCATOR_NAMES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")
# The release that brought PYTORCH_ALLOC_CONF; those before it read only the other two.
ALLOC_CONF_SINCE = (2, 9)
# The first release that was built for NumPy 2 (its release notes).
NUMPY_2_SINCE = (2, 3)
BUILT_ON_TORCH = (
    "apex",
    "flash-attn",
    "torchaudio",
    "torchtext",
    "torchvision",
    "transformer-engine",
    "xformers",
)
OFF, ON = ("0", "false", "off", "no", "n", "f"), ("1", "true", "on", "yes", "y", "t")
# Variable, the values that count, and what they do (NCCL user guide, torch ProcessGroupNCCL.hpp, CUDA guide).
STEERING = (
    ("CUDA_LAUNCH_BLOCKING", ON, "waits for every kernel, which slows training down several times"),
    ("NCCL_ASYNC_ERROR_HANDLING", OFF, "lets a collective that hangs hang for ever"),
    ("NCCL_DEBUG", ("info", "trace"), "writes a line for every connection into the log"),
    ("NCCL_IB_DISABLE", ON, "sends everything over TCP instead of InfiniBand or RoCE"),
    ("NCCL_P2P_DISABLE", ON, "keeps GPUs from reading each other's memory, all goes through the host"),
    ("NCCL_SHM_DISABLE", ON, "sends what is meant for the same machine over the network"),
    ("TORCH_DISTRIBUTED_DEBUG", ("detail",), "compares every collective between all ranks before it begins"),
    ("TORCH_NCCL_ASYNC_ERROR_HANDLING", OFF, "lets a collective that hangs hang for ever"),
    ("TORCH_NCCL_ENABLE_MONITORING", OFF, "lets a stuck NCCL watchdog hang for ever"),
)

VARIABLES = Reading("daemon's variables", Variables, lambda settings, deep: read_variables(settings), 3.0)
PYTHON = Reading(
    SUBJECT,
    Environment,
    lambda settings, deep: read_environment(settings, read_variables(settings)),
    6.0,
)
OWN_PACKAGES = Reading("own packages", OwnPackages, lambda settings, deep: read_own_packages(), 3.0)

NOT_KNOWN = Absent("the daemon's Python is not known, see python-version")
NO_TORCH = Absent("no torch is installed for the daemon")


def release(version: str) -> tuple[int, ...]:
    """The numbers at the beginning of a version: (2, 6, 0) of `2.6.0+cu126`."""
    numbers: list[int] = []
    for part in version.partition("+")[0].split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)


def listed(words: Iterable[str]) -> str:
    """The first few of many."""
    every = list(words)
    more = f" and {len(every) - SHOWN} more" if len(every) > SHOWN else ""
    return ", ".join(every[:SHOWN]) + more


def _expected_gpus(facts: Facts) -> int:
    return facts.settings.health.gpus or 0


def _pip(now: Environment, arguments: str) -> str:
    program = now.interpreter.program if now.interpreter is not None else "python"
    return f"{program} -m pip {arguments}"


def judge_version(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    now = facts.of(Environment)
    found = now.interpreter
    if found is None and now.starts_none:
        yield Absent(f"the daemon is no Python: {now.problem}")
    elif found is None:
        remedy = "name the Python itself in daemon.command, or leave the check out with health.skip"
        yield unknown(SUBJECT, f"cannot be looked at: {now.problem}", remedy)
    elif found.base is not None:
        fact = (
            f"{found.program} is a virtual environment of Python {found.version}, and runs {found.base} now"
        )
        yield bad(
            SUBJECT, fact, "its packages are not found: make the environment anew and install them again"
        )
    elif not found.places:
        yield bad(SUBJECT, f"{found.program} has no folder of packages", "make the environment anew")
    else:
        kind = "virtual environment" if found.virtual else "interpreter"
        yield ok(SUBJECT, f"Python {found.version} at {found.program} ({kind}), {len(now.packages)} packages")


def judge_own_packages(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    now = facts.of(OwnPackages)
    for wanted, found in now.wrong:
        fact = f"is {found}, wanted is {wanted}" if found is not None else "is not installed"
        remedy = f"{now.python} -m pip install -r requirements.txt"
        yield attention(f"package {_name_of(wanted)}", fact, remedy)
    if not now.fitting and not now.wrong:
        yield unknown("requirements.txt", "names no package", "put the project's own file back")
    elif not now.wrong:
        yield ok("requirements.txt", f"all of its {len(now.fitting)} packages are there and fit")


def _name_of(requirement: str) -> str:
    end = next((at for at, sign in enumerate(requirement) if sign in " <>=!~;[("), len(requirement))
    return requirement[:end]


def judge_torch(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    now, expected = facts.of(Environment), _expected_gpus(facts)
    if now.interpreter is None:
        yield NOT_KNOWN
        return
    torch = now.torch
    if torch is None:
        wanting = [one.by for one in now.demands if one.name == "torch" and one.by != "torch"]
        if "torch" in now.packages:
            fact = f"torch {now.packages['torch']} is on record, and its files are not there"
            yield bad(SUBJECT, fact, _pip(now, "install --force-reinstall torch"))
        elif wanting:
            fact = f"has no torch, which {listed(dict.fromkeys(wanting))} need"
            yield bad(SUBJECT, fact, _pip(now, "install torch"))
        elif _is_of_torch(facts.settings.daemon.command):
            yield bad(SUBJECT, "has no torch, which the command needs", _pip(now, "install torch"))
        else:
            yield NO_TORCH
    elif expected and torch.cuda is None and torch.hip is None:
        fact = f"torch {torch.version} is built without CUDA, and {expected} GPUs are expected"
        yield bad(SUBJECT, fact, "it trains on the CPU: install the build for CUDA (pytorch.org/get-started)")
    else:
        yield ok(SUBJECT, f"torch {torch.version}, built for {_build_of(torch)}")


def _is_of_torch(command: Sequence[str]) -> bool:
    words = {word.rpartition("/")[2] for word in command[:8]}
    return bool(words & {"torchrun", "deepspeed", "accelerate", "torch.distributed.run"})


def _build_of(torch: Torch) -> str:
    return f"CUDA {torch.cuda}" if torch.cuda else f"ROCm {torch.hip}" if torch.hip else "the CPU"


def judge_cuda(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    now, expected = facts.of(Environment), _expected_gpus(facts)
    if now.interpreter is None:
        yield NOT_KNOWN
        return
    if now.torch is None:
        yield NO_TORCH
        return
    if now.torch.cuda is None:
        yield Absent(f"torch is built for {_build_of(now.torch)}")
        return
    major = release(now.torch.cuda)[:1]
    wanted = OLDEST_DRIVER.get(major[0]) if major else None
    subject = f"CUDA {now.torch.cuda} of torch"
    if now.driver is None and expected:
        fact = f"no NVIDIA driver is loaded, and {expected} GPUs are expected"
        yield attention(
            subject, fact, "it trains on the CPU or dies: load the driver (modprobe nvidia, dmesg)"
        )
    elif now.driver is None:
        yield Absent("no NVIDIA driver is loaded, and no GPU is expected")
    elif wanted is None:
        yield unknown(subject, f"which driver it needs is not known here; {now.driver} is loaded")
    elif release(now.driver) >= release(wanted):
        yield ok(subject, f"driver {now.driver} is loaded, {wanted} or newer is needed")
    elif now.compatibility is not None:
        fact = (
            f"driver {now.driver} is older than {wanted}, with NVIDIA's compatibility in {now.compatibility}"
        )
        yield ok(subject, fact)
    else:
        fact = f"driver {now.driver} is loaded, and {wanted} or newer is needed"
        remedy = "upgrade the driver, or install a torch that is built for an older CUDA"
        yield bad(subject, fact, remedy)


def judge_wheels(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    now = facts.of(Environment)
    if now.interpreter is None:
        yield NOT_KNOWN
        return
    pins = [one for one in now.demands if one.by == "torch" and _is_nvidia(one.name)]
    wheels = [name for name in now.packages if _is_nvidia(name)]
    majors: dict[str, list[str]] = {}
    for name in wheels:
        library, _, major = name.rpartition("-cu")
        if library and major.isdigit():
            majors.setdefault(library, []).append(f"cu{major}")
    mixed = [f"{library} for {' and '.join(sorted(of))}" for library, of in majors.items() if len(of) > 1]
    wrong = [one for one in pins if not one.met]
    if mixed:
        remedy = "they overwrite each other's files: uninstall both, then install torch again"
        yield attention("NVIDIA's packages", f"there are {listed(sorted(mixed))}", remedy)
    if wrong:
        fact = f"torch {wrong[0].by_version} wants {listed(map(_told, wrong))}"
        yield attention("NVIDIA's packages", fact, _pip(now, f"install {_quoted(wrong)}"))
    if mixed or wrong:
        return
    if pins:
        yield ok("NVIDIA's packages", f"the {len(pins)} that torch names have the versions that it wants")
    else:
        yield Absent("torch names no package of NVIDIA")


def _is_nvidia(name: str) -> bool:
    return name.startswith(("nvidia-", "cuda-")) and name not in ("nvidia-ml-py", "cuda-python")


def _told(one: Demand) -> str:
    return f"{one.text} ({f'there is {one.found}' if one.found is not None else 'not installed'})"


def _quoted(demands: Iterable[Demand]) -> str:
    return " ".join(dict.fromkeys(f"'{one.text}'" for one in demands))


def judge_family(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    now = facts.of(Environment)
    if now.interpreter is None:
        yield NOT_KNOWN
        return
    of_family = [one for one in now.demands if not _is_nvidia(one.name) and one.name != "numpy"]
    wrong = [one for one in of_family if not one.met and not (one.name == "torch" and one.found is None)]
    for one in wrong:
        fact = f"{one.by_version} wants {_told(one)}"
        if one.by in BUILT_ON_TORCH and one.name == "torch":
            remedy = f"it is built for another torch: {_pip(now, f'install --upgrade {one.by} torch')}"
            yield bad(f"package {one.by}", fact, remedy)
        else:
            yield attention(f"package {one.by}", fact, _pip(now, f"install {_quoted([one])}"))
    builds = _builds_of(now)
    if len(set(builds.values())) > 1:
        told = ", ".join(f"{name} for {build}" for name, build in builds.items())
        remedy = "install all of them from the same index (pytorch.org/get-started)"
        yield attention("torch's relatives", f"are built for different CUDAs: {told}", remedy)
    elif not wrong and of_family:
        yield ok("torch's relatives", f"{len(of_family)} wishes of packages for each other are met")
    elif not wrong:
        yield Absent("no package here depends on torch or its relatives")


def _builds_of(now: Environment) -> dict[str, str]:
    """What torch and those released with it are built for, by the local part of their versions."""
    found = {}
    for name in ("torch", "torchvision", "torchaudio"):
        version = now.packages.get(name, "")
        if name == "torch" and now.torch is not None:
            version = now.torch.version
        local = version.partition("+")[2]
        if local == "cpu" or (local.startswith("cu") and local[2:].isdigit()):
            found[name] = local
    return found


def judge_numpy(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    now = facts.of(Environment)
    if now.interpreter is None:
        yield NOT_KNOWN
        return
    version = now.packages.get("numpy")
    if version is None:
        yield Absent("no NumPy is installed for the daemon")
        return
    demands = [one for one in now.demands if one.name == "numpy"]
    wrong = [one for one in demands if not one.met]
    is_new = release(version)[:1] >= (2,)
    if is_new and now.torch is not None and release(now.torch.version)[:2] < NUMPY_2_SINCE:
        fact = f"NumPy {version} is there, and torch {now.torch.version} is built for NumPy 1"
        yield attention("NumPy", fact, _pip(now, "install 'numpy<2'"))
    elif wrong:
        wishes = (f"{one.by} {one.by_version} wants {one.text}" for one in wrong)
        wanted = next((one.text for one in wrong), "numpy")
        yield attention("NumPy", f"{version} is there, {listed(wishes)}", _pip(now, f"install '{wanted}'"))
    else:
        yield ok("NumPy", f"{version} fits the {len(demands)} packages that want it")


def judge_broken(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    now = facts.of(Environment)
    if now.interpreter is None:
        yield NOT_KNOWN
        return
    if now.hollow:
        fact = f"files of {listed(now.hollow)} are gone"
        names = " ".join(dict.fromkeys(one.partition(" ")[0] for one in now.hollow[:SHOWN]))
        yield attention(SUBJECT, fact, _pip(now, f"install --force-reinstall {names}"))
    if now.doubled:
        remedy = "uninstall it until pip finds none, then install it once"
        yield attention(SUBJECT, f"there is {listed(now.doubled)}", remedy)
    if now.leftovers:
        fact = f"an interrupted pip has left {listed(now.leftovers)}"
        yield attention(SUBJECT, fact, "install that package again, then delete what was left")
    if not (now.hollow or now.doubled or now.leftovers):
        if now.packages:
            yield ok(SUBJECT, f"all of its {len(now.packages)} packages have their files, each once")
        else:
            yield Absent("nothing is installed there")


def _unread(now: Variables) -> Told:
    fact = f"those of pid {now.pid} cannot be read: {now.problem}"
    return unknown("daemon's variables", fact, "run this as the daemon's user")


def judge_unbuffered(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    now = facts.of(Variables)
    subject = "PYTHONUNBUFFERED"
    if now.problem is not None:
        yield unknown(
            subject, f"the variables of pid {now.pid} cannot be read: {now.problem}", "run as its user"
        )
        return
    whose = f"pid {now.pid} has" if now.pid is not None else "a start sets"
    if now.values.get(subject):
        yield ok(subject, f"{whose} it: what the daemon says is in the log at once")
    elif "-u" in facts.settings.daemon.command[1:4]:
        yield ok(subject, "is not needed: the command has -u")
    else:
        remedy = (
            "its log is silent for minutes while it works: set it to 1 in daemon.environment, and restart"
        )
        yield attention(subject, f"{whose} it not, or empty", remedy)


def judge_library_path(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    now = facts.of(Environment)
    if now.interpreter is None:
        yield NOT_KNOWN
        return
    for one in now.shadows:
        if one.problem is not None:
            yield attention(one.variable, f"{one.place} {one.problem}", f"take it out of {one.variable}")
            continue
        remedy = f"cuDNN and NCCL fail where versions mix: take it out of {one.variable}"
        fact = f"{one.place} has {listed(one.libraries)}, which torch brings along itself"
        yield attention(one.variable, fact, remedy)
    if now.shadows:
        return
    if now.torch is None:
        yield NO_TORCH
    elif now.own_libraries:
        yield ok("LD_LIBRARY_PATH", f"hides none of torch's own {now.own_libraries} libraries of CUDA")
    else:
        yield Absent("torch brings no library of CUDA along")


def judge_allocator(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    now, torch = facts.of(Variables).values, facts.of(Environment).torch
    named = [name for name in ALLOCATOR_NAMES if now.get(name)]
    if facts.of(Variables).problem is not None:
        yield _unread(facts.of(Variables))
        return
    if not named:
        yield Absent("no variable sets torch's allocator")
        return
    for name in named:
        options = allocator_options(now[name])
        strange = [option for option in options if option not in ALLOCATOR_OPTIONS]
        for option in strange:
            hint = did_you_mean(option, ALLOCATOR_OPTIONS).removeprefix("; ")
            remedy = f"torch refuses to start with it: {hint or 'write one that it knows, or remove it'}"
            made = bad if hint else attention
            yield made(name, f"has the option {option}, which torch does not know", remedy)
        if name == "PYTORCH_ALLOC_CONF" and torch and release(torch.version)[:2] < ALLOC_CONF_SINCE:
            fact = f"is not read by torch {torch.version}, 2.9 is the first that does"
            yield attention(name, fact, "call it PYTORCH_CUDA_ALLOC_CONF")
        elif not strange:
            yield ok(name, f"sets {', '.join(options) or 'nothing'}")


def allocator_options(text: str) -> list[str]:
    """The names in `expandable_segments:True,roundup_power2_divisions:[256:1,512:2]`, without those in brackets."""
    names, depth, word = [], 0, ""
    for sign in f"{text},":
        depth += {"[": 1, "]": -1}.get(sign, 0)
        if sign == "," and depth <= 0:
            names.append(word.partition(":")[0].strip())
            word = ""
        else:
            word += sign
    return [name for name in names if name]


def judge_nccl(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    now = facts.of(Variables)
    if now.problem is not None:
        yield _unread(now)
        return
    found = 0
    for name, values, effect in STEERING:
        value = now.values.get(name, "").strip()
        if value.lower() not in values:
            continue
        found += 1
        remedy = f"meant for debugging: take {name} out of daemon.environment, and restart"
        yield attention(name, f"is {value}: it {effect}", remedy)
    if found:
        return
    if facts.of(Environment).torch is None:
        yield NO_TORCH
    else:
        yield ok("variables", f"none of {len(STEERING)} that slow training down or hide its hangs is set")


def judge_visible(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    now, expected = facts.of(Variables), _expected_gpus(facts)
    subject = "CUDA_VISIBLE_DEVICES"
    text = now.values.get(subject)
    if now.problem is not None:
        yield _unread(now)
        return
    if text is None:
        yield Absent("CUDA_VISIBLE_DEVICES is not set")
        return
    # What stands behind an invalid one is not seen either (CUDA programming guide, environment variables).
    devices: list[str] = []
    for word in text.split(","):
        if not word.strip() or word.strip().startswith("-"):
            break
        devices.append(word.strip())
    remedy = "see daemon.environment, and the shell or service that starts the watchdog"
    if len(set(devices)) < len(devices):
        yield bad(subject, f"names a GPU twice ({text}), and CUDA then sees none", remedy)
    elif len(devices) < expected:
        made = attention if devices else bad
        yield made(subject, f"shows {len(devices)} of the {expected} GPUs that health.gpus expects", remedy)
    else:
        yield ok(subject, f"shows {len(devices)} GPUs")


CHECKS = (
    Check(
        id="python-version",
        component="python",
        explain="Which Python the daemon's command starts, found without running it, and whether it is whole.",
        reads=(PYTHON,),
        answers_for=(PYTHON,),
        judge=judge_version,
    ),
    Check(
        id="python-packages",
        component="python",
        explain="The packages of requirements.txt for this project's own Python: there, in versions that fit.",
        reads=(OWN_PACKAGES,),
        answers_for=(OWN_PACKAGES,),
        judge=judge_own_packages,
        worst=Status.ATTENTION,
    ),
    Check(
        id="python-torch",
        component="python",
        explain="torch in the daemon's Python, and for what it is built: without CUDA it trains on the CPU.",
        reads=(PYTHON,),
        judge=judge_torch,
        gates=True,
    ),
    Check(
        id="python-cuda",
        component="python",
        explain="The CUDA that torch is built for against the loaded driver: an older one refuses to start it.",
        reads=(PYTHON,),
        judge=judge_cuda,
        gates=True,
    ),
    Check(
        id="python-nvidia-wheels",
        component="python",
        explain="NVIDIA's packages (cuDNN, NCCL, ...) against those that torch names, and two CUDAs mixed.",
        reads=(PYTHON,),
        judge=judge_wheels,
        worst=Status.ATTENTION,
    ),
    Check(
        id="python-torch-family",
        component="python",
        explain="Packages built for another torch (torchvision, flash-attn, xformers), or that want other versions.",
        reads=(PYTHON,),
        judge=judge_family,
    ),
    Check(
        id="python-numpy",
        component="python",
        explain="NumPy against what the packages want of it: those built for NumPy 1 fail with NumPy 2.",
        reads=(PYTHON,),
        judge=judge_numpy,
        worst=Status.ATTENTION,
    ),
    Check(
        id="python-broken",
        component="python",
        explain="Packages without their files, in two versions at once, or left behind by an interrupted pip.",
        reads=(PYTHON,),
        judge=judge_broken,
        worst=Status.ATTENTION,
    ),
    Check(
        id="python-unbuffered",
        component="python",
        explain="PYTHONUNBUFFERED of the daemon: without it the log is silent for minutes while it trains.",
        reads=(VARIABLES,),
        answers_for=(VARIABLES,),
        judge=judge_unbuffered,
        worst=Status.ATTENTION,
    ),
    Check(
        id="python-library-path",
        component="python",
        explain="LD_LIBRARY_PATH and LD_PRELOAD: other versions of the CUDA libraries that torch brings along.",
        reads=(PYTHON,),
        judge=judge_library_path,
        worst=Status.ATTENTION,
    ),
    Check(
        id="python-allocator",
        component="python",
        explain="The options of torch's memory allocator: it refuses to start with a misspelt one.",
        reads=(VARIABLES, PYTHON),
        judge=judge_allocator,
    ),
    Check(
        id="python-nccl",
        component="python",
        explain="Variables of NCCL, CUDA and torch that slow training down, or hide that it hangs.",
        reads=(VARIABLES, PYTHON),
        judge=judge_nccl,
        worst=Status.ATTENTION,
    ),
    Check(
        id="python-visible-gpus",
        component="python",
        explain="How many GPUs CUDA_VISIBLE_DEVICES leaves to the daemon, against those that are expected.",
        reads=(VARIABLES,),
        judge=judge_visible,
    ),
)
