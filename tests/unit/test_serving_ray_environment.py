"""What Ray is told depends on whose it is."""

from pathlib import Path

from infra.settings import Settings
from serving.ray_environment import prepare_ray_environment

RECONNECT = "RAY_gcs_rpc_server_reconnect_timeout_s"


def test_a_local_head_has_our_token_and_its_drivers_wait_for_their_supervisor(tmp_path: Path) -> None:
    environ = {"RAY_AUTH_TOKEN": "another's"}
    prepare_ray_environment(Settings(aiaas_home=tmp_path), environ)
    assert environ["RAY_AUTH_TOKEN_PATH"] == str(tmp_path / "ray" / "auth_token")
    assert "RAY_AUTH_TOKEN" not in environ
    assert int(environ[RECONNECT]) > 3600


def test_on_a_cluster_of_others_its_token_stays_and_a_driver_that_lost_it_ends_by_itself() -> None:
    environ = {"RAY_AUTH_TOKEN": "theirs"}
    prepare_ray_environment(Settings(ray_address="ray:6379"), environ)
    assert environ["RAY_AUTH_TOKEN"] == "theirs"
    assert "RAY_AUTH_TOKEN_PATH" not in environ
    assert RECONNECT not in environ
    assert environ["RAY_SERVE_THROUGHPUT_OPTIMIZED"] == "1"
