"""HTTP and the command line: the only room that opens onto all the others.

Owns: who may come in (`auth`), how often (`limits`), the order in which a call is run, charged and
answered (`metered`), how errors look (`errors`), the routes, the worker process and `aiaas`.
Refuses: SQL, Ray, money arithmetic: those belong to the rooms below.
Guarantees: no byte of a result leaves before its charge is committed.
"""
