"""The room's SQL, written out: one function per query, rows read into frozen structs.

Refuses nothing and decides nothing: callers do. Queries over one tenant's rows take its `tenant_id`.
"""
