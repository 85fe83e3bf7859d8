"""What it costs: meters, money, prices, caps, the ledger, usage, receipts, invoices, alerts.

Owns the database schema `billing`, and `procrastinate` for the billing worker's jobs. Refuses a charge for a
tenant without an account, a second use of a call's id for another call, a call that would pass a cap, a
change to a price version or to what is issued, an approval by who made or changed it, a webhook to an address
that is not public, and any amount that is not an integer.

From charges to money, file by file:
    price_files, price_versions, plan_changes   what a month costs; previews and what-if replay it
    closing, sealing                            a month ends: its rows get a digest
    runs, drafts, statement                     what it comes to, as an invoice for everybody
    risk, review, issuing                       two people look, and it gets its number
    proofs, drilldown                           every line back to its calls, and computed anew
    credit_notes, crediting, corrections        what was wrong, by documents that name it
    documents/, collecting/                     PDF and CSV; Stripe
    audit                                       who did what, and was refused what

Guarantees:
    `Ledger.charge` returns only when the usage row is committed, and a call is counted once however often
        it is sent.
    Counters and hourly roll-ups change in the transaction of the usage rows they add up: always equal.
    A cap is never passed, by one unit or one nano, whoever charges at once: the call is decided under the
        lock of the tenant's account, and a cap is set under the same lock.
    Rating is exact; `money.round_half_away` rounds, once, when a line becomes minor units.
    A usage row names its period, and a period the price version of each of its segments, which never changes:
        every amount can be computed again.
    A month takes its prices when it begins; one whose plan is changed at once goes on at others, each call at
        those it was charged at, and caps in money hold across the change.
    An alert is raised once for its occasion, and its webhook messages are written in its transaction: each
        is delivered at least once, under one id, or given up after ten attempts over a day.
    Webhooks reach public addresses only, whatever a name is made to point to.
    A charge whose answer did not leave is taken back by its worker, or within a minute of its death by
        another one: once, by an entry with negative units, which counters, caps and invoices follow.
    A request that is known again runs under one call id, and one call id is charged once.
    A closed month changes no more: what comes later counts in the next one and is marked late.
    Usage rows are partitioned by time, and old partitions can be detached: call ids begin with their time
        (UUID version 7), so ranges of `call_id` are ranges of time, the primary key is unique over all
        partitions, and an id whose partition is gone is refused.
    An invoice is made once for a tenant and month, whoever runs it at once. It can be computed again from
        its usage rows and the price versions that it names; each line gives its calls, units and a digest.
    Who made or changed an invoice does not approve it, and an approval is of exactly what was looked at.
    An issued invoice and an issued credit note never change; their numbers have no gaps, and each is chained
        to the one before it. No more is credited than an invoice says, and none goes below zero.
    At Stripe every amount is ours, compared before it is final; an event has its effect once.
"""
