"""Lines of training output: what each says, what the near misses do not say, and what marks add up to."""

import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainguard.health import Status
from trainguard.progress import FORMATS, Mark, Progress, Role, judge_progress, note, parse_line, parse_segment
from trainguard.progress.counting import COUNTER_LIMIT
from trainguard.progress.lines import STEP_LIMIT

FULL = "██████████"
TITAN = "[titan] 2026-10-04 10:00:00,123 - root - INFO - "
MEGATRON = (
    " [2026-10-04 10:00:00] iteration        5/     100 | consumed samples:           40 | elapsed time per"
    " iteration (ms): 512.3 | learning rate: 1.5E-04 | global batch size:     8 | lm loss: 1.043E+01 | loss"
    " scale: 1.0 | grad norm: 2.1 | number of skipped iterations:   0 | number of nan iterations:   0 |"
)

# One line per row: what it is, and the step, total, loss and epoch that it says.
TRAINING = {
    "hugging face 4": (
        "{'loss': 0.8533, 'grad_norm': 4.86, 'learning_rate': 1.45e-05, 'epoch': 0.16}",
        "hugging face",
        None,
        None,
        0.8533,
        0.16,
    ),
    "hugging face 5": (
        "{'loss': '0.8533', 'grad_norm': '4.9', 'learning_rate': '1.4e-05', 'epoch': '0.16'}",
        "hugging face",
        None,
        None,
        0.8533,
        0.16,
    ),
    "hugging face with a step": (
        "{'loss': 1.5, 'learning_rate': 1e-05, 'epoch': 1.0, 'step': 500}",
        "hugging face",
        500,
        None,
        1.5,
        1.0,
    ),
    "hugging face with a global step": (
        "{'loss': '1.5', 'epoch': '1', 'global_step': '500'}",
        "hugging face",
        500,
        None,
        1.5,
        1.0,
    ),
    "trl": (
        "{'loss': 0.01, 'rewards/chosen': 1.5, 'reward': 0.2, 'kl': 0.001, 'epoch': 0.3}",
        "hugging face",
        None,
        None,
        0.01,
        0.3,
    ),
    "hugging face under torchrun": (
        "[rank0]: {'loss': 2.0, 'epoch': 1.5}",
        "hugging face",
        None,
        None,
        2.0,
        1.5,
    ),
    "hugging face behind the code of an inner bar": (
        "\x1b[A{'loss': 2.0, 'epoch': 1.5}",
        "hugging face",
        None,
        None,
        2.0,
        1.5,
    ),
    "hugging face banner": (
        "[INFO|trainer.py:2411] 2026-05-30 >>   Total optimization steps = 1,906",
        "hugging face banner",
        None,
        1906,
        None,
        None,
    ),
    "unsloth banner": (
        "O^O/ \\_/ \\    Batch size per device = 2 | Total steps = 60",
        "hugging face banner",
        None,
        60,
        None,
        None,
    ),
    "llama-factory": (
        '{"current_steps": 10, "total_steps": 620, "loss": 1.25, "lr": 1e-05, "epoch": 0.16,'
        ' "percentage": 1.61, "elapsed_time": "0:00:52", "remaining_time": "0:53:00"}',
        "llama-factory",
        10,
        620,
        1.25,
        0.16,
    ),
    "llama-factory's last": (
        '{"current_steps": 620, "total_steps": 620, "epoch": 2.99, "percentage": 100.0}',
        "llama-factory",
        620,
        620,
        None,
        2.99,
    ),
    "lightning": (
        "Epoch 3:  45%|████▌     | 90/200 [00:10<00:12,  8.90it/s, v_num=0, train_loss=0.120]",
        "lightning",
        690,
        None,
        0.12,
        3.45,
    ),
    "lightning of old": (
        f"Epoch 2: 100%|{FULL}| 1876/1876 [00:17<00:00, 107.85it/s, loss=0.0944, v_num=0]",
        "lightning",
        5628,
        None,
        0.0944,
        3.0,
    ),
    "megatron": (MEGATRON, "megatron", 5, 100, 10.43, None),
    "megatron under torchrun": ("[default7]:" + MEGATRON, "megatron", 5, 100, 10.43, None),
    "megatron without a loss": (
        " iteration        1/     100 | consumed samples:            8 | loss scale: 4294967296.0 |",
        "megatron",
        1,
        100,
        None,
        None,
    ),
    "deepspeed": (
        "[2026-10-04 10:00:00,123] [INFO] [logging.py:128:log_dist] [Rank 0] step=10, skipped=0,"
        " lr=[1e-05], mom=[(0.9, 0.999)]",
        "deepspeed",
        10,
        None,
        None,
        None,
    ),
    "deepspeed bare": (
        "step=3000, skipped=12, lr=[0.0001, 0.0001], mom=[0.9]",
        "deepspeed",
        3000,
        None,
        None,
        None,
    ),
    "torchtitan": (
        TITAN + "step:  1  loss:  8.10000  grad_norm:  1.4234  memory:  3.10GiB(3.9%)  tps: 1,024",
        "torchtitan",
        1,
        None,
        8.1,
        None,
    ),
    "torchtitan in colours": (
        TITAN + "\x1b[31mstep: 12  \x1b[32mloss:  7.9512  \x1b[38;2;180;60;0mgrad_norm:  1.0  \x1b[39m",
        "torchtitan",
        12,
        None,
        7.9512,
        None,
    ),
    "nanogpt": ("iter 10: loss 2.3456, time 123.45ms, mfu 3.20%", "nanogpt", 10, None, 2.3456, None),
    "a hand-written loop": ("step 117/100000 | loss 0.0085", "step of total", 117, 100_000, 0.0085, None),
    "nanogpt before its first mfu": (
        "iter 0: loss 10.9, time 9000.00ms, mfu -100.00%",
        "nanogpt",
        0,
        None,
        10.9,
        None,
    ),
    "nanogpt's estimate": ("step 250: train loss 1.9, val loss 2.0", "nanogpt", 250, None, 1.9, None),
    "torchtune": (
        "Step 12 | loss:1.23 lr:2e-05 tokens_per_second_per_gpu:1034.5 ",
        "torchtune",
        12,
        None,
        1.23,
        None,
    ),
    "torchtune in another order": ("Step 7 | lr:2e-05 loss:1.23 ", "torchtune", 7, None, 1.23, None),
    "torchtune's bar": (
        "2|12|Loss: 1.23:  48%|████▊     | 12/25 [00:12<00:13,  1.00it/s]",
        "torchtune",
        12,
        None,
        1.23,
        1.0,
    ),
}
# Bars that may count training steps: step, total, loss, key.
BARS = {
    "bare": ("  2%|▏         | 11/620 [00:57<49:56,  4.92s/it]", 11, 620, None, " /620"),
    "not begun": ("  0%|          | 0/620 [00:00<?, ?it/s]", 0, 620, None, " /620"),
    "long": (" 50%|█████     | 310/620 [1:02:57<1:02:56,  4.92s/it]", 310, 620, None, " /620"),
    "with a loss": (
        " 50%|█████     | 30/60 [00:30<00:30,  1.00s/it, loss=0.51, lr=1e-5]",
        30,
        60,
        0.51,
        " /60",
    ),
    "val_loss beside": (
        "Train: 50%|█████     | 30/60 [00:30<00:30, 1it/s, val_loss=9, train_loss=0.5]",
        30,
        60,
        0.5,
        "Train /60",
    ),
    "loss in the description": (
        "Epoch 1/3, loss: 0.25:  50%|█████     | 30/60 [00:30<00:30,  1.00it/s]",
        30,
        60,
        0.25,
        "Epoch #/#, loss: # /60",
    ),
    "steps": ("Steps:  50%|█████     | 30/60 [00:30<00:30,  1.00step/s]", 30, 60, None, "Steps /60"),
    "unit": (
        "Training epoch 2:  50%|█████     | 30/60 [00:30<00:30, 12.00 batches/s]",
        30,
        60,
        None,
        "Training epoch # /60",
    ),
    "no room for the bar": (" 10% 6/60 [00:06<00:54,  1.00it/s]", 6, 60, None, " /60"),
    "ascii": (" 10%|#         | 6/60 [00:06<00:54,  1.00it/s]", 6, 60, None, " /60"),
    "no total": ("17it [00:03,  5.10it/s]", 17, None, None, " /?"),
    "no total, described": ("Training: 17it [00:03,  5.10it/s, loss=2]", 17, None, 2.0, "Training /?"),
    "lightning without a total": (
        "Epoch 0: |          | 90/? [00:01<00:00, 85.12it/s, v_num=0]",
        90,
        None,
        None,
        "Epoch # /?",
    ),
}
# Other work: the counter's value and key.
SIGNS = {
    "map": ("Map: 100%|██████████| 1000/1000 [00:00<00:00, 1739.01 examples/s]", 1000, "Map /1000"),
    "map by several": (
        "Map (num_proc=8):  45%|████▌     | 450/1000 [00:00<00:00, 1739.01 examples/s]",
        450,
        "Map (num_proc=#) /1000",
    ),
    "shards": (
        "Loading checkpoint shards:  50%|█████     | 2/4 [00:03<00:03,  1.60s/it]",
        2,
        "Loading checkpoint shards /4",
    ),
    "download": (
        "model.safetensors:  45%|████▌     | 2.25G/4.98G [00:30<00:36, 75.1MB/s]",
        2_250_000_000,
        "model.safetensors /4.98G",
    ),
    "download without a name": (
        " 45%|████▌     | 512M/1.02G [00:30<00:36, 75.1MB/s]",
        512_000_000,
        " /1.02G",
    ),
    "split": (
        "Generating train split: 1000 examples [00:00, 8123.45 examples/s]",
        1000,
        "Generating train split /?",
    ),
    "lightning's validation": (
        "Validation DataLoader 0:  40%|████      | 4/10 [00:00<00:00, 10.0it/s]",
        4,
        "Validation DataLoader # /10",
    ),
    "lightning's rehearsal": (
        "Sanity Checking DataLoader 0: 100%|█| 2/2 [00:00<00:00, 10.0it/s]",
        2,
        "Sanity Checking DataLoader # /2",
    ),
    "evaluation": ("Evaluating:  40%|████      | 4/10 [00:00<00:00, 10.0it/s]", 4, "Evaluating /10"),
    "megatron's evaluation": ("Evaluating iter 3/10", 3, "megatron evaluation"),
    "nemo's evaluation": ("Validation: iteration 1/2", 1, "megatron evaluation"),
    "torchtitan's evaluation": (
        TITAN + "\x1b[33mvalidate step: 10  \x1b[32mloss:  7.1  \x1b[39mtps: 10",
        10,
        "torchtitan evaluation",
    ),
}
ENDS = (
    "{'train_runtime': 6.4, 'train_samples_per_second': 9.3, 'train_loss': 2.1, 'epoch': 3.0}",
    "{'train_runtime': '6.4', 'train_samples_per_second': '9.3', 'train_loss': '2.1', 'epoch': '3'}",
    "`Trainer.fit` stopped: `max_steps=100` reached.",
    "[INFO     | pytorch_lightning.utilities.rank_zero]: `Trainer.fit` stopped: `max_epochs=3` reached.",
    "[after training is done] datetime: 2026-10-04 10:00:00",
    "Training completed. Do not forget to share your model on huggingface.co/models =)",
    TITAN + "Training completed",
)
NEAR_MISSES = (
    "",
    "loss 2.0",
    "{}",
    "{'loss': 'mse', 'epoch': 3}",
    "{'loss': [0.5, 0.4]}",
    "config = {'loss': 0.5, 'epoch': 3}",
    "{'loss': 0.85",
    "{'learning_rate': 1e-05, 'epoch': 0.5}",
    '{"current_steps": "ten", "total_steps": 620}',
    '{"current_steps": -1, "total_steps": 620}',
    "iter 10: loss improved, time 3ms",
    "iter ten: loss 2.3456, time 123.45ms",
    "at iter 10: loss 2.3456, time 123.45ms",
    "step 250: val loss 2.0",
    "Step 12 of 40 | loss:1.23",
    "Step 12 | val_loss:1.23 ",
    "Step 12 | Eval (40 examples) | Pass@1: 0.5",
    "1|12|Accuracy: 0.5",
    "this step: 1  loss: 8.1",
    "step: 1  grad_norm: 8.1",
    "iteration 5 of 100 | lm loss: 1.0",
    "loading iteration 5/100 from disk",
    "step=10, skipped=0 files",
    "epoch=1, step=10, skipped 3",
    "`Trainer.fit` stopped: No training batches.",
    "`Trainer.fit` will stop: `max_steps=100` not reached.",
    "Training completed for fold 1",
    "done: 100% | 60/60 tests passed",
    "Progress: 45% of 90/200 files",
    "loaded 17 files [12:30 today]",
    "17it is what we call it [sic]",
    "Total steps taken: 60",
    "2026-10-04 10:00:00 INFO 200/200 [ok]",
)
SAMPLES = [row[0] for table in (TRAINING, BARS, SIGNS) for row in table.values()]
EVERY_LINE = [*SAMPLES, *ENDS, *NEAR_MISSES]


def marks(*lines):
    return [mark for line in lines for mark in parse_segment(line.encode())]


def progress_of(*lines):
    progress = Progress()
    for mark in marks(*lines):
        progress = note(progress, mark)
    return progress


def bar(step, total, description=""):
    return f"{description}{100 * step // total:3d}%|{FULL}| {step}/{total} [00:01<00:02,  1.00it/s]"


@pytest.mark.parametrize("line, source, step, total, loss, epoch", TRAINING.values(), ids=TRAINING)
def test_a_training_line_tells_what_it_says(line, source, step, total, loss, epoch):
    mark = parse_line(line.encode())
    assert (mark.source, mark.role, mark.step, mark.total) == (source, Role.TRAINING, step, total)
    assert (mark.loss, mark.epoch, mark.finished) == (loss, epoch, False)


@pytest.mark.parametrize("line, step, total, loss, key", BARS.values(), ids=BARS)
def test_a_bar_without_another_name_may_count_training_steps(line, step, total, loss, key):
    mark = parse_line(line.encode())
    assert (mark.role, mark.step, mark.total, mark.loss, mark.key) == (Role.BAR, step, total, loss, key)


@pytest.mark.parametrize("line, step, key", SIGNS.values(), ids=SIGNS)
def test_other_work_is_a_sign_and_never_the_training_step(line, step, key):
    mark = parse_line(line.encode())
    assert (mark.role, mark.step, mark.key) == (Role.SIGN, step, key)
    assert progress_of(line).step is None


@pytest.mark.parametrize("line", ENDS)
def test_a_runs_own_last_line_says_that_it_is_finished(line):
    assert progress_of(line).finished


@pytest.mark.parametrize("line", NEAR_MISSES)
def test_a_line_that_only_looks_like_progress_says_nothing(line):
    assert parse_line(line.encode()) is None


def test_every_row_of_the_table_has_a_sample_and_an_origin():
    told = {mark.source for line in EVERY_LINE if (mark := parse_line(line.encode()))}
    assert told == {row.name for row in FORMATS}
    assert all(row.origin for row in FORMATS)


def test_an_evaluation_dictionary_is_a_sign_counted_by_its_epoch():
    mark = parse_line(b"{'eval_loss': '1.2', 'eval_runtime': '3.1', 'epoch': '1.5'}")
    assert (mark.role, mark.epoch, mark.loss) == (Role.SIGN, 1.5, None)


@pytest.mark.parametrize("text", ["nan", "'nan'", "NaN", "NAN"])
def test_a_nan_loss_is_a_fact_and_kept(text):
    assert math.isnan(parse_line(f"{{'loss': {text}, 'epoch': 0.5}}".encode()).loss)


def test_a_bar_puts_a_point_behind_a_nan_loss():
    bar = b"Epoch 3:  45%|####5     | 45/100 [00:10<00:12,  4.50it/s, v_num=0, train_loss="
    assert math.isnan(parse_line(bar + b"nan.0]").loss)
    assert parse_line(bar + b"nan.5]").loss is None


def test_an_infinite_loss_is_a_fact_but_an_overflow_is_unknown():
    assert parse_line(b"iter 10: loss inf, time 3ms").loss == math.inf
    assert parse_line(b"iter 10: loss 1e999, time 3ms").loss is None


@pytest.mark.parametrize("digits, known", [
    (f"{STEP_LIMIT - 1}", True), (f"{STEP_LIMIT}", False), ("0" * 5000, False),
])  # fmt: skip
def test_a_step_beyond_what_a_float_counts_is_unknown(digits, known):
    assert (parse_line(f"iter {digits}: loss 2.0, time 3ms".encode()) is not None) == known


def test_a_dictionary_printed_behind_a_waiting_bar_is_read_as_well():
    both = marks(bar(6, 60) + "{'loss': 0.5, 'epoch': 0.1}")
    assert [(mark.step, mark.loss) for mark in both] == [(6, None), (None, 0.5)]


def test_only_the_first_64_kib_of_a_line_are_read():
    assert parse_line(b" " * (65 << 10) + b"iter 10: loss 2.0, time 3ms") is None


@given(st.binary(max_size=300))
def test_any_bytes_at_all_are_read_without_an_error(data):
    for mark in parse_segment(data):
        note(Progress(), mark)


@given(st.sampled_from(EVERY_LINE), st.data())
def test_a_damaged_line_never_raises_and_never_tells_an_impossible_number(line, data):
    damaged = bytearray(line.encode())
    for _ in range(data.draw(st.integers(1, 4))):
        where = data.draw(st.integers(0, len(damaged)))
        damaged[where : where + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    for mark in parse_segment(bytes(damaged)):
        assert all(count is None or 0 <= count < STEP_LIMIT for count in (mark.step, mark.total))
        assert mark.epoch is None or (math.isfinite(mark.epoch) and mark.epoch >= 0)


@pytest.mark.parametrize("line", [
    b"1" * 65_000, b"[" * 65_000, b": " * 32_000, b"1 [00:" * 10_000, b"{" + b"'a': 1, " * 8000 + b"}",
    b" 10%|" + b"1" * 60_000, b"loss=" * 13_000 + b"%|", b"\x1b[" * 32_000, b"Step 1 | " + b"loss:" * 12_000,
    b"{" + b"'loss': 1." * 6000 + b"}", b"step: " * 10_000 + b"x", b" iteration 1/" * 5000,
], ids=range(12))  # fmt: skip
def test_no_line_takes_long_to_read(line):
    begun = time.perf_counter()
    parse_segment(line)
    assert time.perf_counter() - begun < 0.5


def test_the_first_value_of_a_counter_is_a_baseline_and_no_advance():
    assert progress_of("iter 10: loss 2.0, time 3ms").advances == 0
    assert progress_of("iter 10: loss 2.0, time 3ms", "iter 11: loss 2.0, time 3ms").advances == 1


def test_a_line_printed_again_and_again_is_no_advance():
    assert progress_of(*["iter 10: loss 2.0, time 3ms"] * 50).advances == 0


def test_an_unknown_step_is_not_progress():
    before = progress_of("iter 10: loss 2.0, time 3ms")
    after = note(before, Mark("other", "other", loss=1.0))
    assert (after.step, after.advances, after.loss) == (10, 0, 1.0)


def test_an_epoch_that_went_up_is_an_advance_without_any_step():
    progress = progress_of("{'loss': 0.9, 'epoch': 0.16}", "{'loss': 0.8, 'epoch': 0.32}")
    assert (progress.advances, progress.step, progress.epoch) == (1, None, 0.32)
    assert progress.source == "hugging face"


def test_a_step_and_an_epoch_in_one_line_are_one_advance():
    progress = progress_of("{'loss': 0.9, 'epoch': 0.1, 'step': 1}", "{'loss': 0.8, 'epoch': 0.2, 'step': 2}")
    assert progress.advances == 1


def test_the_shown_step_is_the_largest_that_the_sources_said_last():
    log, saved = Mark("megatron", "megatron", step=120), Mark("checkpoint", "checkpoint", step=100)
    progress = note(note(Progress(), log), saved)
    assert (progress.step, progress.source) == (120, "megatron")
    progress = note(progress, Mark("megatron", "megatron", step=90))
    assert (progress.step, progress.source) == (100, "checkpoint")


def test_the_first_unnamed_bar_is_the_training_bar_and_the_evaluation_bar_a_sign():
    progress = progress_of(bar(20, 60), bar(1, 25), bar(25, 25), bar(21, 60))
    assert (progress.step, progress.total, progress.advances, progress.signs) == (21, 60, 1, 1)


def test_a_total_told_elsewhere_beats_the_first_bar():
    banner = "  Total optimization steps = 60"
    for lines in ((bar(5, 1000), banner, bar(3, 60), bar(6, 1000)), (banner, bar(5, 1000), bar(3, 60))):
        progress = progress_of(*lines)
        assert (progress.step, progress.total) == (3, 60)


def test_an_unnamed_bar_that_ended_before_any_loss_was_tokenising():
    loss = "{'loss': 0.9, 'epoch': 0.16}"
    progress = progress_of(bar(0, 1000), bar(1000, 1000), bar(0, 60), loss, bar(10, 60))
    assert (progress.step, progress.total) == (10, 60)


def test_the_training_bar_stays_it_after_its_end():
    progress = progress_of(bar(0, 60), "{'loss': 0.9, 'epoch': 3}", bar(60, 60), bar(0, 25), bar(25, 25))
    assert (progress.step, progress.total, progress.signs) == (60, 60, 1)


def test_a_bar_whose_total_was_told_stays_it_after_its_end_without_any_loss():
    progress = progress_of(
        "  Total optimization steps = 60", bar(0, 60), bar(60, 60), bar(0, 25), bar(25, 25)
    )
    assert (progress.step, progress.total, progress.signs) == (60, 60, 1)


def test_one_bar_per_epoch_is_one_counter_with_a_new_baseline_each():
    lines = [bar(step, 10, f"Epoch {epoch}/3: ") for epoch in (1, 2, 3) for step in (0, 5, 10)]
    progress = progress_of(*lines)
    assert (progress.advances, progress.step, len(progress.counters)) == (6, 10, 1)


def test_the_last_redraw_of_a_bar_does_not_undo_the_end():
    end = "{'train_runtime': 6.4, 'epoch': 3.0}"
    assert progress_of(bar(60, 60), end, bar(60, 60)).finished
    assert progress_of(bar(60, 60), end, "{'eval_loss': 2.0, 'epoch': 3.0}", bar(25, 25)).finished


def test_a_run_that_moves_on_after_its_end_is_not_finished():
    end = "{'train_runtime': 6.4, 'epoch': 3.0}"
    assert not progress_of(bar(60, 60), end, bar(0, 60)).finished
    assert not progress_of(end, "{'loss': 2.0, 'epoch': 0.1}").finished


def test_the_mean_loss_at_the_end_is_not_shown_as_the_loss():
    assert progress_of("{'loss': 0.5, 'epoch': 3.0}", ENDS[0]).loss == 0.5


def test_a_stale_mark_is_a_baseline_and_not_shown():
    former = Mark("status file", "status file", step=900, total=1000, loss=0.1, stale=True)
    progress = note(Progress(), former)
    assert (progress.step, progress.total, progress.loss) == (None, None, None)
    progress = note(progress, Mark("status file", "status file", step=901))
    assert (progress.step, progress.advances) == (901, 1)


def test_a_heartbeat_is_an_advance_only_while_no_step_is_known():
    def beat(milliseconds):
        return Mark("heartbeat", "heartbeat", Role.BEAT, step=milliseconds)

    progress = note(note(Progress(), beat(1)), beat(2))
    assert (progress.advances, progress.step) == (1, None)
    progress = note(note(progress, Mark("megatron", "megatron", step=1)), beat(3))
    assert progress.advances == 1


def test_the_number_of_counters_is_bounded_and_training_counters_outlast_bars():
    progress = note(Progress(), Mark("checkpoint", "checkpoint", step=100))
    for total in range(1, 5 * COUNTER_LIMIT):
        progress = note(progress, Mark("tqdm", f"Map /{total}", Role.SIGN, step=total))
    assert len(progress.counters) == COUNTER_LIMIT
    assert note(progress, Mark("checkpoint", "checkpoint", step=200)).advances == 1


@st.composite
def any_marks(draw):
    key = draw(st.sampled_from(("a", "b", "c")))
    step = draw(st.none() | st.integers(0, 9))
    role = draw(st.sampled_from(list(Role)))
    epoch = draw(st.none() | st.integers(0, 3).map(float))
    total = draw(st.none() | st.integers(1, 9))
    return Mark(key, key, role, step=step, epoch=epoch, total=total, stale=draw(st.booleans()))


@given(st.lists(any_marks(), max_size=40))
def test_only_an_increase_over_the_former_value_is_an_advance_or_a_sign(several):
    progress, former = Progress(), {}
    for mark in several:
        after = note(progress, mark)
        values = {mark.key: mark.step, f"{mark.key} epoch": mark.epoch}
        rose = any(
            former.get(name) is not None and value is not None and value > former[name]
            for name, value in values.items()
        )
        news = (after.advances - progress.advances) + (after.signs - progress.signs)
        assert news in ((0, 1) if rose and not mark.stale else (0,))
        assert after.advances >= progress.advances
        former.update({name: value for name, value in values.items() if value is not None})
        progress = after


@given(st.lists(st.integers(0, 100), max_size=20))
def test_a_falling_counter_never_advances(steps):
    falling = sorted(steps, reverse=True)
    progress = progress_of(*(f"iter {step}: loss 2.0, time 3ms" for step in falling))
    assert progress.advances == 0
    assert progress.step == (falling[-1] if falling else None)


@pytest.mark.parametrize("progress, status, words", [
    (Progress(), Status.UNKNOWN, "not told a step"),
    (Progress(step=5, total=60, loss=1.5, source="tqdm"), Status.OK, "step 5 of 60, loss 1.5 (tqdm)"),
    (Progress(step=60, finished=True), Status.OK, "finished"),
    (Progress(step=5, loss=math.nan), Status.BAD, "loss is nan at step 5"),
    (Progress(step=5, loss=math.inf, finished=True), Status.BAD, "loss is inf"),
])  # fmt: skip
def test_a_run_is_judged_by_its_own_word(progress, status, words):
    finding = judge_progress(progress)
    assert finding.status is status
    assert words in str(finding)


def test_a_hand_written_loops_step_of_total_is_a_step():
    for line in (b"step 117/100000 | loss 0.0085", b"[2026-01-01 10:00:00] Step: 117/100000, loss: 0.0085"):
        mark = parse_line(line)
        assert (mark.step, mark.total, mark.loss) == (117, 100_000, 0.0085)
    assert parse_line(b"step 3/10").step == 3
    assert parse_line(b"eval step 3/10") is None
    assert parse_line(b"footstep 3/10") is None
