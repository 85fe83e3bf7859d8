"""Where invoices stand at Stripe."""

from typing import Annotated

import msgspec
from litestar import get
from litestar.params import Parameter
from litestar.params import QueryParameter as InQuery

from billing.collecting.listing import STATES, list_collections
from billing.store.collecting import State
from gateway.bodies import AnyRequest
from gateway.services import services_of
from gateway.staff import admit_staff
from openapi.collections import CollectionBody, CollectionList
from openapi.endpoint import STAFF_ERRORS, Endpoint, QueryParameter

_MAX_PAGE = 100
LIST_COLLECTIONS = Endpoint(
    operation_id="listCollections",
    tag="Admin",
    answer={"application/json": CollectionList},
    access="staff",
    errors=(400, *STAFF_ERRORS),
    query=(
        QueryParameter("state", "Only those in this state.", {"type": "string", "enum": list(STATES)}),
        QueryParameter("after", "The last `invoice_id` of the page before.", {"type": "string"}),
        QueryParameter("limit", "How many at most.", {"type": "integer", "minimum": 1, "maximum": _MAX_PAGE}),
    ),
)


@get("/v1/admin/collections", before_request=admit_staff("finance"), opt={"endpoint": LIST_COLLECTIONS})
async def get_collections(
    request: AnyRequest,
    only: Annotated[State | None, InQuery(name="state")] = None,
    after: str | None = None,
    limit: Annotated[int, Parameter(ge=1, le=_MAX_PAGE)] = _MAX_PAGE,
) -> CollectionList:
    """List collections.

    Invoices that are collected through Stripe, the latest first: what is paid, what is overdue, and what
    waits for somebody.
    """
    states = (only,) if only else STATES
    found = await list_collections(services_of(request).pool, states, after, limit + 1)
    data = [CollectionBody(**msgspec.structs.asdict(one)) for one in found[:limit]]
    return CollectionList(data, has_more=len(found) > limit)
