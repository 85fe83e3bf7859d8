"""A file's name comes from a number whose prefix somebody chose: it cannot say more than a name."""

import pytest

from billing.documents.downloads import Download
from gateway.downloads import PDF, disposition, download


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("AG-000001.pdf", 'attachment; filename="AG-000001.pdf"'),
        (
            'a"; x=\r\nset-cookie: b/../c.pdf',
            'attachment; filename="a___x___set-cookie__b_.._c.pdf"; '
            "filename*=UTF-8''a%22%3B%20x%3D%0D%0Aset-cookie%3A%20b%2F..%2Fc.pdf",
        ),
        ("帳-1.pdf", "attachment; filename=\"_-1.pdf\"; filename*=UTF-8''%E5%B8%B3-1.pdf"),
    ],
)
def test_a_file_is_called_by_its_number_alone(name: str, said: str) -> None:
    assert disposition(name) == said


def test_a_document_is_kept_by_no_cache_and_taken_for_nothing_else() -> None:
    answer = download(Download("AG-000001.pdf", b"%PDF"), PDF)
    assert answer.headers["cache-control"] == "private, no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.media_type == "application/pdf"
