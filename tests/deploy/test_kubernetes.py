"""The manifests fit Kubernetes' schemas, each other, and what the code does.

The schemas of Kubernetes' own kinds come with a package, for several versions of Kubernetes. KubeRay's come
with none: of a RayService only this is checked here: the fields that its operator cannot do without, that no
field is one we did not know when these files were written, every pod template in it as Kubernetes' own
PodTemplateSpec, and the configuration for Serve by Ray's own model. The CRD itself may still refuse it.
"""

import re

import kubernetes_validate
import pytest
import yaml
from ray import serve
from ray.serve._private.api import call_user_app_builder_with_args_if_necessary
from ray.serve._private.utils import import_attr
from ray.serve.schema import ServeApplicationSchema, ServeDeploySchema

from gateway.worker import DRAIN_TIMEOUT_S
from infra.settings import Settings
from serving.client import _APPLICATIONS
from serving.declared import application
from tests.deploy.files import (
    DEPLOY,
    MANIFESTS,
    build_arguments,
    containers,
    object_of,
    objects,
    pod_templates,
    ray_groups,
    serve_config,
)

VERSIONS = ("1.30", "1.33", kubernetes_validate.latest_version())
CLUSTER_FIELDS = {"rayVersion", "authOptions", "enableInTreeAutoscaling", "autoscalerOptions"} | {
    "headGroupSpec",
    "workerGroupSpecs",
}
GROUP_FIELDS = {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}
SERVICE_FIELDS = {
    "serveConfigV2",
    "rayClusterConfig",
    "upgradeStrategy",
    "rayClusterDeletionDelaySeconds",
}


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_fits_the_schema_of_its_kind(version: str) -> None:
    known = [item for item in objects() if item["kind"] != "RayService"]
    assert len(known) >= 8
    for item in known:
        kubernetes_validate.validate(item, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", pod_templates())
def test_every_pod_template_fits_the_schema(name: str, version: str) -> None:
    template = pod_templates()[name]
    wrapped = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": name}, "template": template}
    kubernetes_validate.validate(wrapped, version, strict=True)


def test_a_slip_in_a_pod_template_is_found() -> None:
    template = pod_templates()["gateways"]
    template["spec"]["containers"][0]["redinessProbe"] = {}
    wrapped = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "slip"}, "template": template}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrapped, VERSIONS[-1], strict=True)


def test_the_rayservice_has_what_its_operator_needs() -> None:
    service = object_of("RayService")
    cluster = service["spec"]["rayClusterConfig"]
    assert service["apiVersion"] == "ray.io/v1"
    assert set(service["spec"]) == SERVICE_FIELDS
    assert set(cluster) == CLUSTER_FIELDS
    assert set(cluster["headGroupSpec"]) == {"rayStartParams", "template"}
    for group in cluster["workerGroupSpecs"]:
        assert set(group) == GROUP_FIELDS
        assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for name, group in ray_groups().items():
        parameters = group["rayStartParams"]
        assert all(isinstance(value, str) for value in parameters.values()), name


def test_every_manifest_is_applied_and_its_anchors_are_gone_in_plain_yaml() -> None:
    kustomization = yaml.safe_load((DEPLOY / "kubernetes" / "kustomization.yaml").read_text("utf-8"))
    written = {path.name for path in MANIFESTS} - {"kustomization.yaml"}
    assert set(kustomization["resources"]) == written
    assert len(kustomization["resources"]) == len(written)


def test_serve_deploys_the_applications_that_a_gateway_asks_for() -> None:
    config = ServeDeploySchema.model_validate(serve_config())
    assert {application.name for application in config.applications} == set(_APPLICATIONS)
    assert config.proxy_location == "Disabled"
    for given in config.applications:
        assert given.route_prefix is None
        builder = import_attr(given.import_path)
        built: serve.Application = call_user_app_builder_with_args_if_necessary(builder, given.args)
        assert built._bound_deployment.name == given.name == given.args["name"]


def test_replicas_and_what_they_reserve_are_said_in_settings_and_nowhere_else() -> None:
    settings = {name.upper() for name in Settings.__struct_fields__}
    for given in serve_config()["applications"]:
        assert "deployments" not in given
        assert set(given["args"]) == {"name", "cores", "settings"}
        assert set(given["args"]["settings"]) <= settings
        deployment = application(given["args"])._bound_deployment
        (scale,) = given["args"]["settings"].values()
        scaling = deployment._deployment_config.autoscaling_config
        assert scaling is not None
        assert f"min_replicas={scaling.min_replicas} max_replicas={scaling.max_replicas} " in scale
        assert scale.endswith(f" cpus={deployment.ray_actor_options['num_cpus']:.0f}")


def test_a_part_of_a_gpu_is_reserved_where_a_scale_says_so() -> None:
    (given,) = [one for one in serve_config()["applications"] if one["name"] == "asr"]
    settings = {**given["args"]["settings"], "ASR_SCALE": "gpu=0.5"}
    deployment = application({**given["args"], "settings": settings})._bound_deployment
    assert deployment.ray_actor_options["num_gpus"] == 0.5


def test_no_option_of_serves_is_one_that_it_would_ignore() -> None:
    config = serve_config()
    assert set(config) <= set(ServeDeploySchema.model_fields)
    for given in config["applications"]:
        assert set(given) <= set(ServeApplicationSchema.model_fields)


def test_a_replica_counts_on_the_cores_that_its_pod_has() -> None:
    group = ray_groups()["engines-cpu"]["template"]["spec"]["containers"][0]
    cores = int(group["resources"]["limits"]["cpu"])
    assert {application["args"]["cores"] for application in serve_config()["applications"]} == {cores}


def test_gateways_offer_no_cpus_and_share_what_a_driver_shares_with_its_raylet() -> None:
    gateways = ray_groups()["gateways"]
    assert gateways["rayStartParams"]["num-cpus"] == "0"
    assert ray_groups()["head"]["rayStartParams"]["num-cpus"] == "0"
    pod = gateways["template"]["spec"]
    raylet, gateway = pod["containers"]
    assert pod["shareProcessNamespace"]
    assert raylet["volumeMounts"] == gateway["volumeMounts"]
    assert {mount["mountPath"] for mount in gateway["volumeMounts"]} == {"/tmp", "/dev/shm"}
    assert pod["securityContext"]["runAsUser"]


def test_a_gateway_is_given_the_time_to_drain_and_its_raylet_outlives_it() -> None:
    pod = ray_groups()["gateways"]["template"]["spec"]
    raylet, gateway = pod["containers"]
    pause_s = int(gateway["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] >= pause_s + DRAIN_TIMEOUT_S + 10
    waits = raylet["lifecycle"]["preStop"]["exec"]["command"][-1]
    sought = re.search(r"'(.*?)'", waits)
    assert sought is not None
    seen = "\0".join(gateway["command"])
    assert re.search(sought[1], seen)
    assert not re.search(sought[1], waits)


def test_the_gateway_is_probed_where_it_listens_and_the_service_finds_it() -> None:
    pod = ray_groups()["gateways"]["template"]
    raylet, gateway = pod["spec"]["containers"]
    (port,) = gateway["ports"]
    assert {"name": "AIAAS_PORT", "value": str(port["containerPort"])} in gateway["env"]
    assert port["containerPort"] not in [taken["containerPort"] for taken in raylet["ports"]]
    assert gateway["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": port["name"]}
    assert gateway["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": port["name"]}
    service = object_of("Service", "aiaas-gateway")["spec"]
    assert service["selector"].items() <= pod["metadata"]["labels"].items()
    assert [routed["targetPort"] for routed in service["ports"]] == [port["name"]]


def test_a_tenants_calls_in_hand_are_shared_by_as_many_gateways_as_there_are() -> None:
    gateways = ray_groups()["gateways"]
    replicas = {gateways[name] for name in ("replicas", "minReplicas", "maxReplicas")}
    assert {str(count) for count in replicas} == {object_of("ConfigMap")["data"]["AIAAS_WORKERS"]}


def test_every_disruption_budget_covers_pods_and_leaves_room() -> None:
    labels = [template["metadata"]["labels"] for template in pod_templates().values()]
    for item in objects():
        if item["kind"] == "PodDisruptionBudget":
            selector = item["spec"]["selector"]["matchLabels"]
            assert any(selector.items() <= given.items() for given in labels)
            assert isinstance(item["spec"]["minAvailable"], int)


def test_no_container_is_root_or_may_become_it_and_each_has_its_limits() -> None:
    for name, template in pod_templates().items():
        assert template["spec"]["securityContext"]["runAsNonRoot"], name
        assert template["spec"]["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
    for name, container in containers():
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False, name
        assert context["capabilities"] == {"drop": ["ALL"]}, name
        assert set(container["resources"]["requests"]) >= {"cpu", "memory"}, name
        assert "memory" in container["resources"]["limits"], name
        if container["image"].startswith("aiaas-gateway:"):
            assert context["readOnlyRootFilesystem"], name


def test_the_cluster_runs_the_ray_that_the_images_hold() -> None:
    stated = object_of("RayService")["spec"]["rayClusterConfig"]["rayVersion"]
    assert {build_arguments(image)["RAY_VERSION"] for image in ("gateway", "ray")} == {stated}


def test_no_manifest_holds_a_secret() -> None:
    assert "Secret" not in {item["kind"] for item in objects()}
    for path in MANIFESTS:
        assert not re.search(r"://[^/\s]*:[^/\s]*@", path.read_text("utf-8")), path.name
