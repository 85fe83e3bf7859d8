"""Prices: what there is, what a file would change, what a month would cost; and a tenant's plan."""

import re
from datetime import UTC, datetime
from typing import Annotated

import msgspec
from litestar import Response, get, post, put
from litestar.params import FromPath, FromQuery, Parameter

from billing.price_files import MAX_FILE_BYTES, DraftPrice, PriceFileError, decode, draft_prices
from billing.price_previews import preview
from billing.price_versions import MAX_PAGE, list_prices, load_price_file, show_price
from billing.prices import PriceVersion
from billing.what_if import as_csv, what_if
from gateway.bodies import AnyRequest, read_json
from gateway.customers import change_customers_plan
from gateway.parameters import RequiredPeriod
from gateway.prices import price_body
from gateway.services import services_of
from gateway.staff import admit_staff, staff_of
from infra.errors import InvalidValueError
from openapi.admin_prices import (
    NAME_PATTERN,
    PlanChangeBody,
    PlanChangeRequestBody,
    PreviewRequestBody,
    PriceEffectBody,
    PriceEffectListBody,
    PriceFileBody,
    PricePreviewBody,
    PricePreviewListBody,
    PriceVersionListBody,
    WhatIfBody,
)
from openapi.endpoint import TEXT, Endpoint, QueryParameter
from tenants.tenants import no_such_tenant

_RAW = msgspec.json.Decoder(msgspec.Raw)
_PLAN_CHANGE = msgspec.json.Decoder(PlanChangeRequestBody)
_ERRORS = (400, 401, 403, 413, 415, 429, 503)
_MAX_TENANTS = 10_000

Name = Annotated[str | None, Parameter(pattern=NAME_PATTERN)]
PageSize = Annotated[int, Parameter(ge=1, le=MAX_PAGE)]
Tenants = Annotated[int, Parameter(ge=1, le=_MAX_TENANTS)]

LIST_PRICES = Endpoint(
    operation_id="listPrices",
    tag="Admin",
    answer={"application/json": PriceVersionListBody},
    access="staff",
    errors=(400, 401, 403, 429, 503),
    query=(
        QueryParameter("plan", "Only this plan's.", TEXT),
        QueryParameter("currency", "Only those in this currency.", TEXT),
        QueryParameter("tenant", "Only this tenant's own.", TEXT),
        QueryParameter("after", "The last id of the page before.", TEXT),
        QueryParameter("limit", "How many.", {"type": "integer", "minimum": 1, "maximum": MAX_PAGE}),
    ),
)
CREATE_PRICES = Endpoint(
    operation_id="createPrices",
    tag="Admin",
    request={"application/json": PriceFileBody},
    answer={"application/json": PriceEffectListBody},
    access="staff",
    errors=(*_ERRORS, 409),
    query=(QueryParameter("dry_run", "Say what would change, and change nothing.", {"type": "boolean"}),),
)
PREVIEW_PRICES = Endpoint(
    operation_id="previewPrices",
    tag="Admin",
    request={"application/json": PreviewRequestBody},
    answer={"application/json": PricePreviewListBody},
    access="staff",
    errors=(*_ERRORS, 404),
)
REPLAY_PRICES = Endpoint(
    operation_id="replayPrices",
    tag="Admin",
    request={"application/json": PriceFileBody},
    answer={"application/json": WhatIfBody, "text/csv": TEXT},
    access="staff",
    errors=_ERRORS,
    query=(
        QueryParameter("period", "A month that is over, `YYYY-MM`; required.", {"type": "string"}),
        QueryParameter("format", "`json`, or `csv`: the rows alone.", {"enum": ["json", "csv"]}),
        QueryParameter("after", "The last tenant of the page before.", TEXT),
        QueryParameter("limit", "How many.", {"type": "integer", "minimum": 1, "maximum": _MAX_TENANTS}),
    ),
)
CHANGE_PLAN = Endpoint(
    operation_id="changePlan",
    tag="Admin",
    request={"application/json": PlanChangeRequestBody},
    answer={"application/json": PlanChangeBody},
    access="staff",
    errors=(*_ERRORS, 404, 409),
)


@get("/v1/admin/prices", before_request=admit_staff("finance"), opt={"endpoint": LIST_PRICES})
async def get_prices(
    request: AnyRequest,
    plan: Name = None,
    currency: Name = None,
    tenant: Name = None,
    after: Name = None,
    limit: PageSize = MAX_PAGE,
) -> PriceVersionListBody:
    """List price versions, the newest first."""
    page = await list_prices(services_of(request).pool, plan, currency, tenant, after, limit)
    last = page[-1].version.price_version_id if len(page) == limit else None
    return PriceVersionListBody([price_body(one) for one in page], last)


@post(
    "/v1/admin/prices",
    before_request=admit_staff("finance"),
    status_code=200,
    request_max_body_size=MAX_FILE_BYTES,
    opt={"endpoint": CREATE_PRICES},
)
async def create_prices(request: AnyRequest, dry_run: FromQuery[bool] = False) -> PriceEffectListBody:
    """Create price versions.

    The body is a price file. It is checked wholly, and taken wholly or not at all; what is there already
    stays as it is. A version never changes: months that begin when it is valid take it.
    """
    content = bytes(await read_json(request, _RAW))
    made = await load_price_file(
        services_of(request).pool, content, True, staff_of(request).actor, datetime.now(UTC), dry_run=dry_run
    )
    return PriceEffectListBody(msgspec.convert(made, list[PriceEffectBody], from_attributes=True), dry_run)


@post(
    "/v1/admin/prices/preview",
    before_request=admit_staff("finance"),
    status_code=200,
    request_max_body_size=MAX_FILE_BYTES,
    opt={"endpoint": PREVIEW_PRICES},
)
async def preview_prices(request: AnyRequest) -> PricePreviewListBody:
    """Preview what a month costs, tier by tier."""
    body = decode(bytes(await read_json(request, _RAW)), True)
    if not isinstance(body, dict) or not body.keys() <= {"units", "price_version_id", "prices"}:
        raise InvalidValueError("Send `units`, and `price_version_id` or `prices`.")
    try:
        units = msgspec.convert(body.get("units"), dict[str, int])
    except msgspec.ValidationError:
        raise InvalidValueError("`units` are whole numbers by meter.", "units") from None
    versions = await _versions(request, body.get("price_version_id"), body.get("prices"))
    made = [preview(version, units) for version in versions]
    return PricePreviewListBody(msgspec.convert(made, list[PricePreviewBody], from_attributes=True))


@post(
    "/v1/admin/prices/what-if",
    before_request=admit_staff("finance"),
    status_code=200,
    request_max_body_size=MAX_FILE_BYTES,
    opt={"endpoint": REPLAY_PRICES},
)
async def replay_prices(
    request: AnyRequest,
    period: RequiredPeriod,
    format: FromQuery[str] = "json",
    after: Name = None,
    limit: Tenants = _MAX_TENANTS,
) -> WhatIfBody | Response[str]:
    """Replay a past month at other prices.

    The body is a price file, which is not stored. For each tenant that was on its plans: what the month came
    to, what it would have come to, and the difference, before prepaid credit and tax.
    """
    if format not in ("json", "csv"):
        raise InvalidValueError("A format is `json` or `csv`.", "format")
    drafts = draft_prices(decode(bytes(await read_json(request, _RAW)), True))
    found = await what_if(services_of(request).pool, drafts, period, after=after or "", limit=limit)
    if format == "csv":
        return Response(as_csv(found), media_type="text/csv")
    return msgspec.convert(found, WhatIfBody, from_attributes=True)


@put(
    "/v1/admin/tenants/{tenant_id:str}/plan",
    before_request=admit_staff("finance"),
    request_max_body_size=4096,
    opt={"endpoint": CHANGE_PLAN},
)
async def put_plan(request: AnyRequest, tenant_id: FromPath[str]) -> PlanChangeBody:
    """Change a tenant's plan.

    Its limits change within a second; its prices from its next month on, or at once: then the month that runs
    goes on at the plan's prices, and the invoice says from when.
    """
    if not re.fullmatch(NAME_PATTERN, tenant_id):
        raise no_such_tenant()
    body = await read_json(request, _PLAN_CHANGE)
    _, made = await change_customers_plan(
        services_of(request).pool, tenant_id, body.plan, staff_of(request).actor, at_once=body.at_once
    )
    return msgspec.convert(made, PlanChangeBody, from_attributes=True)


async def _versions(request: AnyRequest, version_id: object, prices: object) -> list[PriceVersion]:
    """The one version named, or those of the prices given."""
    if (version_id is None) == (prices is None):
        raise PriceFileError("prices", "Send `price_version_id` or `prices`, one of them.")
    if prices is None:
        return [(await show_price(services_of(request).pool, str(version_id))).version]
    drafts: list[DraftPrice] = draft_prices({"prices": prices})
    return [draft.version for draft in drafts]


ROUTES = (get_prices, create_prices, preview_prices, replay_prices, put_plan)
