"""Settings are read once, wrong ones are named in one line, secrets do not print themselves."""

from pathlib import Path

import pytest

from infra.errors import StartupError
from infra.scale import Scale
from infra.settings import load_settings


def test_an_empty_environment_gives_defaults_that_listen_on_loopback() -> None:
    settings = load_settings({})
    assert settings.aiaas_host == "127.0.0.1"
    assert settings.home == Path.cwd() / ".aiaas"


def test_values_are_decoded_to_their_types() -> None:
    settings = load_settings(
        {"AIAAS_PORT": "9000", "INTENT_TIMEOUT_S": "2.5", "AIAAS_HOME": "/tmp/x", "LOG_LEVEL": ""}
    )
    assert (settings.aiaas_port, settings.intent_timeout_s, settings.log_level) == (9000, 2.5, "INFO")
    assert settings.home == Path("/tmp/x")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AIAAS_PORT", "many"),
        ("AIAAS_PORT", "70000"),
        ("AIAAS_WORKERS", "0"),
        ("INTENT_TIMEOUT_S", "-1"),
        ("INTENT_TIMEOUT_S", "nan"),
        ("LOG_LEVEL", "LOUD"),
        ("ALERTS_EVERY_S", "0"),
        ("TTS_ENGINE", "festival"),
        ("WEBHOOKS_MAY_REACH_PRIVATE_ADDRESSES", "perhaps"),
        ("STRIPE_COLLECTION", "beg"),
        ("ASR_SCALE", "4"),
        ("ASR_SCALE", "replicas=4"),
        ("ASR_SCALE", "min_replicas=4 max_replicas=2"),
    ],
)
def test_a_wrong_value_is_named_in_one_line(name: str, value: str) -> None:
    with pytest.raises(StartupError) as caught:
        load_settings({name: value})
    assert str(caught.value).startswith(f"{name} is not usable: ")
    assert "\n" not in str(caught.value)


def test_a_secret_is_in_no_printed_form_of_the_settings() -> None:
    settings = load_settings(
        {
            "DATABASE_URL": "postgresql://u:hunter2@127.0.0.1/db",
            "LIMITS_STORAGE_URI": "redis://:hunter2@127.0.0.1",
            "REMOTE_API_KEY": "sk-hunter2",
            "STRIPE_API_KEY": "sk_test_hunter2",
            "STRIPE_WEBHOOK_SECRET": "whsec_hunter2,whsec_older",
        }
    )
    assert settings.stripe_webhook_secrets == ["whsec_hunter2", "whsec_older"]
    assert "hunter2" not in f"{settings!r} {settings} {settings.database_url!r} {settings.database_url}"
    assert settings.database_url is not None
    assert "hunter2" in settings.database_url.reveal()


def test_a_scale_says_as_much_as_it_is_told() -> None:
    settings = load_settings({"ASR_SCALE": "min_replicas=1 max_replicas=4 gpu=0.5"})
    assert settings.asr_scale == Scale(min_replicas=1, max_replicas=4, gpu=0.5)
    assert settings.tts_scale == Scale()
    with pytest.raises(StartupError, match=r"^TTS_SCALE\.GPU is not usable: .*<= 1"):
        load_settings({"TTS_SCALE": "gpu=2"})


def test_vits_without_a_model_is_refused_by_the_variable_to_set() -> None:
    with pytest.raises(StartupError, match="TTS_MODEL is not set: TTS_ENGINE=vits needs"):
        load_settings({"TTS_ENGINE": "vits", "TTS_MODEL": ""})
    settings = load_settings({"TTS_ENGINE": "vits", "TTS_MODEL": "facebook/mms-tts-eng"})
    assert (settings.tts_engine, settings.tts_model) == ("vits", "facebook/mms-tts-eng")


@pytest.mark.parametrize(
    "url", ["https://api.openai.com/v1", "http://127.0.0.1:8080/v1", "http://[::1]:8080/v1", "https://host"]
)
def test_a_remote_endpoint_is_an_address(url: str) -> None:
    assert load_settings({"REMOTE_BASE_URL": url}).remote_base_url == url


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("REMOTE_BASE_URL", "api.openai.com/v1"),
        ("REMOTE_BASE_URL", "ftp://host/v1"),
        ("REMOTE_BASE_URL", "https://user:hunter2@host/v1"),
        ("REMOTE_BASE_URL", "https://host/v1?key=hunter2"),
        ("REMOTE_BASE_URL", "https://host/hunter2 v1"),
        ("REMOTE_API_KEY", "hunter2\nx-header: 1"),
        ("REMOTE_API_KEY", "hunter2 "),
        ("REMOTE_API_KEY", "hünter2"),
        ("STRIPE_API_KEY", "hunter2"),
        ("STRIPE_API_KEY", "pk_live_hunter2"),
        ("STRIPE_API_KEY", "sk_live_hunter2\nx"),
        ("STRIPE_WEBHOOK_SECRET", "whsec_a,hunter2 "),
        ("STRIPE_WEBHOOK_SECRET", "whsec_hunter2,"),
        ("STRIPE_API_BASE", "http://hunter2.example.com"),
        ("STRIPE_API_BASE", "https://u:hunter2@api.stripe.com"),
    ],
)
def test_what_no_call_could_be_sent_with_is_named_and_not_shown(name: str, value: str) -> None:
    with pytest.raises(StartupError, match=f"^{name} is not usable: ") as caught:
        load_settings({name: value})
    assert "nter2" not in str(caught.value)
