import os
import re
import signal
import stat
import sys
import time
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trainguard import config
from trainguard.config import (
    SECTIONS,
    ConfigError,
    DaemonSettings,
    Rung,
    Settings,
    check_paths,
    describe,
    load_settings,
    make_folders,
    resolve_program,
)

ROOT = Path(__file__).parent.parent
DAEMON = "daemon: {command: [python3, train.py]}\n"

# What config.yaml says instead of the default, for it to watch the bundled trainer at once.
SHIPPED = {
    "daemon.name": "demo",
    "daemon.command": (sys.executable, "examples/training_daemon.py"),
    "progress.status_file": ROOT / "examples/run/training_status.json",
    "checkpoints.directory": ROOT / "examples/run",
}

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "config.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.chmod(0o644)
    return path


def loaded(folder: Path, text: str) -> Settings:
    return load_settings(written(folder, text))


def refused(folder: Path, text: str | bytes) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load_settings(written(folder, text))
    problems = caught.value.problems
    assert problems
    for problem in problems:
        assert problem.isprintable() and len(problem) < 400, problem
    assert caught.value.path == folder / "config.yaml"
    return problems


# ---- what a good file comes to ------------------------------------------------------------------------


def test_everything_but_the_command_has_a_default(tmp_path: Path) -> None:
    read = loaded(tmp_path, DAEMON)
    assert read == Settings(
        path=tmp_path / "config.yaml",
        daemon=DaemonSettings(
            command=("python3", "train.py"), directory=tmp_path, log=tmp_path / "logs/training_output.log"
        ),
        logs=config.LogSettings(directory=tmp_path / "logs"),
    )
    assert read.daemon.name == "training"
    assert read.daemon.stop == (Rung("SIGTERM", 60), Rung("SIGKILL", 10))


def test_a_relative_path_counts_from_the_files_folder_whatever_the_current_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path, DAEMON + "logs: {directory: ../runs/a}\nprogress: {log_file: /var/x.log}\n")
    monkeypatch.chdir(tmp_path)
    read = load_settings(Path("config.yaml"))
    assert read.path == tmp_path / "config.yaml"
    assert str(read.logs.directory) == f"{tmp_path}/../runs/a"
    assert read.progress.log_file == Path("/var/x.log")


def test_a_link_in_a_path_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    read = loaded(tmp_path / "link", DAEMON + "checkpoints: {directory: out}\n")
    assert read.checkpoints.directory == tmp_path / "link/out"


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert loaded(tmp_path, DAEMON + "logs: {directory: ~/x}\n").logs.directory == Path("/home/somebody/x")


def test_python_in_braces_is_this_interpreter_and_other_braces_stay(tmp_path: Path) -> None:
    read = loaded(tmp_path, 'daemon: {command: ["{python}", "a{python}", "{other}"]}\n')
    assert read.daemon.command == (sys.executable, "a{python}", "{other}")


def test_a_number_in_the_command_or_environment_stays_as_written(tmp_path: Path) -> None:
    read = loaded(
        tmp_path,
        "daemon:\n  command: [train, --lr, 1e-4, --version, 2.10, 010]\n"
        "  environment: {A: 2.10, B: 007, C: ''}\n",
    )
    assert read.daemon.command == ("train", "--lr", "1e-4", "--version", "2.10", "010")
    assert read.daemon.environment == {"A": "2.10", "B": "007", "C": ""}


def test_a_date_is_text(tmp_path: Path) -> None:
    assert loaded(tmp_path, "daemon: {command: [x], name: 2024-01-31}\n").daemon.name == "2024-01-31"


def test_a_whole_number_will_do_for_seconds(tmp_path: Path) -> None:
    read = loaded(tmp_path, DAEMON + "progress: {timeout: 30}\n")
    assert read.progress.timeout == 30 and isinstance(read.progress.timeout, float)


def test_a_section_whose_lines_are_all_commented_out_has_its_defaults(tmp_path: Path) -> None:
    assert loaded(tmp_path, DAEMON + "watchdog:\n  # poll_interval: 5\n").watchdog.poll_interval == 30


def test_names_of_the_status_file_that_are_not_given_keep_their_default(tmp_path: Path) -> None:
    read = loaded(tmp_path, DAEMON + "progress: {status_names: {step: trainer.global_step}}\n")
    assert read.progress.status_names == {
        "step": "trainer.global_step",
        "total": "total_steps",
        "loss": "loss",
        "work": "status",
    }


def test_a_byte_order_mark_is_no_problem(tmp_path: Path) -> None:
    assert load_settings(written(tmp_path, b"\xef\xbb\xbf" + DAEMON.encode())).daemon.command[0] == "python3"


@pytest.mark.parametrize(
    ("setting", "good", "bad"),
    [
        ("progress.timeout", ["0.001", "31622400"], ["0", "-5", "31622401", "true", ".nan", ".inf", "'5'"]),
        ("progress.startup_timeout", ["1"], ["0", "-0.0", "-.inf"]),
        ("checkpoints.save_timeout", ["0"], ["-1"]),
        ("watchdog.poll_interval", ["0.05", "3600"], ["0.049", "3600.1", ".nan"]),
        ("watchdog.orphan_grace", ["0"], ["-0.1", ".nan"]),
        ("watchdog.summary_interval", ["0.5"], ["0"]),
        ("watchdog.orphans", ["stop", "report"], ["Stop", "on", "1"]),
        ("progress.mode", ["act", "observe"], ["acts", "null"]),
        ("restart.max_restarts", ["1", "1000"], ["0", "1001", "1.5", "true", "-3"]),
        ("restart.rounds", ["1", "1000"], ["0", "1001"]),
        ("restart.window", ["0.1"], ["0", "null", "[]"]),
        ("restart.parked_retry", ["1"], ["0"]),
        ("restart.after_success", ["true", "no"], ["1", "'true'", "null"]),
        ("daemon.name", ["x", "x" * 100, "5"], ["''", "x" * 101, '"a\\nb"', '"a\\n"', "true"]),
        ("daemon.pid_file", ["null", "~", "a.pid"], ["''", "[]", '"a\\0b"', "true"]),
        ("daemon.log", ["a.log"], ["null", "~no-such-user-here/a"]),
        ("daemon.stop", ["[[SIGINT, 0]]", "[[SIGTERM, 0.5]]"], ["[]", "[[SIGTERM]]", "[[SIGTERM, -1]]", "5"]),
        (
            "daemon.stop",
            ["[[SIGUSR1, 5]]"],
            ["[[TERM, 5]]", "[[15, 5]]", "[[sigterm, 5]]", "[[SIGTERM, 5, 5]]"],
        ),
        ("detector.logs", ["[]", "[a.log, 5]"], ["a.log", "['']", "[[a]]", "[null]", "{a: b}"]),
        ("detector.time_limit", ["0.5"], ["0", "null"]),
        ("watchdog.spare", ["[]", "[a, 5]"], ["tmux", "['']", "[[a]]", "[null]", "{a: b}"]),
        ("daemon.environment", ["{}", "{A: ''}"], ["[]", "{A: yes}", "{A: null}", "{'A=B': c}", "{'': c}"]),
        ("daemon.environment", ["{A: 'b=c'}"], ['{A: "b\\0"}', '{"A\\0": b}', "{A: [b]}", "A"]),
        ("progress.status_names", ["{loss: a.b.c}"], ["{los: a}", "{loss: a..b}", "{loss: .}", "{loss: ''}"]),
    ],
)
def test_each_setting_takes_what_is_inside_its_bounds_and_nothing_outside(
    tmp_path: Path, setting: str, good: list[str], bad: list[str]
) -> None:
    section, name = setting.split(".")
    for text in good:
        body = f"{name}: {text}" + (", command: [x]" if section == "daemon" else "")
        loaded(tmp_path, f"{section}: {{{body}}}\n" + ("" if section == "daemon" else DAEMON))
    for text in bad:
        body = f"{name}: {text}" + (", command: [x]" if section == "daemon" else "")
        problems = refused(tmp_path, f"{section}: {{{body}}}\n" + ("" if section == "daemon" else DAEMON))
        assert len(problems) == 1 and problems[0].startswith(setting), (text, problems)


# ---- what a wrong one is told -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (DAEMON + "progress: {timeout: -5}", "progress.timeout: expected a number above 0, got -5"),
        (DAEMON + "progress: {timeout: soon}", "progress.timeout: expected a number above 0, got 'soon'"),
        (
            DAEMON + "progress: {timeout: 1e3}",
            "progress.timeout: expected a number above 0, got '1e3'; write it in plain digits without quotes",
        ),
        (
            DAEMON + "restart: {max_restarts: 1001}",
            "restart.max_restarts: expected a whole number of at most 1000, got 1001",
        ),
        (
            DAEMON + "restart: {max_restart: 2}",
            "restart.max_restart: unknown setting; did you mean `max_restarts`?",
        ),
        (DAEMON + "restarts: {}", "restarts: unknown section; did you mean `restart`?"),
        (
            DAEMON + "zzz: {}",
            "zzz: unknown section; there are: daemon, progress, checkpoints, watchdog, restart, detector, health, "
            "logs",
        ),
        (DAEMON + "logs: run", "logs: expected a section of names and values, got 'run'"),
        (DAEMON + "logs: [run]", "logs: expected a section of names and values, got a list of 1"),
        ("daemon: {name: x}", 'daemon.command: missing; write it as in ["{python}", train.py]'),
        ("logs: {}", 'daemon.command: missing; write it as in ["{python}", train.py]'),
        ("daemon: {command: []}", 'daemon.command: is empty; name the program, as in ["{python}", train.py]'),
        ("daemon: {command: [a, '']}", "daemon.command[1]: expected text, got ''; it is empty"),
        (
            'daemon: {command: ["a\\0"]}',
            "daemon.command[0]: expected text, got 'a\\x00'; it holds a NUL character",
        ),
        (
            "daemon: {command: [a, on]}",
            "daemon.command[1]: expected text, got the yes/no value `on`; put it in quotes",
        ),
        (
            "daemon: {command: [{python}, a]}",
            'daemon.command[0]: expected text, got a mapping; put it in quotes: "{python}"',
        ),
        (
            "daemon: {command: python train.py}",
            "daemon.command: expected a list of words such as [one, two], got 'python train.py'",
        ),
        (
            "daemon: {command: [a], stop: [[TERM, 5]]}",
            "daemon.stop[0][0]: expected a signal such as SIGTERM, got 'TERM'; did you mean `SIGTERM`?",
        ),
        (
            "daemon: {command: [a], environment: {DEBUG: yes}}",
            "daemon.environment.DEBUG: expected text, got the yes/no value `yes`; put it in quotes",
        ),
        (
            "daemon:\n  command: [a]\n  name: x\n  name: x\n",
            "daemon.name: given twice, on lines 3 and 4; keep one",
        ),
        (DAEMON + "logs: {}\nlogs: {}\n", "logs: given twice, on lines 2 and 3; keep one"),
        ("", "is empty; it needs at least a section `daemon:` with a `command:`"),
        ("# nothing\n---\n...\n", "is empty; it needs at least a section `daemon:` with a `command:`"),
        ("- a\n- b\n", "expected sections such as `daemon:`, got a list of 2"),
        ("daemon\n", "expected sections such as `daemon:`, got 'daemon'"),
        ("daemon:\n\tcommand: [a]\n", "line 2, column 1: a tab indents or separates here; YAML wants spaces"),
        ("daemon:\n  command: [a\nlogs: {}\n", None),
        ("daemon: {command: [a]\n", None),
        ("a: b: c\n", "line 1, column 5: is not YAML: mapping values are not allowed in this context"),
        ("daemon: \x07\n", "line 1, column 9: YAML forbids character '\\x07'; remove it"),
        (b"daemon:\n  name: caf\xe9\n", "line 2: is not UTF-8 text; save the file as UTF-8"),
        (DAEMON.encode("utf-16"), "line 1: is not UTF-8 text; save the file as UTF-8"),
        (DAEMON + "---\n" + DAEMON, "line 2: a second document begins (`---`); keep one"),
        ("a: &x {b: c}\nd: *x\n", "line 2: *x repeats a value; write the value out"),
        ("a: {<<: *x}\n", "line 1: *x repeats a value; write the value out"),
        ("a: !!python/object/apply:os.system [ls]\n", None),
        ("a: !!int ten\n", "line 1: `ten` is no int"),
        ("a: !!bool maybe\n", "line 1: `maybe` is no bool"),
        ("a: !!float ''\n", "line 1: `` is no float"),
        ("a: !!set {b}\n", "line 1: the tag `tag:yaml.org,2002:set` is not supported; remove it"),
        ("? [a, b]\n: c\n", "line 1: a name is expected here, as in `name: value`"),
        ("a: " + "9" * 5000, "line 1: a number of 5000 characters; write a shorter one"),
        ("a: " + "[" * 100, "line 1: more than 20 levels, which no configuration needs"),
        ("a: [" + "b," * 20000 + "]", "line 1: more than 10000 values, which no configuration needs"),
        (
            "#" * ((1 << 20) + 1),
            "is larger than 1 MiB, which no configuration is; name another with --config FILE",
        ),
    ],
)
def test_a_wrong_file_is_told_in_one_sentence(
    tmp_path: Path, text: str | bytes, sentence: str | None
) -> None:
    (problem,) = refused(tmp_path, text)
    if sentence is None:
        assert re.match(r"line \d+(, column \d+)?: ", problem)
    else:
        assert problem == sentence


def test_all_problems_are_told_at_once_in_the_files_order(tmp_path: Path) -> None:
    problems = refused(
        tmp_path,
        "watchdog: {poll_interval: 0, orphan: stop}\nrestart: {window: -1}\ndaemons: {}\n"
        "logs: {directory: ''}\n",
    )
    assert [problem.split(":")[0] for problem in problems] == [
        "watchdog.poll_interval",
        "watchdog.orphan",
        "restart.window",
        "daemons",
        "logs.directory",
        "daemon.command",
    ]


def test_more_problems_than_anyone_reads_are_counted(tmp_path: Path) -> None:
    problems = refused(tmp_path, DAEMON + "".join(f"x{number}: 1\n" for number in range(60)))
    assert len(problems) == 51 and problems[-1] == "and 10 problems more"


def test_a_problem_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    refused(
        tmp_path, DAEMON + '"\\e[2J": 1\nlogs: {"\\a": 1, directory: ["\\e"]}\nprogress: {mode: "\\e[1m"}\n'
    )


HOSTILE = {
    "brackets": "[",
    "braces": "{a: ",
    "dashes": "- ",
    "question marks": "? ",
    "anchors": "&a ",
    "tags": "!",
    "blank lines": "\n",
    "documents": "---\n",
    "quotes": '"',
    "block scalars": ">\n ",
    "lines": "a\n",
    "colons": "a: \n",
    "sections": "logs: {}\n",
    "sixties": "1:1",
    "percent": "%",
    "tabs": "\t",
    "long names": "abcdefghij",
}


@pytest.mark.parametrize("loader", ["CSafeLoader", "SafeLoader"])
def test_a_file_made_to_be_slow_or_deep_is_refused_quickly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loader: str
) -> None:
    monkeypatch.setattr(config, "LOADER", getattr(yaml, loader, yaml.SafeLoader))
    size = config.SIZE_LIMIT if loader == "CSafeLoader" else config.SIZE_LIMIT // 16
    for name, text in HOSTILE.items():
        begun = time.monotonic()
        refused(tmp_path, text * (size // len(text)))
        assert time.monotonic() - begun < 3, name
    laughs = "a: &a [x]\n" + "".join(f"{b}: &{b} [*{a},*{a},*{a}]\n" for a, b in pairwise("abcdefgh"))
    assert refused(tmp_path, laughs) == ("line 2: *a repeats a value; write the value out",)


@pytest.mark.parametrize("loader", ["CSafeLoader", "SafeLoader"])
def test_both_of_yamls_loaders_read_the_shipped_file_alike(
    monkeypatch: pytest.MonkeyPatch, loader: str
) -> None:
    wanted = load_settings(ROOT / "config.yaml")
    monkeypatch.setattr(config, "LOADER", getattr(yaml, loader, yaml.SafeLoader))
    assert load_settings(ROOT / "config.yaml") == wanted


# ---- the file itself ----------------------------------------------------------------------------------


def test_a_file_that_everyone_can_write_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, DAEMON)
    path.chmod(0o646)
    with pytest.raises(ConfigError, match=f"can be written by every user.*; chmod o-w {path}"):
        load_settings(path)
    path.chmod(0o664)
    load_settings(path)


@needs_root
def test_a_file_of_another_user_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, DAEMON)
    os.chown(path, 12345, -1)
    with pytest.raises(ConfigError, match="belongs to user 12345, who could have commands run as user 0; "):
        load_settings(path)


@needs_root
def test_a_user_may_run_from_a_file_of_root_or_of_their_own(tmp_path: Path) -> None:
    path = written(tmp_path, DAEMON)
    for folder in (path, *path.parents):
        if folder.stat().st_mode & 0o005 != 0o005 and not folder.is_file():
            folder.chmod(folder.stat().st_mode | 0o055)
    try:
        os.seteuid(12345)
        load_settings(path)
        os.seteuid(0)
        os.chown(path, 12345, -1)
        os.seteuid(12345)
        load_settings(path)
    finally:
        os.seteuid(0)


def test_what_is_no_file_is_one_sentence_and_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    sentences = {
        tmp_path / "absent.yaml": "no such file; name another with --config FILE",
        tmp_path: "is a folder, not a file; name another with --config FILE",
        tmp_path / "fifo": "is a FIFO, not a file; name another with --config FILE",
        Path("/dev/null"): "is a device, not a file; name another with --config FILE",
        tmp_path / "a\0b": "cannot be opened: embedded null byte",
        tmp_path / ("x" * 300): "cannot be opened: File name too long",
        tmp_path / "fifo/x": "cannot be opened: Not a directory",
    }
    for path, sentence in sentences.items():
        with pytest.raises(ConfigError) as caught:
            load_settings(path)
        assert caught.value.problems == (sentence,)


# ---- the settings on this machine ---------------------------------------------------------------------


def program(path: Path, mode: int = 0o755) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(mode)
    return path


def test_a_program_is_found_as_a_child_in_the_daemons_folder_would_find_it(tmp_path: Path) -> None:
    here, there = program(tmp_path / "run.sh"), program(tmp_path / "bin/tool")
    program(tmp_path / "first/tool", 0o644)
    (tmp_path / "second/tool").mkdir(parents=True)
    assert resolve_program("./run.sh", tmp_path, "/nowhere") == here
    assert resolve_program("bin/tool", tmp_path, "") == there
    assert resolve_program(str(here), Path("/"), "") == here
    assert resolve_program("run.sh", tmp_path, "/nowhere") is None
    assert resolve_program("run.sh", tmp_path, "/nowhere:") == here
    search_path = f"{tmp_path}/first:{tmp_path}/second:bin"
    assert resolve_program("tool", tmp_path, search_path) == there
    assert resolve_program("x" * 5000, tmp_path, "/usr/bin") is None


def test_the_paths_of_good_settings_are_described_and_nothing_is_made(tmp_path: Path) -> None:
    program(tmp_path / "bin/tool")
    (tmp_path / "train.py").touch()
    read = loaded(
        tmp_path,
        "daemon: {command: [tool, train.py, --quiet], environment: {PATH: bin}}\nlogs: {directory: run}\n",
    )
    before = sorted(tmp_path.rglob("*"))
    rows = dict(describe(read))
    assert rows["daemon.command[0]"] == f"{tmp_path}/bin/tool"
    assert rows["daemon.command[1]"] == f"{tmp_path}/train.py"
    assert "daemon.command[2]" not in rows
    assert rows["daemon.directory"] == f"{tmp_path} (a folder)"
    assert rows["daemon.log"] == f"{tmp_path}/logs/training_output.log (will be made)"
    assert rows["logs.directory"] == f"{tmp_path}/run (will be made)"
    assert rows["checkpoints.directory"] == "none"
    assert check_paths(read) == []
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("daemon: {command: [no-such-program]}", "daemon.command[0]: 'no-such-program': not found in PATH"),
        ("daemon: {command: [./absent]}", "daemon.command[0]: './absent': {here}/absent does not exist"),
        ("daemon: {command: [./plain]}", "daemon.command[0]: './plain': {here}/plain is not an executable"),
        ('daemon: {command: ["{python}", absent.py]}', "daemon.command[1]: {here}/absent.py does not exist"),
        ("daemon: {command: [sh], directory: absent}", "daemon.directory: {here}/absent is no folder"),
        ("daemon: {command: [sh], directory: plain}", "daemon.directory: {here}/plain is no folder"),
        ("daemon: {command: [sh], log: folder}", "daemon.log: {here}/folder is a folder; name a file"),
        ("daemon: {command: [sh], log: fifo}", "daemon.log: {here}/fifo is a FIFO; name a file"),
        ("daemon: {command: [sh], log: plain/x.log}", "daemon.log: {here}/plain is no folder"),
        (
            "daemon: {command: [sh]}\nlogs: {directory: plain/x/y}",
            "logs.directory: {here}/plain is no folder",
        ),
        (
            "daemon: {command: [sh]}\nlogs: {directory: dangling/x}",
            "logs.directory: {here}/dangling is a symb",
        ),
    ],
)
def test_what_cannot_work_here_is_told(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "plain").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "dangling").symlink_to("nowhere")
    os.mkfifo(tmp_path / "fifo")
    read = loaded(tmp_path, text)
    before = sorted(tmp_path.rglob("*"))
    (found,) = check_paths(read)
    assert found.startswith(problem.replace("{here}", str(tmp_path)))
    describe(read)
    assert sorted(tmp_path.rglob("*")) == before


@needs_root
def test_a_folder_without_permission_is_told(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(0o755)
    (tmp_path / "old.log").touch(0o644)
    read = loaded(tmp_path, "daemon: {command: [sh], log: old.log}\nlogs: {directory: locked/run}\n")
    for folder in tmp_path.parents:
        if folder.stat().st_mode & 0o005 != 0o005:
            folder.chmod(folder.stat().st_mode | 0o055)
    tmp_path.chmod(0o755)
    try:
        os.seteuid(12345)
        problems = check_paths(read)
        with pytest.raises(ConfigError, match="cannot be made: Permission denied"):
            make_folders(read)
    finally:
        os.seteuid(0)
    assert problems == [
        f"daemon.log: {tmp_path}/old.log cannot be written; name another or change its permissions",
        f"logs.directory: {tmp_path}/locked/run cannot be made: no permission in {tmp_path}/locked",
    ]


def test_the_run_folder_and_the_logs_folder_are_made_and_no_other(tmp_path: Path) -> None:
    read = loaded(
        tmp_path,
        "daemon: {command: [x], log: out/a.log}\nlogs: {directory: run/one}\n"
        "checkpoints: {directory: saves}\n",
    )
    make_folders(read)
    make_folders(read)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_dir()) == [
        "out",
        "run",
        "run/one",
    ]


def test_a_run_folder_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    read = loaded(tmp_path, "daemon: {command: [x]}\nlogs: {directory: plain}\n")
    with pytest.raises(ConfigError) as caught:
        make_folders(read)
    assert caught.value.problems == (
        f"logs.directory: {tmp_path}/plain cannot be made: File exists; name another folder",
    )


# ---- config.yaml, the manual --------------------------------------------------------------------------


def keys_of_the_structs() -> list[str]:
    return [f"{name}.{field}" for name, section in SECTIONS.items() for field in section.__struct_fields__]


def test_the_shipped_file_holds_every_setting_once_in_order_each_under_one_comment_line() -> None:
    lines = (ROOT / "config.yaml").read_text().splitlines()
    section, found = "", []
    for before, line in zip(["", *lines], lines, strict=False):
        if match := re.match(r"(\w+):$", line):
            section = match[1]
            assert before == "", f"{section} does not stand apart"
        elif match := re.match(r"  (\w+): \S", line):
            found.append(f"{section}.{match[1]}")
            assert re.match(r"  # \S", before), f"{found[-1]} has no comment line"
        else:
            assert line == "" or re.match(r" *# ", line), line
        assert len(line) <= 110
    assert found == keys_of_the_structs()
    assert not any(a.lstrip().startswith("#") and b.startswith("  #") for a, b in pairwise(lines))


def test_the_shipped_values_are_the_defaults_but_for_those_named_here() -> None:
    shipped = load_settings(ROOT / "config.yaml")
    default = {}
    for name in keys_of_the_structs():
        section, field = name.split(".")
        defaults = DaemonSettings(command=()) if section == "daemon" else SECTIONS[section]()
        default[name] = getattr(defaults, field)
    different = {}
    for name, value in default.items():
        section, field = name.split(".")
        given_value = getattr(getattr(shipped, section), field)
        if given_value != (ROOT / value if isinstance(value, Path) else value):
            different[name] = given_value
    assert different == SHIPPED


def test_a_shipped_value_that_is_not_the_default_says_so_in_its_comment() -> None:
    lines = (ROOT / "config.yaml").read_text().splitlines()
    section = ""
    for before, line in pairwise(lines):
        if not line.startswith(" ") and line.endswith(":"):
            section = line[:-1]
        elif match := re.match(r"  (\w+): ", line):
            assert ("default" in before) == (f"{section}.{match[1]}" in SHIPPED), line


def test_the_shipped_file_may_be_run_from() -> None:
    assert not (ROOT / "config.yaml").stat().st_mode & stat.S_IWOTH


# ---- anything at all ----------------------------------------------------------------------------------

names = st.sampled_from(
    [*SECTIONS, *(key.split(".")[1] for key in keys_of_the_structs()), "step", "loss", "", "x", "timeouts"]
)
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.dates()
    | st.binary(max_size=5)
    | st.sampled_from(["{python}", *signal.Signals.__members__, "~x", "~", "a\0b", "\x1b[0m"])
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4),
    max_leaves=20,
)
sections = st.dictionaries(names, values, max_size=6)
punctuation = st.text(alphabet="ab:-?[]{},&*!|>'\"%@` \n\t#~01.<=\\", max_size=80)
documents = st.dictionaries(names, sections | values, max_size=6)
one_folder = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100, deadline=2000
)


def survives(folder: Path, content: bytes) -> None:
    try:
        read = load_settings(written(folder, content))
    except ConfigError as error:
        assert error.problems
        assert all(problem.isprintable() for problem in error.problems), error.problems
    else:
        assert read.daemon.command and read.daemon.stop
        msgspec.convert(msgspec.to_builtins(read, enc_hook=str), dict)
        describe(read)
        check_paths(read)


@one_folder
@given(document=documents, style=st.sampled_from([None, True, False]))
def test_no_document_raises_anything_but_a_config_error(
    tmp_path: Path, document: object, style: bool | None
) -> None:
    survives(tmp_path, yaml.safe_dump(document, allow_unicode=True, default_flow_style=style).encode())


@one_folder
@given(values=sections)
def test_no_value_in_the_daemons_section_raises_anything_but_a_config_error(
    tmp_path: Path, values: dict[str, object]
) -> None:
    survives(tmp_path, yaml.safe_dump({"daemon": {"command": ["x"], **values}}).encode())


@one_folder
@given(content=st.binary(max_size=200) | punctuation.map(str.encode))
def test_no_bytes_raise_anything_but_a_config_error(tmp_path: Path, content: bytes) -> None:
    survives(tmp_path, content)


@one_folder
@given(cut=st.integers(0, 4000), put=st.text(max_size=3), drop=st.integers(0, 5))
def test_no_slip_of_the_pen_in_the_shipped_file_raises_anything_but_a_config_error(
    tmp_path: Path, cut: int, put: str, drop: int
) -> None:
    text = (ROOT / "config.yaml").read_text()
    survives(tmp_path, (text[:cut] + put + text[cut + drop :]).encode("utf-8", "replace"))
