"""Advising: the steps of a cause and its type, filled in with what this crash's own lines tell."""

import string
from collections.abc import Mapping

from trainguard.crash_types import CAUSES, TYPES
from trainguard.diagnosis.gpu_memory import find_foreign
from trainguard.diagnosis.values import Facts, Observation
from trainguard.quantities import size_text

ENOUGH_STEPS = 5

# Modules whose package on PyPI has another name.
PACKAGES = {
    "apex": "apex (from github.com/NVIDIA/apex, built here)",
    "attr": "attrs",
    "bs4": "beautifulsoup4",
    "cv2": "opencv-python-headless",
    "dateutil": "python-dateutil",
    "dotenv": "python-dotenv",
    "faiss": "faiss-cpu or faiss-gpu",
    "fitz": "PyMuPDF",
    "flash_attn": "flash-attn",
    "git": "GitPython",
    "google": "protobuf or the google-* package that holds it",
    "hydra": "hydra-core",
    "igraph": "python-igraph",
    "Levenshtein": "python-Levenshtein",
    "lightning_fabric": "lightning-fabric",
    "magic": "python-magic",
    "mmcv": "mmcv, or mmcv-full before version 2",
    "MySQLdb": "mysqlclient",
    "OpenSSL": "pyOpenSSL",
    "PIL": "Pillow",
    "psycopg2": "psycopg2-binary",
    "pycocotools": "pycocotools",
    "pynvml": "nvidia-ml-py",
    "pytorch_lightning": "pytorch-lightning",
    "ruamel": "ruamel.yaml",
    "serial": "pyserial",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "socks": "PySocks",
    "tensorboardX": "tensorboardX",
    "torch_geometric": "torch-geometric",
    "umap": "umap-learn",
    "usb": "pyusb",
    "yaml": "PyYAML",
    "zmq": "pyzmq",
}


def advise(root: Observation, facts: Facts) -> tuple[str, ...]:
    """What to do about a crash, from the cheapest step; no step names what this crash did not tell."""
    cause, kind = CAUSES.get(root.cause), TYPES[root.type]
    # Which of the processes that are named is another one's, their comparison tells.
    known = {name: held for name, held in root.facts.items() if name not in ("foreign_pid", "foreign")}
    foreign = find_foreign(root.facts)
    known |= {} if foreign is None else {"foreign_pid": foreign.pid, "foreign": foreign.held}
    module = known.get("module", "").partition(".")[0]
    if module:
        known["package"] = PACKAGES.get(module, module.replace("_", "-"))
    steps = _measured(root, facts)
    filled = (fill(step, known) for step in (cause.steps if cause is not None else ()))
    steps += [step for step in filled if step is not None]
    # The type's steps are more general; they fill up where the cause has little to say.
    for step in kind.steps[: max(0, ENOUGH_STEPS - len(steps))]:
        steps += [step] if step not in steps else []
    return tuple(steps)


def fill(step: str, known: Mapping[str, str]) -> str | None:
    """A step with its names replaced, None where one of them is not known."""
    try:
        names = {name for _, name, _, _ in string.Formatter().parse(step) if name}
        return step.format_map(known) if names <= known.keys() else None
    except (ValueError, KeyError, IndexError, AttributeError):
        return step


def _measured(root: Observation, facts: Facts) -> list[str]:
    """What the machine told at that moment, where it bears on this crash."""
    told = []
    if root.type == "disk_full" and facts.free_bytes:
        path, free = min(facts.free_bytes.items(), key=lambda item: item[1])
        told.append(f"At that moment {path} had {size_text(free)} free: make room there first.")
    if root.type in ("host_oom", "process_killed") and facts.memory_available is not None:
        told.append(f"At that moment {size_text(facts.memory_available)} of memory were available.")
    if root.type == "host_oom" and facts.oom_kills:
        told.append(
            f"The cgroup counted {facts.oom_kills} out-of-memory kills in this run: its limit is too low."
        )
    if root.type == "cuda_oom" and facts.gpu_foreign:
        told.append(f"Other processes hold memory on the GPU: {', '.join(facts.gpu_foreign)}.")
    return told
