"""Proof by killing things: seeded faults under load, judged from outside.

A client of its own keeps a journal of every answer it got. Afterwards the judge lays the journal beside the
usage rows and says what was lost, doubled, overrun or left without an explanation. Journal and judge know
the product from outside alone: HTTP, the command line, and SQL; they import nothing of it.

Every round prints its seed and scenario, which replay its requests, its faults and their moments:
`python -m tests.faults --rounds 1 --seed SEED --scenario NAME`. What the machine makes of them, such as
which call a kill hits, is the machine's.
"""
