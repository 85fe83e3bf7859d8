"""The demo tenant, so that the first call needs no set-up: its key lies in `$AIAAS_HOME/demo.env`."""

import asyncio
import os
import re
from contextlib import suppress
from pathlib import Path

from gateway.customers import create_customer
from infra.database import Pool, open_pool
from infra.errors import NotFoundError, StartupError
from tenants import keys
from tenants.api_keys import create_key, list_keys, operator_tenant_of_key
from tenants.tenants import operator_list_tenants

DEMO_NAME = "Demo"
_URL_LINE = re.compile(r"^OPENAI_BASE_URL=(\S+)$", re.MULTILINE)
_KEY_LINE = re.compile(r"^OPENAI_API_KEY=(\S+)$", re.MULTILINE)


def ensure_demo_tenant(database_url: str, env_file: Path, base_url: str) -> None:
    """Write the file with a key that works: the one it holds, or a new one where that does not."""
    held = _KEY_LINE.search(env_file.read_text()) if env_file.exists() else None
    _write(env_file, base_url, asyncio.run(_usable_key(database_url, held[1] if held else "")))


def read_demo_env(env_file: Path) -> tuple[str, str]:
    """The demo tenant's base URL and key.

    Raises:
        StartupError: `aiaas up` has not written the file yet.
    """
    with suppress(FileNotFoundError):
        text = env_file.read_text()
        url, key = _URL_LINE.search(text), _KEY_LINE.search(text)
        if url and key:
            return url[1], key[1]
    raise StartupError(f"There is no {env_file}. Run `aiaas up` first: it writes it.")


async def _usable_key(database_url: str, held: str) -> str:
    pool = await open_pool(database_url, max_size=2, application_name="aiaas-up")
    try:
        return held if await _works(pool, held) else await _new_key(pool)
    finally:
        await pool.close()


async def _works(pool: Pool, text: str) -> bool:
    """Whether the key of this text is known and neither revoked nor replaced."""
    parsed = keys.parse(text)
    if parsed is None:
        return False
    with suppress(NotFoundError):
        tenant_id = await operator_tenant_of_key(pool, parsed.key_id)
        found = [key for key in await list_keys(pool, tenant_id) if key.key_id == parsed.key_id]
        return all(key.revoked_at is None and key.replaced_by is None for key in found)
    return False


async def _new_key(pool: Pool) -> str:
    known = [tenant for tenant in await operator_list_tenants(pool) if tenant.name == DEMO_NAME]
    tenant = known[0] if known else await create_customer(pool, DEMO_NAME)
    issued = await create_key(pool, tenant.tenant_id, name="demo")
    return issued.text.reveal()


def _write(env_file: Path, base_url: str, key: str) -> None:
    """Replace the file in one step; only its owner may read it."""
    draft = env_file.with_suffix(".new")
    draft.unlink(missing_ok=True)
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(
            f"OPENAI_BASE_URL={base_url}\nOPENAI_API_KEY={key}\nexport OPENAI_BASE_URL OPENAI_API_KEY\n"
        )
    draft.replace(env_file)
