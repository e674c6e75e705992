"""What a health check tells: lines, JSON, a plugin's output, metrics."""

import io
import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from test_checks_running import heat

from trainguard import health_reports
from trainguard.checks.values import Limit, Measure, Result
from trainguard.health import Finding, Status


def result(check_id: str, *findings: Finding, measures: tuple[Measure, ...] = (), **more: object) -> Result:
    return Result(heat(id=check_id), findings, measures, **more)  # type: ignore[arg-type]


FINE = result(
    "fine", Finding(Status.OK, "disk /", "9.0 GiB free"), measures=(Measure("free_bytes", 9e9, "/"),)
)
LOW = result(
    "low",
    Finding(Status.ATTENTION, "disk /data", "3.1 GiB free", "free space"),
    measures=(
        Measure("free_bytes", 3.1e9, "/data", 1e10, 1e9, True),
        Measure("load_percent", 10.0, "", 50, 90),
    ),
)
DEAD = result("dead", Finding(Status.BAD, "daemon|x", "is dead\x1b[2J", "start it"))
ABSENT = result("absent", absent="no GPU")
WAITING = [
    result(name, Finding(Status.UNKNOWN, name, "could not be decided"), undecided="gpus: no answer")
    for name in ("gpu-a", "gpu-b", "gpu-c")
]
KNOWN = result("known", Finding(Status.BAD, "disk /", "full"), acknowledged="known until noon")


def test_lines_stand_worst_first_and_name_the_check() -> None:
    lines = health_reports.lines_of([FINE, LOW, DEAD])
    assert [re.split(r" +", line)[:2] for line in lines] == [["BAD", "dead"], ["WARN", "low"], ["OK", "fine"]]
    assert lines[1].endswith("disk /data: 3.1 GiB free; free space")


def test_what_would_steer_a_terminal_is_escaped() -> None:
    for lines in (health_reports.lines_of([DEAD]), health_reports.plugin_lines([DEAD], 1.0)):
        assert "\x1b" not in "".join(lines)


def test_quiet_shows_only_what_is_not_fine() -> None:
    assert len(health_reports.lines_of([FINE, LOW], quiet=True)) == 1


def test_checks_that_wait_for_the_same_answer_share_a_line() -> None:
    (line,) = health_reports.lines_of(WAITING)
    assert line.startswith("UNKNOWN") and line.endswith(
        "could not be decided: gpus: no answer; nor gpu-b, gpu-c"
    )


def test_what_is_known_says_until_when() -> None:
    assert health_reports.lines_of([KNOWN])[0].endswith("(known until noon)")


def test_the_summary_counts_all() -> None:
    told = health_reports.summary_of([FINE, LOW, DEAD, ABSENT, KNOWN, *WAITING], 1.23)
    assert told == (
        "8 checks: 1 bad, 1 want attention, 3 could not be decided, 1 fine, 1 known, 1 does not apply here; 1.2 s"
    )


def test_json_has_every_check_with_its_findings() -> None:
    told = health_reports.object_of([FINE, ABSENT], 1.0)
    checks = told["checks"]
    assert isinstance(checks, list)
    assert told["status"] == "OK" and [one["applies"] for one in checks] == [True, False]
    assert checks[0]["findings"] == [
        {"status": "OK", "subject": "disk /", "fact": "9.0 GiB free", "remedy": ""}
    ]
    assert checks[1]["why_not"] == "no GPU"


def test_a_plugins_first_line_has_the_state_the_worst_and_the_numbers() -> None:
    first, *more = health_reports.plugin_lines([FINE, LOW, DEAD], 1.0)
    text, _, numbers = first.partition(" | ")
    assert text.startswith("HEALTH CRITICAL - daemon/x: is dead")
    assert numbers == (
        "'free_bytes /'=9000000000B;; 'free_bytes /data'=3100000000B;10000000000:;1000000000: "
        "'load_percent'=10%;50;90"
    )
    assert more == [
        "WARNING low: disk /data: 3.1 GiB free; free space",
        "CRITICAL dead: daemon/x: is dead\\x1b[2J; start it",
    ]


def test_a_label_of_a_number_cannot_break_the_line() -> None:
    odd = result("odd", Finding(Status.OK, "a", "b"), measures=(Measure("size_bytes", 1.0, "/a'b=c|d\n"),))
    (line,) = health_reports.plugin_lines([odd], 1.0)
    assert line.count("|") == 1 and line.count("'") == 2 and "\n" not in line


def test_metrics_are_what_prometheus_reads(tmp_path: Path) -> None:
    file = tmp_path / "health.prom"
    health_reports.write_metrics(file, [FINE, LOW, ABSENT, KNOWN], 123.0)
    families = {one.name: one for one in text_string_to_metric_families(file.read_text())}
    states = {one.labels["check"]: one.value for one in families["trainguard_check_status"].samples}
    assert states == {"fine": 0.0, "low": 1.0, "known": 2.0}
    free = {one.labels["subject"]: one.value for one in families["trainguard_free_bytes"].samples}
    assert free == {"/": 9e9, "/data": 3.1e9}
    assert families["trainguard_health_time_seconds"].samples[0].value == 123.0
    assert [one.name for one in tmp_path.iterdir()] == ["health.prom"]


def test_an_explanation_has_the_limits_that_hold_and_their_defaults() -> None:
    check = heat(
        limits=(Limit("attention", 1 << 30, "bytes", "a choice"), Limit("bad", 5.0, "%", "a man page"))
    )
    told = "\n".join(health_reports.explanation_of(check, {"attention": 2 << 30, "bad": 5.0}))
    assert "2.0 GiB, where the default is 1.0 GiB (a choice)" in told
    assert "5 % (a man page)" in told


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("stream", "is_told"), [(Terminal(), True), (io.StringIO(), False)])
def test_progress_is_told_on_a_terminal_alone_and_taken_away(stream: io.StringIO, is_told: bool) -> None:
    line = health_reports.ProgressLine(stream, ["disks", "gpus"])
    line.answered("disks")
    line.end()
    told = stream.getvalue()
    assert ("looking at disks, gpus" in told) is is_told
    assert told == "" or told.endswith("\r\x1b[K")
