"""Why a call may not come in. No message ever holds a key or a part of one.

AuthenticationError (the caller is not known)
    MissingApiKeyError      missing_api_key
    MalformedApiKeyError    malformed_api_key
    UnknownApiKeyError      unknown_api_key
    ExpiredApiKeyError      expired_api_key
    RevokedApiKeyError      revoked_api_key
    WrongKindOfKeyError     wrong_kind_of_key
    MissingStaffKeyError    missing_staff_key
    MalformedStaffKeyError  malformed_staff_key
    UnknownStaffKeyError    unknown_staff_key
    ExpiredStaffKeyError    expired_staff_key
    RevokedStaffKeyError    revoked_staff_key
PermissionDeniedError (the caller is known, and may not do this)
    InsufficientScopeError  insufficient_scope
    AddressNotAllowedError  address_not_allowed
    InsufficientRoleError   insufficient_role
"""

from infra.errors import DomainError


class AuthenticationError(DomainError):
    """The caller is not known: no key, or none that counts."""

    code = "invalid_api_key"


class MissingApiKeyError(AuthenticationError):
    code = "missing_api_key"

    def __init__(self) -> None:
        super().__init__("No API key was sent. Send it in the header `Authorization: Bearer <your API key>`.")


class MalformedApiKeyError(AuthenticationError):
    code = "malformed_api_key"

    def __init__(self) -> None:
        super().__init__(
            "This is not an API key: it is incomplete or mistyped. "
            "Copy the whole key again, from `aiaas_` to its last character."
        )


class UnknownApiKeyError(AuthenticationError):
    code = "unknown_api_key"

    def __init__(self) -> None:
        super().__init__(
            "This API key does not exist here. Check that it was made for this service, or make a new key."
        )


class ExpiredApiKeyError(AuthenticationError):
    code = "expired_api_key"

    def __init__(self) -> None:
        super().__init__(
            "This API key has expired. Use the one that replaced it, or ask your account's owner for one."
        )


class RevokedApiKeyError(AuthenticationError):
    code = "revoked_api_key"

    def __init__(self) -> None:
        super().__init__("This API key was revoked. Ask your account's owner for a new one.")


class WrongKindOfKeyError(AuthenticationError):
    """A staff key where a tenant's belongs, or the other way round."""

    code = "wrong_kind_of_key"


class MissingStaffKeyError(AuthenticationError):
    code = "missing_staff_key"

    def __init__(self) -> None:
        super().__init__(
            "No staff key was sent. Send it in the header `Authorization: Bearer <your staff key>`."
        )


class MalformedStaffKeyError(AuthenticationError):
    code = "malformed_staff_key"

    def __init__(self) -> None:
        super().__init__(
            "This is not a staff key: it is incomplete or mistyped. "
            "Copy the whole key again, from `aiaas_staff_` to its last character."
        )


class UnknownStaffKeyError(AuthenticationError):
    code = "unknown_staff_key"

    def __init__(self) -> None:
        super().__init__(
            "This staff key does not exist here, or another was put in its place. Ask an operator for one."
        )


class ExpiredStaffKeyError(AuthenticationError):
    code = "expired_staff_key"

    def __init__(self) -> None:
        super().__init__("This staff key has expired. Ask an operator for a new one.")


class RevokedStaffKeyError(AuthenticationError):
    code = "revoked_staff_key"

    def __init__(self) -> None:
        super().__init__("This staff key was revoked. Ask an operator whether you should have one.")


class PermissionDeniedError(DomainError):
    """The caller is known, and may not do this."""

    code = "permission_denied"


class InsufficientScopeError(PermissionDeniedError):
    """Args: scope: the scope that the key lacks."""

    code = "insufficient_scope"

    def __init__(self, scope: str) -> None:
        super().__init__(
            f"This API key lacks the scope `{scope}`. Use a key that has it, or make one with this scope."
        )
        self.scope = scope


class AddressNotAllowedError(PermissionDeniedError):
    code = "address_not_allowed"

    def __init__(self) -> None:
        super().__init__(
            "This API key may not be used from your address. "
            "Call from one of its allowed networks, or use a key without such a list."
        )


class InsufficientRoleError(PermissionDeniedError):
    """Args: role: the role that it takes."""

    code = "insufficient_role"

    def __init__(self, role: str) -> None:
        super().__init__(f"This takes the role `{role}`. Ask an operator to do it, or for that role.")
