"""What a key's owner may read: the models, the tenant's usage, the receipt of one call."""

from datetime import UTC, datetime

from litestar import get
from litestar.params import FromPath

from billing.accounts import current_period
from billing.receipts import receipt
from billing.usage import usage, usage_by_day
from gateway.auth import admit, caller_of
from gateway.bodies import AnyRequest
from gateway.catalog import list_models
from gateway.parameters import Period, period_parameter
from gateway.services import services_of
from infra.errors import NotFoundError
from infra.ids import format_call_id, parse_call_id
from openapi.endpoint import Endpoint
from openapi.wire import DayUsageBody, MeterUsageBody, ModelList, ReceiptBody, UsageBody
from serving.placement import ran_on

LIST_MODELS = Endpoint(operation_id="listModels", tag="Models", answer={"application/json": ModelList})
READ_USAGE = Endpoint(
    operation_id="readUsage",
    tag="Usage",
    answer={"application/json": UsageBody},
    query=(period_parameter("the current one"),),
)
READ_CALL = Endpoint(operation_id="readCall", tag="Usage", answer={"application/json": ReceiptBody})


@get("/v1/models", before_request=admit(None), opt={"endpoint": LIST_MODELS})
async def get_models(request: AnyRequest) -> ModelList:
    """List models, voices and intent sets.

    Names are those of the engines here. A tenant whose calls run at a remote endpoint uses the same names and
    aliases of models; which voices, languages and intent sets there are, that endpoint decides.
    """
    return list_models(services_of(request).serving.catalog)


@get("/v1/usage", before_request=admit(None), opt={"endpoint": READ_USAGE})
async def get_usage(request: AnyRequest, period: Period = None) -> UsageBody:
    """Read usage.

    Calls and units of the key's tenant in a month of its own calendar, by meter and by day.
    """
    pool, tenant_id = services_of(request).pool, caller_of(request).tenant_id
    month = period or (await current_period(pool, tenant_id, datetime.now(UTC))).label
    used = await usage(pool, tenant_id, month)
    days: dict[str, dict[str, MeterUsageBody]] = {}
    for row in await usage_by_day(pool, tenant_id, month):
        days.setdefault(row.day.isoformat(), {})[row.meter] = MeterUsageBody(row.units, row.calls)
    return UsageBody(
        period=month,
        meters={name: MeterUsageBody(meter.units, meter.calls) for name, meter in used.meters.items()},
        days=[DayUsageBody(day, meters) for day, meters in days.items()],
    )


@get("/v1/calls/{call_id:str}", before_request=admit(None), opt={"endpoint": READ_CALL})
async def get_call(request: AnyRequest, call_id: FromPath[str]) -> ReceiptBody:
    """Read a call's receipt.

    Any key of the tenant may read it; another tenant's call is answered as if it were not there.
    """
    known = parse_call_id(call_id)
    if known is None:
        raise NotFoundError("There is no such call. Ids are in the header `x-aiaas-call-id` of every answer.")
    found = await receipt(services_of(request).pool, caller_of(request).tenant_id, known)
    return ReceiptBody(
        id=format_call_id(found.call_id),
        status=found.status,
        created=found.occurred_at,
        model=found.model,
        engine=found.engine,
        ran_on=ran_on(found.engine),
        key_id=found.key_id,
        meter=found.meter,
        units=found.units,
        period=found.period,
        price_version=found.price_version_id,
        amount=found.amount,
        amount_nanos=found.amount_nanos,
        currency=found.currency,
    )
