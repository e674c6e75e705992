"""Processes: who they are, who belongs to a run, how one is born and how one is signalled.

Three rules hold everywhere in this room. A process is its `Identity`, never its number or name. A signal goes
out through a pidfd that was proven to be the recorded process. What may still be alive counts as alive.
"""

from trainguard.processes.birth import Newborn, environment_of_run, stand_at_gate
from trainguard.processes.family import (
    Mark,
    ancestors,
    become_subreaper,
    children_of,
    descendants,
    find_leader,
    has_children,
    living,
    read_command_line,
    read_directory,
    read_mark,
    reap,
    run_members,
    without_spared,
)
from trainguard.processes.identify import (
    Handle,
    Pollable,
    Process,
    all_processes,
    boot_id,
    is_gone,
    open_handle,
    parse_stat,
    read_exit_status,
    read_living,
    read_process,
    same_process,
    self_test,
    send_signal,
)

__all__ = [
    "Handle",
    "Mark",
    "Newborn",
    "Pollable",
    "Process",
    "all_processes",
    "ancestors",
    "become_subreaper",
    "boot_id",
    "children_of",
    "descendants",
    "environment_of_run",
    "find_leader",
    "has_children",
    "is_gone",
    "living",
    "open_handle",
    "parse_stat",
    "read_command_line",
    "read_directory",
    "read_exit_status",
    "read_living",
    "read_mark",
    "read_process",
    "reap",
    "run_members",
    "same_process",
    "self_test",
    "send_signal",
    "stand_at_gate",
    "without_spared",
]
