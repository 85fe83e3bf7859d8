"""Collecting through Stripe what issued invoices say is due; without a key all of it stays off.

    outbox      a row for each invoice to collect, written in the transaction that issues it
    items       an invoice as Stripe gets it, amounts and all, and what differs at Stripe
    steps       what is to be done next, from how an invoice stands here and at Stripe; pure
    client      the calls to Stripe, and what their failures mean
    collector   the job: read both sides, do the next step, record it, until nothing is left to do
    webhooks    Stripe's events: verified, kept once each, and a reason to read from Stripe again
    comparing   once a day, all invoices of both sides against each other
    listing     what finance sees of it

Stripe computes nothing: every amount is ours, and is read back and compared before an invoice becomes final
there. Nothing that Stripe sends is believed: it makes us look, and what is read then counts.
"""
