"""Checks of the configuration: does config.yaml hold, on this machine, for the daemon that runs, and safely."""

import re
from collections.abc import Iterator, Mapping

from trainguard.checks.daemon import SUPERVISION
from trainguard.checks.values import (
    Absent,
    Check,
    Facts,
    Reading,
    Told,
    attention,
    bad,
    ok,
    unknown,
)
from trainguard.command_line import check_causes
from trainguard.config import Remedy, Settings
from trainguard.daemon import runs_command
from trainguard.health import Status
from trainguard.moments import text_of
from trainguard.places import Place, Places, read_places
from trainguard.policy import OVER
from trainguard.supervision import Supervision

PLACES = Reading("places", Places, lambda settings, deep: read_places(settings), 4.0)
MADE_HERE = ("daemon.log", "logs.directory")
FOLDERS = ("daemon.directory", "logs.directory", "checkpoints.directory")
# The files that the daemon makes, or need not make; whether they are there now is a check of the logs'.
MADE_BY_DAEMON = (
    "daemon.pid_file",
    "progress.status_file",
    "progress.log_file",
    "progress.heartbeat_file",
    "detector.signatures",
)
# The marks of GitHub, GitLab, Hugging Face, OpenAI, AWS, Slack and of a JSON web token, as their vendors tell.
_TOKEN = re.compile(
    r"(?:gh[pousr]_|github_pat_|glpat-|hf_|sk-|xox[abprs]-|AKIA|ASIA|eyJhbGci)[A-Za-z0-9_\-.]{12,}"
)
_SECRET_WORDS = {"TOKEN", "SECRET", "PASSWORD", "PASSWD", "APIKEY", "CREDENTIALS"}
_SECRET_ENDS = ("API_KEY", "ACCESS_KEY", "PRIVATE_KEY", "AUTH_KEY")
_SHORT = 8


def is_secret(name: str, value: str) -> bool:
    """Whether a variable looks as if its value were a secret: by the value's own form, or by the name's words.

    A file that holds it, a switch and a number are none.
    """
    if _TOKEN.search(value):
        return True
    if len(value) < _SHORT or value.startswith(("/", "~", "$")) or value.replace(".", "").isdigit():
        return False
    upper = name.upper()
    return bool(_SECRET_WORDS.intersection(re.split(r"[^A-Z0-9]+", upper))) or upper.endswith(_SECRET_ENDS)


def judge_valid(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    now, file = facts.of(Places), str(facts.settings.path)
    for problem in now.invalid:
        yield bad(file, problem, "the settings that were read before still hold; correct the file")
    if not now.invalid:
        yield ok(file, "every setting is known and of its kind")


def judge_paths(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    now = facts.of(Places)
    told = 0
    for row in now.rows:
        for finding in _judge_place(row):
            told += 1
            yield finding
    if now.problems is None and not any(row.problem for row in now.rows):
        told += 1
        yield bad(
            "paths", "did not answer together, and do each alone", "look again; see the check config-paths"
        )
    named = {row.setting for row in now.rows if row.problem is not None}
    for problem in now.problems or ():
        setting, _, fact = problem.partition(": ")
        if setting.startswith("daemon.command") or setting in named:
            continue
        told += 1
        fact, _, remedy = fact.rpartition("; ") if "; " in fact else (fact, "", "make it or name another")
        yield bad(setting, fact, remedy)
    if not told:
        yield ok("paths", f"{len(now.rows)} are as they should be, and can be written where they must")


def _judge_place(row: Place) -> Iterator[Told]:
    subject = f"{row.setting} {row.path}"
    if row.problem is not None:
        yield bad(subject, row.problem, "see whether its disk or file server answers")
    elif row.setting in FOLDERS and row.kind is None and row.setting != "daemon.directory":
        yield attention(subject, "is not there yet", f"mkdir -p {row.path}")
    elif row.setting == "checkpoints.directory" and row.kind != "a folder":
        yield bad(subject, f"is {row.kind}, not a folder", "name the folder in which the trainer saves")
    elif row.setting == "checkpoints.directory" and not row.writable:
        yield bad(subject, "cannot be written, so that no checkpoint is saved", "change its permissions")
    elif row.kind is None and not row.parent and row.setting in (*MADE_HERE, *MADE_BY_DAEMON):
        folder = row.path.rpartition("/")[0]
        yield attention(subject, f"its folder {folder} is not there", f"mkdir -p {folder}")
    elif row.kind is None and row.setting.startswith("detector.logs"):
        yield attention(subject, "is not there, so that the crash detector cannot read it", "name another")


def judge_mode(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    now = facts.of(Places)
    rows = [row for row in now.rows if row.setting in ("file", "logs.directory")]
    for row in rows:
        subject = row.path
        if row.mode is None:
            if row.problem is not None:
                yield unknown(subject, row.problem)
            elif row.setting == "file":
                yield bad(subject, "is not there any more", "restore it")
            continue
        what = "commands are run from it" if row.setting == "file" else "state and requests are read from it"
        if row.uid not in (now.uid, 0):
            fact = f"belongs to user {row.uid}, and {what} as user {now.uid}"
            yield bad(subject, fact, f"chown {now.uid} {row.path}")
        elif row.mode & 0o002:
            fact = f"can be written by every user (mode {row.mode:04o}), and {what}"
            yield bad(subject, fact, f"chmod o-w {row.path}")
        elif row.mode & 0o020 and row.gid != row.uid:
            # Where each user has a group of their own, it bears the user's number.
            fact = f"can be written by group {row.gid} (mode {row.mode:04o}), and {what}"
            yield attention(subject, fact, f"chmod g-w {row.path}")
        else:
            yield ok(subject, f"mode {row.mode:04o}, of user {row.uid}: nobody else can write it")


def judge_drift(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    now, places = facts.of(Supervision), facts.of(Places)
    changed = next((row.wall for row in places.rows if row.setting == "file"), None)
    file = str(facts.settings.path)
    if now.state.phase in OVER or (now.watchdog is None and now.daemon is None):
        yield Absent("neither a watchdog nor the daemon runs")
        return
    if changed is None:
        yield unknown(file, "when it was changed is not known")
        return
    told = False
    if now.watchdog is not None:
        read = max(now.watchdog.since_wall, now.reloaded_wall or 0.0)
        if changed > read:
            told = True
            fact = f"was changed at {text_of(changed)}, and the watchdog read it at {text_of(read)}"
            yield attention(file, fact, f"kill -HUP {now.watchdog.identity.pid} has it read again")
    run = now.state.run
    command = _command_of(facts.settings, None if run is None else run.remedy)
    is_newer = run is not None and changed > run.began_wall
    if is_newer and now.daemon is not None and not runs_command(now.daemon.command, command):
        told = True
        fact = f"daemon.command is another than what runs as pid {now.daemon.pid}"
        yield attention(file, fact, "the new one counts from the next start: stop and start it when it suits")
    if not told:
        yield ok(file, "was not changed since the watchdog read it and the daemon began")


def _command_of(settings: Settings, remedy: str | None) -> tuple[str, ...]:
    more = settings.restart.on_crash.get(remedy or "", Remedy()).arguments
    return (*settings.daemon.command, *more)


def judge_command(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    now, daemon = facts.of(Places), facts.settings.daemon
    problems = [one for one in now.problems or () if one.startswith("daemon.command")]
    for problem in problems:
        setting, _, text = problem.partition(": ")
        fact, _, remedy = text.rpartition("; ")
        yield bad(setting, fact, remedy)
    for script, is_there in now.scripts.items():
        if not is_there and not any(script in problem for problem in problems):
            fact = f"{script} is not there"
            yield bad(
                "daemon.command", fact, "it counts from daemon.directory: name it as it is called there"
            )
    if now.program is None and not problems:
        yield unknown("daemon.command[0]", f"{daemon.command[0]} could not be looked for")
    elif not problems and all(now.scripts.values()):
        runs = "".join(f", which runs {script}" for script in now.scripts)
        yield ok("daemon.command", f"starts {now.program}{runs}")


def judge_secrets(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    settings = facts.settings
    variables = {
        f"daemon.environment.{name}": (name, value) for name, value in settings.daemon.environment.items()
    }
    for cause, remedy in settings.restart.on_crash.items():
        variables |= {
            f"restart.on_crash.{cause}.environment.{name}": (name, value)
            for name, value in remedy.environment.items()
        }
    secret = [place for place, (name, value) in variables.items() if is_secret(name, value)]
    for place in secret:
        advice = "export it where the watchdog is started, delete it here, and have a new one made"
        yield attention(
            place, "looks like a secret, and stands in a file that is copied and committed", advice
        )
    words = [index for index, word in enumerate(settings.daemon.command) if _TOKEN.search(word)]
    for index in words:
        fact = "looks like a secret, and every user can read a command line"
        yield attention(f"daemon.command[{index}]", fact, "hand it over in the environment")
    if not secret and not words:
        yield ok("secrets", f"none of {len(variables)} variables and no word of the command looks like one")


def judge_causes(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    known = facts.settings.restart.on_crash
    if not known:
        yield Absent("restart.on_crash is empty")
        return
    problems = check_causes(facts.settings)
    for problem in problems:
        setting, _, text = problem.partition(": ")
        fact, _, remedy = text.partition("; ")
        yield bad(setting, fact, remedy)
    if not problems:
        yield ok("restart.on_crash", f"all {len(known)} causes are known")


CHECKS = (
    Check(
        id="config-valid",
        component="configuration",
        explain="Whether config.yaml as it is now could be read again: an unknown name or a wrong value is told.",
        reads=(PLACES,),
        answers_for=(PLACES,),
        judge=judge_valid,
        gates=True,
    ),
    Check(
        id="config-paths",
        component="configuration",
        explain="Whether each path of the settings answers, is what it should be, and can be written where it must.",
        reads=(PLACES,),
        judge=judge_paths,
        gates=True,
        fix="missing-folders",
    ),
    Check(
        id="config-mode",
        component="configuration",
        explain="Whether others can write config.yaml or the run folder: commands are run from what stands there.",
        reads=(PLACES,),
        judge=judge_mode,
        gates=True,
        fix="open-permissions",
    ),
    Check(
        id="config-drift",
        component="configuration",
        explain="Whether config.yaml was changed since the watchdog read it, and the command since the daemon began.",
        reads=(PLACES, SUPERVISION),
        judge=judge_drift,
        worst=Status.ATTENTION,
    ),
    Check(
        id="config-command",
        component="configuration",
        explain="Whether daemon.command starts anything: its program can be run, and its script is there.",
        reads=(PLACES,),
        judge=judge_command,
        gates=True,
    ),
    Check(
        id="config-secrets",
        component="configuration",
        explain="Variables and words in config.yaml that look like tokens, keys or passwords; none is ever shown.",
        reads=(),
        judge=judge_secrets,
        worst=Status.ATTENTION,
    ),
    Check(
        id="config-causes",
        component="configuration",
        explain="Whether restart.on_crash names causes that there are: a misspelt one would help nobody.",
        reads=(),
        judge=judge_causes,
        gates=True,
    ),
)
