"""The follower over real files: what it reads, what it is not fooled by, and what it costs."""

import json
import math
import os
import socket
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trainguard.checkpoints import list_checkpoints
from trainguard.health import Status
from trainguard.progress import Follower, Progress
from trainguard.progress.sources import FIRST_LOOK_LIMIT, LOOK_LIMIT

BEFORE, BEGAN = 1_000_000.0, 2_000_000.0
NAMES = {"step": "current_step", "total": "total_steps", "loss": "loss"}
FULL = "█" * 10


def bar(step, total, description=""):
    return f"\r{description}{100 * step // total:3d}%|{FULL}| {step}/{total} [00:01<00:02,  1.00it/s]"


def iteration(step, loss="2.0"):
    return f"iter {step}: loss {loss}, time 3.00ms, mfu 3.20%\n"


class Run:
    """A run's folder, the files in it, and a follower on them."""

    def __init__(self, folder):
        self.folder = folder
        self.log = folder / "daemon.log"
        self.status = folder / "status.json"
        self.heartbeat = folder / "heartbeat"
        self.checkpoints = folder / "checkpoints"
        self.journal = self.checkpoints / "trainer_log.jsonl"
        self.checkpoints.mkdir()
        self.log.touch()
        self.followers = []

    def follow(self, start_offset=0):
        follower = Follower(
            self.log, start_offset, began_wall=BEGAN, status_file=self.status, status_names=NAMES,
            checkpoint_directory=self.checkpoints, list_checkpoints=list_checkpoints,
            heartbeat_file=self.heartbeat,
        )  # fmt: skip
        self.followers.append(follower)
        return follower

    def write(self, text):
        with self.log.open("ab") as log:
            log.write(text if isinstance(text, bytes) else text.encode())

    def tell(self, step, total=60, loss=1.5, at=None):
        self.say(json.dumps({"current_step": step, "total_steps": total, "loss": loss}), at)

    def say(self, text, at=None):
        self.status.write_bytes(text if isinstance(text, bytes) else text.encode())
        if at:
            os.utime(self.status, (at, at))

    def save(self, step, at=None, max_steps=None):
        folder = self.checkpoints / f"checkpoint-{step}"
        folder.mkdir()
        if max_steps:
            state = {"global_step": step, "log_history": [{"step": 1}] * 10_000, "max_steps": max_steps}
            (folder / "trainer_state.json").write_text(json.dumps(state, indent=2))
        if at:
            os.utime(folder, (at, at))

    def close(self):
        for follower in self.followers:
            follower.close()


@pytest.fixture
def run(tmp_path):
    made = Run(tmp_path)
    yield made
    made.close()


def test_a_new_follower_knows_nothing(run):
    assert run.follow().look() == (Progress(counters={"checkpoint": 0}), ())


def test_each_look_reads_only_what_is_new(run):
    follower = run.follow()
    run.write(iteration(1))
    assert follower.look()[0].step == 1
    run.write(iteration(2) + iteration(3))
    progress, findings = follower.look()
    assert (progress.step, progress.advances, findings) == (3, 2, ())
    assert follower.look()[0].advances == 2


def test_what_the_log_said_before_the_run_is_not_read(run):
    run.write(iteration(900))
    assert run.follow(run.log.stat().st_size).look()[0].step is None


def test_a_line_without_its_end_waits_for_it(run):
    follower = run.follow()
    run.write("iter 1")
    assert follower.look()[0].step is None
    run.write("23: loss 2.0, time 3.00ms\n")
    assert follower.look()[0].step == 123


@pytest.mark.parametrize("behind", ["", "   ", "\x1b[A", "\x1b[A\x1b[A"])
def test_a_bar_whose_end_has_not_come_counts_at_once(run, behind):
    follower = run.follow()
    run.write(bar(5, 60) + behind)
    assert follower.look()[0].step == 5
    run.write(bar(6, 60) + behind)
    assert [(p.step, p.advances) for p in (follower.look()[0], follower.look()[0])] == [(6, 1), (6, 1)]
    run.write("\n")
    assert follower.look()[0].advances == 1


def test_a_real_looking_run_tells_the_right_step_throughout(run):
    follower = run.follow()
    former = follower.look()[0]
    for done in (0, 400, 1000):
        run.write(bar(done, 1000, "Map: "))
    run.write("\n")
    assert (follower.look()[0].step, follower.look()[0].signs) == (None, 2)
    for step in range(61):
        run.write(bar(step, 60))
        if step and step % 10 == 0:
            told = f"{{'loss': '{4 - step / 20:.4g}', 'grad_norm': '2.1', 'epoch': '{step / 20:.4g}'}}\n"
            run.write("\r" + " " * 60 + "\r" + told)
            run.write(bar(step, 60))
        if step in (30, 60):
            advances = follower.look()[0].advances
            for batch in range(26):
                run.write("\n" + bar(batch, 25) + "\x1b[A")
                progress = follower.look()[0]
                assert (progress.step, progress.total, progress.advances) == (step, 60, advances)
            run.write(f"\n\x1b[A{{'eval_loss': '3.3', 'eval_runtime': '0.1', 'epoch': '{step / 20:.4g}'}}\n")
        progress = follower.look()[0]
        assert (progress.step, progress.total) == (step, 60)
        assert progress.advances > former.advances or step == 0
        former = progress
    run.write("\r   \r{'train_runtime': '6.4', 'train_loss': '3.1', 'epoch': '3'}\n" + bar(60, 60) + "\n")
    progress = follower.look()[0]
    assert (progress.step, progress.loss, progress.epoch, progress.finished) == (60, 1.0, 3.0, True)


def test_a_print_behind_a_bar_is_not_lost(run):
    follower = run.follow()
    run.write(bar(6, 60) + "{'loss': 0.5, 'epoch': 0.3}\n")
    progress = follower.look()[0]
    assert (progress.step, progress.loss, progress.epoch) == (6, 0.5, 0.3)


def test_the_first_look_reads_at_most_the_last_mebibyte(run):
    line = iteration(7)
    run.write(iteration(1) + line * (FIRST_LOOK_LIMIT // len(line) + 10))
    progress = run.follow().look()[0]
    assert (progress.step, progress.advances) == (7, 0)


def test_a_look_reads_at_most_the_last_eight_mebibytes(run):
    follower = run.follow()
    run.write(iteration(1))
    follower.look()
    filler = b"x" * 1023 + b"\n"
    run.write(iteration(2).encode() + filler * (LOOK_LIMIT // 1024) + iteration(3).encode())
    progress = follower.look()[0]
    assert (progress.step, progress.advances) == (3, 1)
    run.write(iteration(4).encode() + filler * (LOOK_LIMIT // 1024 - 1) + iteration(5).encode())
    progress = follower.look()[0]
    assert (progress.step, progress.advances) == (5, 3)


@pytest.mark.parametrize("cut", [0, 1])
def test_a_skip_begins_at_a_whole_line(run, cut):
    # With nothing cut the kept part begins exactly with the first line; else one byte into it.
    first, filler = b"iter 12: loss 2.0, time 3.00ms\n", b"x" * 1000 + b"\n"
    rest = filler * ((FIRST_LOOK_LIMIT - len(first)) // len(filler))
    padding = b"y" * (FIRST_LOOK_LIMIT - len(first) - len(rest) - 1 + cut) + b"\n"
    run.write(iteration(1).encode() + first + rest + padding)
    assert run.follow().look()[0].step == (None if cut else 12)


def test_a_line_longer_than_64_kib_does_not_hide_the_next(run):
    follower = run.follow()
    run.write(iteration(1))
    for _ in range(40):
        run.write(b"z" * 50_000)
        follower.look()
    run.write("\n" + iteration(2))
    assert follower.look()[0].step == 2
    run.write(b"q" * 3_000_000 + b"\n" + iteration(3).encode())
    assert follower.look()[0].step == 3


def test_a_log_renamed_under_a_daemon_that_keeps_it_open_is_followed(run):
    follower = run.follow()
    with run.log.open("ab", buffering=0) as daemon:
        daemon.write(iteration(1).encode())
        follower.look()
        run.log.rename(run.folder / "daemon.log.1")
        daemon.write(iteration(2).encode())
        assert [str(finding) for finding in follower.look()[1]] != []
        run.log.touch()
        daemon.write(iteration(3).encode())
        progress, findings = follower.look()
        assert (progress.step, progress.advances, findings) == (3, 2, ())
        daemon.write(iteration(4).encode())
        assert follower.look()[0].step == 4


def test_a_log_rotated_by_a_daemon_that_opens_the_new_one_is_followed_to_its_last_line(run):
    follower = run.follow()
    run.write(iteration(1))
    follower.look()
    run.write(iteration(2))
    run.log.rename(run.folder / "daemon.log.1")
    run.write(iteration(3))
    progress = follower.look()[0]
    assert (progress.step, progress.advances) == (3, 2)


def test_the_bar_that_a_former_log_ends_in_does_not_come_back(run):
    follower = run.follow()
    run.write(bar(5, 60))
    assert follower.look()[0].step == 5
    run.log.rename(run.folder / "daemon.log.1")
    run.write(bar(30, 60) + "\n")
    assert [(p.step, p.advances) for p in (follower.look()[0], follower.look()[0])] == [(30, 0), (30, 0)]
    run.write(bar(31, 60))
    assert (follower.look()[0].step, follower.look()[0].advances) == (31, 1)


def test_the_last_lines_of_a_log_that_was_deleted_meanwhile_are_read(run):
    follower = run.follow()
    with run.log.open("ab", buffering=0) as daemon:
        daemon.write(iteration(1).encode())
        follower.look()
        run.log.rename(run.folder / "daemon.log.1")
        run.log.touch()
        follower.look()
        (run.folder / "daemon.log.1").unlink()
        for step in (2, 3):
            daemon.write(iteration(step).encode())
            run.write("another writer's line\n")
            assert follower.look()[0].step == step


def test_two_rotations_keep_no_more_than_two_files_open(run):
    follower = run.follow()
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for number in range(1, 6):
        run.write(iteration(number))
        assert follower.look()[0].step == number
        run.log.rename(run.folder / f"daemon.log.{number}")
    assert len(os.listdir("/proc/self/fd")) <= before + 2  # noqa: PTH208


def test_a_deleted_log_is_let_go_of_once_there_is_another(run):
    follower = run.follow()
    run.write(iteration(1))
    follower.look()
    run.log.unlink()
    assert follower.look()[1][0].status is Status.ATTENTION
    run.write(iteration(2))
    assert [follower.look()[0].step for _ in range(2)] == [2, 2]
    links = [os.readlink(entry) for entry in os.scandir("/proc/self/fd") if os.path.islink(entry)]  # noqa: PTH114, PTH115
    assert not any("(deleted)" in link and str(run.folder) in link for link in links)


@pytest.mark.parametrize("regrown", [0, 1, 100])
def test_an_emptied_log_is_read_from_its_beginning(run, regrown):
    follower = run.follow()
    run.write("a line of the former text\n" + iteration(50))
    follower.look()
    run.log.write_text("")
    run.write(iteration(3) + "another line\n" * regrown)
    assert follower.look()[0].step == 3
    run.write(iteration(4))
    progress = follower.look()[0]
    assert (progress.step, progress.advances) == (4, 1)


def test_a_start_beyond_the_end_begins_at_the_beginning(run):
    run.write(iteration(3))
    assert run.follow(10_000).look()[0].step == 3


def test_a_log_that_appears_later_is_read(run):
    run.log.unlink()
    follower = run.follow()
    assert [finding.status for finding in follower.look()[1]] == [Status.ATTENTION]
    assert follower.look()[1] == ()
    run.write(iteration(3))
    assert follower.look()[0].step == 3
    assert follower.look()[1] == ()


def as_fifo(path):
    os.mkfifo(path)


def as_folder(path):
    path.mkdir()


def as_socket(path):
    socket.socket(socket.AF_UNIX).bind(str(path))


def as_loop(path):
    path.symlink_to(path)


def as_device(path):
    path.symlink_to("/dev/zero")


def as_forbidden(path):
    if os.geteuid() == 0:
        pytest.skip("this machine runs the tests as root, to whom no file is forbidden")
    path.write_text("{}")
    path.chmod(0)


TRAPS = [as_fifo, as_folder, as_socket, as_loop, as_device, as_forbidden]
TRAPPED = [(name, trap) for name in ("log", "status", "journal") for trap in TRAPS]
TRAPPED += [
    ("heartbeat", trap) for trap in TRAPS if trap is not as_forbidden
]  # it is asked for its time only


@pytest.mark.parametrize(("name", "trap"), TRAPPED)
def test_a_trap_in_place_of_a_file_is_one_finding_and_no_error(run, monkeypatch, trap, name):
    monkeypatch.chdir(run.folder)
    path = getattr(run, name)
    path.unlink(missing_ok=True)
    trap(path)
    follower = run.follow()
    begun = time.perf_counter()
    (finding,) = follower.look()[1]
    assert time.perf_counter() - begun < 0.5
    assert str(path) in finding.subject
    assert finding.status in (Status.UNKNOWN, Status.ATTENTION)
    assert follower.look()[1] == ()
    path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    path.touch()
    follower.look()
    assert all("not a regular file" not in finding.fact for finding in follower.look()[1])


def test_a_checkpoint_folder_that_is_a_file_is_a_finding(run):
    run.checkpoints.rmdir()
    run.checkpoints.touch()
    (finding,) = run.follow().look()[1]
    assert "checkpoint folder" in finding.subject


def test_a_status_file_tells_step_total_and_loss(run):
    follower = run.follow()
    run.tell(5)
    progress, findings = follower.look()
    assert (progress.step, progress.total, progress.loss, progress.advances) == (5, 60, 1.5, 0)
    assert findings == ()
    run.tell(6)
    assert (follower.look()[0].step, follower.look()[0].advances) == (6, 1)


def test_a_status_file_of_a_former_run_is_a_baseline_and_not_shown(run):
    run.tell(900, at=BEFORE)
    follower = run.follow()
    progress = follower.look()[0]
    assert (progress.step, progress.total, progress.loss) == (None, None, None)
    run.tell(1)
    progress = follower.look()[0]
    assert (progress.step, progress.advances) == (1, 0)
    run.tell(2)
    assert follower.look()[0].advances == 1


def test_a_status_file_that_becomes_readable_later_is_read_and_still_a_baseline(run):
    if os.geteuid() == 0:
        pytest.skip("this machine runs the tests as root, to whom no file is forbidden")
    run.tell(900, at=BEFORE)
    run.status.chmod(0)
    follower = run.follow()
    assert len(follower.look()[1]) == 1
    run.status.chmod(0o644)
    progress, findings = follower.look()
    assert (progress.step, progress.counters["status file"], findings) == (None, 900, ())


@pytest.mark.parametrize("modified, shown", [(BEGAN - 1, None), (BEGAN, 5), (BEGAN + 1, 5)])
def test_a_status_file_counts_as_this_runs_from_the_second_it_began(run, modified, shown):
    run.tell(5, at=modified)
    assert run.follow().look()[0].step == shown


def test_a_status_file_from_the_future_is_a_finding_and_at_first_not_shown(run):
    run.tell(5, at=time.time() + 86_400)
    follower = run.follow()
    progress, findings = follower.look()
    assert progress.step is None
    assert "future" in findings[0].fact
    assert follower.look()[1] == ()
    run.tell(6, at=time.time() + 90_000)
    assert (follower.look()[0].step, follower.look()[0].advances) == (6, 1)


@pytest.mark.parametrize("text", [
    "", "{", '{"current_step": 7, "total_st', "null", "[1, 2]", '"text"', "7", "\x00" * 50,
    '{"current_step": "7", "loss": 0.5}', '{"current_step": true}', '{"current_step": -7}',
    '{"current_step": 7.5}', '{"current_step": 1e300}', '{"current_step": NaN}', '{"current_step": [7]}',
    '{"current_step": 9007199254740992}', '{"step": 7}', '{"current_step": {"a": 1}}', "[" * 100_000,
    '{"current_step": 5, "loss": "low"}', '{"current_step": 5, "loss": [1]}', " " * (2 << 20), b"\xff\xfe{}",
    '{"current_step": 5, "loss": ' + "9" * 400 + "}", '{"current_step": 5, "loss": false}',
])  # fmt: skip
def test_a_spoilt_status_file_keeps_the_last_good_step_and_is_told_once(run, text):
    follower = run.follow()
    run.tell(5)
    follower.look()
    run.say(text)
    progress, findings = follower.look()
    assert (progress.step, progress.total, progress.advances) == (5, 60, 0)
    assert len(findings) == 1
    assert follower.look()[1] == ()
    run.tell(6)
    progress, findings = follower.look()
    assert (progress.step, findings) == (6, ())
    run.say(text)
    assert len(follower.look()[1]) == 1


@pytest.mark.parametrize("text", [
    '{"current_step": 5, "loss": null}', '{"current_step": 5}', '{"current_step": 5.0}',
    '{"current_step": null, "total_steps": null, "loss": null}',
])  # fmt: skip
def test_null_is_not_known_yet_and_no_fault(run, text):
    follower = run.follow()
    run.tell(5)
    follower.look()
    run.say(text)
    progress, findings = follower.look()
    assert (progress.step, progress.total, progress.loss, findings) == (5, 60, 1.5, ())


@pytest.mark.parametrize("text", ["NaN", '"NaN"'])
def test_a_nan_loss_in_the_status_file_is_a_fact(run, text):
    follower = run.follow()
    run.say(f'{{"note": "NaN, or so", "loss": {text}, "current_step": 8}}')
    progress, findings = follower.look()
    assert (progress.step, math.isnan(progress.loss), findings) == (8, True, ())


def test_status_names_may_be_dotted_paths(tmp_path):
    status = tmp_path / "status.json"
    status.write_text('{"train": {"state": {"step": 4}}, "loss": 0.5, "epoch": 1.5}')
    names = {"step": "train.state.step", "total": "train.of", "loss": "loss", "epoch": "epoch"}
    (tmp_path / "log").touch()
    follower = Follower(tmp_path / "log", 0, began_wall=BEGAN, status_file=status, status_names=names)
    progress, findings = follower.look()
    assert (progress.step, progress.total, progress.loss, progress.epoch, findings) == (4, None, 0.5, 1.5, ())
    follower.close()


def test_a_change_within_the_same_tick_of_the_clock_is_seen(run):
    follower = run.follow()
    run.tell(5)
    now = time.time_ns()
    os.utime(run.status, ns=(now, now))
    follower.look()
    run.status.write_text(run.status.read_text().replace("5,", "6,", 1))
    os.utime(run.status, ns=(now, now))
    assert follower.look()[0].step == 6


def test_checkpoints_of_a_former_run_are_not_this_runs_step(run):
    run.save(500, at=BEFORE)
    follower = run.follow()
    assert follower.look()[0].step is None
    run.save(20)
    progress = follower.look()[0]
    assert (progress.step, progress.source, progress.advances) == (20, "checkpoint", 1)
    run.save(40)
    assert (follower.look()[0].step, follower.look()[0].advances) == (40, 2)


def test_a_checkpoint_of_this_run_at_the_first_look_is_shown_and_a_baseline(run):
    run.save(20)
    progress = run.follow().look()[0]
    assert (progress.step, progress.advances) == (20, 0)


def test_a_checkpoint_set_aside_is_no_step(run):
    follower = run.follow()
    run.save(20)
    follower.look()
    run.save(40)
    (run.checkpoints / "checkpoint-40").rename(run.checkpoints / "checkpoint-40.incomplete-17")
    assert follower.look()[0].step == 20


def test_the_trainer_state_tells_which_bar_counts_steps(run):
    run.save(20, at=BEFORE, max_steps=60)
    follower = run.follow()
    run.write(bar(7, 1000) + bar(3, 60) + bar(8, 1000) + "\n")
    progress = follower.look()[0]
    assert (progress.step, progress.total) == (3, 60)


def test_a_trainer_state_that_comes_after_its_folder_is_read(run):
    follower = run.follow()
    run.save(20)
    assert follower.look()[0].total is None
    (run.checkpoints / "checkpoint-20" / "trainer_state.json").write_text('{"max_steps": 60}')
    assert follower.look()[0].total == 60


@pytest.mark.parametrize("text", ["", "{", '{"max_steps": -1}', '{"max_steps": 0}', '{"max_steps": "many"}'])
def test_a_spoilt_trainer_state_tells_nothing(run, text):
    run.save(20)
    (run.checkpoints / "checkpoint-20" / "trainer_state.json").write_text(text)
    progress, findings = run.follow().look()
    assert (progress.total, findings) == (None, ())


def journal_line(step):
    return json.dumps({"current_steps": step, "total_steps": 620, "loss": 1.5, "epoch": step / 100}) + "\n"


def test_a_training_log_in_the_checkpoint_folder_is_followed(run):
    follower = run.follow()
    follower.look()
    run.journal.write_text(journal_line(10))
    progress = follower.look()[0]
    assert (progress.step, progress.total, progress.advances) == (10, 620, 0)
    assert progress.source == "llama-factory"
    with run.journal.open("a") as journal:
        journal.write(journal_line(20))
    assert (follower.look()[0].step, follower.look()[0].advances) == (20, 1)


def test_a_training_log_of_a_former_run_is_a_baseline(run):
    run.journal.write_text("".join(journal_line(step) for step in range(10, 600, 10)))
    os.utime(run.journal, (BEFORE, BEFORE))
    follower = run.follow()
    assert (follower.look()[0].step, follower.look()[0].advances) == (None, 0)
    with run.journal.open("a") as journal:
        journal.write(journal_line(510))
    progress = follower.look()[0]
    assert (progress.step, progress.advances) == (510, 0)


def test_what_a_training_log_says_at_the_first_look_is_no_advance(run):
    run.journal.write_text("".join(journal_line(step) for step in range(10, 600, 10)))
    progress = run.follow().look()[0]
    assert (progress.step, progress.advances) == (590, 0)


def test_a_heartbeat_advances_a_run_that_tells_no_step(run):
    run.heartbeat.touch()
    follower = run.follow()
    assert follower.look()[0].advances == 0
    os.utime(run.heartbeat, (time.time() + 1, time.time() + 1))
    progress = follower.look()[0]
    assert (progress.advances, progress.step) == (1, None)


def test_a_heartbeat_beside_a_known_step_is_no_advance(run):
    run.heartbeat.touch()
    run.write(iteration(1))
    follower = run.follow()
    follower.look()
    os.utime(run.heartbeat, (time.time() + 1, time.time() + 1))
    progress = follower.look()[0]
    assert (progress.advances, progress.signs) == (0, 0)


def test_a_log_that_only_grows_is_no_progress(run):
    follower = run.follow()
    run.write(iteration(5))
    before = follower.look()[0]
    run.write("retrying 1 of 100\n" * 100 + iteration(5) * 3)
    after = follower.look()[0]
    assert (after.advances, after.signs) == (before.advances, before.signs)


def test_an_idle_look_costs_far_less_than_a_millisecond(run):
    run.save(20, at=BEFORE, max_steps=60)
    run.tell(5, at=BEFORE)
    run.heartbeat.touch()
    os.utime(run.heartbeat, (BEFORE, BEFORE))
    run.journal.write_text(journal_line(10))
    os.utime(run.checkpoints, (BEFORE, BEFORE))
    os.utime(run.checkpoints / "checkpoint-20" / "trainer_state.json", (BEFORE, BEFORE))
    run.write(iteration(1) * 1000)
    follower = run.follow()
    follower.look()
    best = math.inf
    for _ in range(20):
        begun = time.perf_counter()
        for _ in range(10):
            follower.look()
        best = min(best, (time.perf_counter() - begun) / 10)
    assert best < 0.0005


PIECES = (
    bar(3, 60), bar(4, 60), bar(1, 25), bar(9, 25), bar(7, 1000, "Map: "), "\n", "\r", "\x1b[A", " " * 30,
    iteration(3), iteration(14), "{'loss': 0.5, 'epoch': 0.5}\n", "{'loss': nan, 'epoch': 1.5}", "step",
    "Epoch 1:  45%|████▌     | 90/200 [00:10<00:12,  8.90it/s, v_num=0]",
    "{'train_runtime': 6.4, 'epoch': 3.0}\n",
)  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(PIECES), max_size=20), st.lists(st.integers(0, 1500), max_size=12))
def test_where_the_looks_fall_makes_no_difference_in_the_end(tmp_path_factory, pieces, cuts):
    content = "".join(pieces).encode()
    folder = tmp_path_factory.mktemp("split")
    finals = []
    for name, positions in (("whole", []), ("split", sorted(cut for cut in cuts if cut < len(content)))):
        log = folder / name
        log.touch()
        follower = Follower(log, 0, began_wall=BEGAN)
        with log.open("ab", buffering=0) as daemon:
            for start, end in zip([0, *positions], [*positions, len(content)], strict=True):
                daemon.write(content[start:end])
                progress = follower.look()[0]
        follower.close()
        finals.append(repr(progress))
    assert finals[0] == finals[1]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from(("log", "status", "journal")), st.binary(max_size=80)), max_size=9))
def test_random_bytes_in_any_file_never_raise(tmp_path_factory, writes):
    made = Run(tmp_path_factory.mktemp("bytes"))
    follower = made.follow()
    for name, data in writes:
        path = getattr(made, name)
        path.write_bytes(data)
        progress = follower.look()[0]
        assert progress.step is None or 0 <= progress.step < 2**53
    made.close()
