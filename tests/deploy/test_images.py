"""The images hold what their programs need, and set what the code reads. Nothing is built here."""

import re
import subprocess
import sys
from importlib.metadata import packages_distributions

import pytest

from serving import ray_environment
from tests.deploy.files import DEPLOY, ROOT, build_arguments, dockerfile, image_environment

IMAGES = ("gateway", "ray")
REQUIREMENTS = [sys.executable, str(DEPLOY / "requirements.py"), str(ROOT / "pyproject.toml")]
_OMITTED = re.compile(r"requirements\.py pyproject\.toml((?: (?:[\w.-]+|\\\n *))+) > requirements\.txt")
_BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ImportError(name + " is not in the image")
sys.meta_path.insert(0, Blocked())
import billing.worker, gateway.cli, gateway.worker, ray.serve
from gateway.app import create_app
from infra.settings import Settings
create_app(Settings(), "", "")
assert not {blocked!r} & set(sys.modules)
"""


def omitted() -> set[str]:
    found = _OMITTED.search(dockerfile("gateway"))
    assert found is not None
    return set(found[1].replace("\\\n", " ").split())


def test_the_gateways_image_leaves_out_nothing_that_its_programs_import() -> None:
    assert {"torch", "transformers", "av"} <= omitted()
    modules = {name for name, owners in packages_distributions().items() if set(owners) & omitted()}
    assert {"torch", "transformers", "av", "sklearn"} <= modules
    program = _BLOCKED.format(blocked=modules)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_requirements_are_the_projects_less_those_named() -> None:
    everything = subprocess.check_output(REQUIREMENTS, text=True).splitlines()
    some = subprocess.check_output([*REQUIREMENTS, *sorted(omitted())], text=True).splitlines()
    assert len(everything) - len(some) == len(omitted())
    assert set(some) < set(everything)
    assert not [line for line in some if line.startswith(("torch", "transformers", "scikit-learn"))]


def test_a_requirement_that_went_is_not_left_out_in_silence() -> None:
    done = subprocess.run([*REQUIREMENTS, "tensorflow"], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "does not require tensorflow" in done.stderr


def test_both_ends_of_a_call_have_the_same_python_and_the_same_ray() -> None:
    for name in ("PYTHON_VERSION", "RAY_VERSION"):
        assert len({build_arguments(image)[name] for image in IMAGES}) == 1


def test_ray_nodes_are_started_with_what_the_code_sets_for_its_own_processes() -> None:
    given = {name: value for name, value in image_environment("ray").items() if name.startswith("RAY_")}
    assert {"RAY_SERVE_THROUGHPUT_OPTIMIZED", "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH"} <= set(given)
    assert given.items() <= ray_environment._SETTINGS.items()


@pytest.mark.parametrize("image", IMAGES)
def test_the_last_stage_builds_nothing_and_is_not_root(image: str) -> None:
    *_, last_stage = dockerfile(image).split("\nFROM ")
    assert "apt-get" not in last_stage
    assert "pip install" not in last_stage
    assert "\nUSER 1000:1000\n" in last_stage
    assert "\nHEALTHCHECK " in last_stage


@pytest.mark.parametrize("image", IMAGES)
def test_the_programs_of_an_image_exist(image: str) -> None:
    for command in re.findall(r'CMD \["python", "-m", "([\w.]+)"\]', dockerfile(image)):
        assert (ROOT / command.replace(".", "/")).with_suffix(".py").is_file()


def test_the_build_sees_the_source_and_no_state() -> None:
    lines = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    assert "*" in lines
    shown = {line[1:] for line in lines if line.startswith("!")}
    assert all((ROOT / name).exists() for name in shown)
    assert {"billing", "gateway", "infra", "openapi", "serving", "tenants", "pyproject.toml"} <= shown
    assert not shown & {".git", ".aiaas", ".venv", "tests"}
