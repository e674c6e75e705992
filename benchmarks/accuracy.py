#!/usr/bin/env python3
"""Measure the diagnosis on a corpus of labelled logs.

    .venv/bin/python benchmarks/accuracy.py CORPUS

CORPUS holds `labels.jsonl` (an object per crashed log: id, type, also_ok, root_line, root_also, source), the logs
as cases/<id>.log, and the healthy ones as healthy/*.log. Told are: the share of logs whose first crash has the
labelled type (top-1), or an accepted one; whose root line is at most two lines from a labelled one; the same
averaged over source repositories, of which some have many logs; the macro-averaged F1 over the types; and the
false alarms on healthy logs. With --list, each log that was missed.
"""

import argparse
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import msgspec

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from trainguard.diagnosis import Crash
from trainguard.investigation import investigating
from trainguard.investigation.investigating import Knowledge
from trainguard.investigation.sources import Source


class Label(msgspec.Struct, frozen=True):
    """What a person says of one log."""

    id: str
    type: str
    root_line: int
    source: str = ""
    also_ok: tuple[str, ...] = ()
    root_also: tuple[int, ...] = ()
    note: str = ""


class Outcome(msgspec.Struct, frozen=True):
    """One label, and the crash that was found first."""

    label: Label
    crash: Crash | None

    @property
    def type(self) -> str:
        """The type that was found."""
        return "none" if self.crash is None else self.crash.type

    @property
    def exact(self) -> bool:
        """Whether it is the label's type."""
        return self.type == self.label.type

    @property
    def accepted(self) -> bool:
        """Whether a careful reader could defend it."""
        return self.exact or self.type in self.label.also_ok

    @property
    def near(self) -> bool:
        """Whether the root line is one of those that state the failure, or at most two lines from it."""
        line = None if self.crash is None else self.crash.root.line
        lines = (self.label.root_line, *self.label.root_also)
        return line is not None and any(abs(line - one) <= 2 for one in lines)


def diagnose(file: Path, knowledge: Knowledge) -> Crash | None:
    """The newest crash of one log."""
    crashes = investigating.investigate([Source(str(file))], knowledge).crashes
    return crashes[0] if crashes else None


def share(hits: Sequence[bool]) -> float:
    """How many of them, in percent."""
    return 100 * sum(hits) / len(hits) if hits else 0.0


def macro_f1(outcomes: Sequence[Outcome]) -> float:
    """The mean over the labelled types of the harmonic mean of precision and recall, in percent."""
    scores = []
    for kind in {one.label.type for one in outcomes}:
        right = sum(one.exact for one in outcomes if one.label.type == kind)
        found = sum(one.type == kind for one in outcomes)
        wanted = sum(one.label.type == kind for one in outcomes)
        scores.append(2 * right / (found + wanted))
    return 100 * sum(scores) / len(scores) if scores else 0.0


def by_source(outcomes: Sequence[Outcome], hit: str) -> float:
    """The share of hits, where each source repository counts once."""
    groups: dict[str, list[bool]] = defaultdict(list)
    for one in outcomes:
        groups[one.label.source.partition(":")[0]].append(getattr(one, hit))
    return sum(share(group) for group in groups.values()) / len(groups) if groups else 0.0


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--list", action="store_true", help="name each log that was missed")
    arguments = parser.parse_args(argv)
    knowledge = investigating.open_knowledge(None, None, [])
    labels = [
        msgspec.json.decode(line, type=Label)
        for line in (arguments.corpus / "labels.jsonl").read_bytes().splitlines()
        if line.strip()
    ]
    outcomes = [Outcome(one, diagnose(arguments.corpus / f"cases/{one.id}.log", knowledge)) for one in labels]
    alarms = {
        file.name: crash
        for file in sorted((arguments.corpus / "healthy").glob("*.log"))
        if (crash := diagnose(file, knowledge)) is not None
    }
    healthy = len(list((arguments.corpus / "healthy").glob("*.log")))
    if arguments.list:
        for one in outcomes:
            if not (one.accepted and one.near):
                line = None if one.crash is None else one.crash.root.line
                text = "" if one.crash is None else one.crash.root.text[-120:]
                print(
                    f"{one.label.id}: {one.label.type} at {one.label.root_line}, found {one.type} at {line}: {text}"
                )
        for name, crash in alarms.items():
            print(f"healthy {name}: {crash.type} at {crash.root.line}: {crash.root.text[:120]}")
    sources = len({one.label.source.partition(":")[0] for one in outcomes})
    print(f"{len(outcomes)} crashed logs from {sources} repositories, {healthy} healthy ones")
    print(f"{'':<28}{'by log':>8}{'by repository':>16}")
    for title, hit in (
        ("top-1", "exact"),
        ("top-1, accepted types", "accepted"),
        ("root line within two", "near"),
    ):
        print(
            f"{title:<28}{share([getattr(one, hit) for one in outcomes]):>7.1f}%{by_source(outcomes, hit):>15.1f}%"
        )
    print(f"{'macro-F1':<28}{macro_f1(outcomes):>7.1f}%")
    print(f"{'false alarms':<28}{len(alarms):>4} of {healthy}")
    wrong = Counter(f"{one.label.type} as {one.type}" for one in outcomes if not one.accepted)
    print("".join(f"  {count} x {pair}\n" for pair, count in wrong.most_common()), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
