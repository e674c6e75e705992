"""Histories: lists of what was seen, and what the policy makes of them."""

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from trainguard.config import (
    CheckpointSettings,
    DaemonSettings,
    ProgressSettings,
    RestartSettings,
    Settings,
    WatchdogSettings,
)
from trainguard.identity import Identity
from trainguard.policy import (
    Alive,
    AtGate,
    Cause,
    Dismiss,
    Ending,
    Examine,
    Fork,
    Gone,
    How,
    Leftover,
    Phase,
    Prepare,
    Prepared,
    Release,
    Request,
    Seen,
    SetAside,
    Signal,
    Spoilt,
    Standing,
    State,
    Tell,
    decide,
    restarts_left,
    start_again,
)

SETTINGS = Settings(
    path=Path("config.yaml"),
    daemon=DaemonSettings(command=("train",)),
    progress=ProgressSettings(timeout=100.0, startup_timeout=1000.0),
    checkpoints=CheckpointSettings(save_timeout=50.0),
    watchdog=WatchdogSettings(poll_interval=1000.0),
    restart=RestartSettings(max_restarts=3, window=300.0, rounds=1, parked_retry=3600.0),
)
DAEMON = Identity(10, 100, "a", 1000)
CHILD = Leftover(Identity(11, 110, "a", 1000), "loader", "S")
CRASH = Gone(Ending(How.SIGNAL, 11))


class History:
    """A state, and the looks that lead on from it. With `prepares` what is asked for is there at once."""

    prepares = True

    def __init__(self, settings: Settings = SETTINGS, state: State | None = None) -> None:
        self.settings, self.state, self.boot = settings, state or State(), "a"
        self.actions: tuple[Any, ...] = ()
        self.found: dict[str, Any] = {}

    def see(self, now: float, daemon: Any = None, **facts: Any) -> "History":
        seen = Seen(now=now, wall=1e9 + now, boot=self.boot, token="t", daemon=daemon, **facts)
        self.state, self.actions = decide(self.state, seen, self.settings)
        if self.prepares and (asked := [one for one in self.actions if isinstance(one, Prepare)]):
            answer = replace(
                seen, prepared=Prepared(asked[0].subject, **self.found), request=None, first=False
            )
            self.state, more = decide(self.state, answer, self.settings)
            self.actions += more
        if self.prepares and (asked := [one for one in self.actions if isinstance(one, Examine)]):
            answer = replace(seen, examined=asked[0].incident_id, request=None, first=False)
            self.state, more = decide(self.state, answer, self.settings)
            self.actions += more
        return self

    def alive(self, now: float, step: int | None = None, **facts: Any) -> "History":
        run = self.state.run
        assert run is not None
        return self.see(
            now, Alive(DAEMON, run.id, adopted=False), standing=Standing(step=step, total=900), **facts
        )

    def start(self, now: float) -> "History":
        return self.see(now).see(now, AtGate(DAEMON))

    def crash(self, now: float) -> "History":
        return self.see(now, CRASH)

    def crash_on(self, now: float) -> "History":
        """A crash, and the newborn let through if there is one."""
        self.crash(now)
        return self.see(now, AtGate(DAEMON)) if self.state.phase is Phase.STARTING else self

    def did(self, kind: type) -> bool:
        return any(isinstance(action, kind) for action in self.actions)

    def signals(self) -> list[tuple[Identity, str]]:
        return [(action.target, action.signal) for action in self.actions if isinstance(action, Signal)]

    def told(self, event: str) -> bool:
        return any(isinstance(action, Tell) and action.event == event for action in self.actions)


def with_section(section: str, **values: Any) -> Settings:
    return replace(SETTINGS, **{section: replace(getattr(SETTINGS, section), **values)})


def test_the_first_start_is_free_and_three_restarts_follow_it_at_once() -> None:
    history = History().start(0.0)
    assert restarts_left(history.state, 0.0, SETTINGS) == 3
    for now in (1.0, 2.0, 3.0):
        assert history.crash_on(now).state.phase is Phase.RUNNING
    assert history.crash(4.0).state.phase is Phase.COOLING


@pytest.mark.parametrize(("now", "forks"), [(300.9, False), (301.0, True), (301.1, True)])
def test_the_fourth_restart_waits_until_the_first_is_a_window_ago(now: float, forks: bool) -> None:
    history = History().start(0.0).crash_on(1.0).crash_on(2.0).crash_on(3.0).crash(4.0)
    assert history.see(now).did(Fork) is forks


def parked() -> History:
    history = History().start(0.0)
    for now in (1.0, 2.0, 3.0, 4.0):
        history.crash_on(now)
    return history.start(301.0).crash(301.1)


@pytest.mark.parametrize(("late", "forks"), [(-0.1, False), (0.0, True), (0.1, True)])
def test_a_parked_daemon_is_tried_every_hour(late: float, forks: bool) -> None:
    history = parked()
    assert history.state.phase is Phase.PARKED
    assert history.state.next_try is not None
    again = history.state.next_try
    assert again == 3901.1
    assert history.see(again + late).did(Fork) is forks


def test_a_new_step_resets_the_rounds_and_never_the_window() -> None:
    history = History(state=State(rounds=1)).start(0.0).crash_on(1.0)
    history.alive(2.0, 5).alive(3.0, 5)
    assert history.state.rounds == 1
    history.alive(4.0, 6)
    assert history.state.rounds == 0
    assert restarts_left(history.state, 4.0, SETTINGS) == 2


@pytest.mark.parametrize(("now", "hung"), [(111.9, False), (112.0, True), (112.1, True)])
def test_a_daemon_that_made_steps_is_hung_after_the_timeout(now: float, hung: bool) -> None:
    history = History().start(0.0).alive(11.0, 1).alive(12.0, 2).alive(now, 2)
    assert (history.state.phase is Phase.STOPPING) is hung


@pytest.mark.parametrize(("now", "hung"), [(999.9, False), (1000.0, True), (1000.1, True)])
def test_a_daemon_without_a_second_step_is_hung_after_the_startup_timeout(now: float, hung: bool) -> None:
    history = History().start(0.0).alive(11.0, 1).alive(now, 1)
    assert (history.state.phase is Phase.STOPPING) is hung


@pytest.mark.parametrize("why", ["observe", "paused"])
def test_a_hang_is_only_told_once_where_nothing_may_be_done(why: str) -> None:
    settings = with_section("progress", mode="observe") if why == "observe" else SETTINGS
    history = History(settings).start(0.0).alive(1.0, 1).alive(2.0, 2)
    history.alive(3.0, 2, request=Request.PAUSE if why == "paused" else None)
    assert history.alive(200.0, 2).told("hung")
    assert history.signals() == []
    assert not history.alive(201.0, 2).told("hung")
    assert history.alive(202.0, 3).told("recovered")


def test_without_any_progress_source_it_is_said_once_and_never_hung() -> None:
    history = History().start(0.0).alive(999.0)
    assert not history.told("no_progress_source")
    assert history.alive(1000.0).told("no_progress_source")
    assert not history.alive(9000.0).told("no_progress_source")
    assert history.state.phase is Phase.RUNNING


def hung(**facts: Any) -> History:
    return History().start(0.0).alive(1.0, 1).alive(2.0, 2).alive(102.0, 2, **facts)


def test_the_ladder_of_stopping_continues_a_stopped_daemon_and_ends_with_kill() -> None:
    history = hung()
    assert history.signals() == [(DAEMON, "SIGTERM"), (DAEMON, "SIGCONT")]
    assert history.alive(161.9, 2).signals() == []
    assert history.alive(162.0, 2).signals() == [(DAEMON, "SIGKILL")]
    assert not history.alive(171.9, 2).told("stuck")
    assert history.alive(172.0, 2).told("stuck")
    assert not history.alive(999.0, 2).did(Fork)


@pytest.mark.parametrize(("now", "kills"), [(211.9, False), (212.0, True)])
def test_a_save_holds_back_the_kill_for_its_timeout(now: float, kills: bool) -> None:
    history = hung().alive(162.0, 2, saving=True)
    assert history.told("saving")
    assert history.signals() == []
    assert bool(history.alive(now, 2, saving=True).signals()) is kills


def test_exit_0_after_our_stop_for_a_hang_is_not_finished() -> None:
    history = hung().see(103.0, Gone(Ending(How.EXIT, 0)))
    assert history.did(Fork)
    assert history.state.phase is Phase.STARTING


def test_leftovers_get_term_then_a_grace_then_kill_and_stuck_ones_are_named() -> None:
    history = History().start(0.0).see(1.0, CRASH, leftovers=(CHILD,))
    assert history.signals() == [(CHILD.identity, "SIGTERM"), (CHILD.identity, "SIGCONT")]
    assert history.see(5.9, CRASH, leftovers=(CHILD,)).signals() == []
    assert history.see(6.0, CRASH, leftovers=(CHILD,)).signals() == [(CHILD.identity, "SIGKILL")]
    stuck = replace(CHILD, state="D")
    assert not history.see(15.9, CRASH, leftovers=(stuck,)).told("stuck")
    assert history.see(16.2, CRASH, leftovers=(stuck,)).told("stuck")
    assert "state D" in history.state.reason
    assert not history.did(Fork)
    assert history.see(17.0, CRASH).did(Fork)


def test_orphans_report_touches_nobody_and_starts_nothing_beside_them() -> None:
    history = History(with_section("watchdog", orphans="report")).start(0.0)
    for now in (1.0, 100.0):
        history.see(now, CRASH, leftovers=(CHILD,))
        assert (history.signals(), history.did(Fork)) == ([], False)
    assert history.see(101.0, CRASH).did(Fork)


def test_nothing_starts_while_it_is_unproven_that_nobody_lives() -> None:
    history = History().start(0.0).see(1.0, CRASH, proven=False)
    assert not history.did(Fork)
    assert history.see(2.0, CRASH).did(Fork)


@pytest.mark.parametrize(
    ("ending", "standing", "finished"),
    [
        (Ending(How.EXIT, 0), Standing(), True),
        (Ending(How.EXIT, 1), Standing(step=900, total=900), False),
        (Ending(How.UNKNOWN), Standing(step=899, total=900), False),
        (Ending(How.UNKNOWN), Standing(step=900, total=900), True),
        (Ending(How.UNKNOWN), Standing(step=901, total=900), True),
        (Ending(How.UNKNOWN), Standing(ended=True), True),
        (Ending(How.UNKNOWN), Standing(), False),
        (Ending(How.REBOOT), Standing(), False),
        (Ending(How.NOT_STARTED), Standing(), False),
    ],
)
def test_which_ending_is_finished(ending: Ending, standing: Standing, finished: bool) -> None:
    history = History().start(0.0).see(1.0, Gone(ending), standing=standing)
    assert (history.state.phase is Phase.FINISHED) is finished
    assert history.did(Fork) is not finished


def test_after_success_begins_again() -> None:
    history = History(with_section("restart", after_success=True)).start(0.0)
    assert history.see(1.0, Gone(Ending(How.EXIT, 0))).did(Fork)


def test_stop_leaves_the_daemon_and_an_ended_state_stays_ended_until_a_start() -> None:
    history = History().start(0.0).alive(1.0, request=Request.STOP)
    assert history.state.phase is Phase.STOPPED
    assert history.signals() == []
    ended = history.state
    assert history.crash(2.0).state == ended
    assert history.actions == ()
    history.state = start_again(ended)
    assert history.alive(3.0).state.phase is Phase.RUNNING


def test_stop_with_daemon_ends_stopped_and_not_restarted() -> None:
    history = History().start(0.0).alive(1.0, request=Request.STOP_WITH_DAEMON)
    assert history.signals()[0] == (DAEMON, "SIGTERM")
    assert history.crash(2.0).state.phase is Phase.STOPPED
    assert not history.did(Fork)


def test_stop_with_daemon_ends_one_that_is_met_at_the_same_look() -> None:
    history = History().see(
        0.0, Alive(DAEMON, "old", adopted=True), first=True, request=Request.STOP_WITH_DAEMON
    )
    assert history.signals()[0] == (DAEMON, "SIGTERM")
    assert history.state.run is not None
    assert history.state.run.identity == DAEMON
    assert history.see(1.0, Gone(Ending(How.UNKNOWN))).state.phase is Phase.STOPPED


def test_a_child_at_the_gate_is_sent_away_when_a_person_leaves_or_pauses() -> None:
    for request in (Request.LEAVE, Request.STOP, Request.STOP_WITH_DAEMON, Request.PAUSE):
        history = History().see(0.0).see(0.1, AtGate(DAEMON), request=request)
        assert history.did(Dismiss), request
        assert not history.did(Release), request


def test_leave_keeps_the_phase_and_a_later_watchdog_goes_on() -> None:
    history = History().start(0.0).alive(1.0, request=Request.LEAVE)
    assert (history.state.phase, history.state.watching) == (Phase.RUNNING, False)


def test_a_pause_starts_nothing_and_resume_begins_at_once() -> None:
    history = History().start(0.0).alive(1.0, request=Request.PAUSE).crash(2.0)
    assert not history.see(50.0).did(Fork)
    assert history.see(51.0, request=Request.RESUME).did(Fork)


def test_a_start_forgives_the_rounds_of_a_parked_daemon_but_not_its_window() -> None:
    history = parked()
    history.see(301.5, request=Request.START)
    assert (history.state.phase, history.state.rounds, history.did(Fork)) == (Phase.COOLING, 0, False)
    assert history.see(302.0).did(Fork)


def test_start_again_tries_a_parked_daemon_as_soon_as_the_window_allows() -> None:
    history = parked()
    history.state = start_again(history.state)
    assert not history.see(301.5).did(Fork)
    assert history.see(302.0).did(Fork)


def test_a_start_that_a_dead_watchdog_left_undone_counts_from_its_real_birth() -> None:
    history = History().start(0.0).crash(1.0)
    assert history.see(500.0).did(Fork)
    history.see(500.0, AtGate(DAEMON))
    assert restarts_left(history.state, 501.0, SETTINGS) == 2


def test_a_start_that_gave_way_to_leftovers_is_still_counted() -> None:
    history = History().start(0.0).crash(1.0).see(500.0, leftovers=(CHILD,)).see(501.0)
    assert history.did(Fork)
    assert history.state.restarts == (501.0,)


def test_after_a_reboot_the_window_is_as_full_as_it_was() -> None:
    history = History().start(5000.0).crash_on(5001.0).crash_on(5002.0).crash_on(5003.0)
    history.boot = "b"
    history.see(1.0, Gone(Ending(How.REBOOT)))
    assert history.state.phase is Phase.COOLING
    assert not history.see(297.9).did(Fork)
    assert history.see(298.0).did(Fork)


def test_a_daemon_that_runs_is_adopted_and_its_unseen_time_is_not_held_against_it() -> None:
    history = History().see(0.0, Alive(DAEMON, "old", adopted=True), first=True)
    assert history.told("adopted")
    assert not history.did(Fork)
    assert history.state.run is not None
    assert (history.state.run.id, history.state.run.moved_at) == ("old", 0.0)


def test_a_daemon_that_somebody_started_while_a_hung_one_was_cleared_is_adopted() -> None:
    history = hung().see(103.0, CRASH, leftovers=(CHILD,)).see(104.0, Alive(DAEMON, None, adopted=True))
    assert (history.state.phase, history.state.stop_reason, history.did(Fork)) == (Phase.RUNNING, None, False)


def test_a_command_that_hands_over_to_another_process_stays_the_same_run() -> None:
    history = History().start(0.0).alive(1.0)
    run = history.state.run
    assert run is not None
    history.see(2.0, Alive(replace(DAEMON, pid=99), run.id, adopted=False))
    assert history.told("handed_over")
    assert history.state.run is not None
    assert (history.state.run.id, history.state.run.identity) == (run.id, replace(DAEMON, pid=99))


def test_an_incident_closes_at_the_first_step_beyond_the_end_and_knows_the_steps_lost() -> None:
    history = History().start(0.0).alive(1.0, 10).alive(2.0, 57)
    history.see(3.0, CRASH, checkpoint_step=50).see(3.5, AtGate(DAEMON))
    for now, step in ((4.0, 51), (5.0, 57)):
        incident = history.alive(now, step).state.incident
        assert incident is not None
        assert not incident.closed
    incident = history.alive(6.0, 58).state.incident
    assert incident is not None
    assert (incident.closed, incident.steps_lost, incident.first_new_step) == (True, 7, 58)
    assert (incident.seconds_to_new_process, incident.seconds_to_new_step) == (0.5, 3.0)


def test_orphans_may_train_on_until_they_have_saved() -> None:
    settings = with_section("watchdog", orphans="drain", drain_timeout=100.0)
    history = History(settings).start(0.0).alive(5.0, step=12, checkpoint_step=10)
    history.see(10.0, CRASH, leftovers=(CHILD,), checkpoint_step=10)
    assert history.told("draining") and not history.signals()
    assert not history.see(20.0, CRASH, leftovers=(CHILD,), checkpoint_step=20, saving=True).signals()
    assert history.see(30.0, CRASH, leftovers=(CHILD,), checkpoint_step=20).signals()[0][1] == "SIGTERM"
    assert history.see(31.0, CRASH, checkpoint_step=20).did(Fork)


@pytest.mark.parametrize(("now", "stopped"), [(109.9, False), (110.0, True)])
def test_orphans_that_never_save_are_stopped_at_the_limit(now: float, stopped: bool) -> None:
    settings = with_section("watchdog", orphans="drain", drain_timeout=100.0)
    history = History(settings).start(0.0).alive(5.0, step=12, checkpoint_step=10)
    history.see(10.0, CRASH, leftovers=(CHILD,), checkpoint_step=10)
    assert bool(history.see(now, CRASH, leftovers=(CHILD,), checkpoint_step=10).signals()) is stopped


def test_where_no_checkpoint_folder_is_named_orphans_are_stopped_at_once() -> None:
    history = History(with_section("watchdog", orphans="drain")).start(0.0).alive(5.0, step=12)
    assert history.see(10.0, CRASH, leftovers=(CHILD,)).signals()


@pytest.mark.parametrize(("waited", "forks"), [(3599.9, False), (3600.0, True)])
def test_room_on_the_disk_is_waited_for_no_longer_than_a_parked_daemon_waits(
    waited: float, forks: bool
) -> None:
    history = History().start(0.0)
    history.found = {"free": 1, "needed": 2}
    assert history.crash(10.0).told("disk") and history.state.phase is Phase.COOLING
    assert not history.see(70.0, CRASH).did(Fork) and not history.told("disk")
    assert history.see(10.0 + waited, CRASH).did(Fork) is forks


def test_a_start_goes_on_as_soon_as_there_is_room() -> None:
    history = History().start(0.0)
    history.found = {"free": 1, "needed": 2}
    history.crash(10.0)
    history.found = {"free": 2, "needed": 2}
    assert history.see(69.9, CRASH).did(Fork) is False
    assert history.see(70.0, CRASH).did(Fork) is True


def test_an_answer_to_an_earlier_question_is_none() -> None:
    history = History().start(0.0)
    history.prepares = False
    history.crash(10.0)
    assert history.state.phase is Phase.PREPARING
    assert not history.see(11.0, CRASH, prepared=Prepared("another#1")).did(Fork)
    assert history.see(130.0, CRASH).did(Fork)


BAD = Spoilt("/data/out/checkpoint-30", 30, "incomplete", "it is cut off")


def test_what_is_set_aside_is_looked_at_again_before_the_start() -> None:
    history = History().start(0.0)
    history.prepares = False
    history.crash(10.0)
    found = Prepared(
        history.state.run.id + "#2", spoilt=(BAD,), resume="/data/out/checkpoint-20", resume_step=20
    )  # type: ignore[union-attr]
    history.see(10.5, CRASH, prepared=replace(found, verified=True))
    assert history.did(SetAside) and not history.did(Fork)
    clean = Prepared(
        f"{history.state.run.id}#3", resume="/data/out/checkpoint-20", resume_step=20, verified=True
    )  # type: ignore[union-attr]
    assert history.see(11.0, CRASH, prepared=clean).did(Fork)
    assert history.state.run is not None and history.state.run.resumed_from == 20


def test_what_a_watchdog_was_setting_aside_when_it_died_is_told_by_the_next() -> None:
    history = History().start(0.0)
    history.prepares = False
    history.crash(10.0)
    run_id = history.state.run.id  # type: ignore[union-attr]
    history.see(10.5, CRASH, prepared=Prepared(f"{run_id}#2", spoilt=(BAD,), verified=True))
    history.see(20.0, CRASH, first=True)
    (told,) = [one.text for one in history.actions if isinstance(one, Tell) and one.event == "set_aside"]
    assert "died while it set aside checkpoint-30" in told
    assert history.did(Prepare) and history.state.aside == ()


def test_what_only_the_first_look_noted_is_told_once_the_second_is_over() -> None:
    history = History().start(0.0)
    history.prepares = False
    history.crash(10.0)
    run_id = history.state.run.id  # type: ignore[union-attr]
    history.see(10.5, CRASH, prepared=Prepared(f"{run_id}#2", spoilt=(BAD,), notes=("a", "b"), verified=True))
    assert not history.told("note")
    history.see(11.0, CRASH, prepared=Prepared(f"{run_id}#3", notes=("b", "c"), verified=True))
    notes = [action.text for action in history.actions if isinstance(action, Tell) and action.event == "note"]
    assert notes == ["a", "b", "c"] and history.state.noted == ()


def test_what_could_not_be_set_aside_is_told_and_not_tried_again_for_this_start() -> None:
    history = History().start(0.0)
    history.found = {
        "spoilt": (BAD,),
        "resume": "/data/out/checkpoint-20",
        "resume_step": 20,
        "verified": True,
    }
    history.crash(10.0)
    history.see(
        11.0, CRASH, checkpoint_step=30, prepared=Prepared(f"{history.state.run.id}#3", **history.found)
    )  # type: ignore[union-attr]
    assert history.told("spoilt") and history.did(Fork)
    assert history.state.run is not None and history.state.run.resumed_from == 30


def test_a_start_that_its_watchdog_did_not_live_to_make_is_prepared_anew_and_counted_once() -> None:
    history = History().start(0.0).crash(10.0)
    assert history.state.phase is Phase.STARTING
    history.see(20.0, first=True)
    assert history.did(Prepare) and history.did(Fork)
    assert len(history.state.restarts) == 1


def test_parked_for_a_cause_it_says_so_after_each_try() -> None:
    cause = Cause("gpu_hardware", "gpu_lost", "no", "g", verdicts=("repair",))
    history = History().start(0.0)
    history.found = {"cause": cause}
    history.crash(10.0)
    assert history.state.phase is Phase.PARKED and "gpu_lost" in history.state.reason
    history.see(10.0 + 3600.0, CRASH).see(3611.0, AtGate(DAEMON)).crash(3612.0)
    assert history.state.phase is Phase.PARKED and "gpu_lost" in history.state.reason
