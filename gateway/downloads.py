"""Files that are answered to be kept."""

import re
from urllib.parse import quote

from litestar import Response

from billing.documents.downloads import Download

PDF = "application/pdf"
CSV = "text/csv"


def download(file: Download, media_type: str) -> Response[bytes]:
    """The answer that is a file: under its name, kept by no cache, and taken for nothing else than it is."""
    return Response(
        file.body,
        media_type=media_type,
        headers={
            "content-disposition": disposition(file.name),
            "cache-control": "private, no-store",
            "x-content-type-options": "nosniff",
        },
    )


def disposition(name: str) -> str:
    """`Content-Disposition` (RFC 6266): the name in plain characters, and whole where those do not do."""
    plain = plain_name(name)
    whole = f"; filename*=UTF-8''{quote(name, safe='')}" if plain != name else ""
    return f'attachment; filename="{plain}"{whole}'


def plain_name(name: str) -> str:
    """A file's name that is one everywhere."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)
