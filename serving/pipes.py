"""Messages over the pipes of a child process: each behind its length in 4 bytes, little-endian."""

import struct
from typing import IO

_LENGTH = struct.Struct("<I")


def send(pipe: IO[bytes], message: bytes) -> None:
    """Write one message.

    Raises:
        OSError, ValueError: there is no reader any more, or the pipe was closed here.
    """
    pipe.write(_LENGTH.pack(len(message)))
    pipe.write(message)
    pipe.flush()


def receive(pipe: IO[bytes]) -> bytes | None:
    """The next message, or None at the end of the pipe, also where that is in the middle of one.

    Raises:
        OSError, ValueError: the pipe cannot be read, or was closed here.
    """
    header = pipe.read(_LENGTH.size)
    if len(header) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(header)
    message = pipe.read(length)
    return message if len(message) == length else None
