"""The listening socket: made once, shared by every worker that inherits it."""

import socket
from collections.abc import Generator
from contextlib import contextmanager

from infra.errors import StartupError
from infra.settings import Settings

_BACKLOG = 2048


@contextmanager
def listening(settings: Settings) -> Generator[socket.socket, None, None]:
    """Listen on `aiaas_host` and `aiaas_port`; children may inherit the socket.

    Raises:
        StartupError: the address cannot be had.
    """
    address = (settings.aiaas_host, settings.aiaas_port)
    family = socket.AF_INET6 if ":" in settings.aiaas_host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
        except OSError as error:
            raise StartupError(
                f"Cannot listen on {address[0]} port {address[1]}: {error.strerror}. "
                "Choose another with --port or AIAAS_PORT, or end what uses it."
            ) from None
        listener.listen(_BACKLOG)
        listener.set_inheritable(True)
        yield listener
