"""The applications as a Serve configuration file names them, for a cluster that deploys from such a file.

`serving.host` deploys the same applications by itself, on one machine or on a cluster that it joins.
"""

from collections.abc import Mapping
from typing import Any

from ray import serve

from serving.deployments import applications


def application(arguments: Mapping[str, Any]) -> serve.Application:
    """Build one application: the `import_path` of all four.

    Args:
        arguments: `name`, one of `serving.deployments.applications`; `cores`, how many of its machine's
            cores a replica may count on (a container sees the cores of its host, whatever its limit is).
    """
    return applications(local=False, cores=int(arguments["cores"]))[arguments["name"]]
