"""Diagnosis: which failure is the root, what it set off, and what is no crash at all. Text in, crashes out."""

import re
from collections.abc import Sequence
from functools import cache
from textwrap import dedent

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainguard import diagnosis
from trainguard.crash_types import CAUSES, TYPES, Retry
from trainguard.diagnosis import Crash, Facts, Gap, Line, Rest
from trainguard.signatures import Signature, load_signatures


@cache
def rows() -> tuple[tuple[Signature, re.Pattern[str]], ...]:
    return tuple((row, re.compile(row.pattern)) for row in load_signatures())


@cache
def match(text: str) -> tuple[Signature, ...]:
    return tuple(row for row, pattern in rows() if pattern.search(text))


def lines_of(text: str) -> list[Line]:
    return list(diagnosis.cut_lines(dedent(text).encode(), "run.log", 0, 1))


def crashes_of(
    text: str, facts: Facts | None = None, kernel: str = "", pids: Sequence[int] = ()
) -> list[Crash]:
    """The crashes that a text tells of, the newest first."""
    events = diagnosis.Observer(match).observe(lines_of(text))
    machine = diagnosis.observe_kernel(lines_of(kernel), match, frozenset(pids))
    found = diagnosis.find_failures(events, facts, machine)
    return [diagnosis.describe(one) for one in reversed(found)]


def crash_of(text: str, facts: Facts | None = None, kernel: str = "", pids: Sequence[int] = ()) -> Crash:
    """The one crash that a text tells of."""
    found = crashes_of(text, facts, kernel, pids)
    assert len(found) == 1, found
    return found[0]


def traceback(final: str, name: str = "train", prefix: str = "", top: str = "<module>") -> str:
    """An exception's report, each line behind a prefix."""
    told = (
        "Traceback (most recent call last):",
        f'  File "/data/run7/{name}.py", line 41, in {top}',
        "    step(batch)",
        f'  File "/data/run7/{name}.py", line 17, in step',
        "    loss = model(batch)",
        final,
    )
    return "".join(f"{prefix}{line}\n" for line in told)


PROGRESS = "".join(f"step {step}/1000 loss {3 / step:.3f}\n" for step in range(1, 20))
MORE = "".join(f"step {step}/1000 loss {3 / step:.3f}\n" for step in range(20, 40))
OOM = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79 GiB"
CLOSED = "RuntimeError: [../third_party/gloo/gloo/transport/tcp/pair.cc:525] Connection closed by peer [10.0.0.7]:43"
NCCL = (
    "[rank1]:[E113 04:11:09.735118023 ProcessGroupNCCL.cpp:616] [Rank 1] Watchdog caught collective operation "
    "timeout: WorkNCCL(SeqNum=884, OpType=ALLREDUCE, NumelIn=512, NumelOut=512, Timeout(ms)=600000) ran for "
    "600021 milliseconds before timing out."
)
SUMMARY = """\
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
============================================================
train.py FAILED
------------------------------------------------------------
Failures:
  <NO_OTHER_FAILURES>
------------------------------------------------------------
Root Cause (first observed failure):
[0]:
  time      : 2026-01-05_03:12:44
  host      : node3
  rank      : 1 (local_rank: 1)
  exitcode  : {code} (pid: 4127)
  error_file: <N/A>
  traceback : Signal received by PID 4127
============================================================
"""


# --- one failure ----------------------------------------------------------------------------------------------


def test_the_final_line_of_a_traceback_is_the_root() -> None:
    crash = crash_of(PROGRESS + traceback("KeyError: 'labels'"))
    assert (crash.type, crash.cause, crash.exception) == ("key_error", "python_exception", "KeyError")
    assert (crash.root.file, crash.root.line, crash.root.text) == ("run.log", 25, "KeyError: 'labels'")
    assert crash.retry is Retry.NO


@pytest.mark.parametrize(
    ("final", "kind"),
    [
        ("ValueError: too many values to unpack", "value_error"),
        ("ZeroDivisionError: division by zero", "zero_division_error"),
        ("ModuleNotFoundError: No module named 'einops'", "import_error"),
        ("FileNotFoundError: [Errno 2] No such file or directory: '/data/train.bin'", "file_not_found"),
        ("OSError: [Errno 28] No space left on device", "disk_full"),
        ("OSError: [Errno 116] Stale file handle: '/nfs/run7'", "storage_error"),
        ("MemoryError", "host_oom"),
        ("my.package.Trouble: it went wrong", "python_exception"),
        ("Trouble: it went wrong", "python_exception"),
        ("KeyboardInterrupt", "interrupted"),
        ("AssertionError", "assertion_error"),
    ],
)
def test_an_exception_is_the_type_of_its_class_or_of_what_it_says(final: str, kind: str) -> None:
    assert crash_of(traceback(final)).type == kind


def test_a_traceback_behind_a_progress_bar_is_found() -> None:
    text = "\r".join(f" {n}%|#   | {n}/100 [00:0{n}<00:09, 1.00it/s]" for n in range(1, 5))
    crash = crash_of(text + traceback("IndexError: list index out of range"))
    assert (crash.type, crash.root.line) == ("index_error", 6)


def test_a_syntax_error_of_the_script_itself_has_no_header() -> None:
    crash = crash_of(
        "  File \"/data/run7/train.py\", line 3\n    if x\n        ^\nSyntaxError: expected ':'\n"
    )
    assert (crash.type, crash.root.line) == ("syntax_error", 4)


def test_escapes_and_carriage_returns_do_not_hide_a_failure() -> None:
    text = traceback(f"\x1b[31m{OOM}\x1b[0m").replace("\n", "\r\n")
    assert crash_of(text).type == "cuda_oom"


def test_the_cause_is_made_finer_by_the_numbers_in_the_line() -> None:
    held = (
        f"{OOM} of which 1.10 GiB is free. Of the allocated memory 50.00 GiB is allocated by PyTorch, and "
        "22.00 GiB is reserved by PyTorch but unallocated."
    )
    assert crash_of(traceback(held)).cause == "cuda_oom_fragmentation"
    little = held.replace("22.00 GiB", "220.00 MiB")
    assert crash_of(traceback(little)).cause == "cuda_oom"


def test_a_watchdog_that_noticed_hours_late_is_told_apart() -> None:
    assert crash_of(NCCL).cause == "nccl_timeout"
    assert crash_of(NCCL.replace("600021", "25624887")).cause == "nccl_late_watchdog"


# --- who is to blame ------------------------------------------------------------------------------------------


def test_a_ranks_own_exception_goes_before_its_peers_complaints_whatever_the_order() -> None:
    peer = traceback(CLOSED, prefix="[rank0]: ")
    own = traceback("IndexError: index out of range in self", prefix="[rank1]: ")
    for text in (peer + own, own + peer):
        crash = crash_of(text + SUMMARY.format(code=1))
        assert (crash.type, crash.rank) == ("index_error", 1)
        assert "collective_error" in {one.type for one in crash.consequences}


def test_ranks_that_print_at_once_are_read_apart() -> None:
    one = traceback("KeyError: 'mask'", prefix="[rank0]: ").splitlines()
    other = traceback("KeyError: 'mask'", prefix="[rank1]: ").splitlines()
    mixed = [line for pair in zip(one, other, strict=True) for line in pair]
    crash = crash_of("\n".join(mixed))
    assert (crash.type, crash.root.line, crash.consequences) == ("key_error", 11, ())
    assert len(crash.evidence) == 2


def test_the_launchers_summary_names_a_rank_that_died_without_a_word() -> None:
    crash = crash_of(traceback(CLOSED, prefix="[rank0]: ") + traceback(SUMMARY.format(code=-9)))
    assert (crash.type, crash.rank) == ("process_killed", 1)
    assert crash.consequences[0].type == "collective_error"


def test_the_launchers_summary_alone_says_only_that_something_failed() -> None:
    crash = crash_of(traceback(SUMMARY.format(code=1)))
    assert (crash.type, crash.cause) == ("unknown", "child_failed_summary")


def test_a_timed_out_collective_is_the_root_of_the_abort_that_it_ends_in() -> None:
    text = f"{NCCL}\nterminate called after throwing an instance of 'c10::DistBackendError'\n"
    crash = crash_of(text + traceback(SUMMARY.format(code=-6)))
    assert (crash.type, crash.rank) == ("collective_timeout", 1)


def test_another_ranks_failure_is_the_root_of_a_timed_out_collective() -> None:
    own = traceback(
        "RuntimeError: mat1 and mat2 shapes cannot be multiplied (4x8 and 4x8)", prefix="[rank0]: "
    )
    assert crash_of(f"{NCCL}\n{own}").type == "runtime_error"


def test_in_a_chain_the_direct_cause_is_the_root() -> None:
    text = traceback("FileNotFoundError: [Errno 2] No such file or directory: '/data/a.json'", top="load")
    text += "\nThe above exception was the direct cause of the following exception:\n\n"
    crash = crash_of(text + traceback("RuntimeError: the data could not be loaded"))
    assert (crash.type, crash.root.line) == ("file_not_found", 6)


def test_in_a_chain_a_look_up_that_was_being_handled_gives_way_to_what_came_of_it() -> None:
    text = traceback("KeyError: 'cached'", top="get")
    text += "\nDuring handling of the above exception, another exception occurred:\n\n"
    assert crash_of(text + traceback("ValueError: the cache has no entry")).type == "value_error"


def test_in_a_chain_ctrl_c_is_the_root_of_the_clean_up_that_failed() -> None:
    text = traceback("KeyboardInterrupt", top="get")
    text += "\nDuring handling of the above exception, another exception occurred:\n\n"
    assert crash_of(text + traceback("multiprocess.context.TimeoutError")).type == "interrupted"


def test_a_workers_traceback_inside_the_main_process_is_the_root() -> None:
    text = traceback("ValueError: Caught ValueError in DataLoader worker process 0.")
    text += traceback("ValueError: bad sample 17", top="_worker_loop").replace(
        "Traceback", "Original Traceback"
    )
    crash = crash_of(text)
    assert crash.root.text == "ValueError: bad sample 17"


def test_of_an_exception_group_the_first_member_is_the_root() -> None:
    text = """\
      + Exception Group Traceback (most recent call last):
      |   File "/data/run7/train.py", line 18, in <module>
      |     raise ExceptionGroup("two things", failures)
      | ExceptionGroup: two things (2 sub-exceptions)
      +-+---------------- 1 ----------------
        | Traceback (most recent call last):
        |   File "/data/run7/train.py", line 7, in encode
        |     return TABLE[language]
        | KeyError: 'fr'
        +---------------- 2 ----------------
        | ValueError: second
        +------------------------------------
    """
    assert crash_of(text).type == "key_error"


def test_what_ctrl_c_sets_off_is_a_consequence() -> None:
    text = (
        PROGRESS
        + traceback("KeyboardInterrupt")
        + traceback("ConnectionResetError: [Errno 104] Connection reset by peer")
    )
    crash = crash_of(text)
    assert crash.type == "interrupted"
    assert "connection_error" in {one.type for one in crash.consequences}


# --- what is no crash -----------------------------------------------------------------------------------------


def test_an_exception_after_which_training_went_on_is_none() -> None:
    assert crashes_of(PROGRESS + traceback("ConnectionError: tracker", top="log") + MORE) == []


def test_steps_that_were_under_way_do_not_make_a_failure_overcome() -> None:
    late = "step 20/1000 loss 0.100\nstep 21/1000 loss 0.100\n"
    assert crash_of(PROGRESS + traceback("KeyError: 'a'", prefix="[rank1]: ") + late).type == "key_error"


def test_an_exception_that_was_caught_needs_few_steps_to_be_overcome() -> None:
    short = "Epoch 1/3 loss 0.4\nEpoch 2/3 loss 0.3\nEpoch 3/3 loss 0.2\nModel saved to out.pt\n"
    optional = "ModuleNotFoundError: No module named 'apex'"
    assert crashes_of(traceback(optional, top="build") + "goes on with AdamW\n" + short) == []
    assert crash_of(traceback(optional) + "Epoch 1/3 loss 0.4\n").type == "import_error"


def test_of_two_exceptions_the_one_that_the_process_lived_on_after_is_not_the_root() -> None:
    between = "Could not reach tracker, going offline\nLoading model...\nLoading data...\n"
    early, late = traceback("ConnectionError: no route to tracker"), traceback("KeyError: 'image'")
    assert crash_of(early + between + late).type == "key_error"
    assert crash_of(early + late).type == "connection_error"


def test_a_failure_that_was_recovered_from_is_not_the_root_of_the_next_one_of_its_kind() -> None:
    recovered = f"OOM on batch 3: {OOM} Recovering\n"
    steps = "".join(f"step {step}/1000 loss 0.1\n" for step in range(20, 23))
    crash = crash_of(PROGRESS + recovered + steps + traceback(OOM))
    assert crash.root.text == OOM
    crash = crash_of(PROGRESS + recovered + traceback(OOM))
    assert crash.root.line == PROGRESS.count("\n") + 1


def test_a_missing_command_gives_way_to_the_exception_that_ended_the_run() -> None:
    missing = "run.sh: line 4: conda: command not found\n"
    assert crash_of(missing + traceback("KeyError: 'image'")).type == "key_error"
    assert crash_of(missing).cause == "file_missing"


def test_a_search_for_the_largest_batch_is_none() -> None:
    tried = "".join(f"Trying batch size {size}... {OOM}\n" for size in (512, 256, 128))
    assert crashes_of(tried + "Trying batch size 64... ok\nmax batch size: 64\n") == []


@pytest.mark.parametrize("death", ["Segmentation fault (core dumped)", "Terminated"])
def test_a_death_after_a_good_end_is_none(death: str) -> None:
    end = "Training complete. Model saved to out/model.pt\nsynced 5 files\n"
    assert crashes_of(PROGRESS + end + death + "\n") == []
    assert len(crashes_of(PROGRESS + end + MORE + death + "\n")) == 1
    assert len(crashes_of(PROGRESS + end + traceback("KeyError: 'a'"))) == 1


def test_what_fails_after_a_rest_is_another_run() -> None:
    before, after = lines_of(traceback("KeyError: 'a'")), lines_of(traceback("KeyError: 'a'"))
    observer = diagnosis.Observer(match)
    assert len(diagnosis.find_failures(observer.observe([*before, Rest(), *after]))) == 2
    assert len(diagnosis.find_failures(observer.observe([*before, *after]))) == 1
    rest = [*before, Rest(), *lines_of("exitcode  : 1 (pid: 4127)\n")]
    assert len(diagnosis.find_failures(observer.observe(rest))) == 1


def test_a_gap_in_which_training_went_on_overcomes_what_stood_before_it() -> None:
    lines = [*lines_of(traceback("KeyError: 'a'", top="step")), Gap(went_on=True)]
    assert diagnosis.find_failures(diagnosis.Observer(match).observe(lines)) == []
    lines = [*lines_of(traceback("KeyError: 'a'", top="step")), Gap(went_on=False)]
    assert len(diagnosis.find_failures(diagnosis.Observer(match).observe(lines))) == 1


def test_a_run_that_ended_well_had_no_crash() -> None:
    text = (
        traceback("ConnectionError: tracker", top="log")
        + "Training completed. Do not forget to share your model\n"
    )
    assert crashes_of(text) == []


@pytest.mark.parametrize(
    "line",
    [
        "CUDA kernel errors might be asynchronously reported at some other API call, so the trace may be wrong.",
        "For debugging consider passing CUDA_LAUNCH_BLOCKING=1",
        "WARNING: NCCL_P2P_DISABLE is set; errors in the past were caused by peer access",
        "eval: the sentence 'Killed by a segmentation fault' was classified as news",
        "UserWarning: resource_tracker: There appear to be 2 leaked semaphore objects to clean up at shutdown",
        "skipped 3 files: they failed to parse",
    ],
)
def test_words_that_look_like_a_failure_are_none(line: str) -> None:
    assert crashes_of(f"{PROGRESS}{line}\n{MORE}{line}\n") == []


def test_a_log_that_stops_in_mid_step_is_no_crash_by_itself() -> None:
    assert crashes_of(PROGRESS) == []


# --- what the machine knows -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "kind", "cause"),
    [
        (Facts(signal="SIGKILL"), "process_killed", "process_killed"),
        (Facts(signal="SIGKILL", oom_kills=1), "host_oom", "host_oom_cgroup"),
        (Facts(signal="SIGSEGV"), "segfault", "native_crash"),
        (Facts(exit_code=139), "segfault", "native_crash"),
        (Facts(exit_code=137), "process_killed", "process_killed"),
        (Facts(signal="SIGTERM"), "interrupted", "external_term"),
        (Facts(exit_code=3), "unknown", "unknown"),
        (Facts(hang="no new step for 600 s"), "hang", "hang"),
        (Facts(exit_code=1, scheduler_state="OUT_OF_MEMORY"), "host_oom", "host_oom_cgroup"),
        (Facts(exit_code=0, scheduler_state="TIMEOUT"), "preempted", "time_limit"),
    ],
)
def test_the_exit_status_makes_a_log_that_stops_a_crash(facts: Facts, kind: str, cause: str) -> None:
    crash = crash_of(PROGRESS, facts)
    assert (crash.type, crash.cause) == (kind, cause)


def test_exit_code_0_is_no_crash_whatever_the_log_says() -> None:
    assert crashes_of(PROGRESS + traceback("KeyError: 'a'"), Facts(exit_code=0)) == []


def test_a_line_that_explains_goes_before_the_exit_status() -> None:
    crash = crash_of(PROGRESS + traceback("KeyError: 'a'"), Facts(exit_code=1))
    assert crash.type == "key_error"


def test_the_kernels_kill_of_our_process_explains_a_bare_kill() -> None:
    kernel = "Memory cgroup out of memory: Killed process 4127 (python) total-vm:812kB, anon-rss:612kB, file-rss:0kB"
    crash = crash_of(PROGRESS, Facts(signal="SIGKILL"), kernel, pids=[4127])
    assert crash.type == "host_oom"
    assert "process_killed" in {one.type for one in crash.consequences}
    assert crash_of(PROGRESS, Facts(signal="SIGKILL"), kernel, pids=[99]).type == "process_killed"


# --- several runs, numbers that are none ------------------------------------------------------------------------


def test_of_several_runs_in_one_file_the_last_one_is_told_first() -> None:
    found = crashes_of(PROGRESS + traceback("KeyError: 'a'") + PROGRESS + traceback("IndexError: b"))
    assert [one.type for one in found] == ["index_error", "key_error"]
    short = "step 1/9 loss 1.0\nstep 2/9 loss 0.9\nstep 3/9 loss 0.9\nstep 4/9 loss 0.8\n"
    found = crashes_of(short + traceback("KeyError: 'a'") + short + traceback("IndexError: b"))
    assert [one.type for one in found] == ["index_error", "key_error"]


def test_facts_are_about_the_last_run_only() -> None:
    found = crashes_of(PROGRESS + traceback("KeyError: 'a'") + PROGRESS, Facts(signal="SIGKILL"))
    assert [one.type for one in found] == ["process_killed", "key_error"]


def test_a_loss_that_is_no_number_to_the_end_is_a_crash_without_any_exception() -> None:
    bad = "".join(f"step {step}/1000 loss nan\n" for step in range(20, 30))
    crash = crash_of(PROGRESS + bad)
    assert (crash.type, crash.cause, crash.root.line) == ("numerical", "nan_loss", 20)


def test_a_loss_that_was_no_number_for_a_while_is_none() -> None:
    bad = "".join(f"step {step}/1000 loss nan\n" for step in range(20, 24))
    assert crashes_of(PROGRESS + bad + "".join(f"step {n}/1000 loss 0.5\n" for n in range(24, 40))) == []


def test_a_sweep_whose_first_trial_lost_its_loss_is_none() -> None:
    trial = "".join(f"lr {rate} step 1 loss nan\n" for rate in (1.0, 1.5, 2.0))
    bar = "".join(f"Epoch {n}: 100%|###| 9/9 [00:01<00:00, 9.0it/s, loss=0.5]\n" for n in range(9))
    assert crashes_of(trial + bar) == []


def test_an_evaluation_without_a_number_is_none() -> None:
    bad = "".join(f"step {step}/1000 loss 0.5 val_loss nan\n" for step in range(20, 30))
    assert crashes_of(PROGRESS + bad) == []


def test_the_exception_that_a_lost_loss_ends_in_is_its_consequence() -> None:
    bad = "".join(f"step {step}/1000 loss nan\n" for step in range(20, 30))
    crash = crash_of(bad + traceback("ValueError: probabilities contain NaN"))
    assert (crash.type, crash.consequences[0].type) == ("numerical", "value_error")
    assert crash_of(bad + traceback(OOM)).type == "cuda_oom"


def test_a_foreign_line_of_the_kernel_does_not_date_a_crash() -> None:
    kernel = "2026-01-05T03:12:44 node3 kernel: NVRM: Xid (PCI:0000:3b:00): 31, pid=99, name=python3, Ch 00000008\n"
    fault = "RuntimeError: CUDA error: an illegal memory access was encountered"
    assert crash_of(traceback(fault), kernel=kernel).time is None
    assert crash_of(traceback(fault), kernel=kernel, pids=[99]).time is not None


# --- fingerprints and advice ------------------------------------------------------------------------------------


def test_the_same_crash_has_the_same_fingerprint_whatever_changes_from_run_to_run() -> None:
    text = (
        "OSError: [Errno 5] Input/output error: '/data/run{0}/checkpoint-{0}00/tmp{0}f3/rng.pth' at 0x7f{0}a"
    )
    one, other = (crash_of(PROGRESS + traceback(text.format(number))) for number in (7, 81))
    assert one.fingerprint == other.fingerprint
    sized = [
        crash_of(traceback(OOM.replace("2.50 GiB", size))).fingerprint for size in ("2.50 GiB", "740.00 MiB")
    ]
    assert sized[0] == sized[1]


def test_different_crashes_have_different_fingerprints() -> None:
    finals = ["KeyError: 'labels'", "KeyError: 'mask'", "ValueError: 'labels'", OOM, "KeyboardInterrupt"]
    prints = {crash_of(traceback(final)).fingerprint for final in finals}
    prints.add(crash_of(traceback("KeyError: 'labels'", name="evaluate")).fingerprint)
    assert len(prints) == len(finals) + 1


def test_advice_names_the_package_where_its_name_differs() -> None:
    advice = " ".join(crash_of(traceback("ModuleNotFoundError: No module named 'cv2'")).advice)
    assert "opencv-python" in advice


def test_advice_names_how_much_is_free_on_the_full_disk() -> None:
    facts = Facts(exit_code=1, free_bytes={"/data": 3 << 20, "/": 9 << 30})
    advice = crash_of(traceback("OSError: [Errno 28] No space left on device"), facts).advice
    assert advice[0].startswith("At that moment /data had 3.0 MiB free")


def test_no_advice_shows_a_name_that_was_not_filled_in() -> None:
    for row in load_signatures():
        for crash in crashes_of(row.sample, Facts(exit_code=1)):
            assert not re.search(r"\{[a-z_]+\}", " ".join(crash.advice)), (row.name, crash.advice)


# --- laws -------------------------------------------------------------------------------------------------------

pieces = st.sampled_from(
    [
        PROGRESS,
        MORE,
        traceback("KeyError: 'a'"),
        traceback(CLOSED, prefix="[rank0]: "),
        traceback(OOM, prefix="[rank1]: "),
        SUMMARY.format(code=-9),
        f"{NCCL}\n",
        "Killed\n",
        "Traceback (most recent call last):\n",
        "During handling of the above exception, another exception occurred:\n",
        "slurmstepd: error: *** JOB 33 ON node3 CANCELLED AT 2026-01-05T03:12:44 DUE TO TIME LIMIT ***\n",
        "step 5/10 loss nan\n",
        "\r\r\n\0\n",
        "***** Running training *****\n",
    ]
)


@given(st.lists(st.one_of(pieces, st.text(max_size=40)), max_size=12))
def test_any_log_gets_an_answer_whose_every_line_is_in_it(parts: list[str]) -> None:
    content = "".join(parts).encode("utf-8", "surrogatepass")
    lines = list(diagnosis.cut_lines(content, "run.log", 0, 1))
    texts = {(line.number, line.text) for line in lines}
    for crash in crashes_of_lines(lines):
        assert crash.type in TYPES and crash.blame is TYPES[crash.type].blame
        assert crash.cause in CAUSES or crash.cause in (crash.type, "python_exception")
        assert {(one.line, one.text) for one in crash.evidence} <= texts
        assert {(one.line, one.text) for one in crash.consequences} <= texts
        assert crash.root == crash.evidence[0]
        assert all(one.type != crash.type for one in crash.consequences)


@given(st.binary(max_size=400))
def test_any_bytes_get_an_answer(content: bytes) -> None:
    crashes_of_lines(list(diagnosis.cut_lines(content, "run.log", 0, 1)))


@given(st.lists(pieces, max_size=8))
def test_progress_after_all_failures_and_exit_0_leave_no_crash_of_the_last_run(parts: list[str]) -> None:
    events = list(diagnosis.Observer(match).observe(lines_of("".join(parts))))
    with_facts = diagnosis.find_failures(events, Facts(exit_code=0))
    without = diagnosis.find_failures(events)
    assert len(with_facts) <= len(without)


def crashes_of_lines(lines: list[Line]) -> list[Crash]:
    found = diagnosis.find_failures(diagnosis.Observer(match).observe(lines))
    return [diagnosis.describe(one) for one in found]


# --- progress that is told in other ways ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        "{{'loss': 1.{0:03d}, 'grad_norm': 0.5, 'learning_rate': 1e-05, 'epoch': 0.{0:03d}}}\n",
        "2026-01-05 03:{0:02d}:10,000 - loss 1.{0:02d} lr 1e-5 tokens 12900\n",
        "Epoch {0}: train loss 0.5 val loss 0.6 acc 0.7\n",
        '{{"step": {0}, "loss": 1.10, "time": 1700010}}\n',
    ],
)
def test_progress_without_a_bar_overcomes_an_exception_too(line: str) -> None:
    before, after = ("".join(line.format(n) for n in numbers) for numbers in (range(10, 20), range(20, 23)))
    assert crashes_of(before + traceback("RuntimeError: boom") + after) == []
    assert len(crashes_of(before + traceback("RuntimeError: boom"))) == 1


def test_a_good_end_and_a_banner_stand_between_two_crashes() -> None:
    text = (
        f"[2026-01-05 03:00:00] Starting training run 1\nstep 10 loss 1.0\n{traceback('RuntimeError: boom')}"
        "[2026-01-05 03:05:00] Starting training run 2\nstep 10 loss 1.0\nTraining complete, saved to out/\n"
        f"[2026-01-05 03:15:00] Starting training run 3\nstep 1 loss 1.0\n{traceback('KeyError: 3')}"
    )
    assert [one.type for one in crashes_of(text)] == ["key_error", "runtime_error"]


@pytest.mark.parametrize(
    ("line", "body"),
    [
        ("2026-01-05 03:12:44 RuntimeError: boom", "RuntimeError: boom"),
        ("2026-01-05 03:12:44,123 - my.logger - ERROR - RuntimeError: boom", "RuntimeError: boom"),
        ("[2026-01-05 03:12:44,123] [INFO] [logging.py:96:log_dist] step=10", "step=10"),
        ("2026-01-05 03:12:44,000 - loss 1.29 lr 1e-5", "loss 1.29 lr 1e-5"),
        ("2026-01-05 03:12:44.123 | ERROR    | __main__:<module>:10 - boom", "boom"),
    ],
)
def test_a_loggers_prefix_is_taken_off_and_no_word_of_the_message(line: str, body: str) -> None:
    assert [one.body for one in lines_of(line)] == [body]
