"""Who may call: tenants, their API keys, and the decision whether a call may come in.

Owns: the schema `tenants`, the format of API keys, the cache of keys that a worker holds.
Refuses: HTTP (errors carry codes; `gateway` turns them into answers), money, and any wait without end.
Guarantees:
  - A key's text is shown once, when it is made. The database holds its SHA-256 alone.
  - A revoked key stops working in every worker within one second, also when a notification is lost or
    a worker is cut off from PostgreSQL (`key_cache` says how).
  - A query that concerns a tenant names that tenant; what crosses tenants is called `operator_...`.
"""
