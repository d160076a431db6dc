"""Signatures as Standard Webhooks says, and secrets that are kept nowhere."""

import base64
from datetime import timedelta

from pydantic import SecretStr

from services.tenant_quota.signal_model import Patience
from services.tenant_quota.webhook_secrets import WebhookSecrets, signed_headers

PEPPER = SecretStr("a pepper of these tests")


def test_the_signature_is_that_of_the_published_example() -> None:
    headers = signed_headers(
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        1614265330,
        b'{"test": 2432232314}',
        ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"],
    )
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_a_secret_is_the_same_on_every_replica_and_another_for_whatever_differs() -> None:
    secret = WebhookSecrets(PEPPER).secret("tenant", "webhook", 1)
    assert secret == WebhookSecrets(PEPPER).secret("tenant", "webhook", 1)
    assert len(base64.b64decode(secret.removeprefix("whsec_"))) == 32
    others = {
        WebhookSecrets(PEPPER).secret("tenant", "webhook", 2),
        WebhookSecrets(PEPPER).secret("tenant", "other", 1),
        WebhookSecrets(PEPPER).secret("other", "webhook", 1),
        WebhookSecrets(SecretStr("another pepper, as long")).secret("tenant", "webhook", 1),
    }
    assert len(others | {secret}) == 5


def test_pauses_double_up_to_the_longest_and_never_agree() -> None:
    patience = Patience(first_pause=timedelta(seconds=4), longest_pause=timedelta(seconds=60))
    for attempts, full in [(1, 4), (2, 8), (3, 16), (4, 32), (5, 60), (200, 60)]:
        pauses = {patience.pause(attempts).total_seconds() for _ in range(50)}
        assert full / 2 <= min(pauses) < max(pauses) <= full
