"""Checks of checkpoints: can the run resume, from how many of them, and does the next one fit."""

from collections.abc import Iterator, Mapping

from trainguard.checks.training import LEDGER, TRAINING
from trainguard.checks.values import (
    Absent,
    Check,
    Facts,
    Limit,
    Measure,
    Reading,
    Told,
    attention,
    bad,
    grade,
    ok,
    unknown,
)
from trainguard.health import Finding, Status
from trainguard.policy import WAITING
from trainguard.quantities import duration_text, size_text
from trainguard.saves import DEEP_SECONDS, Deep, Save, Saves, read_deep, read_saves
from trainguard.training import Ledger, Training

SAVES = Reading("checkpoints", Saves, lambda settings, deep: read_saves(settings), 8.0)
DEEP = Reading("whole checkpoints", Deep, read_deep, 2.0, DEEP_SECONDS)

SUBJECT = "checkpoints"
HALF_WRITTEN = "half-written-checkpoints"
# So many of the last sizes tell the next one: a merge or an adapter may have changed it before.
SIZES = 3
# A name says that it is a whole one only if it is not being written; what is written now is that old at most.
WRITTEN_SECONDS = 3600.0
# Who saves every half hour has nothing to show before that.
YOUNG_SECONDS = 1800.0
NOT_SET = Absent("checkpoints.directory is not set")
WRITING = "writing"


def _nothing(facts: Facts) -> Absent | None:
    """Why there is nothing to judge but that there is nothing, which checkpoint-newest tells."""
    now = facts.of(Saves)
    if now.directory is None:
        return NOT_SET
    return None if now.judged else Absent("there is no checkpoint (see checkpoint-newest)")


def _name(save: Save) -> str:
    return f"checkpoint {save.name}"


def _wholes(now: Saves) -> list[Save]:
    return [one for one in now.judged if one.is_whole]


# --- the newest ------------------------------------------------------------------------------------------------


def judge_newest(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    now = facts.of(Saves)
    if now.directory is None:
        yield NOT_SET
        return
    yield Measure("checkpoints_count", now.count)
    if not now.judged:
        yield _judge_none(facts, now)
        return
    newest = now.judged[0]
    before = next((one for one in now.judged[1:] if one.is_whole), None)
    subject = _name(newest)
    falls_back = "none of those before it that were looked at is whole"
    if before is not None:
        falls_back = f"{before.name} before it is whole"
    if newest.verdict is None:
        yield unknown(subject, f"could not be verified: {newest.reason}", "see whether its disk answers")
    elif newest.is_whole:
        yield ok(subject, f"is whole: {newest.reason}, {size_text(newest.size)}")
    elif newest.verdict == WRITING and not now.is_sure:
        fact = f"is not whole, and was written just now ({newest.reason}), by whom is not known; {falls_back}"
        yield unknown(
            subject, fact, "look again in a minute: what is still not whole then is left of a crash"
        )
    elif newest.verdict == WRITING:
        yield ok(subject, f"is being written ({newest.reason}); {falls_back}")
    else:
        fact = f"is {newest.verdict}: {newest.reason}; {falls_back}"
        remedy = "--fix sets it aside, or start through daemon_watchdog.py, which does"
        if not facts.settings.checkpoints.set_aside:
            remedy = "--fix sets it aside, or rename it, so that the run resumes from another"
        yield (bad if newest.spoils else attention)(subject, fact, remedy)
    if newest.step >= 0:
        yield Measure("checkpoint_newest_step", newest.step)


def _judge_none(facts: Facts, now: Saves) -> Told:
    earlier = [value for _, value in facts.past.series("checkpoints_count")]
    subject = f"checkpoint folder {now.directory}"
    if now.problem is not None:
        remedy = "see checkpoint-rights and disk-alive; without it nothing is known, and a resume begins anew"
        return bad(subject, f"cannot be listed: {now.problem}", remedy)
    if now.stray is not None:
        return unknown(
            subject, f"{now.stray} is in no layout that is known here", "try a resume from it by hand"
        )
    if earlier and earlier[-1] > 0:
        fact = f"holds no checkpoint, and held {earlier[-1]:.0f} at the last health check"
        return bad(subject, fact, "find out who removed them; see whether the right disk is mounted there")
    state = facts.of(Training).state
    step = state.highest_step
    is_there = "is not there" if now.folder is None else "holds no checkpoint"
    if state.run is None:
        return Absent(f"{subject} {is_there} yet, and nothing was started")
    age = facts.now_wall - state.run.began_wall
    if step and 0 <= age < YOUNG_SECONDS:
        return ok(subject, f"{is_there} yet; the run is {duration_text(age)} old")
    if step:
        remedy = (
            "set save_steps so that less than an hour is lost, and see that checkpoints.directory is right"
        )
        return attention(subject, f"{is_there}, and the run has made {step} steps: a crash loses all", remedy)
    return ok(subject, f"{is_there} yet, and the run has told no step")


def judge_age(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    now, training = facts.of(Saves), facts.of(Training)
    if (nothing := _nothing(facts)) is not None:
        yield nothing
        return
    walls = [one.wall for one in now.judged if one.wall is not None]
    walls += [one.wall for one in now.rows if one.wall is not None]
    newest = max(walls, default=None)
    if newest is None:
        yield unknown(SUBJECT, "none of them tells when it was changed")
        return
    age = facts.now_wall - newest
    yield Measure("checkpoint_age_seconds", age)
    run = training.state.run
    if not training.lives or run is None:
        yield Absent("the daemon does not run, so that none is due")
    elif run.ended or run.work in WAITING:
        yield Absent("the daemon waits or has finished, so that none is due")
    elif now.interval_seconds is None:
        yield Absent("the interval is not known before the second save of a step")
    else:
        # Since a restart no more than this can have passed.
        due = min(age, facts.now_wall - run.began_wall)
        times = max(0.0, due) / now.interval_seconds
        since = "since the start" if due < age else "ago"
        fact = f"the last save was {duration_text(due)} {since}, usually every {duration_text(now.interval_seconds)}"
        remedy = "see the log for why it does not save; a crash now loses all since then"
        yield grade(times, limits, SUBJECT, fact, remedy)


# --- room ------------------------------------------------------------------------------------------------------


def next_size(now: Saves) -> int | None:
    """The size of the next checkpoint in bytes: the largest of the last ones that lack nothing."""
    lacking = {one.name for one in now.judged if not one.is_whole}
    rows = [one.size for one in now.rows if one.lacks is None and one.name not in lacking][-SIZES:]
    sizes = rows or [one.size for one in _wholes(now)]
    return max(sizes, default=None)


def rotation_of(facts: Facts, now: Saves) -> str | None:
    """How old ones make room, None where nothing shows that they do."""
    if now.save_total_limit is not None:
        return f"save_total_limit {now.save_total_limit}"
    counts = facts.past.series("checkpoints_count")[-SIZES:]
    steps = facts.past.series("checkpoint_newest_step")[-SIZES:]
    newest = next((one.step for one in now.judged if one.step >= 0), None)
    has_gone_on = newest is not None and len(counts) >= 2 and bool(steps) and steps[0][1] < newest
    if has_gone_on and all(value == now.count for _, value in counts):
        return f"{now.count} were there at each look, and newer ones each time"
    # What a run saved at first is gone: it began at 0, or went on from one of them.
    run = facts.of(Training).state.run
    first = None if run is None else run.resumed_from or run.first_step
    if not now.rows or not now.interval_steps or first is None or now.count > len(now.rows):
        return None
    if now.rows[0].step > first + 1.5 * now.interval_steps:
        return f"{now.count} are kept, the oldest of step {now.rows[0].step}"
    return None


def judge_room(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    now = facts.of(Saves)
    if (nothing := _nothing(facts)) is not None:
        yield nothing
        return
    size = next_size(now)
    subject = f"disk of {now.folder}"
    if size is None or now.free is None:
        yield Absent("no whole checkpoint tells how large the next one is")
        return
    yield Measure("checkpoint_next_bytes", size)
    free = now.free
    if now.overwritten:
        yield _judge_overwritten(subject, size, free)
        return
    newest = now.judged[0]
    # What is being written has taken a part of its room already, or all but a few bytes if it was just finished.
    is_begun = newest.verdict == WRITING and size - newest.size > size // 50
    needed = size - newest.size if is_begun else size
    what = "the rest of the one being written" if is_begun else "the next checkpoint"
    fact = f"{size_text(free)} free, {what} needs {size_text(needed)}"
    rotation = rotation_of(facts, now)
    left = (free - needed) / size + 1 if size else float("inf")
    if free < needed:
        # transformers trainer.py, _save_checkpoint: the oldest goes once the new one is written.
        more = ", and rotation frees one only after it" if rotation else ""
        yield bad(subject, fact + more, "free space or lower save_total_limit")
    elif rotation:
        yield ok(subject, f"{fact}; rotation keeps it so ({rotation})")
    else:
        yield Measure("checkpoints_that_fit_count", int(left), "", limits["attention"], None, True)
        told = f"{fact}; {int(left)} more fit, and nothing shows that old ones are removed"
        yield grade(int(left), limits, subject, told, "free space or set save_total_limit", True)


def _judge_overwritten(subject: str, size: int, free: int) -> Finding:
    fact = f"{size_text(free)} free; one file of {size_text(size)} is written over in place"
    if free < size // 10:
        return attention(
            subject, fact, "one that grows a little does not fit, and the old one is gone by then"
        )
    return ok(subject, fact)


# --- what is beside and within ---------------------------------------------------------------------------------


def judge_pointer(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    now = facts.of(Saves)
    if (nothing := _nothing(facts)) is not None:
        yield nothing
        return
    if not now.pointers and now.pointer_expected is None:
        yield Absent("this layout has no pointer file")
    elif not now.pointers:
        fact = (
            f"no {now.pointer_expected} names the checkpoint to resume from: a framework begins anew without"
        )
        yield attention(
            f"checkpoint folder {now.folder}", fact, "name the newest whole one in it, or resume by its path"
        )
    wholes = [one for one in _wholes(now) if one.step >= 0]
    for pointer in now.pointers:
        subject = f"pointer {pointer.path}"
        named = next((one for one in now.judged if one.name == pointer.target), None)
        if pointer.problem is not None:
            yield bad(subject, pointer.problem, "--fix leads it to the newest whole one")
        elif named is not None and named.spoils:
            fact = f"names {named.name}, which is {named.verdict}: {named.reason}"
            yield bad(subject, fact, "--fix leads it to the newest whole one")
        elif wholes and wholes[0].name != pointer.target:
            fact = f"names {pointer.target}, and {wholes[0].name} is newer and whole"
            yield attention(
                subject, fact, "a resume goes back to the named one: name the newer, unless it is meant"
            )
        else:
            yield ok(subject, f"names {pointer.target}")


def judge_step(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    now = facts.of(Saves)
    telling = [one for one in now.judged if one.agrees and one.content_step is not None]
    if (nothing := _nothing(facts)) is not None or not telling:
        yield nothing or Absent("none that was looked at has its step both in its name and inside")
        return
    for one in telling:
        if one.content_step != one.step:
            fact = f"holds the state of step {one.content_step}"
            remedy = "somebody renamed or copied it: give it its name back, or set it aside"
            yield bad(_name(one), fact, remedy)
    if all(one.content_step == one.step for one in telling):
        named = ", ".join(str(one.step) for one in telling)
        yield ok(SUBJECT, f"the newest {len(telling)} hold the steps that they are named by: {named}")


def judge_spare(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    now = facts.of(Saves)
    if (nothing := _nothing(facts)) is not None:
        yield nothing
        return
    # A link to one of the others, as last.ckpt may be, is no second one.
    names = {one.name for one in now.judged} | {one.name for one in now.rows}
    alias = {link.name for link in now.links if link.target.rpartition("/")[2] in names}
    wholes = [one for one in _wholes(now) if one.name not in alias]
    told = f"{len(wholes)} of the newest {len(now.judged)} are whole"
    unverified = [one for one in now.judged if one.verdict is None]
    yield Measure("checkpoints_whole_count", len(wholes))
    if now.overwritten and wholes:
        if facts.settings.checkpoints.keep_copy:
            yield ok(
                SUBJECT, f"{wholes[0].name} is written over in place, and checkpoints.keep_copy keeps another"
            )
        else:
            fact = f"{wholes[0].name} is the only one and written over in place: a crash while it saves loses all"
            yield attention(SUBJECT, fact, "checkpoints.keep_copy: true keeps a verified copy")
    elif len(wholes) >= limits["attention"]:
        yield ok(SUBJECT, told)
    elif unverified:
        yield unknown(SUBJECT, f"{told}, {len(unverified)} could not be verified", "see checkpoint-newest")
    elif not wholes and any(one.verdict != WRITING for one in now.judged):
        yield bad(SUBJECT, f"{told}: there is none to resume from", "look further back, or begin anew")
    elif now.save_total_limit == 1:
        fact = f"{told}, and save_total_limit is 1: when it breaks there is no other"
        yield attention(SUBJECT, fact, "set save_total_limit to 2 or more")
    elif now.count > 1 or rotation_of(facts, now) is not None:
        yield attention(SUBJECT, f"{told}: when it breaks there is no other", "keep two whole ones or more")
    else:
        yield Absent("no more than one was saved so far")


def judge_leftovers(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    now = facts.of(Saves)
    if now.folder is None:
        yield NOT_SET if now.directory is None else Absent("the folder is not there, or cannot be listed")
        return
    size = sum(one.size for one in now.leftovers)
    yield Measure("checkpoint_leftovers_bytes", size)
    found = [*_judge_lying(facts, limits), *_judge_half_written(now)]
    if now.more_leftovers:
        found.append(
            attention(SUBJECT, f"{now.more_leftovers} more are left there", "look through the folder")
        )
    asides = [one for one in now.leftovers if one.is_aside]
    told = ""
    if asides:
        told = f"{len(asides)} were set aside lately, {size_text(sum(one.size for one in asides))}; else "
    yield from found or [ok(SUBJECT, f"{told}nothing half-written is left in {now.folder}")]


def _judge_lying(facts: Facts, limits: Mapping[str, float]) -> Iterator[Finding]:
    now = facts.of(Saves)
    for one in now.leftovers:
        age = None if one.wall is None else max(0.0, facts.now_wall - one.wall)
        since = "" if age is None else f", for {duration_text(age)}"
        fact = f"takes {size_text(one.size)}{since}"
        if one.is_aside:
            if age is not None and age >= limits["aside"]:
                remedy = "it was set aside by the watchdog: look at it, and delete it"
                yield attention(one.name, fact, remedy)
        elif not now.lives or age is None or age >= WRITTEN_SECONDS:
            yield attention(one.name, f"was never finished and {fact}", f"--fix {HALF_WRITTEN}, or delete it")


def _judge_half_written(now: Saves) -> Iterator[Finding]:
    newest = now.judged[0].name if now.judged else ""
    lacking = {one.name: one.lacks for one in now.rows if one.lacks is not None}
    lacking |= {one.name: one.reason for one in now.judged if one.verdict == "incomplete"}
    for name, reason in lacking.items():
        writing = any(one.name == name and one.verdict == WRITING for one in now.judged)
        if name != newest and not writing:
            yield attention(f"checkpoint {name}", f"is half-written: {reason}", f"--fix {HALF_WRITTEN}")


def judge_values(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    now = facts.of(Saves)
    looked = [one for one in now.judged if one.verdict not in (None, WRITING)]
    if (nothing := _nothing(facts)) is not None or not looked:
        yield nothing or Absent("none could be opened (see checkpoint-newest)")
        return
    strange = [one for one in looked if one.suspicion is not None]
    for one in strange:
        remedy = (
            "resume from one before it; with NaN, from before the loss was NaN, with a lower learning rate"
        )
        yield bad(_name(one), one.suspicion or "", remedy)
    if not strange:
        yield ok(
            SUBJECT,
            f"samples of the largest tensors of the newest {len(looked)} are finite and written to the end",
        )


def judge_weights_only(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    now = facts.of(Saves)
    if (nothing := _nothing(facts)) is not None:
        yield nothing
        return
    known = [one for one in now.judged if one.verdict in ("complete", "weights-only")]
    if not known:
        yield Absent("none is whole or holds weights (see checkpoint-newest)")
        return
    newest = known[0]
    if newest.verdict == "complete":
        yield ok(_name(newest), "holds the optimizer's state, as far as its layout has a place for it")
    elif newest.is_meant and newest.optimizer is not None:
        yield ok(_name(newest), f"holds {newest.optimizer}, in a form of this run's own")
    elif newest.is_meant:
        fact = f"{newest.reason}; a resume begins with a new optimizer"
        yield attention(
            _name(newest), fact, "save_only_model=False, save_weights_only=False, or as you mean it"
        )
    else:
        yield bad(_name(newest), newest.reason, "resume from one before it, which has that state")


def judge_link(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    now = facts.of(Saves)
    if not now.links:
        yield NOT_SET if now.directory is None else Absent("no symbolic link lies there")
        return
    for one in now.links:
        if one.dangles:
            fact = f"leads to {one.target}, which is not there"
            made = bad if one.is_save else attention
            yield made(f"link {one.name}", fact, "--fix renames it, or lead it to a checkpoint that is there")
    if not any(one.dangles for one in now.links):
        yield ok(SUBJECT, f"{_count(len(now.links), 'symbolic link')} there, none leads into the void")


def judge_cost(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    now, account = facts.of(Saves), facts.of(Ledger).account
    if now.seconds is None or now.interval_seconds is None:
        yield (
            NOT_SET
            if now.directory is None
            else Absent("how long a save takes, and how often, is not known yet")
        )
        return
    share = 100 * now.seconds / now.interval_seconds
    yield Measure("checkpoint_cost_percent", share, "", limits["share"])
    took, every = duration_text(now.seconds), duration_text(now.interval_seconds)
    fact = f"a save takes {took} every {every}, {share:.1f} % of the time"
    between = account.mean_seconds_between_failures
    if between is not None:
        from trainguard.accounting import advise_interval  # costs time, and only who had failures needs it

        advised = advise_interval(now.seconds, between)
        yield Measure("checkpoint_advised_interval_seconds", advised)
        fact += f"; {duration_text(advised)} wastes least at a failure every {duration_text(between)} (Young, Daly)"
        apart = max(now.interval_seconds / advised, advised / now.interval_seconds) if advised else 1.0
        if apart >= limits["factor"]:
            less = "more" if now.interval_seconds > advised else "less"
            yield attention(SUBJECT, fact, f"save {less} often: about every {duration_text(advised)}")
            return
    if share >= limits["share"]:
        yield attention(SUBJECT, fact, "save less often, asynchronously, or to a faster disk")
    else:
        yield ok(SUBJECT, fact)


def judge_rights(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    now = facts.of(Saves)
    rights = now.rights
    if rights is None:
        yield NOT_SET if now.directory is None else Absent("the folder is not there, or cannot be listed")
        return
    folder = now.folder or now.directory
    subject = f"checkpoint folder {folder}"
    who = f"user {rights.uid}"
    if not rights.writable or not rights.readable:
        what = "read" if rights.writable else "written" if rights.readable else "read or written"
        fact = f"cannot be {what} by {who}: it is user {rights.owner}'s, mode {rights.mode:o}"
        yield bad(subject, fact, f"--fix opens it, or chown {rights.uid} {folder}")
    if rights.closed:
        more = f" and {len(rights.closed) - 1} more" if len(rights.closed) > 1 else ""
        fact = f"{rights.closed[0]}{more} cannot be read by {who}: a resume fails"
        yield bad(subject, fact, f"chown -R {rights.uid} {folder}, or run as the user that saved them")
    if rights.mode & 0o002 and not rights.mode & 0o1000:
        fact = f"can be written by every user (mode {rights.mode:o}), and a checkpoint is code when torch loads it"
        yield attention(subject, fact, f"chmod o-w {folder}")
    elif rights.writable and rights.readable and not rights.closed:
        files = _count(rights.looked_at, "file")
        yield ok(subject, f"{who} can write it, and read {files} of the newest checkpoints")


def judge_deep(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    now = facts.of(Deep)
    if facts.settings.checkpoints.directory is None:
        yield NOT_SET
    elif not now.asked:
        yield Absent("only with --deep")
    elif not now.wholes and now.count:
        yield unknown(SUBJECT, "none of the newest is whole, so that none was read", "see checkpoint-newest")
    elif not now.wholes:
        yield Absent("there is no checkpoint (see checkpoint-newest)")
    for one in now.wholes:
        subject = f"checkpoint {one.name}"
        if one.vanished:
            yield ok(subject, "was removed while it was read, as rotation does")
            continue
        rate = one.size / one.seconds if one.seconds > 0 else 0.0
        yield Measure("checkpoint_read_bytes_per_second", rate)
        yield from (
            bad(subject, fault, "resume from another; it was damaged on its disk or on its way there")
            for fault in one.faults
        )
        yield from (
            unknown(subject, f"not all was read: {why}", "look again, see disk-errors") for why in one.unread
        )
        if not one.faults and not one.unread:
            largest = "" if one.largest is None else f", no magnitude above {one.largest:.4g}"
            yield ok(
                subject,
                f"all {size_text(one.size)} were read: {size_text(one.checked)} fit their checksums, "
                f"{_count(one.tensors, 'tensor')} without NaN{largest}",
            )


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


CHECKS = (
    Check(
        id="checkpoint-newest",
        component="checkpoints",
        explain="The newest checkpoint is whole. A resume dies of a half-written one, or loses its state in silence.",
        reads=(SAVES, TRAINING),
        answers_for=(SAVES,),
        judge=judge_newest,
        fix=HALF_WRITTEN,
        gates=True,
    ),
    Check(
        id="checkpoint-age",
        component="checkpoints",
        explain="How long ago the last save was, against the usual interval: what a crash now would lose.",
        reads=(SAVES, TRAINING),
        judge=judge_age,
        worst=Status.ATTENTION,
        limits=(Limit("attention", 3.0, "intervals", "a choice: one may fall into a restart, two do not"),),
    ),
    Check(
        id="checkpoint-room",
        component="checkpoints",
        explain="Whether the next checkpoint fits on its disk, by the size of the last ones, and how many after it.",
        reads=(SAVES, TRAINING),
        judge=judge_room,
        limits=(Limit("attention", 3.0, "checkpoints", "a choice: time to act before the last that fits"),),
        gates=True,
    ),
    Check(
        id="checkpoint-pointer",
        component="checkpoints",
        explain="Files like `latest` name a whole checkpoint that is there. On a broken one frameworks crash.",
        reads=(SAVES,),
        judge=judge_pointer,
        fix="broken-pointer",
        gates=True,
    ),
    Check(
        id="checkpoint-step",
        component="checkpoints",
        explain="The step in a checkpoint's name is that of its content. Else a resume goes back or repeats.",
        reads=(SAVES,),
        judge=judge_step,
    ),
    Check(
        id="checkpoint-spare",
        component="checkpoints",
        explain="There are two whole checkpoints. When a save breaks the only one, all is lost.",
        reads=(SAVES, TRAINING),
        judge=judge_spare,
        limits=(Limit("attention", 2.0, "checkpoints", "a choice: one to lose"),),
    ),
    Check(
        id="checkpoint-leftovers",
        component="checkpoints",
        explain="Half-written checkpoints besides the newest, and what was set aside: room that nobody uses.",
        reads=(SAVES,),
        judge=judge_leftovers,
        worst=Status.ATTENTION,
        limits=(Limit("aside", 7 * 86_400.0, "seconds", "a choice: by then somebody has looked at it"),),
        fix=HALF_WRITTEN,
    ),
    Check(
        id="checkpoint-values",
        component="checkpoints",
        explain="Samples of the largest tensors: no NaN, no infinity, no zeros where a power cut lost pages.",
        reads=(SAVES,),
        judge=judge_values,
    ),
    Check(
        id="checkpoint-weights-only",
        component="checkpoints",
        explain="The newest holds the optimizer's state too. Without, a resume goes on worse and says nothing.",
        reads=(SAVES,),
        judge=judge_weights_only,
    ),
    Check(
        id="checkpoint-link",
        component="checkpoints",
        explain="Symbolic links there, like last.ckpt, lead to something. Rotation may have removed it.",
        reads=(SAVES,),
        judge=judge_link,
        fix="dangling-link",
    ),
    Check(
        id="checkpoint-cost",
        component="checkpoints",
        explain="What saving costs, and how often it would waste the least time, by what failures there were.",
        reads=(SAVES, LEDGER),
        judge=judge_cost,
        worst=Status.ATTENTION,
        limits=(
            Limit(
                "factor", 4.0, "times", "Young (1974): 4 times off the best wastes (4 + 1/4) / 2 of the least"
            ),
            Limit("share", 10.0, "%", "a choice: a day in ten"),
        ),
    ),
    Check(
        id="checkpoint-rights",
        component="checkpoints",
        explain="The daemon's user can write the folder and read what lies there, and nobody else can write it.",
        reads=(SAVES,),
        judge=judge_rights,
        fix="closed-folder",
        gates=True,
    ),
    Check(
        id="checkpoint-deep",
        component="checkpoints",
        explain="With --deep: every byte of the newest two whole ones, against checksums (CRC-32) and for NaN.",
        reads=(DEEP,),
        answers_for=(DEEP,),
        judge=judge_deep,
    ),
)
