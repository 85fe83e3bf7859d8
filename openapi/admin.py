"""What the vendor's own people send and are answered, beside what they share with tenants."""

from datetime import datetime
from typing import Literal

from msgspec import Struct


class StaffMemberBody(Struct, frozen=True):
    """Somebody who works for the vendor. `key_expires` is null where the key never does."""

    id: str
    name: str
    email: str
    role: Literal["finance", "operator"]
    key_expires: datetime | None
    object: Literal["staff_member"] = "staff_member"
