"""News of problems: what is told when, what is not repeated, and what an earlier process told already."""

from __future__ import annotations

from datetime import timedelta

import msgspec

from backupd.control import StatusReply
from backupd.store.ledger import Gap, Ledger
from backupd.views import Problem, ScheduleView, Severity
from daemon import condition, keeping_condition
from daemon.delivery import Notification
from daemon.messages import Level, Message
from daemon.problem_news import GapNews, NewsWatch, ProblemNews
from tests.world.clocks import START, FakeClock

NO_BACKUP = Problem(severity=Severity.DANGER, name=condition.NO_BACKUP, message="NO BACKUP", hint="turn on")
LAG = Problem(severity=Severity.ATTENTION, name="recording_is_behind", message="9 entries behind", hint="?")
MAIL = "mail"


def at(seconds: float):
    return START + timedelta(seconds=seconds)


def looks(news: ProblemNews, *steps: tuple[float, list[Problem]]) -> list[tuple[float, str, bool]]:
    """Return what is told at each look: when, the level, whether it is over."""
    return [
        (seconds, message.level.value, message.is_over)
        for seconds, problems in steps
        for message in news.of_problems(problems, at(seconds))
    ]


def test_a_critical_problem_is_told_at_once_and_once() -> None:
    """It is told at the first look, not at the next ones, and its end once it has stayed away."""
    told = looks(
        ProblemNews(MAIL), (0, [NO_BACKUP]), (15, [NO_BACKUP]), (30, []), (45, []), (60, []), (75, [])
    )
    assert told == [(0, "critical", False), (60, "information", True)]


def test_each_account_that_lost_much_is_told() -> None:
    """A second account is news though the first is known; lifting one tells that this one is over."""
    first, second = (
        Problem(
            severity=Severity.ATTENTION,
            name=keeping_condition.MASS_DELETION,
            message=f"retention of {name} …",
            hint="?",
        )
        for name in ("alice", "bob")
    )
    told = looks(ProblemNews(MAIL), (0, [first]), (5, [first, second]), (10, [second]), (40, [second]))
    assert told == [(0, "critical", False), (5, "critical", False), (40, "information", True)]


def test_what_does_not_last_is_not_told() -> None:
    """A lesser problem is told only once it lasted; one that goes soon is told neither way."""
    assert looks(ProblemNews(MAIL), (0, [LAG]), (15, []), (60, []), (90, [])) == []
    assert looks(ProblemNews(MAIL), (0, [LAG]), (15, [LAG]), (30, [LAG])) == [(30, "warning", False)]


def test_changing_figures_make_no_new_problem() -> None:
    """A problem is known by its name, whatever the figures in its sentence are by now."""
    more = msgspec.structs.replace(LAG, message="7,000 entries behind")
    assert looks(ProblemNews(MAIL), (0, [LAG]), (30, [more]), (45, [LAG])) == [(30, "warning", False)]
    nameless = [
        Problem(severity=Severity.DANGER, message=f"{number:,} files lie: x") for number in (7, 1_700)
    ]
    assert len(looks(ProblemNews(MAIL), (0, [nameless[0]]), (30, [nameless[1]]))) == 1


def test_a_problem_that_comes_and_goes_is_told_once_an_hour_but_never_forgotten() -> None:
    """One that is back within the hour is told again only after it, if it is still there then."""
    told = looks(
        ProblemNews(MAIL),
        (0, [NO_BACKUP]), (60, []), (90, []), (120, [NO_BACKUP]), (180, []), (240, []),
        (300, [NO_BACKUP]), (3_599, [NO_BACKUP]), (3_600, [NO_BACKUP]), (3_615, [NO_BACKUP]),
    )  # fmt: skip
    assert told == [(0, "critical", False), (90, "information", True), (3_600, "critical", False)]


def test_each_damage_is_its_own_problem() -> None:
    """Two damaged files are told as two."""
    damages = [
        Problem(severity=Severity.DANGER, name=condition.DAMAGED, message=f"damaged: items/{number}")
        for number in (1, 2)
    ]
    assert len(looks(ProblemNews(MAIL), (0, damages), (30, damages))) == 2


def test_failed_operations_and_unsent_notifications_are_no_news() -> None:
    """What is told otherwise, and that nothing can be told, makes no message."""
    names = (condition.OPERATION_FAILED, condition.UNSENT, condition.GAP)
    problems = [Problem(severity=Severity.DANGER, name=name, message=name) for name in names]
    assert looks(ProblemNews(MAIL), (0, problems), (60, problems)) == []


def test_a_restart_tells_nothing_twice_and_forgets_no_end() -> None:
    """What an earlier process told is known: not told again while it lasts, and told as over when it goes."""
    told = [
        Notification(
            id="1",
            time=at(-7200),
            level=Level.CRITICAL,
            subject="s",
            text="t",
            about=condition.NO_BACKUP,
            facts={"message": "NO BACKUP"},
        )
    ]
    news = ProblemNews(MAIL)
    news.recall(told)
    assert looks(news, (0, [NO_BACKUP]), (60, [NO_BACKUP])) == []
    news.recall(told)
    assert looks(news, (90, []), (120, [])) == [(120, "information", True)]
    over = [msgspec.structs.replace(told[0], is_over=True), *told]
    again = ProblemNews(MAIL)
    again.recall(over)
    assert looks(again, (0, [NO_BACKUP])) == [(0, "critical", False)]


def test_missed_runs_are_told_once() -> None:
    """A run missed between two looks is told once; one from long before the start is not."""
    news = ProblemNews(MAIL)
    old = ScheduleView(job="SmartScan", last_missed=at(-90_000))
    assert news.of_runs([old], START) == []
    new = ScheduleView(job="SmartScan", last_missed=at(5), missed=1)
    assert [one.level for one in news.of_runs([new], at(15))] == [Level.WARNING]
    assert news.of_runs([new], at(30)) == []
    assert len(ProblemNews(MAIL).of_runs([new], at(60))) == 1


def gap(number: int, account: str = "alice") -> Gap:
    return Gap(number, account, "sequence_hole", "events 2 to 3", START, START, None)


def test_gaps_are_told_at_once_then_together() -> None:
    """The first gap is told at once, its healing too; more within the hour wait and are told together."""
    news = GapNews(MAIL)
    (first,) = news.look([gap(1)], {1}, at(0))
    assert (first.level, first.facts["opened"], first.facts["open"]) == (Level.WARNING, 1, 1)
    (healed,) = news.look([], set(), at(15))
    assert (healed.level, healed.facts["healed"]) == (Level.INFORMATION, 1)
    assert news.look([gap(2)], set(), at(30)) == []
    assert news.look([gap(3), gap(4)], {4}, at(45)) == []
    (later,) = news.look([], {4}, at(4_000))
    assert (later.facts["opened"], later.facts["healed"], later.facts["open"]) == (3, 2, 1)
    assert news.look([], {4}, at(9_000)) == []


def test_gaps_of_before_are_no_news_but_their_healing_is() -> None:
    """Gaps that were open at the start are not told again; that they healed is."""
    news = GapNews(MAIL, [gap(1), gap(2)])
    assert news.look([], {1, 2}, at(0)) == []
    assert news.look([], {2}, at(15)) == []
    (healed,) = news.look([], set(), at(30))
    assert healed.facts["healed"] == 2


def test_gaps_stay_quiet_over_restarts() -> None:
    """A daemon that starts again and again, and loses its session each time, tells its gaps once an hour."""
    news = GapNews(MAIL, [gap(1)], told=at(-60))
    assert [one.facts["healed"] for one in news.look([], set(), at(0))] == [1]
    news = GapNews(MAIL, told=at(-60))
    assert news.look([gap(2)], {2}, at(0)) == []
    assert len(news.look([], {2}, at(3_600))) == 1


async def test_the_watch_reads_ledger_and_status(tmp_path) -> None:
    """Gaps that open in the ledger and problems in the status reach whoever is told, at the next look."""
    ledger, clock = Ledger(tmp_path / "state.sqlite"), FakeClock()
    ledger.open_gap("old", "sequence_hole", "", START)
    told: list[Message] = []

    async def status() -> StatusReply:
        return StatusReply(
            server_id="1", server_name="m", backup_path="/b", started=START, now=START, problems=(NO_BACKUP,)
        )

    watch = NewsWatch(ledger, told.append, server=MAIL, clock=clock)
    await watch.load([])
    await watch._look(status)
    ledger.open_gap("alice", "sequence_hole", "", START)
    ledger.close_gap(2, START)
    await watch._look(status)
    assert [message.facts["what"] for message in told] == ["problem", "gaps"]
    assert told[1].facts["gaps"][0]["account"] == "alice"
    ledger.close()
