"""`aiaas demo`: the product in one minute, through its public API."""

import time
from datetime import UTC, datetime
from typing import Any

import click
import httpx

from billing.accounts import current_period
from billing.drafts import run_drafts
from billing.invoices import Invoice, show_invoice
from gateway.commands.invoices import describe_invoice
from gateway.commands.running import as_json, echo_json, settings_from, with_pool
from gateway.demo_tenant import read_demo_env
from infra.database import Pool
from infra.errors import StartupError
from tenants import keys
from tenants.api_keys import operator_tenant_of_key

_SENTENCE = "Please call me tomorrow."
_CUSTOMER = "I ordered shoes two weeks ago and nothing has arrived"
_CUSTOMER_ZH = "我上週訂的包裹到現在還沒收到"
_TIMEOUT_S = 120.0


@click.command()
@as_json
def demo(json: bool) -> None:
    """Speak a sentence, transcribe it, find two intents; show the charges and the draft invoice."""
    base_url, key = read_demo_env(settings_from({}).home / "demo.env")
    steps: list[dict[str, Any]] = []

    def note(step: dict[str, Any]) -> None:
        steps.append(step)
        if not json:
            click.echo(f"{step['step']:<11}{step['shown']}\n{'':<11}{step['charge']}, {step['took_ms']} ms")

    try:
        _call_everything(base_url, key, note)
    except httpx.HTTPError:
        raise StartupError(f"The gateway at {base_url} does not answer. Start it with `aiaas up`.") from None
    draft = with_pool(lambda pool: _draft(pool, key))
    if json:
        echo_json({"steps": steps, "invoice": draft})
    else:
        click.echo(f"\n{describe_invoice(draft)}")


def _call_everything(base_url: str, key: str, note: Any) -> None:
    headers = {"authorization": f"Bearer {key}"}
    with httpx.Client(base_url=base_url, headers=headers, timeout=_TIMEOUT_S) as http:
        body = {"model": "tts-1", "voice": "alloy", "input": _SENTENCE, "response_format": "wav"}
        spoken = _timed(
            note, "speak", lambda: http.post("/audio/speech", json=body), lambda _: f'"{_SENTENCE}"'
        )
        files = {"file": ("speech.wav", spoken.content)}
        _timed(
            note,
            "transcribe",
            lambda: http.post("/audio/transcriptions", data={"model": "whisper-1"}, files=files),
            lambda answer: f'"{answer.json()["text"]}"',
        )
        for model, text in (("retail-en", _CUSTOMER), ("retail-zh-TW", _CUSTOMER_ZH)):
            _timed(
                note,
                "intent",
                lambda model=model, text=text: http.post("/intents", json={"model": model, "text": text}),
                lambda answer, text=text: f"{text} -> {answer.json()['intent']}",
            )


def _timed(note: Any, step: str, call: Any, show: Any) -> httpx.Response:
    started = time.perf_counter()
    answer: httpx.Response = call()
    took_ms = round((time.perf_counter() - started) * 1000)
    if answer.status_code != 200:
        raise StartupError(f"{step} was refused: {answer.json()['error']['message']}")
    units, meter = answer.headers["x-aiaas-units"], answer.headers["x-aiaas-meter"]
    engine = answer.headers["x-aiaas-engine"]
    note(
        {
            "step": step,
            "shown": show(answer),
            "charge": f"charged {units} {meter}, answered by {engine}",
            "call_id": answer.headers["x-aiaas-call-id"],
            "took_ms": took_ms,
        }
    )
    return answer


async def _draft(pool: Pool, key: str) -> Invoice:
    parsed = keys.parse(key)
    assert parsed is not None
    tenant_id = await operator_tenant_of_key(pool, parsed.key_id)
    period = await current_period(pool, tenant_id, datetime.now(UTC))
    drafts = await run_drafts(pool, period.label)
    return await show_invoice(pool, next(one.invoice_id for one in drafts if one.tenant_id == tenant_id))
