"""Checkpoints: the saved states in a run's folder, by name, by size, and by whether a run can resume from them.

Only listing and measuring are loaded here, for the watchdog that idles. What opens checkpoints lies in
`trainguard.checkpoints.judging` (`judge_newest`, `judge_checkpoint`), `.contents` (`read_checkpoint`) and
`.pointers` (`read_pointers`, `pointer_text_for`, `best_of`).
"""

from trainguard.checkpoints.footprint import Footprint, has_grown, measure
from trainguard.checkpoints.listing import (
    Checkpoint,
    entries,
    find_folder,
    find_weights,
    list_checkpoints,
    list_saves,
    newest_checkpoint,
    parse_name,
)
from trainguard.checkpoints.verdicts import Judgement, Verdict

__all__ = (
    "Checkpoint",
    "Footprint",
    "Judgement",
    "Verdict",
    "entries",
    "find_folder",
    "find_weights",
    "has_grown",
    "list_checkpoints",
    "list_saves",
    "measure",
    "newest_checkpoint",
    "parse_name",
)
