"""`POST /v1/stripe/webhook`: where Stripe sends its events."""

from litestar import post

from billing.collecting.webhooks import MAX_EVENT_BYTES
from gateway.bodies import AnyRequest, read_body
from gateway.headers import headers_of
from gateway.services import services_of
from openapi.collections import StripeEventReceipt
from openapi.endpoint import Endpoint

ENDPOINT = Endpoint(
    operation_id="receiveStripeEvent",
    tag="Invoices",
    request={"application/json": {"type": "object"}},
    answer={"application/json": StripeEventReceipt},
    access="open",
    errors=(400, 413, 503),
)


@post(
    "/v1/stripe/webhook",
    status_code=200,
    request_max_body_size=MAX_EVENT_BYTES,
    opt={"endpoint": ENDPOINT},
)
async def receive_event(request: AnyRequest) -> StripeEventReceipt:
    """Receive an event of Stripe.

    For Stripe alone: the header `Stripe-Signature` must be a signature with this gateway's secret over the
    body, made within the last five minutes.
    """
    body = await read_body(request)
    signature = headers_of(request.scope).get(b"stripe-signature", b"").decode("latin-1")
    return StripeEventReceipt(await services_of(request).stripe_events.receive(body, signature))


ROUTES = (receive_event,)
