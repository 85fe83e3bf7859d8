"""Settings: the environment, decoded once into one frozen struct."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from infra.errors import StartupError
from infra.scale import Scale, words_of

_REMOTE_URL = re.compile(r"https?://([\w.-]+|\[[\da-fA-F:.]+\])(:\d{1,5})?(/[^\s?#\\]*)?", re.ASCII)
_STRIPE_KEY = re.compile(r"[sr]k_(test|live)_[!-~]{1,255}")
_STRIPE_BASE = re.compile(r"https://[\w.-]+(:\d{1,5})?|http://127\.0\.0\.1:\d{1,5}", re.ASCII)
_HEADER_WORD = re.compile(r"[!-~]+")


class Secret:
    """A string that does not print itself. `reveal()` is the only way to its value."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "Secret(***)"


Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
Count = Annotated[int, msgspec.Meta(ge=1, le=1024)]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=86_400)]


_SCALES = {"media_scale", "asr_scale", "intent_scale", "tts_scale"}


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything the environment decides. A field's variable is its name in capitals.

    Attributes:
        aiaas_home: where state lives (database, Ray session, `demo.env`).
        database_url: a PostgreSQL server to use instead of the embedded one.
        ray_address: a Ray cluster to deploy to instead of a local one, as `host:port`.
        aiaas_host: the address the gateway listens on.
        aiaas_port: its port; 0 takes a free one.
        aiaas_workers: how many gateway processes share that port.
        log_level: DEBUG, INFO, WARNING or ERROR.
        asr_engine: what recognises speech, `pocketsphinx` or `whisper`.
        asr_model: Whisper's model: one of its names, or the path of a checkpoint where the engine runs.
        asr_timeout_s: the longest a transcription may take, from decoded request to answer.
        tts_timeout_s: the longest a speech call may take to its first sound, and between sounds.
        intent_timeout_s: the longest an intent call may take.
        intent_model: a transformers encoder, by its name on the Hugging Face Hub or its folder's path; None
            is the bundled one. Paths are those of the machine where the engine runs.
        tts_engine: what speaks, `espeak` or `vits`.
        tts_model: the VITS model, by name or path as above; `vits` needs it, `espeak` makes no use of it.
        media_scale, asr_scale, intent_scale, tts_scale: replicas of each deployment, and what they reserve:
            `min_replicas=1 max_replicas=4 in_flight=2 cpus=0.5 gpu=0.5`, any part of it; see `Scale`.
        asr_max_batch: the most windows that Whisper decodes at once; fewer where a GPU has no room for them.
        serving_start_timeout_s: the longest the engines may take to start, downloads included.
        remote_base_url: another OpenAI-compatible endpoint, such as `https://api.openai.com/v1`, for tenants
            whose placement lets their calls leave; None: no call leaves.
        remote_api_key: the key for it; None sends none.
        remote_asr_model, remote_tts_model: the models that are asked for there. A recogniser must answer
            `verbose_json`. Intents, which another AIaaS Gateway alone has, are asked for by the set's name.
        remote_max_calls: calls of one gateway worker in hand there at the same time.
        charge_timeout_s: how long a call in hand waits for its charge while PostgreSQL is away.
        requests_per_minute: a tenant's and a key's request rate.
        max_concurrent_calls: calls of one tenant in hand at the same time, over all workers.
        limits_storage_uri: a Redis or Valkey server that counts requests for all workers; None counts in
            each worker's memory.
        alerts_every_s: how often caps and days are looked at for alerts.
        webhook_timeout_s: the longest one attempt to deliver a webhook message may take.
        webhooks_may_reach_private_addresses: whether webhooks may be http, and lie inside the network.
        stripe_api_key: a secret or restricted key of Stripe, test or live; None: invoices are collected by
            hand.
        stripe_webhook_secret: what Stripe signs its events with; several, with commas, while one replaces
            another.
        stripe_collection: `send` has Stripe e-mail invoices to be paid, `charge` charges the customer's
            default means of payment.
        stripe_api_base: where Stripe is.
        stripe_timeout_s: the longest a call to Stripe may take to connect, and to answer.
    """

    aiaas_home: Path = Path(".aiaas")
    database_url: Secret | None = None
    ray_address: str | None = None
    aiaas_host: str = "127.0.0.1"
    aiaas_port: Port = 8080
    aiaas_workers: Count = 1
    log_level: Annotated[str, msgspec.Meta(pattern="^(DEBUG|INFO|WARNING|ERROR)$")] = "INFO"
    asr_engine: Literal["pocketsphinx", "whisper"] = "pocketsphinx"
    asr_model: str = "turbo"
    asr_timeout_s: Seconds = 600.0
    tts_timeout_s: Seconds = 60.0
    intent_timeout_s: Seconds = 15.0
    intent_model: str | None = None
    tts_engine: Literal["espeak", "vits"] = "espeak"
    tts_model: str | None = None
    media_scale: Scale = Scale()
    asr_scale: Scale = Scale()
    intent_scale: Scale = Scale()
    tts_scale: Scale = Scale()
    asr_max_batch: Count = 16
    serving_start_timeout_s: Seconds = 1800.0
    remote_base_url: str | None = None
    remote_api_key: Secret | None = None
    remote_asr_model: str = "whisper-1"
    remote_tts_model: str = "tts-1"
    remote_max_calls: Count = 64
    charge_timeout_s: Seconds = 20.0
    requests_per_minute: Annotated[int, msgspec.Meta(ge=1)] = 6000
    max_concurrent_calls: Annotated[int, msgspec.Meta(ge=1)] = 256
    limits_storage_uri: Secret | None = None
    alerts_every_s: Annotated[int, msgspec.Meta(ge=1, le=30)] = 30
    webhook_timeout_s: Seconds = 15.0
    webhooks_may_reach_private_addresses: bool = False
    stripe_api_key: Secret | None = None
    stripe_webhook_secret: Secret | None = None
    stripe_collection: Literal["send", "charge"] = "send"
    stripe_api_base: str = "https://api.stripe.com"
    stripe_timeout_s: Seconds = 20.0

    @property
    def stripe_webhook_secrets(self) -> list[str]:
        """Each of the secrets that may have signed an event."""
        return self.stripe_webhook_secret.reveal().split(",") if self.stripe_webhook_secret else []

    @property
    def home(self) -> Path:
        """`aiaas_home` as an absolute path."""
        return self.aiaas_home.expanduser().absolute()


def _decode(kind: type, value: Any) -> Any:
    return kind(value) if kind in (Secret, Path) else value


def load_settings(environ: Mapping[str, str]) -> Settings:
    """Read the settings from an environment; an empty variable counts as unset.

    Raises:
        StartupError: a variable's value cannot be used, or one that it needs is not set; the message names
            the variable.
    """
    given = {name: environ.get(name.upper(), "") for name in Settings.__struct_fields__}
    values: dict[str, Any] = {name: value for name, value in given.items() if value}
    values |= {name: words_of(values[name], name.upper()) for name in _SCALES & values.keys()}
    try:
        settings = msgspec.convert(values, Settings, strict=False, dec_hook=_decode)
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at `$.")
        raise StartupError(f"{path.rstrip('`').upper()} is not usable: {reason}") from None
    if settings.tts_engine == "vits" and settings.tts_model is None:
        raise StartupError(
            "TTS_MODEL is not set: TTS_ENGINE=vits needs the name or the path of a VITS model, such as "
            "facebook/mms-tts-eng."
        )
    _check_remote(settings)
    _check_stripe(settings)
    return settings


def _check_remote(settings: Settings) -> None:
    """Raises: StartupError: neither message holds what is wrong, since that may be a password or the key."""
    if settings.remote_base_url is not None and not _REMOTE_URL.fullmatch(settings.remote_base_url):
        raise StartupError(
            "REMOTE_BASE_URL is not usable: it is an address such as https://api.openai.com/v1, without a "
            "user's name, a query or a fragment."
        )
    if settings.remote_api_key is not None and not _HEADER_WORD.fullmatch(settings.remote_api_key.reveal()):
        raise StartupError("REMOTE_API_KEY is not usable: a key has no spaces and ASCII characters alone.")


def _check_stripe(settings: Settings) -> None:
    """Raises: StartupError: no message holds a key."""
    if settings.stripe_api_key and not _STRIPE_KEY.fullmatch(settings.stripe_api_key.reveal()):
        raise StartupError(
            "STRIPE_API_KEY is not usable: it begins with sk_test_, sk_live_, rk_test_ or rk_live_."
        )
    if not _STRIPE_BASE.fullmatch(settings.stripe_api_base):
        raise StartupError("STRIPE_API_BASE is not usable: it is an address such as https://api.stripe.com.")
    if not all(_HEADER_WORD.fullmatch(secret) for secret in settings.stripe_webhook_secrets):
        raise StartupError(
            "STRIPE_WEBHOOK_SECRET is not usable: secrets are separated by commas, without spaces."
        )
