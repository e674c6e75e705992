"""What must be there before anything else is imported: this Python, and the packages of requirements.txt.

A script calls `require` before its other imports, so that a missing package is one sentence and exit code 3
(could not tell) rather than a trace and code 1, which monitoring would read as a warning about the machine.
Imports the standard library only, and parses from Python 3.6 on, so that an old one can say so.
"""

import os
import sys

OLDEST_PYTHON = (3, 10)
COULD_NOT_TELL = 3  # trainguard.health.Status.UNKNOWN, which needs msgspec

# The name to import, and the name to install where it is another.
PACKAGES = {"yaml": "PyYAML", "pynvml": "nvidia-ml-py"}


def require(*modules: str) -> None:
    """Import these modules, or say in one sentence on stderr what is missing and raise SystemExit(3).

    `modules` are import names (`yaml`, not PyYAML), and those that the script goes on to import: then asking
    costs nothing, and also a package that is there but broken is noticed.
    """
    script = os.path.basename(sys.argv[0]) or "this script"  # noqa: PTH119 - pathlib is not needed yet
    if sys.version_info < OLDEST_PYTHON:
        wanted = ".".join(map(str, OLDEST_PYTHON))
        found = ".".join(map(str, sys.version_info[:3]))
        _refuse(f"{script} needs Python {wanted} or newer, and {sys.executable} is {found}; run a newer one")
    missing = []
    for module in modules:
        try:
            __import__(module)
        except ImportError as error:
            why = "" if error.name == module else f", which is there but cannot be imported: {error}"
            missing.append(f"{PACKAGES.get(module, module)} (module {module}{why})")
    if missing:
        noun = "package" if len(missing) == 1 else "packages"
        _refuse(
            f"{script} needs the Python {noun} {' and '.join(missing)}; "
            "install what it needs with: python3 -m pip install -r requirements.txt"
        )


def _refuse(sentence: str) -> None:
    if sys.stderr is not None:
        sys.stderr.write(sentence + "\n")
    raise SystemExit(COULD_NOT_TELL)
