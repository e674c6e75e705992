"""Words: the lines and the status files in which a run says what it is at, and what is made of them."""

import json
import time
from pathlib import Path

import pytest

from trainguard.policy import Work
from trainguard.progress import Follower, Mark, Progress, Role, note
from trainguard.progress.sources import parse_told
from trainguard.progress.words import NAMES, parse_words, parse_work

LINES = {
    Work.EVALUATING: [
        b"***** Running Evaluation *****",
        b"[INFO|trainer.py:4307] 2026-02-11 10:00:00,123 >> ***** Running Prediction *****",
        b"Evaluating on 320 samples",
        b"\x1b[32mRunning validation\x1b[0m",
    ],
    Work.SAVING: [
        b"Saving model checkpoint to out/checkpoint-500",
        b"saving checkpoint to out",
        b"saving checkpoint at iteration     100 to /data/ckpt in torch_dist format",
        b"Saving current state to out/checkpoint_0",
        b"[titan] 2026-02-11 10:00:00,123 - root - INFO - Saving the checkpoint (or staging if async is enabled).",
        b"[2026-02-11] [INFO] [torch_checkpoint_engine.py:21:save] [Torch] Saving out/global_step50/a.pt...",
    ],
    Work.COMPILING: [
        b"Emitting ninja build file /root/.cache/torch_extensions/py311_cu124/cpu_adam/build.ninja...",
        b"> compiling dataset index builder ...",
        b"[titan] - Compiling each TransformerBlock with torch.compile",
        b"********************************\n[Compiling module jit_step for GPU] Very slow compile? If you want",
    ],
    Work.IDLE: [
        b"Queue is empty",
        b"2026-02-11 10:00:00 - INFO - queue empty, sleeping 30 s",
        b"Waiting for new jobs ...",
        b"No training files in inbox",
    ],
}
NO_WORDS = [
    b"",
    b"prefetch queue is empty: the data loader cannot keep up",
    b"WARNING: queue is empty",
    b"worker 3 is waiting for tasks",
    b"waiting for rank 3",
    b"there is no work like it",
    b"Saved the model",
    b"loss is saving us",
    b"Queue has 3 jobs",
    b"early stopping: evaluation loss did not improve",
]


@pytest.mark.parametrize(("work", "line"), [(work, line) for work, lines in LINES.items() for line in lines])
def test_a_line_says_what_a_run_is_at(work: Work, line: bytes) -> None:
    assert parse_words(line) == Mark("words", "words", Role.WORDS, work=work)


@pytest.mark.parametrize("line", NO_WORDS)
def test_another_line_says_nothing_of_it(line: bytes) -> None:
    assert parse_words(line) is None


def test_a_word_of_a_status_file_is_known_in_any_case_and_belongs_to_one_work() -> None:
    names = [name for words in NAMES.values() for name in words.split()]
    assert len(names) == len(set(names))
    assert parse_work(" IDLE ") is Work.IDLE
    for value in ("whatever", "", 5, None, True, "x" * 1000, ["idle"]):
        assert parse_work(value) is None


def after(*pieces: Mark | bytes) -> Progress:
    """The progress after marks and lines."""
    progress = Progress()
    for piece in pieces:
        for mark in [piece] if isinstance(piece, Mark) else parse_told(piece):
            progress = note(progress, mark)
    return progress


def status(step: int | None, work: Work | None = None) -> Mark:
    return Mark("status file", "status file", step=step, work=work)


STEPS = (b"step 1/90", b"step 2/90")
EVALUATION, SAVE, IDLE = b"***** Running Evaluation *****", b"saving checkpoint to out", b"Queue is empty"


def test_an_advance_ends_every_other_work() -> None:
    for line in (EVALUATION, SAVE, IDLE):
        assert after(*STEPS, line).work not in (None, Work.TRAINING)
        assert after(*STEPS, line, b"step 3/90").work is Work.TRAINING


def test_words_are_one_sign_between_two_advances_however_often_they_come() -> None:
    assert after(*STEPS).signs == 0
    assert after(*STEPS, EVALUATION).signs == 1
    assert after(*STEPS, *[EVALUATION, SAVE] * 50).signs == 1
    assert after(*STEPS, EVALUATION, b"step 3/90", SAVE).signs == 2


def test_a_bar_that_does_not_count_steps_is_a_start_before_the_first_step_and_an_evaluation_after_it() -> (
    None
):
    bar = b"Evaluating:  10%|#  | 1/10 [00:57<49:56,  4.92s/it]"
    assert after(bar).work is Work.STARTING
    assert after(*STEPS, bar).work is Work.EVALUATING


def test_a_run_that_says_it_trains_again_after_idling_starts_until_it_advances() -> None:
    idle = (status(1), status(2), status(2, Work.IDLE))
    assert after(*idle).work is Work.IDLE
    assert after(*idle, status(0, Work.TRAINING)).work is Work.STARTING
    assert after(*idle, status(0, Work.TRAINING), status(1, Work.TRAINING)).work is Work.TRAINING


def test_a_status_file_that_says_training_does_not_end_a_save_that_the_log_tells_of() -> None:
    assert after(status(1), status(2, Work.TRAINING), SAVE, status(2, Work.TRAINING)).work is Work.SAVING


def test_a_word_that_stays_while_steps_are_made_is_not_about_them() -> None:
    assert after(status(1, Work.IDLE), status(2, Work.IDLE)).work is Work.TRAINING
    assert after(status(1, Work.TRAINING), status(2, Work.IDLE)).work is Work.IDLE


def test_a_status_file_tells_the_work_and_one_of_an_earlier_run_does_not(tmp_path: Path) -> None:
    file = tmp_path / "status.json"
    names = {"step": "current_step", "work": "status"}

    def look(began_wall: float) -> Progress:
        return Follower(
            tmp_path / "log", 0, began_wall=began_wall, status_file=file, status_names=names
        ).look()[0]

    file.write_text(json.dumps({"current_step": None, "status": "idle"}))
    assert look(time.time() - 60).work is Work.IDLE
    assert look(time.time() + 1).work is None
    file.write_text(json.dumps({"current_step": 5, "status": "as good as new"}))
    assert look(time.time() - 60).work is None
