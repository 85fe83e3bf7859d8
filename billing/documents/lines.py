"""An invoice's lines in words. Pure."""

from datetime import datetime, timedelta
from fractions import Fraction
from zoneinfo import ZoneInfo

from billing.documents import amounts
from billing.documents.facts import Facts
from billing.documents.paper import LineBlock, TierRow
from billing.documents.words import Texts
from billing.invoices import InvoiceLine
from billing.money import Currency, format_percent
from billing.periods import period_labelled
from billing.prices import TierUse


class LineWriter:
    """Writes the lines of one invoice."""

    def __init__(self, facts: Facts, unit: Currency, say: Texts) -> None:
        self._plans = facts.plans
        self._period = facts.invoice.period
        self._zone = ZoneInfo(facts.invoice.time_zone)
        self._unit = unit
        self._say = say

    def block(self, line: InvoiceLine) -> LineBlock:
        """One line: what it is for, and all that its amount comes from."""
        if line.meter:
            return self._usage(line, line.meter)
        if line.kind == "discount":
            return self._discount(line)
        return self._minimum(line) if line.kind == "minimum" else self._credit(line)

    def _usage(self, line: InvoiceLine, meter: str) -> LineBlock:
        say = self._say
        calls = say("call" if line.calls == 1 else "calls", count=amounts.count(line.calls))
        plan = self._plans.get(line.price_version_id or "")
        detail = say("calls_and_plan", calls=calls, plan=plan) if plan else calls
        notes = self._prices_from(line)
        is_plain = len(line.tiers) == 1 and (line.tiers[0].from_units, line.tiers[0].up_to_units) == (0, None)
        if line.model == "package" or (line.model in ("graduated", "volume") and not is_plain):
            notes.append(say(line.model))
        return LineBlock(
            number=line.line,
            title=say(meter),
            detail=detail,
            units=amounts.quantity(meter, line.units, say),
            price=self._price(line.tiers[0], line, meter) if is_plain else "",
            exact=self._exact(Fraction(line.exact_nanos)),
            amount=self._amount(line),
            tiers=() if is_plain else tuple(self._tier(use, line, meter) for use in line.tiers),
            notes=tuple(notes),
        )

    def _tier(self, use: TierUse, line: InvoiceLine, meter: str) -> TierRow:
        return TierRow(
            amounts.tier_range(meter, use.from_units, use.up_to_units, self._say),
            amounts.quantity(meter, use.units, self._say),
            self._price(use, line, meter),
            self._exact(Fraction(use.amount_nanos)),
        )

    def _price(self, use: TierUse, line: InvoiceLine, meter: str) -> str:
        if not use.nanos:
            return self._say("free")
        return amounts.price(use.nanos, line.per_units or 1, meter, self._unit, self._say)

    def _discount(self, line: InvoiceLine) -> LineBlock:
        percent, detail = "", ""
        if line.basis:
            percent = format_percent(line.basis["discount_ppm"])
            of = self._exact(Fraction(line.basis["of_nanos"]))
            detail = self._say("discount_basis", percent=percent, amount=of)
        return LineBlock(
            number=line.line,
            title=self._say("discount", percent=percent).strip(),
            detail=detail,
            exact=self._exact(Fraction(line.exact_nanos)),
            amount=self._amount(line),
            notes=tuple(self._prices_from(line)),
        )

    def _minimum(self, line: InvoiceLine) -> LineBlock:
        notes: list[str] = []
        month = period_labelled(line.usage_period, self._zone)
        month_us = (month.ends_at - month.starts_at) // timedelta.resolution
        for commitment in line.basis.get("commitments", ()):
            amount, share = self._exact(Fraction(commitment["minimum_nanos"])), Fraction(commitment["share"])
            if share == 1:
                notes.append(self._say("commitment", amount=amount))
            else:
                held, of = (amounts.span(part * month_us, self._say) for part in (share, Fraction(1)))
                plan = commitment.get("plan", "")
                notes.append(self._say("commitment_share", plan=plan, amount=amount, held=held, of=of))
        if "reached_nanos" in line.basis:
            reached = self._exact(Fraction(line.basis["reached_nanos"]))
            is_late = line.usage_period != self._period
            notes.append(self._say("reached_late" if is_late else "reached", amount=reached))
        return LineBlock(
            number=line.line,
            title=self._say("minimum"),
            exact=self._exact(Fraction(line.exact_nanos)),
            amount=self._amount(line),
            notes=tuple(notes),
        )

    def _credit(self, line: InvoiceLine) -> LineBlock:
        taken = self._exact(Fraction(line.basis["credit_nanos"]))
        return LineBlock(
            number=line.line,
            title=self._say("credit"),
            detail=self._say("credit_basis", amount=taken),
            amount=self._amount(line),
        )

    def _prices_from(self, line: InvoiceLine) -> list[str]:
        """Since when the line's prices held, where they were changed within the month."""
        if "from" not in line.basis:
            return []
        moment = datetime.fromisoformat(line.basis["from"]).astimezone(self._zone)
        return [self._say("prices_from", moment=amounts.moment(moment, self._say))]

    def _exact(self, nanos: Fraction) -> str:
        return amounts.exact_money(nanos, self._unit)

    def _amount(self, line: InvoiceLine) -> str:
        return amounts.money(line.amount_minor, self._unit)
