"""Investigation: which parts of which logs are read, and what the machine's evidence says."""

import os
from pathlib import Path

import pytest

from trainguard.config import load_settings
from trainguard.gpu import Gpu, GpuProcess, Gpus, RemappedRows
from trainguard.history import History, take_position
from trainguard.incidents import IncidentRecord, facts_of
from trainguard.incidents.records import Told
from trainguard.investigation import evidence
from trainguard.investigation.evidence import gather
from trainguard.investigation.sources import Source, expand, name_of_run, plan, shortened
from trainguard.moments import seconds_of


def record(log: Path, start: int, end: int, **more: object) -> IncidentRecord:
    """An incident about these bytes of a log."""
    values: dict[str, object] = {
        "id": f"20260105-031244-{start}",
        "kind": "crash",
        "time": "2026-01-05T03:12:44+0000",
        "run_id": "a",
        "run_number": 1,
        "pid": 4127,
        "ending": Told(signal="SIGKILL"),
        "step": 3,
        "total": 9,
        "loss": None,
        "checkpoint": None,
        "checkpoint_step": None,
        "log": {"file": str(log), "start": start, "end": end},
        "decision": "",
        "orphans": [{"pid": 4130, "name": "worker", "state": "S"}],
        "next_run_id": None,
        "seconds_to_new_process": None,
        "seconds_to_new_step": None,
        "first_new_step": None,
        "steps_lost": None,
        "closed": False,
        "last_lines": ["one", "two"],
    }
    return IncidentRecord(**(values | more))  # type: ignore[arg-type]


# --- which logs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("/data/run7/rank0.log", "/data/run7/rank11.log"),
        ("/data/run7/train.rank_0.log", "/data/run7/train.rank_3.log"),
        ("/data/run7/job-4711.out", "/data/run7/job-4711.err"),
        ("/data/run7/none_x/attempt_0/0/stdout.log", "/data/run7/none_x/attempt_0/3/stderr.log"),
        ("/data/run7/worker-1.log", "/data/run7/worker-2.log"),
    ],
)
def test_logs_of_the_ranks_of_one_run_belong_together(one: str, other: str) -> None:
    assert name_of_run(Source(one)) == name_of_run(Source(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("/data/008.log", "/data/011.log"),
        ("/data/run7/train.log", "/data/run8/train.log"),
        ("/data/run7/job-4711.out", "/data/run7/job-4712.out"),
        ("/data/run7/train.log", "/data/run7/eval.log"),
    ],
)
def test_any_two_other_logs_are_of_two_runs(one: str, other: str) -> None:
    assert name_of_run(Source(one)) != name_of_run(Source(other))


def test_a_folder_without_logs_is_a_note(tmp_path: Path) -> None:
    notes: list[str] = []
    assert expand([tmp_path], notes) == []
    assert len(notes) == 1 and str(tmp_path) in notes[0]


def test_the_daemons_log_is_cut_where_the_watchdog_saw_runs_end(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("daemon: {command: [python3], log: train.log}\n")
    log = tmp_path / "train.log"
    log.write_bytes(b"x" * 999 + b"\n")
    settings, history = load_settings(config), History(tmp_path / "history", writable=False)
    records = [record(log, 600, 900), record(log, 200, 500), record(tmp_path / "other.log", 0, 100)]
    found = plan(settings, history, records, [])
    assert [(one.start, one.end, one.incident is not None) for one in found] == [
        (0, 200, False),
        (200, 500, True),
        (600, 900, True),
        (900, None, False),
    ]
    beyond = plan(settings, history, [record(log, 200, 2000)], [])
    assert [(one.start, one.end) for one in beyond] == [(0, None)]


def test_what_was_read_is_not_read_again(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("daemon: {command: [python3], log: train.log}\n")
    log = tmp_path / "train.log"
    log.write_bytes(b"x" * 999 + b"\n")
    settings, history = load_settings(config), History(tmp_path / "history")
    history.remember([take_position(log, log, 1000, None)])
    assert plan(settings, history, [record(log, 200, 500)], []) == []
    with log.open("ab") as stream:
        stream.write(b"y" * 500)
    (one,) = plan(settings, history, [record(log, 200, 500)], [])
    assert (one.start, one.end, one.fresh) == (500, None, 1000) or (one.start, one.fresh) == (0, 1000)
    history.close()


def test_a_missing_log_of_the_configuration_is_a_note(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("daemon: {command: [python3], log: train.log}\n")
    notes: list[str] = []
    assert plan(load_settings(config), History(tmp_path / "history", writable=False), [], notes) == []
    assert len(notes) == 1 and "train.log: No such file" in notes[0]


@pytest.mark.parametrize(("count", "start"), [(1, 8), (2, 4), (3, 0), (99, 0)])
def test_the_last_lines_of_a_log_begin_where_they_begin(tmp_path: Path, count: int, start: int) -> None:
    for end in ("\n", ""):
        (tmp_path / "a.log").write_text(f"one\ntwo\nsix{end}")
        assert shortened(Source(str(tmp_path / "a.log")), count).start == start


def test_the_last_lines_of_a_large_log_are_found_from_its_end(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_bytes(b"%099d\n" * 20_000 % tuple(range(20_000)))
    assert shortened(Source(str(log)), 12_345).start == (20_000 - 12_345) * 100


REPORT = "Traceback (most recent call last):\n" + '  File "/data/run7/train.py", line 4, in step\n' * 9


@pytest.mark.parametrize("prefix", ["", "[rank3]: ", "(train pid=811) "])
@pytest.mark.parametrize("count", [1, 2, 9, 10])
def test_the_last_lines_begin_no_report_in_its_middle(tmp_path: Path, prefix: str, count: int) -> None:
    log = tmp_path / "a.log"
    before = "step 1 loss 0.4\n" * 50
    report = "".join(f"{prefix}{line}" for line in f"{REPORT}KeyError: 'labels'\n".splitlines(keepends=True))
    log.write_text(before + report)
    assert shortened(Source(str(log)), count).start == len(before)


def test_the_last_lines_behind_a_whole_report_begin_where_they_were_asked_to(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    before = f"{REPORT}KeyError: 'labels'\nstep 1 loss 0.4\n"
    log.write_text(f"{before}step 2 loss 0.4\n")
    assert shortened(Source(str(log)), 1).start == len(before)
    long = REPORT + '  File "/data/run7/train.py", line 4, in step\n' * 200
    log.write_text(f"{long}KeyError: 'labels'\n")
    assert shortened(Source(str(log)), 1).start == len(long)
    assert shortened(Source(str(log), start=7), 205).start == 7


# --- what is known ------------------------------------------------------------------------------------------------


def test_an_incident_becomes_facts() -> None:
    host = {"memory_available": 9, "disks": [{"path": "/data", "free": 7}, {"path": "/x", "free": None}]}
    facts = facts_of(record(Path("a.log"), 0, 9, snapshot={"host": host}, oom_kills=2))
    assert (facts.signal, facts.exit_code, facts.hang) == ("SIGKILL", None, None)
    assert (dict(facts.free_bytes), facts.memory_available, facts.oom_kills) == ({"/data": 7}, 9, 2)
    assert facts.pids == {4127, 4130}
    assert facts.time == 1767582764.0
    assert facts_of(record(Path("a.log"), 0, 9, kind="hang")).hang
    assert facts_of(record(Path("a.log"), 0, 9, snapshot={"host": {"disks": "none"}})).free_bytes == {}


def test_who_is_dead_or_of_another_user_and_holds_memory_is_named() -> None:
    me, other = os.geteuid(), os.geteuid() + 1
    processes = (
        GpuProcess(1, 5 << 30, True, me),
        GpuProcess(2, 6 << 30, True, other),
        GpuProcess(3, None, False),
    )
    gpu = Gpu(0, "H100", None, None, None, None, None, processes)
    assert evidence.foreign_processes(Gpus((gpu,))) == (
        f"pid 2 of user {other} with 6.0 GiB on GPU 0",
        "pid 3, which is dead, on GPU 0",
    )


def test_what_a_gpu_says_of_its_own_health_is_told() -> None:
    gpu = Gpu(
        1,
        "H100",
        None,
        None,
        None,
        None,
        None,
        None,
        uncorrected_volatile=2,
        remapped=RemappedRows(0, 1, True, True),
    )
    lost = Gpu(2, None, None, None, None, None, None, None, error="GPU is lost")
    told = " ".join(evidence.faults_of(Gpus((gpu, lost))))
    assert all(
        word in told for word in ("2 uncorrected", "has failed", "waits for a reset", "GPU 2: GPU is lost")
    )
    assert evidence.faults_of(Gpus((Gpu(0, "H100", None, None, None, None, None, None),))) == ()


def test_evidence_that_cannot_be_had_is_a_note(tmp_path: Path) -> None:
    notes: list[str] = []
    found = gather(tmp_path / "missing.txt", False, "no job", False, notes)
    assert found == evidence.Evidence()
    assert len(notes) == 2 and "missing.txt: No such file" in notes[0] and "no job" in notes[1]


def test_seconds_and_moments_are_read_with_and_without_an_offset() -> None:
    assert seconds_of("2026-01-05T03:12:44+0000") == 1767582764.0
    assert seconds_of("2026-01-05T03:12:44+01:00") == 1767582764.0 - 3600
    assert seconds_of("soon") is None and seconds_of(None) is None
