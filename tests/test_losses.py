"""Losses that are no numbers: whole logs of every trainer's format through the real scanner, and near misses."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from trainguard.diagnosis import Crash
from trainguard.investigation import investigating
from trainguard.investigation.investigating import Knowledge
from trainguard.investigation.sources import Source

Format = Callable[[int, str], str]


@cache
def knowledge() -> Knowledge:
    return investigating.open_knowledge(None, None, [])


def crashes_of(file: Path, text: str) -> tuple[Crash, ...]:
    file.write_text(text)
    return investigating.investigate([Source(str(file))], knowledge()).crashes


def keras(n: int, loss: str) -> str:
    return f"Epoch {n + 1}/60\n1875/1875 [=========] - 4s 2ms/step - loss: {loss} - accuracy: 0.0987\n"


def keras_bar(n: int, loss: str) -> str:
    return f"{n + 1200}/1875 [====>....] - ETA: 4s - loss: {loss} - accuracy: 0.0987\r"


def keras_3(n: int, loss: str) -> str:
    return f"\x1b[1m{n}/1875\x1b[0m \x1b[32m━━\x1b[0m\x1b[37m━━\x1b[0m \x1b[1m4s\x1b[0m 3ms/step - loss: {loss}\r"


def mmengine(n: int, loss: str) -> str:
    told = f"lr: 1.0e-03  eta: 1:02:03  time: 0.3012  data_time: 0.0101  memory: 4011  loss: {loss}"
    return f"01/05 03:12:44 - mmengine - INFO - Epoch(train)  [3][{n:4d}/1000]  {told}  loss_cls: {loss}\n"


def mmengine_by_iterations(n: int, loss: str) -> str:
    return f"2026/01/05 03:12:44 - mmengine - INFO - Iter(train) [{n:5d}/20000]  lr: 1.0e-03  loss: {loss}\n"


def tensor(n: int, loss: str) -> str:
    return f"epoch 3 batch {n} loss: tensor({loss}, device='cuda:0', grad_fn=<NllLossBackward0>)\n"


def tensor_alone(_n: int, loss: str) -> str:
    return f"loss: tensor({loss}, device='cuda:0', grad_fn=<NllLossBackward0>)\n"


def loss_alone(_n: int, loss: str) -> str:
    return f"loss {loss}\n"


def array(n: int, loss: str) -> str:
    return f"step {n}: loss=Array({loss}, dtype=float32)\n"


def transformers(n: int, loss: str) -> str:
    lost = loss == "nan"
    told = "'loss': 0.0, 'grad_norm': nan" if lost else f"'loss': {loss}, 'grad_norm': 1.3"
    return f"{{{told}, 'learning_rate': 1e-05, 'epoch': {n / 100}}}\n"


def transformers_5(n: int, loss: str) -> str:
    lost = loss == "nan"
    told = "'loss': '0', 'grad_norm': 'nan'" if lost else f"'loss': '{loss}', 'grad_norm': '1.3'"
    return f"{{{told}, 'learning_rate': '1e-05', 'epoch': '{n / 100}'}}\n"


def ultralytics(n: int, loss: str) -> str:
    columns = f"{loss:>11}" * 3
    row = f"{f'{n + 1}/100':>11}{'4.21G':>11}{columns}{85:>11}{640:>11}"
    return f"{row}:  45%|####5     | 45/100 [00:12<00:14,  3.7it/s]\n"


def ultralytics_without_bars(n: int, loss: str) -> str:
    columns = f"{loss:>11}" * 3
    row = f"{f'{n + 1}/100':>11}{'4.21G':>11}{columns}{85:>11}{640:>11}"
    return f"{row}: 45% ━━━━╸──── 45/100 3.7it/s 12.1s<14s\n"


def nanogpt(n: int, loss: str) -> str:
    return f"iter {n}: loss {loss}, time 85.12ms, mfu 21.3%\n"


def lightning(n: int, loss: str) -> str:
    shown = "nan.0" if loss == "nan" else loss
    return f"Epoch 3:  45%|####5     | {n}/1000 [00:10<00:12,  4.50it/s, v_num=0, train_loss={shown}]\r"


def fairseq(n: int, loss: str) -> str:
    told = f'"epoch": 3, "update": 2.{n}, "loss": "{loss}", "ppl": "{loss}", "wps": "12000"'
    return f"2026-01-05 03:12:44 | INFO | train_inner | {{{told}}}\n"


def timm(n: int, loss: str) -> str:
    return f"Train: 3 [{n:4d}/1251 ( 12%)]  Loss: {loss} ({loss})  Time: 0.301s, 425.10/s\n"


def detectron2(n: int, loss: str) -> str:
    told = f"total_loss: {loss}  loss_cls: {loss}  loss_box_reg: {loss}  time: 0.3011"
    return f"[01/05 03:12:44 d2.utils.events]:  eta: 0:10:00  iter: {n}  {told}\n"


def megatron(n: int, loss: str) -> str:
    told = f"lm loss: {loss.upper()} | loss scale: 1.0 | number of nan iterations:   0 |"
    return f" iteration {n:8d}/  500000 | consumed samples: {n * 1024:12d} | {told}\n"


def torchtune(n: int, loss: str) -> str:
    return f"1|{n}|Loss: {loss}:   4%|4         | {n}/2000 [00:20<10:00,  1.2it/s]\n"


def torchtitan(n: int, loss: str) -> str:
    told = f"step: {n:2d}  loss:  {loss}  grad_norm:  {loss}"
    return f"[rank0]:[titan] 2026-01-05 03:12:44,000 - root - INFO - {told}\n"


def equal_sign(n: int, loss: str) -> str:
    return f"step={n} lr=0.1 loss={'NaN' if loss == 'nan' else loss}\n"


def parts(n: int, loss: str) -> str:
    return f"step {n}: d_loss: {loss} g_loss: {loss} penalty_loss: 0.0\n"


def behind_an_evaluation(n: int, loss: str) -> str:
    return f"step {n}: val_loss 2.01, loss {loss}\n"


def json_message(n: int, loss: str) -> str:
    return f'{{"time":"2026-01-05T03:12:44Z","level":"INFO","msg":"step {n}/1000 loss {loss}"}}\n'


FORMATS: tuple[Format, ...] = (
    *(keras, keras_bar, keras_3, mmengine, mmengine_by_iterations, tensor, tensor_alone, loss_alone, array),
    *(transformers, transformers_5, ultralytics, ultralytics_without_bars, nanogpt, lightning, fairseq),
    *(
        timm,
        detectron2,
        megatron,
        torchtune,
        torchtitan,
        equal_sign,
        parts,
        behind_an_evaluation,
        json_message,
    ),
)


def log_of(one: Format, good: int, bad: int, again: int = 0) -> str:
    losses = ["0.731"] * good + ["nan"] * bad + ["0.731"] * again
    return "".join(one(n, loss) for n, loss in enumerate(losses))


@pytest.mark.parametrize("one", FORMATS, ids=lambda one: one.__name__)
def test_a_loss_that_is_no_number_to_the_end_is_a_crash_in_every_format(one: Format, tmp_path: Path) -> None:
    (crash,) = crashes_of(tmp_path / "run.log", log_of(one, 20, 20))
    assert (crash.type, crash.cause) == ("numerical", "nan_loss")
    text = log_of(one, 20, 1)
    # A loss alone on its line needs a second one.
    assert text.count("\n") <= (crash.root.line or 0) <= text.count("\n") + 1


@pytest.mark.parametrize("one", FORMATS, ids=lambda one: one.__name__)
def test_a_loss_that_became_a_number_again_is_none_in_any_format(one: Format, tmp_path: Path) -> None:
    assert crashes_of(tmp_path / "run.log", log_of(one, 20, 5, again=5)) == ()


@pytest.mark.parametrize("one", FORMATS, ids=lambda one: one.__name__)
def test_a_single_loss_that_is_no_number_is_none_in_any_format(one: Format, tmp_path: Path) -> None:
    assert crashes_of(tmp_path / "run.log", log_of(one, 20, 1)) == ()


@pytest.mark.parametrize("one", [keras_bar, transformers, ultralytics, tensor, megatron, lightning])
def test_where_the_loss_was_lost_is_found_in_a_log_of_5_mb(one: Format, tmp_path: Path) -> None:
    lines = (5 << 20) // len(one(1000, "0.731").encode())
    good = lines * 2 // 3
    (crash,) = crashes_of(tmp_path / "run.log", log_of(one, good, lines - good))
    assert crash.type == "numerical"
    before = log_of(one, good, 0)
    assert len(before.encode()) <= crash.root.offset <= len(before.encode()) + 1000


EVALUATIONS = {
    "of mmengine": "Epoch(val)  [3][{n:3d}/100]    eta: 0:00:03  loss: nan  time: 0.1",
    "of mmcv as json": '{{"mode": "val", "epoch": 1, "iter": {n}, "lr": 0.1, "loss": NaN}}',
    "behind the training loss": "step {n}/1000 loss 0.5 val_loss nan",
    "named after the loss": "epoch {n} loss_val: nan",
    "named in a group": "Loss/val: nan step {n}",
    "of timm": "Test: [{n:4d}/100]  Time: 0.1 (0.1)  Loss: nan (nan)  Acc@1: 10.0",
    "of torchtitan": "validate step: {n}  loss: nan",
    "behind a bar": "Validating:  45%|####5     | {n}/100 [00:10<00:12,  4.5it/s, loss=nan]",
    "of the trainer": "{{'eval_loss': nan, 'eval_runtime': 3.1, 'epoch': {n}.0}}",
    "with another metric between": "epoch {n}, validation: accuracy 0.31, loss nan",
    "of fairseq": '2026-01-05 03:12:44 | INFO | valid | {{"epoch": {n}, "valid_loss": "nan", "valid_ppl": "nan"}}',
    "of a subset": "| valid | epoch {n:03d} | valid on 'valid' subset | loss nan | ppl nan",
    "the best so far": "epoch {n} best loss: inf",
    "the lowest so far": "epoch {n} train acc 0.1, min_loss=inf",
    "beside a training value": "epoch {n} train 0.5 val loss nan",
    "a metric": "step {n} loss 0.5 mIoU: nan",
    "a score": "step {n} loss 0.5 BLEU nan",
    "an empty class": "step {n} loss 0.5 AP of sky: nan",
    "a rate": "step {n} time/nan eta: nan loss 0.5",
    "a part that no sample had": "iter: {n}  total_loss: 0.5  loss_mask: nan",
    "a column that no sample had": "{n}/100  4G  0.5  nan  1.2  85  640:  45%|##  | 45/100 [00:12<00:14,  3.7it/s]",
    "a part before the total": "step {n} aux loss: nan, loss: 0.5",
    "a gradient that loss scaling skips": "{{'loss': 0.5, 'grad_norm': nan, 'epoch': 0.{n}}}",
    "a scale": "step {n} loss_scale: inf loss: 0.5",
    "a column of an evaluation": "                   all        128        929        nan        nan        nan",
    "a count": "iteration {n} number of nan iterations: 0 | lm loss: 0.5",
    "a decision": "step {n} loss 0.5: loss is nan in 0 batches",
}


@pytest.mark.parametrize("line", EVALUATIONS.values(), ids=EVALUATIONS)
def test_what_is_no_training_loss_may_be_no_number_to_the_end(line: str, tmp_path: Path) -> None:
    training = "".join(f"step {n}/1000 loss {3 / n:.3f}\n" for n in range(1, 20))
    text = training + "".join(line.format(n=n) + "\n" for n in range(20, 40))
    assert crashes_of(tmp_path / "run.log", text) == ()


def test_a_keras_bar_of_another_total_is_an_evaluation(tmp_path: Path) -> None:
    evaluation = "".join(
        f"{n}/313 [====>....] - ETA: 0s - loss: nan - accuracy: 0.1\r" for n in range(300, 314)
    )
    assert crashes_of(tmp_path / "run.log", log_of(keras, 9, 0) + evaluation) == ()
    assert len(crashes_of(tmp_path / "run.log", log_of(keras, 9, 5) + evaluation)) == 1


def test_losses_that_stand_among_other_lines_of_an_evaluation_are_none(tmp_path: Path) -> None:
    training = "".join(f"step {n}/1000 loss {3 / n:.3f}\n" for n in range(1, 20))
    results = "".join(f"results on set {name}\nloss: nan\naccuracy: 0.5\n" for name in "abcde")
    assert crashes_of(tmp_path / "run.log", training + results) == ()
