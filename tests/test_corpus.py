"""The corpus: a log's folder says what crashed; a log among the healthy must raise no alarm."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from trainguard.crash_types import TYPES
from trainguard.diagnosis import Crash, Facts
from trainguard.investigation import investigating
from trainguard.investigation.investigating import Knowledge
from trainguard.investigation.sources import Source

DATA = Path(__file__).parent / "data"
CRASHED = sorted((DATA / "crashes").glob("*/*.log"))
HEALTHY = sorted((DATA / "healthy").glob("*.log"))
# What a careful reader could defend besides the folder's type, and what only the exit status tells.
BESIDES: dict[str, list[str]] = yaml.safe_load((DATA / "also_ok.yaml").read_text()) or {}
FACTS: dict[str, dict[str, Any]] = yaml.safe_load((DATA / "facts.yaml").read_text()) or {}
COMMON = (
    *("cuda_oom", "host_oom", "shared_memory", "disk_full", "too_many_files", "cuda_error", "gpu_hardware"),
    *(
        "gpu_driver",
        "collective_timeout",
        "collective_error",
        "connection_error",
        "storage_error",
        "preempted",
    ),
    *("process_killed", "interrupted", "segfault", "numerical", "checkpoint_corrupt", "model_load_error"),
    *("data_error", "config_error", "import_error", "file_not_found", "permission_error", "compile_error"),
    *(
        "multiprocessing_error",
        "assertion_error",
        "key_error",
        "value_error",
        "type_error",
        "attribute_error",
    ),
    *("index_error", "runtime_error"),
)


@cache
def knowledge() -> Knowledge:
    return investigating.open_knowledge(None, None, [])


def name_of(file: Path) -> str:
    return str(file.relative_to(DATA))


def crashes_of(file: Path) -> tuple[Crash, ...]:
    told = FACTS.get(name_of(file))
    source = Source(str(file), facts=None if told is None else Facts(**told))
    return investigating.investigate([source], knowledge()).crashes


@pytest.mark.parametrize("file", CRASHED, ids=name_of)
def test_the_crash_is_what_its_folder_says(file: Path) -> None:
    crashes = crashes_of(file)
    assert crashes, "no crash was found"
    first = crashes[0]
    assert first.type in (file.parent.name, *BESIDES.get(name_of(file), ())), first.root
    if first.root.file:
        lines = file.read_bytes().split(b"\n")
        assert first.root.line is not None and 1 <= first.root.line <= len(lines)
    assert first.advice


@pytest.mark.parametrize("file", HEALTHY, ids=name_of)
def test_a_healthy_log_raises_no_alarm(file: Path) -> None:
    assert crashes_of(file) == ()


def test_every_folder_is_a_type_and_every_common_type_has_five_logs() -> None:
    counts = {name: len(list((DATA / "crashes" / name).glob("*.log"))) for name in TYPES}
    assert {file.parent.name for file in CRASHED} <= TYPES.keys()
    assert {name: counts[name] for name in COMMON if counts[name] < 5} == {}


def test_what_is_said_besides_the_folders_is_about_logs_that_are_there() -> None:
    for name, types in BESIDES.items():
        assert (DATA / name).is_file() and set(types) <= TYPES.keys()
    assert all((DATA / name).is_file() for name in FACTS)
