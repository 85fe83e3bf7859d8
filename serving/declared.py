"""The applications as a Serve configuration file names them, for a cluster that deploys from such a file.

`serving.host` deploys the same applications by itself, on one machine or on a cluster that it joins.
"""

import os
from collections.abc import Mapping
from typing import Any

from ray import serve

from infra.settings import load_settings
from serving.applications import applications


def application(arguments: Mapping[str, Any]) -> serve.Application:
    """Build one application: the `import_path` of all four.

    Args:
        arguments: `name`, one of `serving.deployments.applications`; `cores`, how many of its machine's
            cores a replica may count on (a container sees the cores of its host, whatever its limit is);
            `settings`, variables that the file sets beside those of the environment, such as `ASR_SCALE`.
            A part of a GPU is reserved where a scale says so: a cluster that grows may have none yet.

    Raises:
        StartupError: a setting cannot be used.
    """
    settings = load_settings({**os.environ, **arguments.get("settings", {})})
    cores = int(arguments["cores"])
    return applications(settings, cores, local=False, has_gpu=False)[arguments["name"]]
