"""Where the `OTEL_*` variables name a collector, a call's stages are spans of its caller's trace."""

import secrets

from tests.collector import Collector
from tests.stack import Stack, wait_until

METRICS = {
    "aiaas.calls",
    "aiaas.call.duration",
    "aiaas.units",
    "aiaas.charge.batch_size",
    "aiaas.queue.depth",
}


def test_a_call_is_one_trace_from_its_caller_through_the_gateway_to_the_engine(
    stack: Stack, collector: Collector
) -> None:
    trace_id, caller_span = secrets.token_hex(16), secrets.token_hex(8)
    headers = {"traceparent": f"00-{trace_id}-{caller_span}-01"}
    with stack.http() as http:
        answer = http.post("/v1/intents", json={"model": "retail-en", "text": "xylophone"}, headers=headers)
    assert answer.status_code == 200
    stages = {"call", "auth", "limits", "serve", "charge", "serve.intent"}
    assert wait_until(lambda: {span.name for span in collector.spans(trace_id)} == stages, 15)
    spans = {span.name: span for span in collector.spans(trace_id)}
    assert spans["call"].parent_span_id.hex() == caller_span
    for stage in ("auth", "limits", "serve", "charge"):
        assert spans[stage].parent_span_id == spans["call"].span_id
    assert spans["serve.intent"].parent_span_id == spans["serve"].span_id


def test_metrics_are_sent_and_nothing_sent_holds_a_key_or_a_text(stack: Stack, collector: Collector) -> None:
    with stack.http() as http:
        http.post("/v1/intents", json={"model": "retail-en", "text": "xylophone secret"})
        http.post("/v1/intents", json={"model": "xylophone", "text": "xylophone secret"})
    assert wait_until(lambda: collector.metric_names() >= METRICS, 15)
    sent = b"".join(body for bodies in collector.bodies.values() for body in bodies)
    assert b"xylophone" not in sent
    assert stack.key.encode() not in sent
