"""Webhook messages are what the specification's own libraries verify."""

import base64
import json
from datetime import UTC, datetime

from billing.signatures import message_body, new_secret, signed_headers
from infra.settings import Secret
from tests.receiver import Received

# The vector of the test suites of the specification's libraries.
PUBLISHED_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
PUBLISHED_ID = "msg_p5jXN8AQM9LWM0D4loKWxJek"
PUBLISHED_BODY = b'{"test": 2432232314}'
PUBLISHED_SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_the_published_vector_is_signed_as_published() -> None:
    headers = signed_headers(PUBLISHED_ID, 1614265330, PUBLISHED_BODY, [Secret(PUBLISHED_SECRET)])
    assert headers == {
        "webhook-id": PUBLISHED_ID,
        "webhook-timestamp": "1614265330",
        "webhook-signature": PUBLISHED_SIGNATURE,
    }
    assert Received(headers, PUBLISHED_BODY).is_signed_with(PUBLISHED_SECRET, now_s=1614265330)


def test_after_a_rotation_both_secrets_verify_and_no_other() -> None:
    old, new, other = new_secret(), new_secret(), new_secret()
    received = Received(signed_headers("msg_1", 1614265330, b"{}", [new, old]), b"{}")
    now_s = 1614265330
    assert received.is_signed_with(new.reveal(), now_s)
    assert received.is_signed_with(old.reveal(), now_s)
    assert not received.is_signed_with(other.reveal(), now_s)


def test_a_secret_is_32_random_bytes_as_receivers_take_them_and_does_not_print_itself() -> None:
    secret = new_secret()
    assert len(base64.b64decode(secret.reveal().removeprefix("whsec_"), validate=True)) == 32
    assert secret.reveal() != new_secret().reveal()
    assert secret.reveal() not in f"{secret} {secret!r}"


def test_a_body_is_type_timestamp_and_data() -> None:
    body = message_body("cap.threshold_reached", datetime(2025, 11, 15, 12, tzinfo=UTC), {"a": 1})
    assert json.loads(body) == {
        "type": "cap.threshold_reached",
        "timestamp": "2025-11-15T12:00:00Z",
        "data": {"a": 1},
    }
