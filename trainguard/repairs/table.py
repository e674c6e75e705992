"""The table of repairs: a row each, in the order in which they are carried out."""

from trainguard.repairs.lives import (
    plan_ensure_watchdog,
    plan_raise_open_files,
    plan_shared_memory,
    plan_stale_pid_file,
    plan_stop_orphans,
)
from trainguard.repairs.openings import plan_closed_folders, plan_missing_folders, plan_open_permissions
from trainguard.repairs.run_files import (
    plan_broken_history,
    plan_broken_records,
    plan_broken_state,
    plan_leftover_files,
    plan_long_logs,
    plan_stuck_request,
)
from trainguard.repairs.saves import (
    CHECKPOINT_SECONDS,
    plan_broken_pointer,
    plan_dangling_link,
    plan_half_written,
)
from trainguard.repairs.values import Repair

BY_ITSELF = "the watchdog holds the run folder and does this itself before the next start"

_ROWS = (
    # What these change, a watchdog and its daemon never change, so that they need not be stopped for it.
    Repair(
        "closed-folder",
        "Let this user enter, read and write its own run folder and checkpoint folder.",
        plan_closed_folders,
        needs_lock=False,
    ),
    Repair(
        "open-permissions",
        "Take the right to write config.yaml and the run folder from everybody else.",
        plan_open_permissions,
        needs_lock=False,
    ),
    Repair(
        "missing-folders",
        "Make the folders that the settings name; none below a mount that is not mounted.",
        plan_missing_folders,
        needs_lock=False,
    ),
    Repair(
        "stop-orphans",
        "Stop what a dead run of this daemon left alive, by the rules of the watchdog. Not undone.",
        plan_stop_orphans,
        undoable=False,
        meanwhile=BY_ITSELF,
        seconds=20.0,
    ),
    Repair(
        "stale-pid-file",
        "Rename a PID file whose process has ended, or whose number is another process's now.",
        plan_stale_pid_file,
        meanwhile="the watchdog holds the run folder and heeds no such file",
    ),
    Repair(
        "stuck-request",
        "Take a request away that no watchdog is there to answer.",
        plan_stuck_request,
        meanwhile="the watchdog holds the run folder and answers it",
    ),
    Repair(
        "broken-state",
        "Set a state aside that cannot be understood, and begin a new one.",
        plan_broken_state,
        meanwhile="the watchdog holds the run folder and writes it anew",
    ),
    Repair(
        "half-written-checkpoints",
        "Rename checkpoints that would spoil a resume, and lead pointers away from them.",
        plan_half_written,
        meanwhile=BY_ITSELF,
        seconds=CHECKPOINT_SECONDS,
    ),
    Repair(
        "broken-pointer",
        "Have a pointer file that names no checkpoint name the one to resume from.",
        plan_broken_pointer,
        meanwhile=BY_ITSELF,
        seconds=CHECKPOINT_SECONDS,
    ),
    Repair(
        "dangling-link", "Rename links in the checkpoint folder that lead to nothing.", plan_dangling_link
    ),
    Repair("long-logs", "Rename over-long logs, so that new ones begin.", plan_long_logs, seconds=20.0),
    Repair(
        "leftover-files",
        "Move temporary files of ours out of the way that are older than an hour.",
        plan_leftover_files,
        seconds=20.0,
    ),
    Repair(
        "broken-history",
        "Set a damaged crash history aside and make it anew of the incidents.",
        plan_broken_history,
        meanwhile="the watchdog holds the run folder; its next diagnosis sets it aside",
        seconds=30.0,
    ),
    Repair(
        "broken-records",
        "Set aside what health checks and incidents wrote and nobody can understand.",
        plan_broken_records,
        seconds=20.0,
    ),
    Repair(
        "leftover-shared-memory",
        "Move what dead runs left in shared memory into the run folder, where there is room.",
        plan_shared_memory,
        needs_lock=False,
        seconds=20.0,
    ),
    Repair(
        "raise-open-files",
        "Raise the living daemon's soft limit of open files to its hard limit.",
        plan_raise_open_files,
        needs_lock=False,
    ),
    # The last, since it needs the lock itself.
    Repair(
        "ensure-watchdog",
        "Start a watchdog where one should run and does not. Not undone.",
        plan_ensure_watchdog,
        needs_lock=False,
        undoable=False,
    ),
)
REPAIRS: dict[str, Repair] = {row.id: row for row in _ROWS}
