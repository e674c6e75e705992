"""Running: the readings that the chosen checks need, all at once in children, and then the judgements."""

import fnmatch
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import msgspec

from trainguard import probes
from trainguard.acknowledgements import Acknowledgement
from trainguard.checks.values import (
    Absent,
    Check,
    Facts,
    Measure,
    Reading,
    Result,
    Undecided,
    severity,
    unknown,
)
from trainguard.config import ConfigError, ExpectedError, Settings, did_you_mean
from trainguard.health import Finding, Status
from trainguard.vitals import Past, Sample, key_of, since_boot


class UnknownCheckError(ExpectedError):
    """A name that no check has."""


def choose(
    checks: Sequence[Check],
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    components: Sequence[str] = (),
    gate: bool = False,
) -> list[Check]:
    """The checks of these names (`disk-*` is a pattern) and components. Raises UnknownCheckError."""
    ids = [check.id for check in checks]
    chosen = set(_named(only, ids)) if only else set(ids)
    chosen -= set(_named(skip, ids))
    known = list(dict.fromkeys(check.component for check in checks))
    for component in components:
        if component not in known:
            hint = did_you_mean(component, known) or f"; there are: {', '.join(known)}"
            raise UnknownCheckError(f"{component}: no component of that name{hint}")
    left = [
        check
        for check in checks
        if check.id in chosen
        and (not components or check.component in components)
        and (check.gates or not gate)
    ]
    if not left:
        raise UnknownCheckError("no check is left of what was chosen; --list names all")
    return left


def _named(patterns: Iterable[str], ids: Sequence[str]) -> Iterable[str]:
    for pattern in patterns:
        found = fnmatch.filter(ids, pattern)
        if not found:
            hint = did_you_mean(pattern, ids) or "; --list names all"
            raise UnknownCheckError(f"{pattern}: no check of that name{hint}")
        yield from found


def limits_of(settings: Settings, checks: Sequence[Check]) -> dict[str, dict[str, float]]:
    """The limits of each check by its id, with those that the settings set. Raises ConfigError for others."""
    limits = {check.id: {limit.name: limit.default for limit in check.limits} for check in checks}
    known = [f"{check.id}.{limit.name}" for check in checks for limit in check.limits]
    problems = []
    for name, value in settings.health.limits.items():
        if name in known:
            check_id, _, limit = name.rpartition(".")
            limits[check_id][limit] = value
        else:
            hint = did_you_mean(name, known) or "; comprehensive_health_check.py --list tells all"
            problems.append(f"health.limits.{name}: unknown limit{hint}")
    for name in settings.health.skip:
        if not fnmatch.filter(limits, name):
            problems.append(f"health.skip: no check is called {name}{did_you_mean(name, limits)}")
    if problems:
        raise ConfigError(tuple(problems), settings.path)
    return limits


def run_checks(
    checks: Sequence[Check],
    settings: Settings,
    limits: Mapping[str, Mapping[str, float]],
    past: Past,
    deep: bool = False,
    on_answer: Callable[[str], None] | None = None,
) -> list[Result]:
    """The results in the order of the checks. Raises OSError where no child can be made."""
    answers = ask_readings(readings_of(checks), settings, deep, on_answer)
    now_wall = time.time()
    values = [answer.value for answer in answers.values() if answer.problem is None]
    facts = Facts(settings, values, past, now_wall, deep)
    return [judge(check, facts, limits[check.id], answers) for check in checks]


def readings_of(checks: Iterable[Check]) -> list[Reading]:
    """What the checks look at, each once."""
    return list({reading.name: reading for check in checks for reading in check.reads}.values())


def ask_readings(
    readings: Sequence[Reading],
    settings: Settings,
    deep: bool,
    on_answer: Callable[[str], None] | None = None,
) -> dict[str, probes.Answer]:
    """What the readings gave, by name."""

    def probe_of(reading: Reading) -> probes.Probe:
        seconds = reading.deep_seconds if deep and reading.deep_seconds else reading.seconds
        return probes.Probe(reading.name, lambda: reading.read(settings, deep), reading.gives, seconds)

    told = None if on_answer is None else lambda probe: on_answer(probe.name)
    return probes.ask([probe_of(reading) for reading in readings], told)


def judge(
    check: Check, facts: Facts, limits: Mapping[str, float], answers: Mapping[str, probes.Answer]
) -> Result:
    """What one check tells. One whose reading gave nothing could not be decided; a bug in one is told as that."""
    asked = {reading.name: answers[reading.name] for reading in check.reads}
    seconds = max((answer.seconds for answer in asked.values()), default=0.0)
    for reading in check.reads:
        answer = asked[reading.name]
        if answer.problem is not None:
            return _unread(check, reading, answer, seconds)
    try:
        told = list(check.judge(facts, limits))
    except Exception as error:
        finding = unknown(check.id, f"this check has a bug: {type(error).__name__}: {error}", "report it")
        return Result(check, (finding,), seconds=seconds)
    if undecided := next((one.why for one in told if isinstance(one, Undecided)), None):
        return _not_decided(check, undecided, seconds)
    absent = next((one.why for one in told if isinstance(one, Absent)), None)
    findings = [one for one in told if isinstance(one, Finding)]
    if absent is None and not findings:
        findings = [unknown(check.id, "told nothing")]
    findings.sort(key=lambda finding: -severity(finding.status))
    measures = tuple(one for one in told if isinstance(one, Measure))
    return Result(check, tuple(findings), measures, absent if not findings else None, seconds=seconds)


def _unread(check: Check, reading: Reading, answer: probes.Answer, seconds: float) -> Result:
    is_own = reading.name in {one.name for one in check.answers_for}
    if is_own and (answer.hung or answer.died):
        fact = f"{'hangs' if answer.hung else 'cannot be read'}: {answer.problem}"
        finding = Finding(check.worst, reading.name, fact, f"see --explain {check.id}")
        return Result(check, (finding,), seconds=seconds)
    told = _not_decided(check, f"{reading.name}: {answer.problem}", seconds)
    return msgspec.structs.replace(told, undecided=None) if is_own else told


def _not_decided(check: Check, why: str, seconds: float) -> Result:
    finding = unknown(check.id, f"could not be decided: {why}")
    return Result(check, (finding,), undecided=why, seconds=seconds)


def acknowledge(results: Sequence[Result], known: Mapping[str, Acknowledgement]) -> list[Result]:
    """The results with what a person has acknowledged, by check: all of whose faults were known then."""
    return [
        msgspec.structs.replace(one, acknowledged=str(known[one.check.id]))
        if one.check.id in known and one.status and set(faults_of(one)) <= set(known[one.check.id].subjects)
        else one
        for one in results
    ]


def faults_of(result: Result) -> list[str]:
    """The subjects of what is not fine."""
    return [one.subject for one in result.findings if one.status]


def worst_of(results: Collection[Result]) -> Status:
    """The status that counts: what is acknowledged or does not apply does not."""
    counting = (one.status for one in results if one.acknowledged is None)
    worst = max(counting, key=severity, default=Status.OK)
    return Status.ATTENTION if worst is Status.UNKNOWN else worst


def only_attention(results: Collection[Result]) -> bool:
    """Whether nothing is worse than attention."""
    counting = (one.status for one in results if one.acknowledged is None)
    return all(status in (Status.OK, Status.ATTENTION) for status in counting)


def sample_of(results: Iterable[Result], boot: str, now_wall: float) -> Sample:
    """What is kept of a health check."""
    applying = [one for one in results if one.absent is None]
    values = {
        key_of(measure.name, measure.subject): measure.value for one in applying for measure in one.measures
    }
    return Sample(now_wall, boot, since_boot(), values, {one.check.id: one.status.name for one in applying})
