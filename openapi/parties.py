"""Who bills and who is billed."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

TaxPpm = Annotated[int, Meta(ge=0, le=1_000_000, description="The tax rate in millionths: 50000 is 5 %.")]


class BillingProfileRequest(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a tenant is billed; what is left out is empty."""

    name: str
    address: str = ""
    tax_id: str = ""
    email: str = ""
    language: Literal["en", "zh-TW"] = "en"
    tax_name: str = ""
    tax_ppm: TaxPpm = 0
    issuer_id: str = "default"


class BillingProfileBody(Struct, frozen=True, kw_only=True):
    """How a tenant is billed."""

    tenant_id: str
    name: str
    address: str
    tax_id: str
    email: str
    language: Literal["en", "zh-TW"]
    tax_name: str
    tax_ppm: TaxPpm
    issuer_id: str
    object: Literal["billing_profile"] = "billing_profile"


class IssuerRequest(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Who bills; what is left out is empty. The prefix stays once a number was given."""

    name: str
    address: str = ""
    tax_id: str = ""
    email: str = ""
    number_prefix: str
    payment_days: Annotated[int, Meta(ge=0, le=365)] = 30


class IssuerBody(Struct, frozen=True, kw_only=True):
    """Who bills. `numbers_given`: how many of its documents have a number."""

    issuer_id: str
    name: str
    address: str
    tax_id: str
    email: str
    number_prefix: str
    payment_days: int
    numbers_given: int
    object: Literal["issuer"] = "issuer"
