"""Checks of the daemon's Python: each fine, just beyond its limit, where it does not apply, and where it hangs."""

import os
import sys
import venv
from pathlib import Path
from typing import Any

import msgspec
import pytest
from judging import looked, sentences, settings_of, told

from trainguard.checks.python_environment import (
    ALLOCATOR_OPTIONS,
    CHECKS,
    OLDEST_DRIVER,
    OWN_PACKAGES,
    PYTHON,
    STEERING,
    VARIABLES,
    allocator_options,
    listed,
    release,
)
from trainguard.checks.values import Result
from trainguard.config import HealthSettings, LogSettings, Settings
from trainguard.health import Status
from trainguard.probes import Answer
from trainguard.python_environment import (
    Demand,
    Environment,
    Interpreter,
    OwnPackages,
    Shadow,
    Torch,
    Variables,
)

HUNG = Answer(None, "no answer within 6 s", True)
HOME = Interpreter("/venv/bin/python", "3.11.7", ("/venv/lib/python3.11/site-packages",), True)
FINE = Environment(
    "torchrun",
    interpreter=HOME,
    packages={"torch": "2.6.0+cu126", "numpy": "2.1.0", "nvidia-nccl-cu12": "2.21.5"},
    demands=(Demand("torch", "2.6.0+cu126", "nvidia-nccl-cu12", "nvidia-nccl-cu12==2.21.5", "2.21.5", True),),
    torch=Torch("2.6.0+cu126", "12.6"),
    driver="580.65.06",
    own_libraries=20,
)
UNKNOWN = Environment("docker", "docker chooses what it starts")
EMPTY = Environment("python", interpreter=HOME)
OF_PYTHON = [check.id for check in CHECKS if PYTHON in check.reads and check.id != "python-version"]


def with_gpus(count: int | None, **more: Any) -> Settings:
    return settings_of({"command": ("python", "train.py")} | more, health=HealthSettings(gpus=count))


def judged(check_id: str, now: Environment, gpus: int | None = None, **variables: str) -> Result:
    return told(CHECKS, check_id, now, Variables(variables), settings=with_gpus(gpus))


def status_of(result: Result) -> Status | None:
    """None where the check does not apply, which is not to pass for fine."""
    return None if result.absent is not None else result.status


def environment(**changes: Any) -> Environment:
    return msgspec.structs.replace(FINE, **changes)


def demand(by: str, version: str, text: str, found: str | None, met: bool = False) -> Demand:
    name = next(text[:at] for at, sign in enumerate(text) if sign in "=<>")
    return Demand(by, version, name, text, found, met)


# --- the interpreter -------------------------------------------------------------------------------------------


def test_a_whole_python_is_fine_and_tells_its_version() -> None:
    found = judged("python-version", FINE)
    assert status_of(found) is Status.OK and "Python 3.11.7 at /venv/bin/python" in sentences(found)


def test_a_python_that_cannot_be_seen_is_unknown_and_not_fine() -> None:
    found = judged("python-version", UNKNOWN)
    assert status_of(found) is Status.UNKNOWN and "docker chooses" in sentences(found)


def test_a_daemon_of_another_kind_has_no_python_to_check() -> None:
    other = Environment("/bin/true", "true is a program of its own", starts_none=True)
    assert judged("python-version", other).absent is not None


@pytest.mark.parametrize("changes", [{"base": "3.12"}, {"places": ()}], ids=str)
def test_an_environment_whose_packages_are_not_found_is_bad(changes: dict[str, Any]) -> None:
    assert (
        status_of(judged("python-version", environment(interpreter=msgspec.structs.replace(HOME, **changes))))
        is Status.BAD
    )


@pytest.mark.parametrize("check_id", OF_PYTHON)
def test_without_a_known_python_no_other_check_is_fine(check_id: str) -> None:
    assert judged(check_id, UNKNOWN).absent is not None


@pytest.mark.parametrize("check_id", [*OF_PYTHON])
def test_without_anything_installed_no_other_check_is_fine(check_id: str) -> None:
    assert judged(check_id, EMPTY).absent is not None


@pytest.mark.parametrize(
    ("check_id", "reading"),
    [("python-version", PYTHON), ("python-packages", OWN_PACKAGES), ("python-unbuffered", VARIABLES)],
)
def test_a_reading_that_hangs_is_told_by_the_check_that_answers_for_it(check_id: str, reading: Any) -> None:
    check = next(one for one in CHECKS if one.id == check_id)
    found = told(CHECKS, check_id, answers={reading.name: HUNG})
    assert status_of(found) is check.worst and "hangs" in sentences(found)
    others = [one for one in CHECKS if reading in one.reads and one.id != check_id]
    for other in others:
        assert told(CHECKS, other.id, answers={reading.name: HUNG}).status is Status.UNKNOWN


# --- this project's own packages -------------------------------------------------------------------------------


def test_own_packages_that_fit_are_fine() -> None:
    found = told(CHECKS, "python-packages", OwnPackages("python", (("a>=1", "1"),), ()))
    assert status_of(found) is Status.OK and "all of its 1" in sentences(found)


@pytest.mark.parametrize("wrong", [("msgspec>=0.18", "0.17"), ("msgspec>=0.18", None)])
def test_an_own_package_that_is_old_or_missing_wants_attention(wrong: tuple[str, str | None]) -> None:
    found = told(CHECKS, "python-packages", OwnPackages("python", (("a>=1", "1"),), (wrong,)))
    assert status_of(found) is Status.ATTENTION and "package msgspec" in sentences(found)


def test_a_list_without_packages_is_not_fine() -> None:
    assert told(CHECKS, "python-packages", OwnPackages("python", (), ())).status is Status.UNKNOWN


# --- torch and its CUDA ----------------------------------------------------------------------------------------


def test_torch_tells_its_build() -> None:
    assert "2.6.0+cu126, built for CUDA 12.6" in sentences(judged("python-torch", FINE, 8))
    amd = environment(torch=Torch("2.6.0+rocm6.2", None, "6.2"))
    assert status_of(judged("python-torch", amd, 8)) is Status.OK
    assert judged("python-cuda", amd, 8).absent is not None


@pytest.mark.parametrize(("gpus", "status"), [(None, Status.OK), (0, Status.OK), (1, Status.BAD)])
def test_torch_for_the_cpu_is_bad_only_where_gpus_are_expected(gpus: int | None, status: Status) -> None:
    assert status_of(judged("python-torch", environment(torch=Torch("2.6.0+cpu")), gpus)) is status


def test_a_torch_that_is_wanted_and_missing_is_bad() -> None:
    demands = (demand("accelerate", "1.1", "torch>=2", None), demand("x", "1", "numpy<2", None))
    wanting = judged("python-torch", msgspec.structs.replace(EMPTY, demands=demands))
    assert wanting.status is Status.BAD and "has no torch, which accelerate need" in sentences(wanting)
    assert "/venv/bin/python -m pip install torch" in sentences(wanting)
    on_record = msgspec.structs.replace(EMPTY, packages={"torch": "2.6.0"})
    assert status_of(judged("python-torch", on_record)) is Status.BAD
    settings = with_gpus(None, command=("/venv/bin/torchrun", "train.py"))
    assert told(CHECKS, "python-torch", EMPTY, settings=settings).status is Status.BAD


@pytest.mark.parametrize(
    ("cuda", "driver", "status"),
    [
        ("12.6", "525.60.13", Status.OK),
        ("12.6", "525.60.12", Status.BAD),
        ("12.6", "580.65.06", Status.OK),
        ("11.8", "450.80.02", Status.OK),
        ("11.8", "450.51.06", Status.BAD),
        ("13.0", "580.65.06", Status.OK),
        ("13.0", "575.57.08", Status.BAD),
        ("14.0", "999.0", Status.UNKNOWN),
    ],
)
def test_a_driver_must_be_as_new_as_its_cuda_wants(cuda: str, driver: str, status: Status) -> None:
    assert (
        status_of(judged("python-cuda", environment(torch=Torch("2.6.0", cuda), driver=driver), 8)) is status
    )


def test_an_older_driver_with_the_compatibility_library_is_fine() -> None:
    old = environment(torch=Torch("2.9.0", "13.0"), driver="535.1", compatibility="/usr/local/cuda/compat")
    found = judged("python-cuda", old)
    assert status_of(found) is Status.OK and "/usr/local/cuda/compat" in sentences(found)


def test_no_driver_counts_only_where_gpus_are_expected() -> None:
    without = environment(driver=None)
    assert status_of(judged("python-cuda", without, 8)) is Status.ATTENTION
    assert judged("python-cuda", without, 0).absent is not None
    assert judged("python-cuda", without).absent is not None


def test_releases_are_compared_as_numbers() -> None:
    assert release("525.60.13") > release("525.9")
    assert release("2.10.0a0+git12") == (2, 10, 0)
    assert set(OLDEST_DRIVER) == {11, 12, 13}


# --- packages that must fit each other -------------------------------------------------------------------------


def test_nvidias_packages_as_torch_names_them_are_fine() -> None:
    found = judged("python-nvidia-wheels", FINE)
    assert status_of(found) is Status.OK and "the 1 that torch names" in sentences(found)
    assert judged("python-nvidia-wheels", environment(demands=())).absent is not None


@pytest.mark.parametrize("there", ["2.21.6", None])
def test_another_version_than_torch_names_wants_attention(there: str | None) -> None:
    wrong = demand("torch", "2.6.0", "nvidia-nccl-cu12==2.21.5", there)
    found = judged("python-nvidia-wheels", environment(demands=(wrong,)))
    assert status_of(found) is Status.ATTENTION
    assert "-m pip install 'nvidia-nccl-cu12==2.21.5'" in sentences(found)


def test_one_library_for_two_cudas_wants_attention() -> None:
    both = environment(packages=FINE.packages | {"nvidia-nccl-cu13": "2.27"})
    found = judged("python-nvidia-wheels", both)
    assert status_of(found) is Status.ATTENTION and "nvidia-nccl for cu12 and cu13" in sentences(found)


def test_packages_that_name_no_cuda_are_not_mixed() -> None:
    names = {"nvidia-cuda-runtime": "13.0", "nvidia-cuda-nvrtc": "13.0", "nvidia-cudnn-cu13": "9.13"}
    assert status_of(judged("python-nvidia-wheels", environment(packages=names))) is Status.OK


def test_of_many_only_the_first_are_listed() -> None:
    assert listed("abcdef") == "a, b, c, d, e, f"
    assert listed("abcdefgh") == "a, b, c, d, e, f and 2 more"


def test_relatives_of_torch_that_fit_are_fine() -> None:
    fits = demand("torchvision", "0.21", "torch==2.6.0", "2.6.0+cu126", met=True)
    assert status_of(judged("python-torch-family", environment(demands=(fits,)))) is Status.OK
    assert judged("python-torch-family", environment(demands=())).absent is not None


def test_a_relative_built_for_another_torch_is_bad_and_a_wish_wants_attention() -> None:
    built = demand("torchvision", "0.20", "torch==2.5.0", "2.6.0")
    assert status_of(judged("python-torch-family", environment(demands=(built,)))) is Status.BAD
    wish = demand("transformers", "5.0", "tokenizers<0.23", "0.23")
    assert status_of(judged("python-torch-family", environment(demands=(wish,)))) is Status.ATTENTION


def test_relatives_for_different_cudas_want_attention() -> None:
    same = environment(packages=FINE.packages | {"torchvision": "0.21+cu126"})
    assert judged("python-torch-family", same).absent is not None
    mixed = environment(packages=FINE.packages | {"torchvision": "0.21+cu118", "torchaudio": "2.6.0"})
    found = judged("python-torch-family", mixed)
    assert status_of(found) is Status.ATTENTION and "torch for cu126, torchvision for cu118" in sentences(
        found
    )


def test_numpy_is_judged_by_what_packages_want_of_it() -> None:
    assert status_of(judged("python-numpy", FINE)) is Status.OK
    old = demand("numba", "0.58", "numpy<2", "2.1.0")
    found = judged("python-numpy", environment(demands=(old,)))
    assert status_of(found) is Status.ATTENTION and "install 'numpy<2'" in sentences(found)


@pytest.mark.parametrize(
    ("torch", "numpy", "status"),
    [
        ("2.2.2", "2.0.0", Status.ATTENTION),
        ("2.2.2", "1.26.4", Status.OK),
        ("2.3.0", "2.0.0", Status.OK),
    ],
)
def test_a_torch_for_numpy_1_wants_no_numpy_2(torch: str, numpy: str, status: Status) -> None:
    now = environment(torch=Torch(torch, "12.1"), packages={"numpy": numpy})
    assert status_of(judged("python-numpy", now)) is status


@pytest.mark.parametrize("field", ["hollow", "doubled", "leftovers"])
def test_a_broken_package_wants_attention(field: str) -> None:
    assert status_of(judged("python-broken", FINE)) is Status.OK
    (found,) = judged("python-broken", environment(**{field: ("torch 2.6.0",)})).findings
    assert found.status is Status.ATTENTION and "torch 2.6.0" in found.fact


# --- the variables ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "command", "status"),
    [
        ("1", ("python", "x.py"), Status.OK),
        ("", ("python", "x.py"), Status.ATTENTION),
        ("", ("python", "-u", "x.py"), Status.OK),
    ],
)
def test_a_daemon_that_buffers_wants_attention(value: str, command: tuple[str, ...], status: Status) -> None:
    settings = with_gpus(None, command=command)
    variables = Variables({"PYTHONUNBUFFERED": value}, 12)
    found = told(CHECKS, "python-unbuffered", variables, settings=settings)
    assert status_of(found) is status
    assert "-u" in command or "pid 12 has" in sentences(found)


def test_without_a_daemon_it_is_told_what_a_start_would_set() -> None:
    found = told(CHECKS, "python-unbuffered", Variables({"PYTHONUNBUFFERED": "1"}))
    assert status_of(found) is Status.OK and "a start sets it" in sentences(found)


@pytest.mark.parametrize(
    "check_id", ["python-unbuffered", "python-nccl", "python-allocator", "python-visible-gpus"]
)
def test_variables_that_cannot_be_read_are_unknown(check_id: str) -> None:
    hidden = Variables({"PYTHONUNBUFFERED": "1", "CUDA_VISIBLE_DEVICES": "0"}, 12, "Permission denied")
    found = told(CHECKS, check_id, FINE, hidden)
    assert status_of(found) is Status.UNKNOWN and "Permission denied" in sentences(found)


def test_libraries_that_hide_torchs_own_want_attention() -> None:
    assert status_of(judged("python-library-path", FINE)) is Status.OK
    hidden = Shadow("LD_LIBRARY_PATH", "/usr/local/cuda/lib64", ("libcudnn.so.9",))
    found = judged("python-library-path", environment(shadows=(hidden,)))
    assert status_of(found) is Status.ATTENTION and "libcudnn.so.9" in sentences(found)
    hangs = Shadow("LD_LIBRARY_PATH", "/nfs", (), "hangs: no answer within 1 s")
    assert "/nfs hangs" in sentences(judged("python-library-path", environment(shadows=(hangs,))))
    assert judged("python-library-path", environment(own_libraries=0)).absent is not None


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("expandable_segments:True", Status.OK),
        ("max_split_size_mb:128,garbage_collection_threshold:0.8", Status.OK),
        ("roundup_power2_divisions:[256:1,512:2,>:4], backend:native", Status.OK),
        ("expandable_segment:True", Status.BAD),
        ("max_split_size_mb:128,quite_another_thing:1", Status.ATTENTION),
    ],
)
def test_a_misspelt_option_of_the_allocator_is_bad(text: str, status: Status) -> None:
    assert status_of(judged("python-allocator", FINE, PYTORCH_CUDA_ALLOC_CONF=text)) is status


@pytest.mark.parametrize(
    ("torch", "status"), [("2.8.0", Status.ATTENTION), ("2.9.0", Status.OK), ("2.10.1", Status.OK)]
)
def test_an_older_torch_does_not_read_the_new_name(torch: str, status: Status) -> None:
    now = environment(torch=Torch(torch, "12.6"))
    assert status_of(judged("python-allocator", now, PYTORCH_ALLOC_CONF="expandable_segments:True")) is status


def test_the_options_of_the_allocator_are_taken_apart() -> None:
    assert allocator_options("a:1, b:[1:2,3:4],c:2,") == ["a", "b", "c"]
    assert list(ALLOCATOR_OPTIONS) == sorted(ALLOCATOR_OPTIONS)


def test_no_steering_variable_is_fine() -> None:
    found = judged("python-nccl", FINE, NCCL_DEBUG="WARN", NCCL_P2P_DISABLE="0", CUDA_LAUNCH_BLOCKING="")
    assert status_of(found) is Status.OK and f"none of {len(STEERING)}" in sentences(found)


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, values[0]) for name, values, _ in STEERING] + [("NCCL_DEBUG", "INFO"), ("NCCL_P2P_DISABLE", "1")],
)
def test_a_variable_that_slows_or_blinds_wants_attention(name: str, value: str) -> None:
    found = judged("python-nccl", FINE, **{name: value})
    assert status_of(found) is Status.ATTENTION and sentences(found).startswith(f"{name}: is {value}")


@pytest.mark.parametrize(
    ("text", "gpus", "status"),
    [
        ("0,1,2,3", 4, Status.OK),
        ("0,1,2", 4, Status.ATTENTION),
        ("", 4, Status.BAD),
        ("-1", 4, Status.BAD),
        ("0,-1,1,2,3", 4, Status.ATTENTION),
        ("0,0", 1, Status.BAD),
        ("GPU-8932f937, GPU-d72", 2, Status.OK),
        ("", None, Status.OK),
    ],
)
def test_what_is_visible_is_compared_with_what_is_expected(
    text: str, gpus: int | None, status: Status
) -> None:
    assert status_of(judged("python-visible-gpus", FINE, gpus, CUDA_VISIBLE_DEVICES=text)) is status


def test_nothing_about_visible_gpus_is_said_where_nothing_hides_them() -> None:
    assert judged("python-visible-gpus", FINE, 4).absent is not None


# --- the real thing --------------------------------------------------------------------------------------------


def test_a_real_environment_is_looked_at_and_its_faults_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NCCL_DEBUG", raising=False)
    venv.create(tmp_path / "venv", symlinks=True)
    site = tmp_path / "venv" / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    (site / "torch").mkdir()
    (site / "torch" / "version.py").write_text("__version__ = '2.6.0+cpu'\ncuda = None\n")
    (site / "torch-2.6.0+cpu.dist-info").mkdir()
    (site / "torch-2.6.0+cpu.dist-info" / "METADATA").write_text("Name: torch\n\n")
    (site / "torchvision-0.20.dist-info").mkdir()
    (site / "torchvision-0.20.dist-info" / "METADATA").write_text(
        "Name: torchvision\nRequires-Dist: torch==2.5.0\n\n"
    )
    (site / "~orch").mkdir()
    daemon = {
        "command": (str(tmp_path / "venv" / "bin" / "python"), "train.py"),
        "directory": tmp_path,
        "environment": {"NCCL_P2P_DISABLE": "1", "PYTHONUNBUFFERED": "", "PATH": os.defpath},
    }
    settings = settings_of(
        daemon, health=HealthSettings(gpus=8), logs=LogSettings(directory=tmp_path / "logs")
    )
    found = {name: result.status for name, result in looked(CHECKS, settings).items()}
    assert found["python-version"] is Status.OK
    assert found["python-torch"] is Status.BAD
    assert found["python-torch-family"] is Status.BAD
    assert found["python-broken"] is Status.ATTENTION
    assert found["python-unbuffered"] is Status.ATTENTION
    assert found["python-nccl"] is Status.ATTENTION


def test_a_finding_that_is_not_fine_says_what_to_do() -> None:
    worst = environment(
        interpreter=msgspec.structs.replace(HOME, base="3.9"),
        torch=Torch("2.2.0", "13.0"),
        driver="500.0",
        hollow=("a 1",),
        doubled=("b 1 and 2 in /x",),
        leftovers=("/x/~c",),
        demands=(
            demand("torchvision", "0.20", "torch==2.5.0", "2.2.0"),
            demand("torch", "2.2.0", "nvidia-nccl-cu12==1", None),
            demand("x", "1", "numpy<2", "2.1.0"),
        ),
        shadows=(Shadow("LD_PRELOAD", "/x", ("libnccl.so.2",)),),
    )
    variables = {"CUDA_VISIBLE_DEVICES": "0", "NCCL_DEBUG": "INFO", "PYTORCH_ALLOC_CONF": "max_split_size:1"}
    for check in CHECKS:
        if check.id in ("python-packages", "python-torch"):
            continue  # they have tests of their own
        result = judged(check.id, worst, 8, **variables)
        assert result.status in (Status.BAD, Status.ATTENTION), check.id
        assert all(one.remedy for one in result.findings), check.id
        assert result.status is not Status.BAD or check.worst is Status.BAD, check.id
        assert len(check.explain) <= 110, check.id
