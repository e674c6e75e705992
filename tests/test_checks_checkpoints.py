"""Checks of checkpoints: each fine, at its limit, just beyond it, where it does not apply, where its disk hangs."""

import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import checkpoint_files as build
import disk_faults
import msgspec
import pytest
from judging import DAEMON, NOW, WALL, looked, past_of, sentences, settings_of
from judging import told as told_by

from trainguard import probes
from trainguard.checks.checkpoints import CHECKS, DEEP, SAVES, next_size
from trainguard.checks.training import CHECKS as TRAINING_CHECKS
from trainguard.checks.values import Result
from trainguard.config import CheckpointSettings, LogSettings, Settings
from trainguard.health import Status
from trainguard.identity import Identity
from trainguard.policy import Phase, Run, State, Work
from trainguard.probes import Answer
from trainguard.run_folder import RunFolder
from trainguard.saves import (
    Deep,
    Leftover,
    Link,
    Named,
    Rights,
    Row,
    Save,
    Saves,
    Whole,
    intervals_of,
    list_leftovers,
    list_links,
    may,
    read_rights,
    read_save_total_limit,
    read_saves,
)
from trainguard.training import Ledger, Spent, Training
from trainguard.vitals import Past, Sample

GIB = 1 << 30
HOUR = 3600.0
OK, ATTENTION, BAD, UNKNOWN = Status.OK, Status.ATTENTION, Status.BAD, Status.UNKNOWN


def save(step: int, **more: Any) -> Save:
    """A whole one of 2 GiB."""
    values: dict[str, Any] = {
        "name": f"checkpoint-{step}",
        "step": step,
        "is_step": True,
        "size": 2 * GIB,
        "wall": WALL - HOUR,
        "verdict": "complete",
        "reason": "9 files of Hugging Face verified",
        "content_step": step,
        "agrees": True,
        "layout": "Hugging Face",
    }
    return Save(**(values | more))


def row(step: int, **more: Any) -> Row:
    values: dict[str, Any] = {"size": 2 * GIB, "wall": WALL - HOUR}
    return Row(f"checkpoint-{step}", step, **(values | more))


def saves(**changes: Any) -> Saves:
    """Two whole checkpoints in a healthy folder; with changes."""
    values: dict[str, Any] = {
        "folder": "/out",
        "count": 2,
        "judged": (save(200), save(100)),
        "rows": (row(100), row(200)),
        "interval_seconds": HOUR,
        "interval_steps": 100.0,
        "seconds": 30.0,
        "free": 100 * GIB,
        "total": 1000 * GIB,
        "rights": Rights(1000, True, 0o755, 1000, looked_at=18),
    }
    return Saves("/out", **(values | changes))


def training(lives: bool = True, began: float = 10 * HOUR, **changes: Any) -> Training:
    run = Run("run-1", 1, NOW - began, WALL - began, identity=DAEMON, step=250, work=Work.TRAINING)
    state = State(phase=Phase.RUNNING, looked_wall=WALL, run=msgspec.structs.replace(run, **changes))
    return Training(NOW, "boot", msgspec.structs.replace(state, highest_step=250), lives)


def judged(
    check_id: str,
    now: Saves | None = None,
    at: Training | None = None,
    past: Past | None = None,
    spent: Spent | None = None,
    deep: Deep | None = None,
    answers: Mapping[str, Answer] | None = None,
    **limits: Any,
) -> Result:
    settings = settings_of(checkpoints=CheckpointSettings(directory=Path("/out"), **limits))
    values = (now or saves(), at or training(), Ledger(spent or Spent()), deep or Deep())
    return told_by(CHECKS, check_id, *values, settings=settings, past=past, answers=answers)


def status(check_id: str, *arguments: Any, **more: Any) -> Status | None:
    """Its status; None where it does not apply."""
    result = judged(check_id, *arguments, **more)
    return None if result.absent is not None else result.status


# --- all of them -----------------------------------------------------------------------------------------------


def test_there_are_as_many_as_were_asked_for_and_each_is_fine_on_a_healthy_run() -> None:
    assert len(CHECKS) >= 11
    deep = Deep(True, (Whole("checkpoint-200", GIB, 2.0, checked=GIB, tensors=9, largest=3.5),), 2)
    for check in CHECKS:
        assert status(check.id, deep=deep) in (OK, None), check.id


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.id)
def test_without_a_folder_in_the_settings_none_applies(check) -> None:
    assert told_by(CHECKS, check.id, Saves(None), training(), Ledger(), Deep()).absent is not None


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.id)
def test_without_a_checkpoint_only_the_newest_says_so(check) -> None:
    empty = Saves("/out", "/out", free=GIB, rights=Rights(0, True, 0o755, 0))
    result = judged(check.id, empty)
    if check.id == "checkpoint-newest":
        assert result.status is ATTENTION and "250 steps" in sentences(result)
    else:
        assert result.status is OK, sentences(result)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.id)
def test_a_folder_that_hangs_is_bad_once_and_undecided_for_the_others(check) -> None:
    hung = Answer(None, "no answer within 8 s", hung=True)
    result = judged(check.id, answers={reading.name: hung for reading in check.reads})
    if check.answers_for:
        assert result.status is check.worst and "hangs" in sentences(result)
    else:
        assert result.status is UNKNOWN and result.undecided


def test_exactly_one_check_answers_for_each_reading() -> None:
    for reading in (SAVES, DEEP):
        assert sum(reading in check.answers_for for check in CHECKS) == 1


def run_of(folder: Path, **checkpoint_settings: Any) -> Settings:
    return settings_of(
        checkpoints=CheckpointSettings(directory=folder / "out", **checkpoint_settings),
        logs=LogSettings(directory=folder / "logs"),
    )


def test_a_mount_that_never_answers_is_told_within_the_deadline(tmp_path, monkeypatch) -> None:
    with disk_faults.mute(tmp_path / "dead") as place:
        settings = settings_of(checkpoints=CheckpointSettings(directory=place))
        quick = msgspec.structs.replace(SAVES, seconds=1.0)
        chosen = [
            msgspec.structs.replace(
                check,
                reads=tuple(quick if one is SAVES else one for one in check.reads),
                answers_for=tuple(quick if one is SAVES else one for one in check.answers_for),
            )
            for check in CHECKS
            if check.id in ("checkpoint-newest", "checkpoint-room")
        ]
        began = time.monotonic()
        results = looked(chosen, settings)
        assert time.monotonic() - began < 6.0
    assert results["checkpoint-newest"].status is BAD and "hangs" in sentences(results["checkpoint-newest"])
    assert results["checkpoint-room"].status is UNKNOWN


# --- the newest ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes, expected", [
    ({"verdict": "writing", "reason": "a.bin changed 3 s ago"}, OK),
    ({"verdict": "weights-only", "is_meant": True}, OK),
    ({"verdict": "incomplete", "spoils": True}, BAD),
    ({"verdict": "suspect", "spoils": False}, ATTENTION),
    ({"verdict": None, "reason": "no answer within 5 s"}, UNKNOWN),
])  # fmt: skip
def test_the_newest_is_told_by_its_verdict(changes, expected) -> None:
    assert status("checkpoint-newest", saves(judged=(save(300, **changes), save(200)))) is expected


def test_checkpoints_that_were_there_at_the_last_look_and_are_gone_are_bad() -> None:
    empty = Saves("/out", "/out")
    assert status("checkpoint-newest", empty, past=past_of("checkpoints_count", [2.0])) is BAD
    assert status("checkpoint-newest", empty, past=past_of("checkpoints_count", [0.0])) is ATTENTION


def test_before_anything_was_started_no_checkpoint_is_missing() -> None:
    new = Training(NOW, "boot", State(), False)
    assert status("checkpoint-newest", Saves("/out"), new) is None


def test_weights_in_an_unknown_layout_are_unknown_and_not_nothing() -> None:
    assert status("checkpoint-newest", Saves("/out", "/out", stray="a/b.h5")) is UNKNOWN


@pytest.mark.parametrize("builder", build.BUILDERS, ids=lambda builder: builder.__name__)
def test_every_layout_is_whole_as_its_framework_writes_it(builder, tmp_path) -> None:
    for step in (4, 8):
        aged(builder(tmp_path / "out", step), 5000.0 - step)
    results = looked(CHECKS, run_of(tmp_path))
    for name in ("newest", "room", "pointer", "step", "values", "rights", "link"):
        result = results[f"checkpoint-{name}"]
        assert result.status is OK, sentences(result)
    assert results["checkpoint-newest"].absent is None


def aged(path: Path, seconds: float) -> Path:
    """Let a checkpoint's files be so old."""
    at = time.time() - seconds
    for file in [path, *path.rglob("*")]:
        os.utime(file, (at, at))
    return path


def test_a_half_written_newest_is_bad_and_an_older_one_a_leftover(tmp_path) -> None:
    for step in (10, 20, 30, 40):
        aged(build.hugging_face(tmp_path / "out", step), 5000.0 - step)
    for step in (20, 40):
        (tmp_path / "out" / f"checkpoint-{step}" / "trainer_state.json").unlink()
    results = looked(CHECKS, run_of(tmp_path))
    newest, left = results["checkpoint-newest"], results["checkpoint-leftovers"]
    assert newest.status is BAD and "checkpoint-30 before it is whole" in sentences(newest)
    assert [one.subject for one in left.findings] == ["checkpoint checkpoint-20"]
    assert left.status is ATTENTION


def test_a_running_daemon_may_be_writing_only_the_newest(tmp_path) -> None:
    for step in (10, 20, 30):
        build.hugging_face(tmp_path / "out", step)
    (tmp_path / "out" / "checkpoint-30" / "trainer_state.json").unlink()
    found = read_saves(run_of(tmp_path))
    assert [one.verdict for one in found.judged] == ["writing", "complete", "complete"]


def test_once_the_recorded_daemon_is_dead_nothing_is_being_written(tmp_path) -> None:
    dead = Run("run-1", 1, 0.0, 0.0, identity=Identity(2**22 - 1, 1, "other", os.geteuid()))
    (tmp_path / "logs").mkdir()
    RunFolder(tmp_path / "logs").save_state(State(phase=Phase.RUNNING, run=dead), durable=False)
    path = build.hugging_face(tmp_path / "out", 8)
    (path / "trainer_state.json").unlink()
    assert looked(CHECKS, run_of(tmp_path))["checkpoint-newest"].status is BAD


def test_a_thousand_checkpoints_cost_no_more_openings_than_three(tmp_path, monkeypatch) -> None:
    import trainguard.saves as room

    asked: list[int] = []
    ask = room.probes.ask
    monkeypatch.setattr(room.probes, "ask", lambda wanted: asked.append(len(wanted)) or ask(wanted))
    first = aged(build.hugging_face(tmp_path / "out", 1), 5000)
    for step in range(2, 40):
        shutil.copytree(first, tmp_path / "out" / f"checkpoint-{step}")
    found = read_saves(run_of(tmp_path))
    assert asked == [3] and found.count == 39 and len(found.judged) == 3 and len(found.rows) == 9


# --- age -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hours, expected", [(2.99, OK), (3.0, ATTENTION)])
def test_the_age_counts_in_intervals(hours, expected) -> None:
    now = saves(judged=(save(200, wall=WALL - hours * HOUR),), rows=())
    assert status("checkpoint-age", now) is expected


def test_no_save_was_due_while_the_run_was_down_waits_or_has_just_begun() -> None:
    old = saves(judged=(save(200, wall=WALL - 99 * HOUR),), rows=())
    assert status("checkpoint-age", old) is ATTENTION
    assert status("checkpoint-age", old, training(began=2.9 * HOUR)) is OK
    assert status("checkpoint-age", old, training(lives=False)) is None
    assert status("checkpoint-age", old, training(work=Work.IDLE)) is None
    assert status("checkpoint-age", msgspec.structs.replace(old, interval_seconds=None)) is None


def test_the_interval_is_the_median_so_that_one_long_gap_does_not_matter() -> None:
    rows = [
        row(step, wall=wall)
        for step, wall in ((10, 0.0), (20, 60.0), (30, 120.0), (40, 9000.0), (50, 9060.0))
    ]
    assert intervals_of(rows) == (60.0, 10.0)
    assert intervals_of(rows[:1]) == (None, None)
    # What somebody has touched lies in another order.
    touched = [row(step, wall=wall) for step, wall in ((10, 0.0), (20, 60.0), (30, 10.0), (40, 20.0))]
    assert intervals_of(touched)[0] == 35.0


# --- room ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("free, expected", [
    (2 * GIB - 1, BAD), (2 * GIB, ATTENTION), (6 * GIB - 1, ATTENTION), (6 * GIB, OK),
])  # fmt: skip
def test_the_next_checkpoint_must_fit_and_two_more_should(free, expected) -> None:
    assert status("checkpoint-room", saves(free=free)) is expected


def test_the_sentence_tells_what_is_free_and_what_is_needed() -> None:
    assert "1.0 GiB free, the next checkpoint needs 2.0 GiB" in sentences(
        judged("checkpoint-room", saves(free=GIB))
    )


@pytest.mark.parametrize("free, expected", [(2 * GIB - 1, BAD), (2 * GIB, OK)])
def test_rotation_frees_one_only_after_the_next_is_written(free, expected) -> None:
    result = judged("checkpoint-room", saves(free=free, save_total_limit=2))
    assert result.status is expected
    assert ("only after it" in sentences(result)) is (expected is BAD)


def test_rotation_is_seen_in_what_is_kept_from_look_to_look() -> None:
    def past(*looks: tuple[float, float]) -> Past:
        names = ("checkpoints_count", "checkpoint_newest_step")
        samples = (Sample(WALL - 10, "boot", 0.0, dict(zip(names, one, strict=True))) for one in looks)
        return Past(tuple(samples))

    tight = saves(free=3 * GIB)
    assert status("checkpoint-room", tight, past=past((2, 100), (2, 150))) is OK
    assert status("checkpoint-room", tight, past=past((1, 100), (2, 150))) is ATTENTION
    assert status("checkpoint-room", tight, past=past((2, 200), (2, 200))) is ATTENTION


def test_rotation_is_seen_where_the_first_ones_of_the_run_are_gone() -> None:
    tight = saves(free=3 * GIB, judged=(save(900), save(800)), rows=(row(800), row(900)))
    assert status("checkpoint-room", tight, training(first_step=1)) is OK
    assert status("checkpoint-room", tight, training(resumed_from=700)) is ATTENTION


def test_of_one_that_is_being_written_only_the_rest_is_needed() -> None:
    writing = save(300, verdict="writing", size=GIB)
    now = saves(
        judged=(writing, save(200)), rows=(row(200), row(300, size=GIB)), free=GIB, save_total_limit=2
    )
    assert status("checkpoint-room", now) is OK
    assert status("checkpoint-room", msgspec.structs.replace(now, free=GIB - 1)) is BAD
    finished = msgspec.structs.replace(now, judged=(save(300, verdict="writing"), save(200)))
    assert status("checkpoint-room", finished) is BAD


def test_a_half_written_one_does_not_tell_the_next_size() -> None:
    cut = save(300, verdict="incomplete", size=9 * GIB)
    assert next_size(saves(judged=(cut, save(200)), rows=(row(200), row(300, size=9 * GIB)))) == 2 * GIB


def test_a_disk_that_really_is_full_is_bad(tmp_path) -> None:
    with disk_faults.tmpfs(tmp_path / "out", "size=1m"):
        for step in (10, 20):
            aged(build.hugging_face(tmp_path / "out", step), 5000.0 - step)
        settings = run_of(tmp_path)
        assert looked(CHECKS, settings)["checkpoint-room"].status is OK
        with (tmp_path / "out" / "fill").open("wb", buffering=0) as stream, pytest.raises(OSError):
            while True:
                stream.write(b"1" * 4096)
        assert looked(CHECKS, settings)["checkpoint-room"].status is BAD


def test_a_file_that_is_written_over_needs_little_room() -> None:
    one = (save(-1, name="ckpt.pt"),)
    now = saves(judged=one, rows=(), overwritten=True, free=GIB)
    assert status("checkpoint-room", now) is OK
    assert status("checkpoint-room", msgspec.structs.replace(now, free=100 << 20)) is ATTENTION


def test_the_limit_of_the_trainer_is_read_from_its_arguments_without_loading_them(tmp_path) -> None:
    path = build.hugging_face(tmp_path, 8)
    assert read_save_total_limit(path) is None
    named = build.Named("transformers.training_args", "TrainingArguments")
    for limit, expected in ((3, 3), (None, None), (0, None), ("3", None)):
        content = build.torch_zip(build.Made(named, {"seed": 1, "save_total_limit": limit}))
        (path / "training_args.bin").write_bytes(content)
        assert read_save_total_limit(path) == expected
    (path / "training_args.bin").write_bytes(content[:200])
    assert read_save_total_limit(path) is None


# --- pointers and steps ----------------------------------------------------------------------------------------


def test_a_pointer_is_told_by_what_it_names() -> None:
    def pointed(**changes: Any) -> Status | None:
        return status("checkpoint-pointer", saves(pointers=(Named("/out/latest", **changes),)))

    assert pointed(target="checkpoint-200") is OK
    assert pointed(target="checkpoint-100") is ATTENTION
    assert pointed(target=None, problem="latest names global_step9, which is missing") is BAD
    spoilt = saves(
        judged=(save(200, verdict="incomplete", spoils=True), save(100)),
        pointers=(Named("/out/latest", "checkpoint-200"),),
    )
    assert status("checkpoint-pointer", spoilt) is BAD
    assert status("checkpoint-pointer", saves(pointer_expected="latest")) is ATTENTION


@pytest.mark.parametrize(
    "text, expected",
    # To the framework one that its pointer does not name yet was never finished: that the newest tells.
    [("global_step8", OK), ("global_step4", OK), ("global_step12", BAD), ("glob", BAD)],
)
def test_a_pointer_file_is_read_where_it_lies(text, expected, tmp_path) -> None:
    for step in (4, 8):
        aged(build.deepspeed(tmp_path / "out", step), 5000.0 - step)
    (tmp_path / "out" / "latest").write_text(text)
    result = looked(CHECKS, run_of(tmp_path))["checkpoint-pointer"]
    assert result.status is expected


def test_a_missing_pointer_of_a_layout_that_has_one_wants_attention(tmp_path) -> None:
    for step in (4, 8):
        aged(build.deepspeed(tmp_path / "out", step), 5000.0 - step)
    (tmp_path / "out" / "latest").unlink()
    assert looked(CHECKS, run_of(tmp_path))["checkpoint-pointer"].status is ATTENTION


def test_a_renamed_checkpoint_is_told_by_the_step_inside(tmp_path) -> None:
    for step in (10, 20):
        aged(build.hugging_face(tmp_path / "out", step), 5000.0 - step)
    (tmp_path / "out" / "checkpoint-20").rename(tmp_path / "out" / "checkpoint-900")
    result = looked(CHECKS, run_of(tmp_path))["checkpoint-step"]
    assert result.status is BAD and "checkpoint-900: holds the state of step 20" in sentences(result)


def test_a_step_inside_counts_only_where_the_framework_writes_the_same() -> None:
    odd = saves(judged=(save(200, content_step=7, agrees=False),))
    assert status("checkpoint-step", odd) is None


# --- spares and leftovers --------------------------------------------------------------------------------------


def test_two_whole_ones_are_enough_and_one_is_not() -> None:
    broken = save(100, verdict="incomplete", spoils=True)
    assert status("checkpoint-spare") is OK
    assert status("checkpoint-spare", saves(judged=(save(200), broken))) is ATTENTION
    assert status("checkpoint-spare", saves(judged=(broken, broken))) is BAD
    assert status("checkpoint-spare", saves(judged=(save(200), save(100, verdict=None)))) is UNKNOWN


def test_a_rotation_that_keeps_one_wants_attention_and_the_first_save_does_not() -> None:
    single = saves(count=1, judged=(save(200),), rows=(row(200),))
    assert status("checkpoint-spare", single) is None
    assert status("checkpoint-spare", msgspec.structs.replace(single, save_total_limit=1)) is ATTENTION


def test_one_file_written_over_wants_a_copy() -> None:
    single = saves(count=1, judged=(save(-1, name="ckpt.pt"),), rows=(), overwritten=True)
    assert status("checkpoint-spare", single) is ATTENTION
    assert status("checkpoint-spare", single, keep_copy=True) is OK


def test_a_link_to_the_only_one_is_no_second_one() -> None:
    last = save(-1, name="last.ckpt")
    linked = saves(judged=(save(200), last), links=(Link("last.ckpt", "checkpoint-200", False, True),))
    assert status("checkpoint-spare", linked) is ATTENTION
    assert status("checkpoint-spare", saves(judged=(save(200), last))) is OK


@pytest.mark.parametrize("is_aside, age, lives, expected", [
    (True, 7 * 86_400.0 - 1, True, OK), (True, 7 * 86_400.0, True, ATTENTION),
    (False, 3599.0, True, OK), (False, 3600.0, True, ATTENTION), (False, 1.0, False, ATTENTION),
])  # fmt: skip
def test_leftovers_are_told_by_their_age(is_aside, age, lives, expected) -> None:
    left = Leftover("0-incomplete.checkpoint-9.20260101T000000", 3 * GIB, WALL - age, is_aside)
    assert status("checkpoint-leftovers", saves(leftovers=(left,), lives=lives)) is expected


def test_leftovers_are_found_by_their_names_with_their_sizes(tmp_path) -> None:
    build.hugging_face(tmp_path, 8).rename(tmp_path / "0-incomplete.checkpoint-8.20260102T030405-2")
    (tmp_path / "tmp-checkpoint-16").mkdir()
    (tmp_path / "tmp-checkpoint-16" / "model.safetensors").write_bytes(b"1" * 1000)
    (tmp_path / "last.ckpt.tmp").write_bytes(b"1" * 10)
    build.hugging_face(tmp_path, 24)
    (tmp_path / "0-notes").mkdir()
    found, more = list_leftovers(tmp_path)
    assert [(one.name, one.is_aside) for one in found] == [
        ("0-incomplete.checkpoint-8.20260102T030405-2", True),
        ("last.ckpt.tmp", False),
        ("tmp-checkpoint-16", False),
    ]
    assert found[0].size > 10_000 and (found[1].size, found[2].size) == (10, 1000) and more == 0
    assert found[0].wall == time.mktime((2026, 1, 2, 3, 4, 5, 0, 0, -1))


# --- what is inside --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["nan", "zeros"])
def test_numbers_that_are_none_are_bad_in_any_of_the_newest(damage, tmp_path) -> None:
    for step in (10, 20):
        aged(build.hugging_face(tmp_path / "out", step), 5000.0 - step)
    count = 40 * 40
    data = b"\xff\xff\xff\x7f" * count if damage == "nan" else build.numbers(count // 4) + bytes(3 * count)
    tensors = build.weights() | {"model.layers.0.self_attn.q_proj.weight": build.Tensor(40, 40, data=data)}
    path = tmp_path / "out" / "checkpoint-10"
    (path / "model.safetensors").write_bytes(build.safetensors(tensors))
    aged(path, 4990)
    results = looked(CHECKS, run_of(tmp_path))
    assert results["checkpoint-newest"].status is OK
    assert results["checkpoint-values"].status is BAD
    assert results["checkpoint-values"].findings[0].subject == "checkpoint checkpoint-10"


def test_weights_alone_are_bad_where_there_was_more_before_and_else_told(tmp_path) -> None:
    for step in (10, 20):
        aged(build.hugging_face(tmp_path / "out", step), 5000.0 - step)
    settings = run_of(tmp_path)
    assert looked(CHECKS, settings)["checkpoint-weights-only"].status is OK
    (tmp_path / "out" / "checkpoint-20" / "optimizer.pt").unlink()
    assert looked(CHECKS, settings)["checkpoint-weights-only"].status is BAD
    for step in (10, 20):
        for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
            (tmp_path / "out" / f"checkpoint-{step}" / name).unlink(missing_ok=True)
    assert looked(CHECKS, settings)["checkpoint-weights-only"].status is ATTENTION


def test_an_optimizer_in_a_form_of_the_runs_own_is_one() -> None:
    alone = save(200, verdict="weights-only", is_meant=True)
    kept = msgspec.structs.replace(alone, optimizer="optimizer.safetensors")
    assert status("checkpoint-weights-only", saves(judged=(alone,))) is ATTENTION
    assert status("checkpoint-weights-only", saves(judged=(kept,))) is OK
    spoils = msgspec.structs.replace(kept, is_meant=False, spoils=True)
    assert status("checkpoint-weights-only", saves(judged=(spoils,))) is BAD


def test_a_link_into_the_void_is_bad_if_it_is_named_like_a_checkpoint(tmp_path) -> None:
    build.lightning(tmp_path, 8)
    (tmp_path / "last.ckpt").symlink_to("epoch=0-step=8.ckpt")
    (tmp_path / "notes").symlink_to("nowhere")
    links = {one.name: one for one in list_links(tmp_path)}
    assert not links["last.ckpt"].dangles and links["last.ckpt"].is_save
    assert status("checkpoint-link", saves(links=tuple(links.values()))) is ATTENTION
    (tmp_path / "epoch=0-step=8.ckpt").unlink()
    assert status("checkpoint-link", saves(links=tuple(list_links(tmp_path)))) is BAD
    assert status("checkpoint-link", saves(links=(links["last.ckpt"],))) is OK
    assert status("checkpoint-link") is None


# --- cost ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds, expected", [(359.0, OK), (360.0, ATTENTION)])
def test_saving_may_take_a_tenth_of_the_time(seconds, expected) -> None:
    assert status("checkpoint-cost", saves(seconds=seconds)) is expected


@pytest.mark.parametrize("hours, expected, words", [
    (1.0, OK, ""), (0.5, OK, ""), (4.0, ATTENTION, "save more often"), (0.1, ATTENTION, "save less often"),
])  # fmt: skip
def test_the_interval_is_held_against_what_the_failures_advise(hours, expected, words) -> None:
    # A save of 30 s and a failure a day advise 38 minutes.
    now = saves(interval_seconds=hours * HOUR)
    result = judged("checkpoint-cost", now, spent=Spent(5, mean_seconds_between_failures=86_400.0))
    assert result.status is expected and words in sentences(result)


def test_a_cost_that_is_not_known_is_none() -> None:
    assert status("checkpoint-cost", saves(seconds=None)) is None
    assert status("checkpoint-cost", saves(interval_seconds=None)) is None


# --- rights ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode, owner, group, wanted, expected", [
    (0o600, 7, 9, os.R_OK, True), (0o060, 7, 9, os.R_OK, False), (0o040, 1, 9, os.R_OK, True),
    (0o004, 1, 9, os.R_OK, False), (0o004, 1, 2, os.R_OK, True), (0o005, 1, 2, os.R_OK | os.W_OK, False),
])  # fmt: skip
def test_rights_are_those_of_the_first_class_that_fits(mode, owner, group, wanted, expected) -> None:
    about = os.stat_result((mode, 0, 0, 0, owner, group, 0, 0, 0, 0))
    assert may(about, wanted, 7, {9}) is expected
    assert may(about, wanted, 0, set())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")
def test_files_that_the_daemons_user_cannot_read_are_bad(tmp_path) -> None:
    path = build.hugging_face(tmp_path, 8)
    daemon = Identity(1, 1, "boot", 65534)
    assert not read_rights(tmp_path, [path], daemon).writable
    os.chown(tmp_path, 65534, 65534)
    rights = read_rights(tmp_path, [path], daemon)
    assert rights.writable and rights.closed == () and rights.looked_at == 9
    (path / "optimizer.pt").chmod(0o600)
    rights = read_rights(tmp_path, [path], daemon)
    assert rights.closed == ("checkpoint-8/optimizer.pt",)
    assert status("checkpoint-rights", saves(rights=rights)) is BAD


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_folder_that_cannot_be_listed_is_bad_and_not_empty() -> None:
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        (Path(place) / "out").mkdir(mode=0o700)
        settings = run_of(Path(place))

        def as_nobody() -> Saves:
            os.setgroups([])
            os.setegid(65534)
            os.seteuid(65534)
            return read_saves(settings)

        found = probes.ask([probes.Probe("saves", as_nobody, Saves, 10.0)])["saves"].value
    assert isinstance(found, Saves) and found.problem == "Permission denied"
    assert "cannot be listed: Permission denied" in sentences(judged("checkpoint-newest", found))
    assert "cannot be read or written by user 65534" in sentences(judged("checkpoint-rights", found))


@pytest.mark.parametrize("rights, expected", [
    (Rights(7, True, 0o755, 7, looked_at=9), OK), (Rights(7, False, 0o755, 0), BAD),
    (Rights(7, True, 0o300, 7, readable=False), BAD),
    (Rights(7, True, 0o777, 7), ATTENTION), (Rights(7, True, 0o1777, 7), OK),
])  # fmt: skip
def test_the_folder_is_the_daemons_to_write_and_nobody_elses(rights, expected) -> None:
    assert status("checkpoint-rights", saves(rights=rights)) is expected


# --- deep ------------------------------------------------------------------------------------------------------


def test_whole_reading_is_done_only_if_it_is_asked_for() -> None:
    assert judged("checkpoint-deep").absent == "only with --deep"
    assert status("checkpoint-deep", deep=Deep(True, (), 3)) is UNKNOWN
    assert status("checkpoint-deep", deep=Deep(True, (Whole("a", 1, 1.0, unread=("x",)),), 1)) is UNKNOWN
    assert status("checkpoint-deep", deep=Deep(True, (Whole("a", 1, 1.0, faults=("x",)),), 1)) is BAD
    assert status("checkpoint-deep", deep=Deep(True, (Whole("a", 0, 1.0, vanished=True),), 1)) is OK


def test_a_flipped_bit_that_no_sample_sees_is_found_by_whole_reading(tmp_path) -> None:
    from trainguard.checks.running import limits_of, run_checks

    for step in (10, 20, 30):
        aged(build.hugging_face(tmp_path / "out", step), 5000.0 - step)
    settings = run_of(tmp_path)
    file = tmp_path / "out" / "checkpoint-20" / "optimizer.pt"
    content = bytearray(file.read_bytes())
    place = content.index(build.Tensor(40, 40, seed=10).data) + 3001
    content[place] ^= 1
    file.write_bytes(content)
    aged(file.parent, 4980)
    chosen = [check for check in CHECKS if check.id in ("checkpoint-values", "checkpoint-deep")]
    values, deep = run_checks(chosen, settings, limits_of(settings, CHECKS), Past(), deep=True)
    assert values.status is OK
    assert deep.status is BAD and "optimizer.pt does not fit its checksum" in sentences(deep)
    assert [one.subject for one in deep.findings if one.status is OK] == ["checkpoint checkpoint-30"]


def test_no_two_checks_share_an_id() -> None:
    ids = [check.id for check in (*CHECKS, *TRAINING_CHECKS)]
    assert len(set(ids)) == len(ids)
