"""Who bills and who is billed."""

import msgspec
from litestar import get, put
from litestar.params import FromPath

from billing.parties import change_profile, set_issuer, show_issuer, show_profile
from gateway.bodies import AnyRequest, read_json
from gateway.parameters import as_body
from gateway.services import services_of
from gateway.staff import admit_staff, staff_of
from openapi.endpoint import STAFF_ERRORS, Endpoint
from openapi.parties import BillingProfileBody, BillingProfileRequest, IssuerBody, IssuerRequest

_MAX_BODY_BYTES = 16 * 1024
_PROFILE = msgspec.json.Decoder(BillingProfileRequest)
_ISSUER = msgspec.json.Decoder(IssuerRequest)
_READ_ERRORS = (404, *STAFF_ERRORS)
_WRITE_ERRORS = (400, 404, 413, 415, *STAFF_ERRORS)
READ_PROFILE = Endpoint(
    operation_id="adminReadBillingProfile",
    tag="Admin",
    answer={"application/json": BillingProfileBody},
    access="staff",
    errors=_READ_ERRORS,
)
PUT_PROFILE = Endpoint(
    operation_id="adminSetBillingProfile",
    tag="Admin",
    request={"application/json": BillingProfileRequest},
    answer={"application/json": BillingProfileBody},
    access="staff",
    errors=_WRITE_ERRORS,
)
READ_ISSUER = Endpoint(
    operation_id="adminReadIssuer",
    tag="Admin",
    answer={"application/json": IssuerBody},
    access="staff",
    errors=_READ_ERRORS,
)
PUT_ISSUER = Endpoint(
    operation_id="adminSetIssuer",
    tag="Admin",
    request={"application/json": IssuerRequest},
    answer={"application/json": IssuerBody},
    access="staff",
    errors=_WRITE_ERRORS,
)


@get(
    "/v1/admin/tenants/{tenant_id:str}/billing-profile",
    before_request=admit_staff("finance"),
    opt={"endpoint": READ_PROFILE},
)
async def get_profile(request: AnyRequest, tenant_id: FromPath[str]) -> BillingProfileBody:
    """Read how a tenant is billed."""
    return as_body(await show_profile(services_of(request).pool, tenant_id), BillingProfileBody)


@put(
    "/v1/admin/tenants/{tenant_id:str}/billing-profile",
    before_request=admit_staff("finance"),
    request_max_body_size=_MAX_BODY_BYTES,
    opt={"endpoint": PUT_PROFILE},
)
async def put_profile(request: AnyRequest, tenant_id: FromPath[str]) -> BillingProfileBody:
    """Set how a tenant is billed.

    From its next draft on: an invoice that is issued keeps what it said, and one that was approved is to be
    approved again once the month was run.
    """
    body = await read_json(request, _PROFILE)
    pool, actor = services_of(request).pool, staff_of(request).actor
    return as_body(
        await change_profile(pool, tenant_id, msgspec.structs.asdict(body), actor), BillingProfileBody
    )


@get(
    "/v1/admin/issuers/{issuer_id:str}", before_request=admit_staff("finance"), opt={"endpoint": READ_ISSUER}
)
async def get_issuer(request: AnyRequest, issuer_id: FromPath[str]) -> IssuerBody:
    """Read who bills."""
    return as_body(await show_issuer(services_of(request).pool, issuer_id), IssuerBody)


@put(
    "/v1/admin/issuers/{issuer_id:str}",
    before_request=admit_staff("finance"),
    request_max_body_size=_MAX_BODY_BYTES,
    opt={"endpoint": PUT_ISSUER},
)
async def put_issuer(request: AnyRequest, issuer_id: FromPath[str]) -> IssuerBody:
    """Set who bills, or add an issuer.

    Its numbers' prefix stays once one was given.
    """
    body = await read_json(request, _ISSUER)
    pool, actor = services_of(request).pool, staff_of(request).actor
    return as_body(await set_issuer(pool, issuer_id, msgspec.structs.asdict(body), actor), IssuerBody)


ROUTES = (get_profile, put_profile, get_issuer, put_issuer)
