"""How long an upload sounds."""

from collections.abc import Iterator

from serving.media.decode import windows


def lengths_ms(upload: bytes) -> Iterator[int]:
    """The length decoded so far, window by window; the last one is the file's, exactly: see `windows`.

    Raises: as `windows` does.
    """
    for window in windows(upload):
        yield window.start_ms + window.duration_ms
