import pytest

from infra.errors import DomainError
from tenants import errors
from tenants.authenticate import require_scope
from tenants.records import KeyRecord, Product


def test_codes_are_stable() -> None:
    unknown_caller = [
        errors.MissingApiKeyError(),
        errors.MalformedApiKeyError(),
        errors.UnknownApiKeyError(),
        errors.ExpiredApiKeyError(),
        errors.RevokedApiKeyError(),
    ]
    denied = [errors.InsufficientScopeError("tts"), errors.AddressNotAllowedError()]

    assert [error.code for error in unknown_caller] == [
        "missing_api_key",
        "malformed_api_key",
        "unknown_api_key",
        "expired_api_key",
        "revoked_api_key",
    ]
    assert [error.code for error in denied] == ["insufficient_scope", "address_not_allowed"]
    assert all(isinstance(error, errors.AuthenticationError) for error in unknown_caller)
    assert all(isinstance(error, errors.PermissionDeniedError) for error in denied)
    assert all(isinstance(error, DomainError) for error in unknown_caller + denied)


@pytest.mark.parametrize("product", ["asr", "intent", "tts"])
def test_a_key_calls_the_products_of_its_scopes_and_no_others(product: Product) -> None:
    def key(*scopes: str) -> KeyRecord:
        return KeyRecord("key_1", "ten_1", frozenset(scopes), (), None, None)

    require_scope(key(product), product)
    with pytest.raises(errors.InsufficientScopeError) as refused:
        require_scope(key(*({"asr", "intent", "tts"} - {product})), product)
    assert f"`{product}`" in refused.value.message
