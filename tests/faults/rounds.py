"""Rounds: a scenario played once over a running world, judged, and put into one line."""

import time
from collections.abc import Callable, Sequence
from random import Random

import msgspec

from tests.faults.evidence import ServerLog, read_rows, reconcile
from tests.faults.journal import Journal, Mark, read
from tests.faults.judge import Row, Rules, Verdict, judge
from tests.faults.load import Load, Step, mixed
from tests.faults.world import World

VOID_TIMEOUT_S = 60.0  # promise 1: voided within a minute
_LOOK_AGAIN_S = 0.5
_COUNTS = (
    *("answered", "refused", "broken", "voided", "answered_and_voided"),
    *("lost", "doubled", "overrun", "orphaned", "unexplained"),
)


class Round:
    """One round while it is played: what a scenario acts with.

    Attributes:
        rng: every choice of the scenario comes from it.
        seconds: how long the scenario's main part takes.
        findings: what the scenario itself sees going wrong.
    """

    def __init__(self, world: World, name: str, seed: int, clients: int, seconds: float) -> None:
        self.world = world
        self.name = name
        self.seed = seed
        self.clients = clients
        self.seconds = seconds
        self.rng = Random(f"{name} {seed}")
        self.findings: list[str] = []
        self.started_s = time.time()
        self.journal = Journal(world.folder / f"{name}-{seed}-{int(self.started_s)}.jsonl")
        self._loads = 0
        self._killed_in_flight = 0
        self._log = ServerLog(world.database_log)

    def load(self, steps: Sequence[Step] | None = None) -> Load:
        """Clients at work while the block lasts; by default with calls of all kinds."""
        everyone = steps or [mixed(self.world.customers)] * self.clients
        self._loads += 1
        return Load(self.world.url, self.journal, everyone, f"{self.name} {self.seed} {self._loads}")

    def sleep(self, low: float, high: float) -> None:
        """Let a part of the round pass: between `low` and `high` of its `seconds`, as the seed has it."""
        time.sleep(self.rng.uniform(low, high) * self.seconds)

    def mark(self, what: str) -> Mark:
        """Write down what is about to be done to the system."""
        return self.journal.mark(what)

    def mark_kill(self, what: str) -> None:
        """The same, where a worker dies: calls in flight may be answered and voided."""
        self._killed_in_flight += self.mark(what).in_flight

    def expect(self, holds: bool, otherwise: str) -> None:
        """A promise that the scenario checks itself."""
        if not holds:
            self.findings.append(otherwise)

    def rows(self) -> list[Row]:
        """The round's usage rows so far."""
        return read_rows(self.world.database_url, self.started_s)

    def judge(self, rules: Rules) -> "Judged":
        """Judge the round, giving voids the time they have."""
        rules = msgspec.structs.replace(rules, killed_in_flight=self._killed_in_flight)
        deadline_s = time.time() + VOID_TIMEOUT_S
        while True:
            verdict = judge(read(self.journal.path), self.rows(), rules)
            if not verdict.awaits_voids or time.time() > deadline_s:
                break
            time.sleep(_LOOK_AGAIN_S)
        found = (*self.findings, *verdict.findings, *reconcile(self.world.stack), *self._log.deadlocks())
        self.journal.close()
        verdict = msgspec.structs.replace(verdict, findings=found)
        return Judged(self, rules, verdict, time.time())


class Judged:
    """A round that is over."""

    def __init__(self, played: Round, rules: Rules, verdict: Verdict, ended_s: float) -> None:
        self.name = played.name
        self.seed = played.seed
        self.verdict = verdict
        self.journal = played.journal.path
        self._rules = rules
        self._played = played
        self._ended_s = ended_s

    def with_overrun(self, overrun: int) -> "Judged":
        """The same, with what a cap was passed by."""
        verdict = msgspec.structs.replace(self.verdict, overrun=overrun)
        return Judged(self._played, self._rules, verdict, self._ended_s)

    def judge_again(self) -> tuple[str, ...]:
        """What is wrong with the round's calls now: nothing may have come or gone since."""
        rows = read_rows(self._played.world.database_url, self._played.started_s, self._ended_s)
        return judge(read(self.journal), rows, self._rules).findings

    def line(self) -> str:
        """The round in one line, and a line for each finding."""
        took_s = self._ended_s - self._played.started_s
        counts = ", ".join(f"{name.replace('_', ' ')} {getattr(self.verdict, name)}" for name in _COUNTS)
        head = f"seed {self.seed} {self.name}: {counts} ({took_s:.1f} s)"
        return "\n".join([head, *(f"  FOUND {finding}" for finding in self.verdict.findings)])


def total(rounds: Sequence[Judged]) -> str:
    """Everything added up, in one line."""
    sums = {name: sum(getattr(one.verdict, name) for one in rounds) for name in _COUNTS}
    counts = ", ".join(f"{value:,} {name.replace('_', ' ')}" for name, value in sums.items())
    return f"{len(rounds)} rounds: {counts}"


Scenario = Callable[[Round], Judged]
