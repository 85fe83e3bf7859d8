"""Who is asking."""

from litestar import get

from gateway.bodies import AnyRequest
from gateway.staff import admit_staff, staff_of
from openapi.admin import StaffMemberBody
from openapi.endpoint import STAFF_ERRORS, Endpoint

READ_ME = Endpoint(
    operation_id="readStaffMember",
    tag="Admin",
    answer={"application/json": StaffMemberBody},
    access="staff",
    errors=STAFF_ERRORS,
)


@get("/v1/admin/me", before_request=admit_staff("finance"), opt={"endpoint": READ_ME})
async def get_me(request: AnyRequest) -> StaffMemberBody:
    """Read whose staff key it is."""
    member = staff_of(request)
    return StaffMemberBody(
        id=member.staff_id,
        name=member.name,
        email=member.email,
        role=member.role,
        key_expires=member.key_expires_at,
    )


ROUTES = (get_me,)
