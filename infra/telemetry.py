"""Spans and metrics by OpenTelemetry; next to nothing where the `OTEL_*` variables name no exporter.

The standard variables decide (OpenTelemetry specification, "OTLP Exporter Configuration"):
`OTEL_EXPORTER_OTLP_ENDPOINT`, or one for `TRACES` or `METRICS` alone, switches that signal on;
`OTEL_SDK_DISABLED=true` switches all of it off.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext

from opentelemetry import metrics, propagate, trace

_NO_SPAN: AbstractContextManager[object] = nullcontext()
_MILLISECOND_BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300)


class Telemetry:
    """The spans and metrics of one process.

    Metrics: `aiaas.calls` (by product and outcome), `aiaas.call.duration` (s), `aiaas.units` (by meter),
    `aiaas.charge.batch_size` (calls per commit), `aiaas.queue.depth` (by queue), `aiaas.limits.fallback`
    (requests that memory counted in the shared store's place, by reason), `aiaas.voids` (calls taken back, by
    reason), `aiaas.webhook.deliveries` (attempts by outcome).
    """

    def __init__(self, tracer: trace.Tracer | None, meter: metrics.Meter, close: Callable[[], None]) -> None:
        self._tracer = tracer
        self._meter = meter
        self.close = close
        self._calls = meter.create_counter("aiaas.calls", description="calls by product and outcome")
        self._duration_s = meter.create_histogram(
            "aiaas.call.duration", "s", explicit_bucket_boundaries_advisory=_MILLISECOND_BUCKETS_S
        )
        self._units = meter.create_counter("aiaas.units", description="charged units by meter")
        self._charge_batch_size = meter.create_histogram("aiaas.charge.batch_size", "{call}")
        self._voids = meter.create_counter("aiaas.voids", description="calls taken back, by reason")
        self._limits_fallback = meter.create_counter(
            "aiaas.limits.fallback", description="requests counted in memory, not in the shared store"
        )
        self._webhook_deliveries = meter.create_counter(
            "aiaas.webhook.deliveries", description="attempts to deliver a webhook message by outcome"
        )

    @classmethod
    def from_environ(cls, service_name: str, environ: Mapping[str, str]) -> "Telemetry":
        """Build the exporters that the environment asks for."""
        off = environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
        endpoint = "OTEL_EXPORTER_OTLP_ENDPOINT" in environ
        traces = not off and (endpoint or "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT" in environ)
        measures = not off and (endpoint or "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT" in environ)
        tracer, close_traces = _tracer(service_name) if traces else (None, _nothing)
        meter, close_metrics = _meter(service_name) if measures else (_silent_meter(), _nothing)

        def close() -> None:
            close_traces()
            close_metrics()

        return cls(tracer, meter, close)

    def span(self, name: str, carrier: Mapping[str, str] | None = None) -> AbstractContextManager[object]:
        """A span around one stage of a call. `carrier` holds W3C `traceparent`, where a caller sent one."""
        if self._tracer is None:
            return _NO_SPAN
        context = propagate.extract(carrier) if carrier else None
        return self._tracer.start_as_current_span(
            name, context=context, record_exception=False, set_status_on_exception=False
        )

    def open_span(self, name: str, carrier: Mapping[str, str]) -> tuple[dict[str, str], Callable[[], None]]:
        """A span that outlives its block: the W3C headers for its children, and what ends it."""
        if self._tracer is None:
            return {}, _nothing
        span = self._tracer.start_span(name, context=propagate.extract(carrier))
        headers: dict[str, str] = {}
        propagate.inject(headers, context=trace.set_span_in_context(span))
        return headers, span.end

    def carrier(self) -> dict[str, str]:
        """The current span as W3C headers, to hand to the next process."""
        headers: dict[str, str] = {}
        if self._tracer is not None:
            propagate.inject(headers)
        return headers

    def count_call(self, product: str, outcome: str, duration_s: float) -> None:
        """Count one finished call; `outcome` is `ok` or the error's code."""
        attributes = {"product": product, "outcome": outcome}
        self._calls.add(1, attributes)
        self._duration_s.record(duration_s, attributes)

    def count_units(self, meter: str, units: int) -> None:
        """Count charged units of a meter."""
        self._units.add(units, {"meter": meter})

    def count_charge_batch(self, calls: int) -> None:
        """Record how many calls one commit charged."""
        self._charge_batch_size.record(calls)

    def count_voids(self, reason: str, calls: int) -> None:
        """Count calls that were charged and taken back."""
        self._voids.add(calls, {"reason": reason})

    def count_limits_fallback(self, reason: str) -> None:
        """Count a request that memory counted in the shared store's place; `away` or `busy` is why."""
        self._limits_fallback.add(1, {"reason": reason})

    def count_webhook_delivery(self, outcome: str) -> None:
        """Count an attempt to deliver a webhook message: `delivered`, `failed` or `given_up`."""
        self._webhook_deliveries.add(1, {"outcome": outcome})

    def watch_queue(self, queue: str, depth: Callable[[], int]) -> None:
        """Report a queue's depth whenever metrics are collected."""

        def observe(_: metrics.CallbackOptions) -> Iterable[metrics.Observation]:
            return [metrics.Observation(depth(), {"queue": queue})]

        self._meter.create_observable_gauge("aiaas.queue.depth", [observe])


def _nothing() -> None:
    return None


def _silent_meter() -> metrics.Meter:
    return metrics.NoOpMeterProvider().get_meter("aiaas")


def _tracer(service_name: str) -> tuple[trace.Tracer, Callable[[], None]]:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource.create({"service.name": service_name}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider.get_tracer("aiaas"), provider.shutdown


def _meter(service_name: str) -> tuple[metrics.Meter, Callable[[], None]]:
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.resources import Resource

    reader = PeriodicExportingMetricReader(OTLPMetricExporter())
    provider = MeterProvider([reader], resource=Resource.create({"service.name": service_name}))
    return provider.get_meter("aiaas"), provider.shutdown
