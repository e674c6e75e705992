"""Guards and warnings: what a framework stops for is a crash; what it only warns of, or tries again, is none."""

from functools import cache

import pytest

from trainguard.diagnosis import Crash
from trainguard.investigation import investigating
from trainguard.investigation.investigating import Knowledge
from trainguard.investigation.sources import Source

FRAMES = (
    'Traceback (most recent call last):\n  File "/data/run7/train.py", line 41, in <module>\n    step()\n'
)
STEPS = "".join(f"step {step} loss {3 / step:.3f}\n" for step in range(1, 30))


@cache
def knowledge() -> Knowledge:
    return investigating.open_knowledge(None, None, [])


def crashes_of(text: str) -> tuple[Crash, ...]:
    return investigating.investigate([Source("run.log", text=text.encode())], knowledge()).crashes


@pytest.mark.parametrize(
    "final",
    [
        "ValueError: The loss returned in `training_step` is nan.",
        "ValueError: The loss returned in training_step is inf.",
        "ValueError: Detected nan and/or inf values in `encoder.weight`. Check your forward pass.",
        "AssertionError: Rank 2: found NaN in local forward loss calculation. Device: 2, node: node3",
        "RuntimeError: found Inf in local grad norm in backward pass before data-parallel communication",
        "FloatingPointError: Minimum loss scale reached (0.0001). Your loss is probably exploding.",
        "Exception: Minimum loss scale reached",
        "RuntimeError: NaN detected in gradients of layer 4",
        "ValueError: NaN or Inf detected in loss at step 12",
        "ValueError: loss is NaN",
        "RuntimeError: Training loss is nan at step 400",
        "RuntimeError: non-finite loss, aborting",
        "SystemExit: Loss is nan, stopping training",
    ],
)
def test_a_guard_against_losses_that_are_no_numbers_is_numerical(final: str) -> None:
    (crash,) = crashes_of(f"{STEPS}{FRAMES}{final}\n")
    assert (crash.type, crash.cause) == ("numerical", "nan_loss")


@pytest.mark.parametrize(
    "line",
    [
        "OSError: [Errno 5] Input/output error: '/mnt/store/shard-7.tar' - retrying (1/3)",
        "OSError: [Errno 5] Input/output error: '/mnt/store/shard-7.tar': retrying 2 of 3",
        "OSError: [Errno 5] Input/output error: '/mnt/store/shard-7.tar'. Retrying...",
        "ConnectionError: store-1 is gone - Retrying (attempt 2)",
        "WARNING: apex not installed: ImportError: cannot import name 'amp_C'",
        "[2026-01-05 03:12:44] WARNING trainer: fused norm: ModuleNotFoundError: No module named 'apex'",
        "warning: no fast path (ImportError: cannot import name 'fast' from 'norms')",
        "flash_attn is not available (ModuleNotFoundError: No module named 'flash_attn')",
        "(raylet) [2026-01-05 03:12:44,101 E 811 811] (raylet) node_manager.cc:3065: 2 Workers (tasks / actors) "
        "killed due to memory pressure (OOM), 0 Workers crashed due to other reasons at node (ID: 3f1a)\n"
        "(train pid=811) Task retried",
    ],
)
def test_what_is_only_warned_of_or_tried_again_is_none(line: str) -> None:
    assert not crashes_of(f"{line}\nstep 1 loss 2.0\nstep 2 loss 1.9\n")
    assert not crashes_of(f"{STEPS}{line}\n")


@pytest.mark.parametrize(
    ("final", "kind"),
    [
        ("ModuleNotFoundError: No module named 'apex'", "import_error"),
        ("ImportError: cannot import name 'fast' from 'norms'", "import_error"),
        ("OSError: [Errno 5] Input/output error: '/mnt/store/shard-7.tar'", "storage_error"),
        (
            "ray.exceptions.OutOfMemoryError: Task was killed due to the node running low on memory.",
            "host_oom",
        ),
    ],
)
def test_the_exceptions_themselves_are_crashes(final: str, kind: str) -> None:
    (crash,) = crashes_of(f"{STEPS}{FRAMES}{final}\n")
    assert crash.type == kind


def test_numbers_that_are_none_and_a_run_that_goes_on_are_none() -> None:
    assert not crashes_of(
        f"{STEPS}NaN detected in batch 4, skipping it\nstep 30 loss 0.1\nstep 31 loss 0.1\n"
    )
