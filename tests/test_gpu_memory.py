"""GPU memory: whose memory was in the way, as far as an out-of-memory error tells. Text in, crashes out."""

from functools import cache

import pytest

from trainguard.diagnosis import Crash
from trainguard.diagnosis.gpu_memory import find_foreign, parse_size
from trainguard.investigation import investigating
from trainguard.investigation.investigating import Knowledge
from trainguard.investigation.sources import Source

FRAMES = (
    'Traceback (most recent call last):\n  File "/data/run7/train.py", line 41, in <module>\n    step()\n'
)
ASKED = (
    "CUDA out of memory. Tried to allocate 1.50 GiB. GPU 2 has a total capacity of 79.15 GiB of which 612.00 MiB "
    "is free."
)
HELD = " Of the allocated memory {} is allocated by PyTorch, and {} is reserved by PyTorch but unallocated."
WARNED = (
    "2026-01-05 03:12:43.120455: W tsl/framework/bfc_allocator.cc:497] Allocator (GPU_0_bfc) ran out of memory "
    "trying to allocate 9.00GiB (rounded to 9663676416)requested by op\n"
    "2026-01-05 03:12:43.120456: E xla/pjrt/pjrt_client.cc:3084] Execution of replica 0 failed: "
    "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9663676416 bytes.\n"
)
EXHAUSTED = (
    "jaxlib.xla_extension.XlaRuntimeError: RESOURCE_EXHAUSTED: Out of memory while trying to allocate "
    "9663676416 bytes."
)


@cache
def knowledge() -> Knowledge:
    return investigating.open_knowledge(None, None, [])


def crash_of(text: str) -> Crash:
    (crash,) = investigating.investigate([Source("run.log", text=text.encode())], knowledge()).crashes
    return crash


def oom(processes: str, allocated: str = "70.20 GiB", unallocated: str = "4.10 GiB") -> Crash:
    held = HELD.format(allocated, unallocated)
    return crash_of(f"{FRAMES}torch.OutOfMemoryError: {ASKED}{processes}{held}\n")


def test_a_process_in_a_container_is_not_taken_for_a_neighbour() -> None:
    crash = oom(" Process 2718281 has 75.60 GiB memory in use.")
    assert crash.cause == "cuda_oom"
    assert not any("2718281" in step for step in crash.advice)


@pytest.mark.parametrize(
    "processes",
    [
        " Process 2718281 has 42.10 GiB memory in use. Process 3141 has 36.00 GiB memory in use.",
        " Process 3141 has 36.00 GiB memory in use. Process 2718281 has 42.10 GiB memory in use.",
        " Process 3141 has 36.00 GiB memory in use. Including non-PyTorch memory, this process has 42.10 GiB memory "
        "in use.",
        " Process 3141 has 36.00 GiB memory in use.",
    ],
)
def test_the_neighbour_is_named_whatever_the_order(processes: str) -> None:
    crash = oom(processes, "40.00 GiB", "1.20 GiB")
    assert crash.cause == "cuda_oom_foreign"
    assert "Process 3141 holds 36.00 GiB on GPU 2" in crash.advice[0]


def test_a_neighbour_of_the_same_size_is_still_one() -> None:
    crash = oom(
        " Process 31 has 38.00 GiB memory in use. Process 41 has 38.00 GiB memory in use.",
        "36.00 GiB",
        "1.00 GiB",
    )
    assert crash.cause == "cuda_oom_foreign"


def test_a_small_neighbour_is_not_blamed() -> None:
    crash = oom(" Process 2718281 has 75.60 GiB memory in use. Process 3141 has 410.00 MiB memory in use.")
    assert crash.cause == "cuda_oom"


def test_without_any_number_of_its_own_whoever_is_named_is_another() -> None:
    assert find_foreign({"processes": " Process 3141 has 36.00 GiB memory in use."}) is not None
    assert find_foreign({}) is None


def test_sizes_are_read_in_every_unit() -> None:
    assert parse_size("1.50 GiB") == 1.5 * (1 << 30)
    assert parse_size("2 GB") == 2e9
    assert parse_size("none") is None


def test_the_exception_is_the_root_and_not_what_the_allocator_warned_of() -> None:
    crash = crash_of(f"step 3 loss 0.4\n{WARNED}{FRAMES}{EXHAUSTED}\n")
    assert (crash.type, crash.cause, crash.root.line) == ("cuda_oom", "cuda_oom", 7)
    graph = (
        "2026-01-05 03:12:43.120455: W tensorflow/core/framework/op_kernel.cc:1840] OP_REQUIRES failed at conv.cc:9 "
        ": RESOURCE_EXHAUSTED: OOM when allocating tensor with shape[8,8] and type float on device:GPU:1\n"
    )
    final = "tensorflow.python.framework.errors_impl.ResourceExhaustedError: Graph execution error:"
    assert crash_of(f"{graph}{FRAMES}{final}\n").root.line == 5


def test_the_allocators_word_alone_is_enough() -> None:
    assert crash_of(f"step 3 loss 0.4\n{WARNED}").type == "cuda_oom"


def test_memory_taken_at_the_start_is_blamed_only_where_something_says_so() -> None:
    said = (
        "2026-01-05 03:12:40.1: E xla/stream_executor/cuda/cuda_driver.cc:1002] failed to allocate 6.32G "
        "(6786383872 bytes) from device: CUDA_ERROR_OUT_OF_MEMORY: out of memory\n"
    )
    assert crash_of(f"{said}{FRAMES}{EXHAUSTED}\n").cause == "cuda_oom_preallocated"
    assert crash_of(f"{FRAMES}{EXHAUSTED}\n").cause == "cuda_oom"
