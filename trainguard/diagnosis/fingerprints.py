"""Fingerprints: the same crash gives the same one, whatever pids, addresses, paths and steps it names."""

import hashlib
import re

from trainguard.diagnosis.values import Observation

# In this order: what is found first is replaced first.
_CHANGING = (
    (re.compile(r"\x1b\[[0-9;]*m"), ""),
    (re.compile(r"0x[0-9a-fA-F]+"), "#"),
    (re.compile(r"\b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b"), "#"),
    (re.compile(r"\bGPU-[0-9a-f-]+"), "#"),
    (re.compile(r"\b(?:\d{1,3}\.){3}\d{1,3}(?::\d+)?\b"), "#"),
    (re.compile(r"(?:[\w.+-]*|~)(?:/[\w.+@=,%-]+)+/?"), "PATH"),
    (re.compile(r"\b[0-9a-fA-F]{12,}\b"), "#"),
    (re.compile(r"\b(?=[a-zA-Z]*\d)(?=\d*[a-zA-Z])[a-zA-Z0-9_]{8,}\b"), "#"),
    (re.compile(r"[-+]?\d+(?:[.,:]\d+)*(?:e[-+]?\d+)?"), "#"),
    (re.compile(r"(?:#[\s,;x]*){2,}"), "# "),
    (re.compile(r"\s+"), " "),
)
_LAST_PART = re.compile(r"/([\w.+@=,%-]+?)/?$")


def normalised(text: str) -> str:
    """A message without what changes from run to run. Of a path its last part stays, with numbers as `#`."""
    for pattern, replacement in _CHANGING:
        text = pattern.sub(_short_path if replacement == "PATH" else replacement, text)
    return text.strip().lower()[:400]


def _short_path(match: re.Match[str]) -> str:
    last = _LAST_PART.search(match[0])
    return "" if last is None else "/" + re.sub(r"[0-9a-f]{6,}|\d+|tmp\w+", "#", last[1])


def fingerprint(root: Observation) -> str:
    """Sixteen hexadecimal digits, from the type, the cause, the exception, its message, and where it arose."""
    message = root.line.body
    if root.exception is not None:
        at = message.find(root.exception)
        message = message[at + len(root.exception) :] if at >= 0 else message
    if root.signature is not None:
        # What the signature knows is the same failure, whichever words surround it.
        message = " ".join(
            f"{name}={value}" for name, value in sorted(root.facts.items()) if name in _TELLING
        )
        message = f"{root.signature} {message}"
    exception = (root.exception or "").rpartition(".")[2]
    parts = (root.type, root.cause, exception, root.place, normalised(message))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


# Of what a signature captures, these tell one crash from another; sizes, ranks and pids do not.
_TELLING = frozenset({"module", "key", "argument", "operation", "xid", "symbol", "library", "path"})
