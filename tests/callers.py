"""Callers as the door lets them in, for tests of what lies behind it."""

from tenants.records import DEFAULT_LIMITS, KeyRecord, PlanLimits


def caller(tenant_id: str = "tenant", key_id: str = "key", limits: PlanLimits = DEFAULT_LIMITS) -> KeyRecord:
    return KeyRecord(key_id, tenant_id, frozenset({"asr", "intent", "tts"}), (), None, None, limits)
