"""The judge: lays what clients saw beside the usage rows, and says what does not fit.

It knows the promises, not the code. Of the rows it knows: `entry` 0 of a call is its charge, 1 takes it back
(`calls` -1, or 0 where a part is taken back), 2 charges it again, and so on; a call's net is the sum.

- An answer has its call's row, for the units that the client expected, and the row is not taken back, but
  for calls in flight when a worker was killed.
- A call that nobody got an answer for is taken back. Kept is one where the client itself went away for good.
- A request is charged once, however often it was sent; two requests never share a charge.
- No row is there that no client's attempt explains.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from fractions import Fraction

import msgspec

from tests.faults.journal import Ended, Entry, Sent

NEVER = float("inf")
_SHOWN = 5  # examples in a finding


class Row(msgspec.Struct, frozen=True):
    """One usage row. `call_id` is 32 hexadecimal digits."""

    call_id: str
    slice: int
    entry: int
    calls: int
    units: int
    tenant_id: str
    key_id: str
    meter: str


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """What a scenario's faults excuse; nothing by default.

    Attributes:
        refusals: statuses that clients may get besides success.
        may_break_after_s: attempts sent later than this may end without a complete answer.
        killed_in_flight: attempts under way when a worker was killed, over all kills: as many calls may have
            been answered and voided.
        may_leave: clients may give a request up, and its charge stays.
    """

    refusals: frozenset[int] = frozenset()
    may_break_after_s: float = NEVER
    killed_in_flight: int = 0
    may_leave: bool = False


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen. `findings` is empty when every promise was kept.

    Attributes:
        answered: requests answered.
        refused: attempts refused.
        broken: attempts that ended without a complete answer.
        voided: calls that were taken back.
        answered_and_voided: of those, calls whose answer a client has.
        lost: answers without a row.
        doubled: calls charged more than once, and requests charged under more than one call.
        orphaned: calls charged, not answered, and not taken back.
        unexplained: calls that no attempt explains.
        awaits_voids: how many of all these a void that is still to come would mend.
    """

    answered: int = 0
    refused: int = 0
    broken: int = 0
    voided: int = 0
    answered_and_voided: int = 0
    lost: int = 0
    doubled: int = 0
    orphaned: int = 0
    unexplained: int = 0
    overrun: int = 0
    awaits_voids: int = 0
    findings: tuple[str, ...] = ()


class Attempt(msgspec.Struct, frozen=True):
    """One attempt, whole."""

    sent: Sent
    ended: Ended

    @property
    def is_answered(self) -> bool:
        return self.ended.outcome == "answered"

    @property
    def may_be_charged(self) -> bool:
        """No success came, and no word that nothing was done."""
        return self.ended.outcome == "broken" or (self.ended.status or 0) >= 500

    @property
    def signature(self) -> "Signature":
        return (self.sent.tenant_id, self.sent.key_id, self.sent.meter, self.sent.units)


Signature = tuple[str, str, str, int]  # by which a row can be laid to an attempt that never saw its call's id


class Call:
    """The rows of one call."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self.rows = sorted(rows, key=lambda row: (row.slice, row.entry))
        self.id = self.rows[0].call_id
        self.net_calls = sum(row.calls for row in self.rows)
        self.net_units = sum(row.units for row in self.rows)

    @property
    def signature(self) -> Signature:
        first = self.rows[0]
        units = sum(row.units for row in self.rows if row.entry == 0)
        return (first.tenant_id, first.key_id, first.meter, units)

    @property
    def is_well_formed(self) -> bool:
        """Charged at most once at any time, for no more than at first, and never less than nothing."""
        calls = units = 0
        for place, row in enumerate(self.rows):
            calls, units = calls + row.calls, units + row.units
            is_charge = row.entry % 2 == 0
            if row.entry != place or (row.units < 0 if is_charge else row.units > 0):
                return False
            if calls not in (0, 1) or not 0 <= units <= self.rows[0].units:
                return False
        return self.rows[0].calls == 1

    @property
    def is_voided_in_part(self) -> bool:
        return self.net_calls == 1 and 0 <= self.net_units < self.signature[3]


def attempts_of(entries: Iterable[Entry]) -> list[Attempt]:
    """Attempts that have ended, in the order of their ends."""
    sent: dict[int, Sent] = {}
    found: list[Attempt] = []
    for entry in entries:
        if isinstance(entry, Sent):
            sent[entry.attempt] = entry
        elif isinstance(entry, Ended):
            found.append(Attempt(sent[entry.attempt], entry))
    return found


def calls_of(rows: Iterable[Row]) -> dict[str, Call]:
    """Calls by id."""
    grouped: defaultdict[str, list[Row]] = defaultdict(list)
    for row in rows:
        grouped[row.call_id].append(row)
    return {call_id: Call(group) for call_id, group in grouped.items()}


def judge(entries: Sequence[Entry], rows: Iterable[Row], rules: Rules) -> Verdict:
    """Lay the journal beside the rows."""
    attempts = attempts_of(entries)
    calls = calls_of(rows)
    findings = [*_judge_manners(attempts, rules)]
    under_way = sum(isinstance(entry, Sent) for entry in entries) - len(attempts)
    if under_way:
        findings.append(f"{under_way} attempts have no end in the journal")
    answers = {attempt.ended.call_id: attempt for attempt in attempts if attempt.is_answered}

    lost = [call_id for call_id in answers if call_id not in calls]
    mismatched = [
        call_id
        for call_id, answer in answers.items()
        if call_id in calls and not _fits(answer, calls[call_id])
    ]
    malformed = [call.id for call in calls.values() if not call.is_well_formed]
    voided = [call.id for call in calls.values() if call.net_calls == 0]
    taken_back = [
        call_id
        for call_id in answers
        if call_id in calls and (call_id in voided or calls[call_id].is_voided_in_part)
    ]
    shared, split = _judge_requests(attempts)
    orphaned, charged_again, unexplained = _judge_unanswered(attempts, calls, set(answers), rules)

    _tell(findings, "answers without a row", lost)
    _tell(findings, "answers that do not fit their rows", mismatched)
    _tell(findings, "calls whose rows make no sense", malformed)
    _tell(findings, "calls that answered more than one request", shared)
    _tell(findings, "requests answered under more than one call", split)
    _tell(findings, "requests charged under more than one call", charged_again)
    _tell(findings, "calls charged, not answered, and not voided", orphaned)
    _tell(findings, "calls that no attempt explains", unexplained)
    if len(taken_back) > rules.killed_in_flight:
        excused = f"{rules.killed_in_flight} were in flight at a kill"
        _tell(findings, f"calls answered and voided ({excused})", taken_back)
    return Verdict(
        answered=len({attempt.sent.request for attempt in attempts if attempt.is_answered}),
        refused=sum(attempt.ended.outcome == "refused" for attempt in attempts),
        broken=sum(attempt.ended.outcome == "broken" for attempt in attempts),
        voided=len(voided),
        answered_and_voided=len(taken_back),
        lost=len(lost),
        doubled=len(malformed) + len(shared) + len(split) + len(charged_again),
        orphaned=len(orphaned),
        unexplained=len(unexplained),
        awaits_voids=len(orphaned) + len(charged_again),
        findings=tuple(findings),
    )


def _judge_manners(attempts: Iterable[Attempt], rules: Rules) -> list[str]:
    """Refusals that the scenario does not excuse, or that do not say when to try again."""
    findings: list[str] = []
    unexcused: Counter[str] = Counter()
    bare: Counter[str] = Counter()
    for attempt in attempts:
        ended = attempt.ended
        if ended.outcome == "broken" and attempt.sent.at_s < rules.may_break_after_s:
            unexcused["no complete answer"] += 1
        if ended.outcome == "refused" and ended.status not in rules.refusals:
            unexcused[f"{ended.status} {ended.code}"] += 1
        if ended.status in (429, 503) and not ended.retry_after:
            bare[f"{ended.status} {ended.code}"] += 1
        if ended.outcome == "refused" and not ended.code:
            bare[f"{ended.status} without a code"] += 1
    findings += [f"{count} clients got an error: {what}" for what, count in unexcused.items()]
    findings += [f"{count} refusals without Retry-After or code: {what}" for what, count in bare.items()]
    return findings


def _fits(answer: Attempt, call: Call) -> bool:
    """The client, the answer's headers and the charge speak of the same thing."""
    says = (answer.sent.tenant_id, answer.sent.key_id, answer.ended.meter, answer.ended.units)
    return answer.signature == says == call.signature


def _judge_requests(attempts: Iterable[Attempt]) -> tuple[list[str], list[str]]:
    """Calls that answered two requests; requests whose answers differ in their call or their JSON."""
    requests_of: defaultdict[str | None, set[str]] = defaultdict(set)
    answers_of: defaultdict[str, set[tuple[str | None, str | None]]] = defaultdict(set)
    for attempt in attempts:
        if attempt.is_answered:
            requests_of[attempt.ended.call_id].add(attempt.sent.request)
            answers_of[attempt.sent.request].add((attempt.ended.call_id, attempt.ended.digest))
    shared = [str(call_id) for call_id, requests in requests_of.items() if len(requests) > 1]
    split = [request for request, answers in answers_of.items() if len(answers) > 1]
    return shared, split


def _judge_unanswered(
    attempts: Sequence[Attempt], calls: dict[str, Call], answered: set[str | None], rules: Rules
) -> tuple[list[str], list[str], list[str]]:
    """Calls without an answer: those not taken back, those of requests answered under another call, and
    those that no attempt explains."""
    seen = {attempt.ended.call_id for attempt in attempts if attempt.ended.outcome == "broken"}
    served = {attempt.sent.request for attempt in attempts if attempt.is_answered}
    excuses = Counter(attempt.signature for attempt in attempts if attempt.may_be_charged)
    retried = Counter(
        attempt.signature
        for attempt in attempts
        if attempt.sent.is_retried and attempt.sent.request in served
    )
    given_up = Counter(
        {
            (attempt.sent.request, attempt.signature)
            for attempt in attempts
            if attempt.sent.request not in served
        }
        if rules.may_leave
        else ()
    )
    left = Counter(signature for _, signature in given_up)
    orphaned: list[str] = []
    charged_again: list[str] = []
    unexplained: list[str] = []
    for call in calls.values():
        if call.id in answered:
            continue
        excuses[call.signature] -= 1
        if excuses[call.signature] < 0 and not retried[call.signature]:
            unexplained.append(call.id)
        elif call.net_calls == 0 or (call.id in seen and call.is_voided_in_part):
            continue
        elif left[call.signature] > 0:
            left[call.signature] -= 1
        elif retried[call.signature]:
            charged_again.append(call.id)
        else:
            orphaned.append(call.id)
    return orphaned, charged_again, unexplained


def _tell(findings: list[str], what: str, examples: Sequence[str]) -> None:
    if examples:
        findings.append(f"{len(examples)} {what}: {', '.join(examples[:_SHOWN])}")


class Tier(msgspec.Struct, frozen=True):
    """Units up to `up_to_units` of the month (None: all further ones) cost `nanos` for every `per_units`."""

    up_to_units: int | None
    nanos: int
    per_units: int


def rated_nanos(units: int, tiers: Iterable[Tier]) -> Fraction:
    """What the month's first `units` cost on graduated tiers, exactly."""
    total, reached = Fraction(0), 0
    for tier in tiers:
        ends = units if tier.up_to_units is None else min(units, tier.up_to_units)
        total += Fraction(tier.nanos * max(0, ends - reached), tier.per_units)
        reached = max(reached, ends)
    return total


def net_units(rows: Iterable[Row], meter: str, *, tenant_id: str, key_id: str | None = None) -> int:
    """What a tenant, or one of its keys, is charged for."""
    return sum(
        row.units
        for row in rows
        if row.meter == meter and row.tenant_id == tenant_id and key_id in (None, row.key_id)
    )
