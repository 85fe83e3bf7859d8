"""Replicas reserve parts of a GPU. Ray is told that it has one: its scheduling is real all the same."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.settings import Settings, load_settings
from serving.ray_environment import make_ray_folder, prepare_ray_environment
from tests.engines.tiny_models import make_vits
from tests.stack import wait_until


@pytest.fixture
def ray(tmp_path: Path) -> Iterator[Any]:
    settings = Settings(aiaas_home=tmp_path)
    make_ray_folder(settings)
    prepare_ray_environment(settings, os.environ)
    import ray
    from ray import serve

    ray.init(num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False)
    serve.start(proxy_location="Disabled")
    yield ray
    serve.shutdown()
    ray.shutdown()


def test_two_replicas_share_a_gpu_and_a_third_waits_for_room(ray: Any, tmp_path: Path) -> None:
    from ray import serve

    from serving.applications import applications

    model = str(make_vits(tmp_path / "vits"))

    def deploy(scale: str) -> None:
        settings = load_settings({"TTS_ENGINE": "vits", "TTS_MODEL": model, "TTS_SCALE": scale})
        has_gpu = ray.cluster_resources()["GPU"] == 1
        app = applications(settings, 2, local=True, has_gpu=has_gpu)["tts"]
        serve._run(app, name="tts", route_prefix=None, _blocking=False)

    def states() -> dict[str, int]:
        deployments = serve.status().applications["tts"].deployments
        return deployments["tts"].replica_states if "tts" in deployments else {}

    deploy("min_replicas=2 gpu=0.5")
    assert wait_until(lambda: states() == {"RUNNING": 2}, 30)
    assert wait_until(lambda: ray.available_resources().get("GPU", 0) == 0, 5)
    deploy("min_replicas=3 gpu=0.5")
    assert wait_until(lambda: states() == {"RUNNING": 2, "STARTING": 1}, 10)
