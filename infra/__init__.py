"""What everything stands on: settings, database, migrations, telemetry, logs, errors, ids, processes.

Owns: how the outside world is read (environment, PostgreSQL, the process table) and how the product
speaks about itself (logs, spans, metrics).
Refuses: any word of the product's business: no tenant, price, call or engine is named in code here
(the migrations, which are the rooms' tables side by side in one numbered row, are the one exception).
Guarantees: secrets are redacted wherever a value of this room is printed; every wait has a deadline.
"""
