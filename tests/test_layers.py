"""The floors of the house: a room imports from floors below its own, never sideways, never up."""

import ast
from pathlib import Path

import pytest
from support import ROOT

FLOORS = {
    0: {"config", "crash_types", "health", "identity", "moments", "packages", "quantities"},
    1: {"cgroup", "commands", "files", "policy", "probes", "processes", "signatures"},
    2: {
        "acknowledgements",
        "activity",
        "checkpoints",
        "daemon",
        "disks",
        "gpu",
        "history",
        "kernel_log",
        "launchers",
        "leftovers",
        "log_files",
        "memory",
        "network",
        "places",
        "progress",
        "python_environment",
        "run_folder",
        "scanner",
        "service_manager",
        "system",
        "vitals",
        "wake",
    },
    3: {
        "command_line",
        "diagnosis",
        "inquiries",
        "journal",
        "observer",
        "remedies",
        "saves",
        "snapshots",
        "standstills",
    },
    4: {"copies", "incidents"},
    5: {"accounting", "investigation", "requests", "run_records", "supervision"},
    6: {"crash_reports", "preparations", "reports", "training"},
    7: {"checks", "repairs", "watchdog"},
    8: {"health_reports"},
}
FLOOR_OF = {room: floor for floor, rooms in FLOORS.items() for room in rooms}
SCRIPTS = [script for script in ROOT.glob("*.py") if script.name != "conftest.py"]
ROOMS = sorted((ROOT / "trainguard").rglob("*.py"))


def imported_rooms(file: Path) -> set[str]:
    """The rooms of trainguard that a file imports, wherever in it the import stands."""
    rooms = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            parts = node.module.split(".")
            if parts[0] == "trainguard":
                rooms |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            parted = (alias.name.split(".") for alias in node.names)
            rooms |= {parts[1] for parts in parted if parts[0] == "trainguard" and len(parts) > 1}
    return rooms - {"VERSION"}


def room_of(file: Path) -> str:
    return file.relative_to(ROOT / "trainguard").parts[0].removesuffix(".py")


@pytest.mark.parametrize("file", ROOMS, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_room_imports_only_from_floors_below(file: Path) -> None:
    room = room_of(file)
    if room == "__init__":
        assert imported_rooms(file) == set()
        return
    others = imported_rooms(file) - {room}
    assert {other for other in others if FLOOR_OF[other] >= FLOOR_OF[room]} == set()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_no_script_imports_another(script: Path) -> None:
    names = {other.stem for other in SCRIPTS}
    for node in ast.walk(ast.parse(script.read_text())):
        if isinstance(node, ast.Import):
            assert not names.intersection(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module not in names


def test_every_room_has_a_floor() -> None:
    assert {room_of(file) for file in ROOMS} - {"__init__"} == set(FLOOR_OF)
