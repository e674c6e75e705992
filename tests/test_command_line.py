import ast
import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from trainguard import VERSION
from trainguard.command_line import counted, guarded, json_of, parser
from trainguard.config import ConfigError, ExpectedError
from trainguard.health import Status

ROOT = Path(__file__).parent.parent
DAEMON = "daemon: {command: [sh, -c, 'exit 0']}\n"

# A script as the four are: its packages first, its arguments, one boundary. `--do` is what the tests need.
SCRIPT = '''"""Watch over nothing at all.

  100% of nothing:
      %(prog)s --config my.yaml
"""

import sys

sys.path.insert(0, {root!r})

from trainguard.packages import require

require("msgspec", "yaml")

import time
from pathlib import Path

from trainguard.command_line import check_config, guarded, marked, parser
from trainguard.config import ExpectedError, load_settings
from trainguard.health import Status


def script(argv=None):
    made = parser(__doc__, __file__)
    made.add_argument("--do", default="load")
    arguments = made.parse_args(argv)
    if arguments.check_config:
        return check_config(arguments.config)
    if arguments.do == "load":
        print(load_settings(arguments.config).path)
    elif arguments.do == "mark":
        print(marked(Status.BAD, "a"))
        print(marked(Status.BAD, "b", sys.stderr), file=sys.stderr)
    elif arguments.do == "sleep":
        print("ready", flush=True)
        time.sleep(30)
    elif arguments.do == "little":
        print("x")
        return Status.BAD
    elif arguments.do == "much":
        print("x" * 1000000, flush=True)
        return Status.BAD
    elif arguments.do == "name":
        print(Path(b"caf\\xe9".decode("utf-8", "surrogateescape")))
    else:
        raise eval(arguments.do)
    return Status.OK


def main(argv=None):
    return guarded(lambda: script(argv), __file__)


if __name__ == "__main__":
    sys.exit(main())
'''


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "watch_nothing.py"
    path.write_text(SCRIPT.format(root=str(ROOT)))
    return path


def ran(
    script: Path, *arguments: str, options: tuple[str, ...] = (), **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *options, str(script), *arguments],
        capture_output=True,
        text=True,
        timeout=20,
        cwd=script.parent,
        env={**os.environ, **environment},
    )


def configured(script: Path, text: str | bytes) -> Path:
    path = script.parent / "config.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.chmod(0o644)
    return path


# ---- arguments ----------------------------------------------------------------------------------------


def test_help_prints_the_scripts_manual_as_it_stands(script: Path) -> None:
    done = ran(script, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert (
        "Watch over nothing at all.\n\n  100% of nothing:\n      watch_nothing.py --config my.yaml\n"
        in done.stdout
    )
    for option in ("--config FILE", "--check-config", "--version"):
        assert option in done.stdout


def test_version_is_the_projects(script: Path) -> None:
    done = ran(script, "--version")
    assert (done.returncode, done.stdout) == (0, f"watch_nothing.py {VERSION}\n")


@pytest.mark.parametrize(
    "arguments", [("--nonsense",), ("--config",), ("extra",), ("--check",), ("--conf", "x")]
)
def test_wrong_usage_could_not_tell_and_is_not_a_critical_machine(
    script: Path, arguments: tuple[str, ...]
) -> None:
    done = ran(script, *arguments)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("usage: watch_nothing.py")
    assert done.stderr.endswith("; see watch_nothing.py --help\n")


def test_the_configuration_is_looked_for_beside_the_script_also_through_a_link(
    script: Path, tmp_path: Path
) -> None:
    path = configured(script, DAEMON)
    (tmp_path / "bin").mkdir()
    link = tmp_path / "bin/watch"
    link.symlink_to(script)
    assert ran(link).stdout == f"{path}\n"
    assert parser("", link).parse_args([]).config == path


def test_another_configuration_can_be_named(script: Path, tmp_path: Path) -> None:
    configured(script, DAEMON).rename(tmp_path / "other.yaml")
    assert ran(script, "--config", "other.yaml").stdout == f"{tmp_path}/other.yaml\n"


# ---- a broken configuration, through a real script ----------------------------------------------------


@pytest.mark.parametrize("arguments", [(), ("--check-config",)])
def test_every_problem_is_a_line_on_stderr_with_code_3(script: Path, arguments: tuple[str, ...]) -> None:
    configured(script, "daemon: {comand: [x]}\nprogress: {timeout: -5}\n")
    done = ran(script, *arguments)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.splitlines() == [
        "BAD  config.yaml: daemon.comand: unknown setting; did you mean `command`?",
        'BAD  config.yaml: daemon.command: missing; write it as in ["{python}", train.py]',
        "BAD  config.yaml: progress.timeout: expected a number above 0, got -5",
    ]


BROKEN = {
    "empty": "",
    "no mapping": "- a\n",
    "no command": "daemon: {}\n",
    "unknown section": DAEMON + "x: {}\n",
    "unknown setting": DAEMON + "logs: {x: 1}\n",
    "section that is text": DAEMON + "logs: x\n",
    "wrong value": DAEMON + "restart: {window: x}\n",
    "not a number": DAEMON + "restart: {window: .nan}\n",
    "twice": DAEMON + DAEMON,
    "tab": "daemon:\n\tcommand: [x]\n",
    "syntax": "daemon: [\n",
    "not text": b"\xff\xfe\x00",
    "control character": "daemon: \x1b[2J\n",
    "too large": b" " * ((1 << 20) + 1),
    "deep": "a: " + "[" * 500_000,
    "many": "a: [" + "1," * 500_000,
    "alias": "a: &a [1]\nb: *a\n",
    "tag": "a: !!python/object/apply:os.system [echo]\n",
}


@pytest.mark.parametrize("name", BROKEN)
def test_no_broken_configuration_is_a_trace(script: Path, name: str) -> None:
    configured(script, BROKEN[name])
    done = ran(script)
    assert (done.returncode, done.stdout) == (3, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("BAD  config.yaml: ") and line.isprintable()


def test_a_configuration_that_cannot_be_trusted_or_read_is_a_sentence(script: Path, tmp_path: Path) -> None:
    assert ran(script).stderr == "BAD  config.yaml: no such file; name another with --config FILE\n"
    configured(script, DAEMON).chmod(0o666)
    done = ran(script)
    assert (done.returncode, done.stderr.count("\n")) == (3, 1)
    assert f"chmod o-w {tmp_path}/config.yaml" in done.stderr
    os.mkfifo(tmp_path / "fifo")
    for place in ("fifo", ".", "/dev/null"):
        done = ran(script, "--config", place)
        assert (done.returncode, done.stderr.count("\n")) == (3, 1)
        assert ", not a file; name another with --config FILE" in done.stderr


def test_check_config_says_what_the_settings_come_to_and_makes_nothing(script: Path, tmp_path: Path) -> None:
    configured(script, DAEMON)
    before = sorted(tmp_path.rglob("*"))
    done = ran(script, "--check-config")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[-1] == "OK  config.yaml: these settings will do"
    rows = dict(line.split(None, 1) for line in lines[:-1])
    assert rows["daemon.command[0]"].endswith("/sh")
    assert rows["daemon.log"] == f"{tmp_path}/logs/training_output.log (will be made)"
    assert sorted(tmp_path.rglob("*")) == before


def test_check_config_is_bad_where_the_settings_are_good_but_this_machine_is_not(script: Path) -> None:
    configured(script, "daemon: {command: [no-such-program], directory: /no/such/folder}\n")
    done = ran(script, "--check-config")
    assert done.returncode == 3
    assert "daemon.command[0]" in done.stdout and "these settings will do" not in done.stdout
    assert done.stderr.startswith("BAD  config.yaml: daemon.directory: /no/such/folder is no folder; ")


# ---- the boundary -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raised", "sentence"),
    [
        (
            "ExpectedError('the run folder is in use; stop the other')",
            "the run folder is in use; stop the other",
        ),
        ("PermissionError(13, 'Permission denied', '/x/y')", "/x/y: Permission denied"),
        ("OSError('odd')", "odd"),
        ("TimeoutError()", "TimeoutError"),
        ("KeyboardInterrupt()", "interrupted"),
        ("BrokenPipeError(32, 'Broken pipe')", "Broken pipe"),
    ],
)
def test_what_can_go_wrong_is_one_sentence_and_code_3(script: Path, raised: str, sentence: str) -> None:
    done = ran(script, "--do", raised)
    assert (done.returncode, done.stdout, done.stderr) == (3, "", f"watch_nothing.py: {sentence}\n")


def test_a_bug_is_a_trace_and_code_3(script: Path) -> None:
    done = ran(script, "--do", "ZeroDivisionError('zero')")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("Traceback (most recent call last):\n")
    assert "ZeroDivisionError: zero\n" in done.stderr
    assert done.stderr.endswith(
        "watch_nothing.py: this is a bug in watch_nothing.py; the trace above says where\n"
    )


def test_ctrl_c_is_no_trace(script: Path) -> None:
    with subprocess.Popen(
        [sys.executable, str(script), "--do", "sleep"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=20)
    assert (process.returncode, stderr) == (3, "watch_nothing.py: interrupted\n")


@pytest.mark.parametrize(("do", "code"), [("little", Status.BAD), ("much", Status.UNKNOWN)])
def test_a_reader_that_has_gone_is_no_error_and_a_code_that_was_found_stays(
    script: Path, do: str, code: Status
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, str(script), "--do", do]
    try:
        buffered = {**os.environ, "PYTHONUNBUFFERED": ""}
        done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, timeout=20, env=buffered)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (code, b"")


def test_output_that_cannot_be_written_is_a_sentence(script: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, str(script), "--do", "little"], stdout=full, stderr=subprocess.PIPE, timeout=20
        )
    assert (done.returncode, done.stderr) == (3, b"watch_nothing.py: No space left on device\n")


def test_closed_outputs_leave_the_exit_code(script: Path) -> None:
    for redirection, do, code in ((">&-", "little", 2), (">&- 2>&-", "OSError()", 3), ("2>&-", "1/0", 3)):
        command = f'exec "$0" "$1" --do "$2" {redirection}'
        done = subprocess.run(["sh", "-c", command, sys.executable, str(script), do], timeout=20)
        assert done.returncode == code, redirection


def test_a_file_name_that_is_no_text_can_be_printed(script: Path) -> None:
    done = ran(script, "--do", "name", PYTHONIOENCODING="utf-8:strict")
    assert (done.returncode, done.stdout, done.stderr) == (0, "caf\\udce9\n", "")


def test_json_holds_what_is_no_text_escaped() -> None:
    odd = os.fsdecode(b"/data/run\xff.log")
    told = json.loads(json_of({"notes": [f"{odd}: gone"], odd: (odd, 1, None), "ä": "ö"}))
    escaped = "/data/run\\udcff.log"
    assert told == {"notes": [f"{escaped}: gone"], escaped: [escaped, 1, None], "ä": "ö"}


@pytest.mark.parametrize(
    ("count", "noun", "told"),
    [(0, "log", "0 logs"), (1, "crash", "1 crash"), (2, "crash", "2 crashes"), (1, "time", "1 time")],
)
def test_nouns_are_counted(count: int, noun: str, told: str) -> None:
    assert counted(count, noun) == told


def test_an_empty_configuration_is_wrong_usage(script: Path) -> None:
    told = ran(script, "--config", "")
    assert told.returncode == 3 and "argument --config: it is empty" in told.stderr


def test_the_boundary_gives_the_code_back_and_never_exits() -> None:
    def raising(error: BaseException) -> int:
        raise error

    assert guarded(lambda: Status.ATTENTION, "x.py") == 1
    assert guarded(lambda: raising(SystemExit()), "x.py") == 0
    assert guarded(lambda: raising(SystemExit(2)), "x.py") == 2
    assert guarded(lambda: raising(SystemExit("why")), "x.py") == 3
    assert guarded(lambda: raising(ConfigError(("a",))), "x.py") == 3
    assert issubclass(ConfigError, ExpectedError)


# ---- colour -------------------------------------------------------------------------------------------


def on_a_terminal(script: Path, **environment: str) -> bytes:
    master, slave = pty.openpty()
    try:
        subprocess.run(
            [sys.executable, str(script), "--do", "mark"],
            stdout=slave,
            stderr=slave,
            timeout=20,
            env={**os.environ, "TERM": "xterm", "NO_COLOR": "", **environment},
        )
        return os.read(master, 1000)
    finally:
        os.close(master)
        os.close(slave)


def test_a_mark_is_coloured_on_a_terminal_only(script: Path) -> None:
    assert on_a_terminal(script) == b"\x1b[31mBAD\x1b[0m  a\r\n\x1b[31mBAD\x1b[0m  b\r\n"
    assert on_a_terminal(script, NO_COLOR="1") == b"BAD  a\r\nBAD  b\r\n"
    assert on_a_terminal(script, TERM="dumb") == b"BAD  a\r\nBAD  b\r\n"
    done = ran(script, "--do", "mark", TERM="xterm")
    assert (done.stdout, done.stderr) == ("BAD  a\n", "BAD  b\n")


# ---- packages -----------------------------------------------------------------------------------------

INSTALL = "install what it needs with: python3 -m pip install -r requirements.txt\n"


def shimmed(folder: Path, **modules: str) -> str:
    for name, text in modules.items():
        (folder / "shim").mkdir(exist_ok=True)
        (folder / "shim" / f"{name}.py").write_text(text)
    return os.pathsep.join(filter(None, [str(folder / "shim"), os.environ.get("PYTHONPATH")]))


def test_missing_packages_are_one_sentence_and_code_3(script: Path) -> None:
    done = ran(script, options=("-I", "-S"))
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == (
        "watch_nothing.py needs the Python packages msgspec (module msgspec) and PyYAML (module yaml); "
        + INSTALL
    )


def test_one_missing_package_is_named_with_its_module(script: Path, tmp_path: Path) -> None:
    shim = shimmed(tmp_path, yaml="raise ModuleNotFoundError('No module', name='yaml')\n")
    done = ran(script, PYTHONPATH=shim)
    assert done.returncode == 3
    assert done.stderr == "watch_nothing.py needs the Python package PyYAML (module yaml); " + INSTALL


def test_a_package_that_is_there_but_broken_says_why(script: Path, tmp_path: Path) -> None:
    shim = shimmed(tmp_path, msgspec="raise ImportError('libfoo.so.1: cannot open')\n")
    done = ran(script, PYTHONPATH=shim)
    assert done.returncode == 3
    assert done.stderr == (
        "watch_nothing.py needs the Python package msgspec (module msgspec, which is there but cannot be "
        "imported: libfoo.so.1: cannot open); " + INSTALL
    )


def test_an_old_python_is_one_sentence_and_code_3(script: Path, tmp_path: Path) -> None:
    shim = shimmed(tmp_path, sitecustomize="import sys\nsys.version_info = (3, 9, 18, 'final', 0)\n")
    done = ran(script, PYTHONPATH=shim)
    assert done.returncode == 3
    assert done.stderr == (
        f"watch_nothing.py needs Python 3.10 or newer, and {sys.executable} is 3.9.18; run a newer one\n"
    )


@pytest.mark.parametrize("name", ["packages.py", "__init__.py"])
def test_what_an_old_python_reads_first_it_can_read(name: str) -> None:
    tree = ast.parse((ROOT / "trainguard" / name).read_text(), feature_version=(3, 6))
    modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert not any(isinstance(node, ast.ImportFrom) for node in ast.walk(tree))
    assert modules <= {"os", "sys"}


def test_every_package_that_may_be_asked_for_is_in_the_requirements() -> None:
    from trainguard.packages import PACKAGES

    requirements = (ROOT / "requirements.txt").read_text()
    for package in PACKAGES.values():
        assert f"\n{package}>=" in requirements


def test_a_script_that_is_idle_does_not_hold_what_only_a_problem_needs() -> None:
    heavy = ("dataclasses", "json", "shutil", "difflib", "traceback", "rich", "subprocess")
    code = (
        "import sys, msgspec, yaml; before = set(sys.modules); import trainguard.command_line; "
        f"print([name for name in {heavy} if name in sys.modules and name not in before])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=20)
    assert done.stdout == "[]\n"
