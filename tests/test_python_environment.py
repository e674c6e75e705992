"""The daemon's Python: found from its command without running it, and its packages as their files tell them."""

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from support import ROOT, wait_for

from trainguard import processes
from trainguard.config import DaemonSettings, LogSettings, Settings
from trainguard.python_environment import (
    Environment,
    Torch,
    Variables,
    demands_of,
    libraries_in,
    parse_driver,
    parse_entry,
    parse_environment,
    parse_requires,
    parse_settings,
    parse_shebang,
    parse_torch,
    read_environment,
    read_interpreter,
    read_own_packages,
    read_variables,
)

PYTHON = f"python{sys.version_info[0]}.{sys.version_info[1]}"
VERSION = ".".join(map(str, sys.version_info[:3]))


def settings_of(folder: Path, *command: str, **environment: str) -> Settings:
    daemon = DaemonSettings(name="demo", command=command, directory=folder, environment=environment)
    return Settings(path=folder / "config.yaml", daemon=daemon, logs=LogSettings(directory=folder / "logs"))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A real virtual environment without packages."""
    venv.create(tmp_path / "venv", symlinks=True)
    return tmp_path / "venv"


def site_of(home: Path) -> Path:
    return home / "lib" / PYTHON / "site-packages"


def install(
    home: Path, name: str, version: str, *requires: str, record: str | None = None, metadata: bool = True
) -> Path:
    """Put a package of one module into a virtual environment, as pip leaves it; gives its dist-info."""
    site = site_of(home)
    module = site / f"{name.replace('-', '_')}.py"
    module.write_text("raise SystemExit('imported')\n")
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    lines = [f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {one}" for one in requires)]
    if metadata:
        (info / "METADATA").write_text("\n".join(lines) + "\n\nRequires-Dist: prose\n")
    (info / "RECORD").write_text(
        record or f"{module.name},sha256=x,1\n{info.name}/METADATA,,\n{info.name}/RECORD,,\n"
    )
    return info


def script(file: Path, first: str, rest: str = "") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{first}\n{rest}\n")
    file.chmod(0o755)
    return file


def looked(folder: Path, *command: str, pid: int | None = None, **variables: str) -> Environment:
    values = {"PATH": os.environ["PATH"]} | variables
    return read_environment(
        settings_of(folder, *command), Variables(values, pid), compatibility=folder / "absent"
    )


# --- which Python ----------------------------------------------------------------------------------------------


def test_a_virtual_environment_is_read_as_it_tells_itself(home: Path) -> None:
    program = home / "bin" / "python"
    told = subprocess.run(
        [
            program,
            "-c",
            "import platform, sysconfig; print(platform.python_version(), sysconfig.get_path('purelib'))",
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    found = read_interpreter(program, {})
    assert [found.version, *found.places] == told
    assert found.virtual and found.base is None


def test_an_interpreter_is_read_as_it_tells_itself() -> None:
    real = Path(os.path.realpath(sys.executable))
    told = subprocess.run(
        [
            real,
            "-c",
            "import platform, sysconfig; print(platform.python_version(), sysconfig.get_path('purelib'))",
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    found = read_interpreter(real, {})
    header = Path(sysconfig.get_path("include")) / "patchlevel.h"
    assert found.version == (told[0] if header.exists() else PYTHON.removeprefix("python"))
    assert told[1] in found.places
    assert not found.virtual


def test_virtualenv_writes_the_version_in_its_own_way(home: Path) -> None:
    config = home / "pyvenv.cfg"
    rest = [line for line in config.read_text().splitlines() if not line.startswith("version")]
    config.write_text("\n".join([*rest, f"version_info = {VERSION}.final.0", ""]))
    assert read_interpreter(home / "bin" / "python", {}).version == VERSION


def test_an_environment_may_see_the_packages_of_its_base(tmp_path: Path) -> None:
    venv.create(tmp_path / "open", symlinks=True, system_site_packages=True)
    own, *others = read_interpreter(tmp_path / "open" / "bin" / "python", {}).places
    assert own == str(site_of(tmp_path / "open"))
    real = Path(os.path.realpath(sys.executable))
    assert set(read_interpreter(real, {}).places) <= set(others)
    assert others


def test_the_folder_of_a_user_comes_before_that_of_the_interpreter(tmp_path: Path) -> None:
    user = tmp_path / ".local" / "lib" / PYTHON / "site-packages"
    user.mkdir(parents=True)
    real = Path(os.path.realpath(sys.executable))
    assert read_interpreter(real, {"HOME": str(tmp_path)}).places[0] == str(user)
    assert str(user) not in read_interpreter(real, {"HOME": str(tmp_path), "PYTHONNOUSERSITE": "1"}).places


def test_an_environment_made_for_another_python_is_told(home: Path) -> None:
    config = home / "pyvenv.cfg"
    config.write_text(config.read_text().replace(VERSION, "3.9.1"))
    found = read_interpreter(home / "bin" / "python", {})
    assert (found.version, found.base) == ("3.9.1", PYTHON.removeprefix("python"))


def test_a_program_without_a_library_of_python_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="lies beside it"):
        read_interpreter(script(tmp_path / "a" / "b" / "c" / "python", "nothing"), {})


@pytest.mark.parametrize(
    "wrap",
    [
        (),
        ("env", "A=b"),
        ("nice", "-n", "10"),
        ("taskset", "-c", "0-3"),
        ("timeout", "5m"),
        ("nohup", "setsid", "-w"),
        ("/usr/bin/env",),
    ],
    ids=str,
)
def test_what_only_wraps_the_command_is_looked_through(home: Path, wrap: tuple[str, ...]) -> None:
    found = looked(home, *wrap, "bin/python", "train.py").interpreter
    assert found is not None and found.program == str(home / "bin" / "python")


def test_a_launcher_is_followed_by_its_first_line(home: Path) -> None:
    script(home / "bin" / "torchrun", f"#!{home}/bin/python3", "raise SystemExit('ran')")
    found = looked(home, "torchrun", "train.py", PATH=f"{home}/bin").interpreter
    assert found is not None and found.program == str(home / "bin" / "python3")


def test_a_launcher_that_asks_env_is_followed_by_the_search_path(home: Path) -> None:
    script(home / "tools" / "accelerate", "#!/usr/bin/env python3")
    found = looked(home, "tools/accelerate", "launch", PATH=f"{home}/bin:/usr/bin").interpreter
    assert found is not None and found.program == str(home / "bin" / "python3")


def test_the_first_line_for_a_long_path_is_understood() -> None:
    head = b"#!/bin/sh\n'''exec' \"/a long/path/bin/python\" \"$0\" \"$@\"\n' '''\nimport re\n"
    assert parse_shebang(head) == ("/a long/path/bin/python",)
    assert parse_shebang(b"#!/bin/sh\necho\n") == ("/bin/sh",)
    assert parse_shebang(b"\x7fELF") is None


@pytest.mark.parametrize(
    "command", [("docker", "run"), ("conda", "run", "-n", "x", "python"), ("bash", "x.sh")]
)
def test_what_chooses_its_own_python_is_not_known(tmp_path: Path, command: tuple[str, ...]) -> None:
    found = looked(tmp_path, *command)
    assert found.interpreter is None and not found.starts_none
    assert found.problem == f"{command[0]} chooses what it starts"


def test_a_shim_of_a_version_manager_is_no_python(tmp_path: Path) -> None:
    script(tmp_path / "shims" / "python", "#!/usr/bin/env bash")
    assert looked(tmp_path, "shims/python", "train.py").problem == "bash chooses what it starts"


def test_scripts_that_lead_in_a_circle_end(tmp_path: Path) -> None:
    script(tmp_path / "loop", f"#!{tmp_path}/loop")
    assert looked(tmp_path, "./loop").problem == "./loop leads through too many scripts"


def test_a_program_of_another_kind_is_told_from_one_that_is_not_there(tmp_path: Path) -> None:
    assert looked(tmp_path, "/bin/true").starts_none
    script(tmp_path / "closed", "#!/bin/true").chmod(0o644)
    assert "may not be run" in (looked(tmp_path, "./closed").problem or "")
    missing = looked(tmp_path, "no-such-program")
    assert not missing.starts_none and "is not there" in (missing.problem or "")


def test_the_living_daemon_tells_what_a_shell_has_started(home: Path) -> None:
    daemon = subprocess.Popen(
        ["sh", "-c", f"{home}/bin/python -c 'print(1, flush=True); input()' ; exit 0"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert daemon.stdout is not None and daemon.stdout.readline() == b"1\n"
        found = looked(home, "sh", "run.sh", pid=daemon.pid).interpreter
        assert found is not None and found.program == str(home / "bin" / "python")
    finally:
        daemon.communicate(b"\n")


# --- what is installed -----------------------------------------------------------------------------------------


def test_packages_are_read_without_importing_them(home: Path) -> None:
    install(home, "numpy", "2.1.0")
    install(home, "torch", "2.6.0+cu126", "numpy<2", 'nvidia-nccl-cu12 (==2.21.5) ; sys_platform == "linux"')
    found = looked(home, "bin/python")
    assert found.packages == {"numpy": "2.1.0", "torch": "2.6.0+cu126"}
    assert [(one.text, one.found, one.met) for one in found.demands] == [
        ("numpy<2", "2.1.0", False),
        ("nvidia-nccl-cu12==2.21.5", None, False),
    ]
    assert (found.leftovers, found.doubled, found.hollow) == ((), (), ())


@pytest.mark.parametrize(
    ("text", "version", "met"),
    [
        ("torch==2.6.0", "2.6.0+cu126", True),
        ("torch==2.6.0", "2.6.1", False),
        ("torch>=2.6", "2.6.0", True),
        ("torch>2.6", "2.6.0", False),
        ("torch<2.7,>=2.6", "2.7.0a0", False),
        ('torch==1.0; python_version < "3.9"', "2.6.0", None),
        ('torch==1.0; extra == "gpu"', "2.6.0", None),
        ("torch @ https://example.org/torch.whl", "2.6.0", True),
        ("torch (!!!)", "2.6.0", None),
    ],
)
def test_a_demand_is_met_as_pip_would_see_it(text: str, version: str, met: bool | None) -> None:
    metadata = f"Name: x\nRequires-Dist: {text}\n\n".encode()
    found = [one.met for one in demands_of("x", "1", metadata, {"torch": version}, "3.11")]
    assert found == ([] if met is None else [met])


def test_a_version_that_names_its_torch_is_a_demand() -> None:
    found = list(
        demands_of("flash-attn", "2.7.4+cu12torch2.6cxx11abiTRUE", b"\n\n", {"torch": "2.7.0"}, "3.11")
    )
    assert [(one.text, one.met) for one in found] == [("torch==2.6.*", False)]


def test_only_the_header_of_metadata_counts() -> None:
    assert parse_requires(b"Requires-Dist: a-B.c>=1\r\nX: y\r\n\r\nRequires-Dist: d\r\n") == [
        ("a-b-c", "a-B.c>=1")
    ]


@pytest.mark.parametrize(
    ("name", "parsed"),
    [
        ("torch-2.6.0+cu126.dist-info", ("torch", "2.6.0+cu126")),
        ("Flash_Attn-2.7.dist-info", ("flash-attn", "2.7")),
        ("apex-0.1-py3.11.egg-info", ("apex", "0.1")),
        ("~orch-2.6.0.dist-info", None),
        ("torch", None),
        ("dist-info", None),
        ("torch.dist-info", None),
        ("torch-.dist-info", None),
        ("-2.6.0.dist-info", None),
    ],
)
def test_the_name_of_a_folder_tells_package_and_version(name: str, parsed: tuple[str, str] | None) -> None:
    assert parse_entry(name) == parsed


def test_an_interrupted_pip_is_seen(home: Path) -> None:
    install(home, "torch", "2.6.0")
    (site_of(home) / "~orch").mkdir()
    (site_of(home) / "~orch-2.5.0.dist-info").mkdir()
    found = looked(home, "bin/python")
    assert [Path(one).name for one in found.leftovers] == ["~orch", "~orch-2.5.0.dist-info"]
    assert found.packages == {"torch": "2.6.0"}


def test_two_versions_in_one_folder_are_seen(home: Path) -> None:
    install(home, "torch", "2.5.0")
    install(home, "torch", "2.6.0")
    assert len(looked(home, "bin/python").doubled) == 1


def test_a_version_in_a_nearer_folder_is_no_second_one(home: Path, tmp_path: Path) -> None:
    install(home, "torch", "2.5.0")
    (tmp_path / "near" / "torch-2.6.0.dist-info").mkdir(parents=True)
    found = looked(home, "bin/python", PYTHONPATH=str(tmp_path / "near"))
    assert found.packages == {"torch": "2.6.0"}
    assert found.doubled == ()
    assert looked(tmp_path, "venv/bin/python", PYTHONPATH="near").packages == {"torch": "2.6.0"}


def test_packages_whose_files_are_gone_are_seen(home: Path) -> None:
    install(home, "whole", "1")
    install(home, "gone", "2")
    (site_of(home) / "gone.py").unlink()
    install(home, "headless", "3", metadata=False)
    install(home, "data", "4", record="../../bin/tool,,\n__pycache__/x.pyc,,\nlast,,\n")
    assert looked(home, "bin/python").hollow == ("gone 2", "headless 3 (without METADATA)")


def test_torch_tells_its_build_as_text(home: Path) -> None:
    (site_of(home) / "torch").mkdir()
    (site_of(home) / "torch" / "version.py").write_text(
        "from typing import Optional\n\n__version__ = '2.6.0+cu126'\ndebug = False\n"
        "cuda: Optional[str] = '12.6'\ngit_version = 'abc'\nhip: Optional[str] = None\nraise SystemExit('ran')\n"
    )
    assert looked(home, "bin/python").torch == Torch("2.6.0+cu126", "12.6", None)
    assert parse_torch("__version__ = '2.1'\ncuda = None\nhip = '6.1'\n") == Torch("2.1", None, "6.1")
    assert parse_torch("cuda = '12'") is None


def test_the_real_packages_of_this_python_are_all_found() -> None:
    from importlib import metadata

    site = sysconfig.get_path("purelib")
    real = {one.name.lower().replace("_", "-") for one in metadata.distributions(path=[site])}
    found = looked(ROOT, sys.executable)
    assert {name.lower() for name in real} <= set(found.packages)
    assert found.hollow == () and found.doubled == ()


@pytest.mark.parametrize(
    ("text", "version"),
    [
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024\n",
            "535.183.01",
        ),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\n", "580.65.06"),
        ("", None),
    ],
)
def test_the_driver_tells_its_version(text: str, version: str | None, tmp_path: Path) -> None:
    assert parse_driver(text) == version
    (tmp_path / "driver" / "nvidia").mkdir(parents=True)
    (tmp_path / "driver" / "nvidia" / "version").write_text(text)
    settings = settings_of(tmp_path, "docker")
    assert read_environment(settings, Variables({}), proc=tmp_path).driver == version


def test_libraries_that_hide_those_of_torch_are_found(home: Path, tmp_path: Path) -> None:
    own, other = site_of(home) / "nvidia" / "cudnn" / "lib", tmp_path / "cuda"
    (site_of(home) / "torch").mkdir()
    (site_of(home) / "torch" / "version.py").write_text("__version__ = '2.6.0'\ncuda = '12.6'\n")
    for folder in (own, other):
        folder.mkdir(parents=True)
    (own / "libcudnn.so.9").touch()
    (other / "libcudnn.so.9.1.0").touch()
    (other / "libcudart.so.11.0").touch()
    path = f"{tmp_path}/absent:{other}"
    (found,) = looked(home, "bin/python", LD_LIBRARY_PATH=path).shadows
    assert (found.place, found.libraries, found.problem) == (str(other), ("libcudnn.so.9",), None)
    preloaded = f"{other}/libcudnn.so.9.1.0 {tmp_path}/gone.so libtcmalloc.so.4"
    shadows = looked(home, "bin/python", LD_PRELOAD=preloaded).shadows
    assert [(one.variable, Path(one.place).name, bool(one.problem)) for one in shadows] == [
        ("LD_PRELOAD", "libcudnn.so.9.1.0", False),
        ("LD_PRELOAD", "gone.so", True),
    ]


def test_only_libraries_of_cuda_count() -> None:
    names = [
        "libcublasLt.so.12",
        "libnccl.so.2.21.5",
        "libc10_cuda.so",
        "libcudart-8774224f.so.12.4",
        "libm.so.6",
    ]
    assert libraries_in(names) == {"libcublasLt.so.12", "libnccl.so.2"}


def test_the_compatibility_of_older_drivers_is_found(home: Path, tmp_path: Path) -> None:
    compatible = tmp_path / "cuda" / "compat"
    compatible.mkdir(parents=True)
    (compatible / "libcuda.so.1").touch()
    assert looked(home, "bin/python", LD_LIBRARY_PATH=str(compatible)).compatibility == str(compatible)
    assert looked(home, "bin/python").compatibility is None
    assert looked(home, "bin/python", LD_LIBRARY_PATH=str(tmp_path / "cuda")).compatibility is None
    (tmp_path / "libcuda.so.1").touch()
    assert looked(home, "bin/python", LD_LIBRARY_PATH=str(tmp_path)).compatibility is None
    settings = settings_of(home, "bin/python")
    found = read_environment(settings, Variables({}), compatibility=compatible)
    assert found.compatibility == str(compatible)


def test_a_header_with_a_whole_licence_is_read_to_its_end(home: Path) -> None:
    info = install(home, "torch", "2.6.0")
    licence = "License: x\n" + "        | as is\n" * 10_000
    (info / "METADATA").write_text(f"Name: torch\n{licence}Requires-Dist: numpy<2\n\nprose\n")
    assert [one.text for one in looked(home, "bin/python").demands] == ["numpy<2"]


# --- the variables ---------------------------------------------------------------------------------------------


def test_without_a_daemon_the_variables_are_those_of_a_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NCCL_DEBUG", "INFO")
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    found = read_variables(settings_of(tmp_path, "python", CUDA_VISIBLE_DEVICES="0"))
    assert found.pid is None
    assert found.values["NCCL_DEBUG"] == "INFO" and found.values["CUDA_VISIBLE_DEVICES"] == "0"
    assert found.values["PYTHONUNBUFFERED"] == "1"
    assert not any("secret" in value for value in found.values.values())


def test_a_living_daemon_tells_its_own_variables(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, "sleep", "60")
    settings.logs.directory.mkdir()
    mark = processes.Mark("run-1", os.path.realpath(settings.logs.directory), "demo", None)
    environment = processes.environment_of_run({"NCCL_DEBUG": "WARN", "PYTHONUNBUFFERED": ""}, {}, mark)
    child = processes.stand_at_gate(["sleep", "60"], environment, tmp_path, tmp_path / "log")
    try:
        child.open_gate()
        found = wait_for(lambda: (told := read_variables(settings)).pid and told)
        assert isinstance(found, Variables) and found.pid == child.identity.pid
        assert found.values["NCCL_DEBUG"] == "WARN" and found.values["PYTHONUNBUFFERED"] == ""
    finally:
        processes.send_signal(child.identity, 9)
        wait_for(lambda: child.exit_code() is not None)


def test_what_is_no_text_does_not_stop_the_reading() -> None:
    assert parse_environment(b"A=\xff\0B=c=d\0none\0") == {"A": "�", "B": "c=d"}
    assert parse_settings("home = /usr/bin\nVersion=3.1\nnone\n") == {"home": "/usr/bin", "version": "3.1"}


# --- this project's own ----------------------------------------------------------------------------------------


def test_what_requirements_want_is_compared_with_what_is_there(tmp_path: Path) -> None:
    file = tmp_path / "requirements.txt"
    file.write_text(
        "# own\npytest>=1\n-r other.txt\nmsgspec<0.1  # old\nno-such-package>=2\nx; python_version<'3'\n"
    )
    found = read_own_packages(file)
    assert [wanted for wanted, _ in found.fitting] == ["pytest>=1"]
    assert [(wanted, version is None) for wanted, version in found.wrong] == [
        ("msgspec<0.1", False),
        ("no-such-package>=2", True),
    ]


def test_the_projects_own_requirements_are_understood() -> None:
    found = read_own_packages()
    assert len(found.fitting) + len(found.wrong) >= 10


def test_a_file_that_is_no_list_is_refused(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("<html>\n")
    with pytest.raises(OSError, match="no list of requirements"):
        read_own_packages(tmp_path / "requirements.txt")
