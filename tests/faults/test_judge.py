"""The judge can tell: each made-up wrong is found, and what is right is not."""

from fractions import Fraction

import pytest

from tests.faults.journal import Ended, Entry, Journal, Mark, Outcome, Sent, read
from tests.faults.judge import NEVER, Row, Rules, Tier, Verdict, judge, net_units, rated_nanos

CALLS = [f"{number:032x}" for number in range(9)]
KILLS = Rules(refusals=frozenset({503}), may_break_after_s=0, killed_in_flight=1)


class Story:
    """A made-up round: attempts and rows, written down one by one."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.rows: list[Row] = []

    def attempt(
        self,
        outcome: Outcome = "answered",
        call: int | None = None,
        *,
        request: str | None = None,
        units: int = 2,
        says: int = 2,
        status: int | None = None,
        code: str | None = "service_unavailable",
        retry_after: str | None = "1",
        digest: str | None = None,
        is_retried: bool = False,
    ) -> "Story":
        number = len(self.entries)
        self.entries.append(
            Sent(
                at_s=1.0,
                attempt=number,
                request=request or f"request {number}",
                tenant_id="ten_a",
                key_id="key_a",
                meter="intent.calls",
                units=units,
                is_retried=is_retried,
            )
        )
        answered = outcome == "answered"
        self.entries.append(
            Ended(
                at_s=2.0,
                attempt=number,
                outcome=outcome,
                status=status or (200 if answered else 503 if outcome == "refused" else None),
                call_id=None if call is None else CALLS[call],
                meter="intent.calls" if answered else None,
                units=says if answered else None,
                code=None if answered else code,
                retry_after=None if answered else retry_after,
                digest=digest,
            )
        )
        return self

    def row(
        self, call: int, entry: int = 0, *, calls: int | None = None, units: int | None = None
    ) -> "Story":
        sign = 1 if entry % 2 == 0 else -1
        self.rows.append(
            Row(
                call_id=CALLS[call],
                slice=0,
                entry=entry,
                calls=sign if calls is None else calls,
                units=2 * sign if units is None else units,
                tenant_id="ten_a",
                key_id="key_a",
                meter="intent.calls",
            )
        )
        return self

    def judged(self, rules: Rules = KILLS) -> Verdict:
        return judge(self.entries, self.rows, rules)


def test_answers_with_their_rows_and_voided_calls_without_answers_are_right() -> None:
    story = Story().attempt(call=0).row(0).attempt("broken").row(1).row(1, 1).attempt("refused")
    verdict = story.judged()
    assert verdict.findings == ()
    assert (verdict.answered, verdict.broken, verdict.refused, verdict.voided) == (1, 1, 1, 1)


@pytest.mark.parametrize(
    ("story", "counted"),
    [
        (Story().attempt(call=0), "lost"),
        (Story().attempt(call=0).row(0).row(0, 2), "doubled"),
        (Story().attempt(call=0).row(0).row(0, 1).row(0, 2).row(0, 4), "doubled"),
        (Story().attempt(call=0).row(0, units=2, calls=2), "doubled"),
        (Story().attempt(call=0).row(0).row(0, 1, units=-3), "doubled"),
        (Story().attempt(call=0).attempt(call=0).row(0), "doubled"),
        (Story().attempt("broken").row(0), "orphaned"),
        (Story().attempt("refused").row(0), "orphaned"),
        (Story().attempt(call=0).row(0).row(1), "unexplained"),
        (Story().attempt(call=0).row(0).row(1).row(1, 1), "unexplained"),
        (Story().attempt("broken", units=3, says=3).row(0).row(0, 1), "unexplained"),
        (Story().attempt("broken").row(0).row(0, 1).row(1).row(1, 1), "unexplained"),
        (Story().attempt("refused", status=402).row(0).row(0, 1), "unexplained"),
    ],
)
def test_a_wrong_row_or_answer_is_found(story: Story, counted: str) -> None:
    verdict = story.judged()
    assert getattr(verdict, counted) == 1
    assert verdict.findings


@pytest.mark.parametrize(
    "story",
    [
        Story().attempt(call=0, says=3).row(0),
        Story().attempt(call=0, units=3).row(0),
        Story().attempt(call=0).row(0, units=3),
    ],
)
def test_an_answer_that_does_not_fit_its_charge_is_found(story: Story) -> None:
    assert ["do not fit" in finding for finding in story.judged().findings] == [True]


def test_answered_and_voided_are_excused_up_to_those_in_flight_at_a_kill() -> None:
    story = Story().attempt(call=0).row(0).row(0, 1)
    assert (story.judged().answered_and_voided, story.judged().findings) == (1, ())
    story.attempt(call=1).row(1).row(1, 1, calls=0, units=-1)
    assert story.judged().answered_and_voided == 2
    assert story.judged().findings


def test_nothing_is_excused_that_was_answered_and_voided_where_nobody_was_killed() -> None:
    assert Story().attempt(call=0).row(0).row(0, 1).judged(Rules()).findings


def test_a_stream_that_broke_may_be_voided_in_part_or_whole_but_not_kept() -> None:
    assert Story().attempt("broken", 0).row(0).row(0, 1, calls=0, units=-1).judged().findings == ()
    assert Story().attempt("broken", 0).row(0).row(0, 1).judged().findings == ()
    assert Story().attempt("broken", 0).row(0).judged().orphaned == 1


def test_a_request_that_was_sent_again_is_charged_once() -> None:
    again = {"request": "again", "is_retried": True}
    once = Story().attempt("broken", **again).attempt(call=0, **again).row(0)
    assert once.judged().findings == ()
    assert once.row(1).judged().doubled == 1
    rerun = Story().attempt("broken", **again).attempt(call=0, **again).row(0).row(0, 1).row(0, 2)
    assert rerun.judged().findings == ()
    split = Story().attempt(call=0, **again).row(0).attempt(call=1, **again).row(1)
    assert split.judged().doubled == 1


def test_a_replay_differs_from_its_first_answer_by_no_byte() -> None:
    again = {"request": "again", "is_retried": True, "call": 0}
    assert Story().attempt(digest="x", **again).attempt(digest="x", **again).row(0).judged().findings == ()
    assert Story().attempt(digest="x", **again).attempt(digest="y", **again).row(0).judged().doubled == 1


def test_a_client_that_went_away_for_good_keeps_its_one_charge() -> None:
    rules = Rules(may_break_after_s=0, may_leave=True)
    gone = {"request": "gone", "is_retried": True}
    story = Story().attempt("broken", **gone).attempt("broken", **gone).row(0)
    assert story.judged(rules).findings == ()
    assert story.row(1).judged(rules).orphaned == 1


def test_errors_that_the_scenario_does_not_excuse_are_found() -> None:
    assert Story().attempt("refused").judged(Rules()).findings
    assert Story().attempt("refused", status=500).judged().findings
    assert Story().attempt("broken").judged(Rules(may_break_after_s=NEVER)).findings
    assert Story().attempt("refused", retry_after=None).judged().findings
    assert Story().attempt("refused", code=None).judged().findings


def test_units_of_a_capped_tenant_are_added_up_voids_included() -> None:
    rows = Story().row(0).row(1).row(1, 1).row(2).rows
    assert net_units(rows, "intent.calls", tenant_id="ten_a") == 4
    assert net_units(rows, "intent.calls", tenant_id="ten_a", key_id="key_b") == 0
    assert net_units(rows, "tts.characters", tenant_id="ten_a") == 0


def test_money_is_rated_over_a_tiers_edge() -> None:
    tiers = [Tier(100, 400, 1), Tier(1000, 320, 1), Tier(None, 250, 3)]
    assert rated_nanos(99, tiers) == 99 * 400
    assert rated_nanos(101, tiers) == 100 * 400 + 320
    assert rated_nanos(1001, tiers) == 100 * 400 + 900 * 320 + Fraction(250, 3)


def test_a_journal_is_read_as_it_was_written_without_a_line_that_was_cut(tmp_path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    facts = {"request": "r", "tenant_id": "t", "key_id": "k", "meter": "m", "units": 1}
    assert [journal.sent(**facts), journal.sent(**facts)] == [1, 2]
    journal.ended(Ended(at_s=2.0, attempt=2, outcome="broken"))
    assert journal.mark("kill").in_flight == 1
    journal.close()
    with journal.path.open("ab") as file:
        file.write(b'{"type":"mark","at_s":')
    assert [type(entry) for entry in read(journal.path)] == [Sent, Sent, Ended, Mark]
    assert judge(read(journal.path), [], KILLS).findings == ("1 attempts have no end in the journal",)
