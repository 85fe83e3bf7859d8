"""The `aiaas` command: the group, and the commands that concern the installation as a whole."""

import os
from typing import Any

import click
import msgspec

from gateway.commands.collection import collection
from gateway.commands.credit import tenant_add_credit
from gateway.commands.credit_notes import credit_note
from gateway.commands.customers import key, tenant
from gateway.commands.demo import demo
from gateway.commands.documents import invoice_lines_command, invoice_pdf_command
from gateway.commands.invoices import invoice
from gateway.commands.money import reconcile_command, usage_command
from gateway.commands.notices import alert, webhook
from gateway.commands.parties import issuer, tenant_set_billing
from gateway.commands.partitions import partition
from gateway.commands.plans import plan
from gateway.commands.prices import price
from gateway.commands.proofs import invoice_calls, invoice_verify
from gateway.commands.review import INVOICE_COMMANDS, audit_command
from gateway.commands.running import AiaasGroup, as_json, database_url, echo_json, run, settings_from
from gateway.commands.runs import invoice_run
from gateway.commands.staff import staff
from infra.migrations import migrate


@click.group(
    cls=AiaasGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(package_name="aiaas-gateway")
def main() -> None:
    """Sell speech and language AI by the call.

    \b
    First steps:
      aiaas up                      start everything on this machine
      aiaas demo                    speak, transcribe, find an intent, see the charges
      aiaas tenant create "Acme"    a customer of yours
      aiaas key create --tenant ten_...

    State lives in $AIAAS_HOME (default ./.aiaas). Every command takes --json, works while `aiaas up`
    runs, and ends with status 1 and one line on stderr when something is wrong.
    """


@main.command()
@click.option("--host", help="Address to listen on. [default: 127.0.0.1, this machine only]")
@click.option("--port", type=click.IntRange(0, 65535), help="Port; 0 takes a free one. [default: 8080]")
@click.option("--workers", type=click.IntRange(1, 64), help="Gateway processes. [default: 1]")
@as_json
def up(host: str | None, port: int | None, workers: int | None, json: bool) -> None:
    """Start everything on this machine: PostgreSQL, Ray Serve with three engines, billing, the gateway.

    Stays until Ctrl-C, and starts again what dies. On first start it makes a demo tenant and writes its
    key to $AIAAS_HOME/demo.env. With DATABASE_URL or RAY_ADDRESS set, those are used instead of own ones.
    """
    from gateway.up import run_up

    given = {"AIAAS_HOST": host, "AIAAS_PORT": port, "AIAAS_WORKERS": workers}
    settings = settings_from({name: str(value) for name, value in given.items() if value is not None})
    run_up(settings, _print_json if json else _Printer().line)


@main.command("migrate")
@as_json
def migrate_command(json: bool) -> None:
    """Bring the database's tables up to this version (`aiaas up` does it by itself)."""
    applied = run(migrate(database_url()))
    if json:
        echo_json({"applied": applied})
    else:
        click.echo(
            "\n".join(f"applied {name}" for name in applied) or "Nothing to do: the database is up to date."
        )


@main.command("db-url")
@as_json
def db_url(json: bool) -> None:
    """Print the database's URL, password included, for psql and other clients."""
    url = database_url()
    if json:
        echo_json({"url": url})
    else:
        click.echo(url)


@main.command("openapi")
@as_json
def openapi_command(json: bool) -> None:
    """Print the API's OpenAPI document (it is JSON with and without --json)."""
    from gateway.app import create_app

    app = create_app(settings_from({}), database_url="", ray_address="")
    click.echo(msgspec.json.format(msgspec.json.encode(app.state["document"]), indent=2).decode())


for command in (tenant_add_credit, tenant_set_billing):
    tenant.add_command(command)
_OF_INVOICES = (invoice_run, invoice_verify, invoice_calls, invoice_lines_command, invoice_pdf_command)
for command in (*_OF_INVOICES, *INVOICE_COMMANDS):
    invoice.add_command(command)
_INVOICING = (price, issuer, invoice, credit_note, collection, audit_command)
_MONEY = (usage_command, *_INVOICING, reconcile_command, partition, webhook, alert)
for command in (tenant, plan, key, staff, *_MONEY, demo):
    main.add_command(command)


def _print_json(line: dict[str, Any]) -> None:
    echo_json(line)


class _Printer:
    """`aiaas up` for people: one line a part."""

    def line(self, line: dict[str, Any]) -> None:
        if line["part"] == "aiaas" and line["state"] == "ready" and "url" in line:
            click.echo(_welcome(line["url"], line["home"]))
            return
        after = f" after {line['after_s']:4.1f} s" if "after_s" in line else ""
        note = f"   {line['note']}" if line.get("note") else ""
        click.echo(f"  {line['part']:<10}{line['state']}{after}{note}")


def _welcome(url: str, home: str) -> str:
    shown = os.path.relpath(home)
    home_shown = shown if not shown.startswith("..") else home
    return f"""
AIaaS Gateway is ready.

  API        {url}/v1
  Reference  {url}/docs
  Demo key   {home_shown}/demo.env

Try it in another terminal:

  . {home_shown}/demo.env
  curl $OPENAI_BASE_URL/intents \\
    -H "Authorization: Bearer $OPENAI_API_KEY" -H "Content-Type: application/json" \\
    -d '{{"model": "retail-en", "text": "where is my parcel?"}}'

or run `aiaas demo`. Ctrl-C stops everything."""
