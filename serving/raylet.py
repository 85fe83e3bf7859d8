"""The raylet through which this process joined a cluster: its end is the end of the membership.

Ray does not tell a driver so. One that lost its head, or its raylet, keeps handles that lead nowhere once the
cluster was started anew, and cannot follow it there.
"""

import importlib
import socket
from typing import Any


def connect_to_raylet() -> socket.socket:
    """A blocking connection that says nothing, and that the kernel closes when the raylet ends.

    Raises:
        OSError: there is no raylet any more.
    """
    worker: Any = importlib.import_module("ray._private.worker")
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(worker.global_worker.node.raylet_socket_name)
    except OSError:
        connection.close()
        raise
    return connection
