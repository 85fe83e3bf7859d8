"""Where invoices stand at Stripe."""

from litestar import get

from billing.collecting.listing import STATES, list_collections
from billing.store.collecting import State
from gateway.admin_routes import LIMIT, Limit, Position, reading
from gateway.bodies import AnyRequest
from gateway.parameters import as_body
from gateway.services import services_of
from openapi.collections import CollectionBody, CollectionListBody
from openapi.endpoint import QueryParameter


@get(
    "/v1/admin/collections",
    **reading(
        "adminListCollections",
        CollectionListBody,
        QueryParameter("status", "Only those in this state.", {"type": "string", "enum": list(STATES)}),
        QueryParameter("after", "The `next` of the page before.", {"type": "string"}),
        LIMIT,
    ),
)
async def get_collections(
    request: AnyRequest, status: State | None = None, after: Position = None, limit: Limit = 50
) -> CollectionListBody:
    """List collections.

    Invoices that are collected through Stripe, the latest first: what is paid, what is overdue, and what
    waits for somebody.
    """
    states = (status,) if status else STATES
    found = await list_collections(services_of(request).pool, states, after, limit + 1)
    page = [as_body(one, CollectionBody) for one in found[:limit]]
    return CollectionListBody(page, page[-1].invoice_id if len(found) > limit else None)


ROUTES = (get_collections,)
