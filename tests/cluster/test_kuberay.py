"""Manifests for KubeRay: their fields are ones that there are, and they fit the code and one another."""

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from serve.settings_file import config_of, to_yaml
from sscm import cli, runtime
from sscm.version import code_version
from tests.plugins.hosts import SILENT
from tests.plugins.kuberay import check, cluster_of, pods_of

FOLDER = Path(__file__).resolve().parents[2] / "cluster/kuberay"
BASE = FOLDER / "base"
OVERLAYS = ("kind", "cloud")
NIGHTLY = FOLDER / "overlays/cloud/jobs/refresh.yaml"
JOBS = sorted({*FOLDER.glob("overlays/*/jobs/*.yaml")} - {NIGHTLY})


def documents(path):
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def named(resources, kind, name="sscm"):
    (found,) = [r for r in resources if r["kind"] == kind and r["metadata"]["name"] == name]
    return found


@pytest.fixture(scope="module")
def base():
    names = documents(BASE / "kustomization.yaml")[0]["resources"]
    return [document for name in names for document in documents(BASE / name)]


@pytest.fixture(scope="module")
def built():
    """Overlay → its resources, as kubectl's own kustomize makes them."""
    if shutil.which("kubectl") is None:
        pytest.skip("no kubectl; what the base says is tested all the same")
    made = {}
    for overlay in OVERLAYS:
        done = subprocess.run(
            ["kubectl", "kustomize", FOLDER / "overlays" / overlay], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        made[overlay] = list(yaml.safe_load_all(done.stdout))
    return made


def test_every_resource_of_the_base_is_valid(base):
    for resource in base:
        check(resource)
    kinds = {resource["kind"] for resource in base}
    assert kinds >= {"RayCluster", "RayService", "PodDisruptionBudget", "NetworkPolicy", "ServiceAccount"}


@pytest.mark.parametrize(
    ("kind", "spoil"),
    [
        ("RayCluster", lambda spec: spec.update(enableAutoscaling=True)),
        ("RayCluster", lambda spec: spec["autoscalerOptions"].update(version="v3")),
        ("RayCluster", lambda spec: spec["workerGroupSpecs"][0].pop("groupName")),
        ("RayService", lambda spec: spec["rayClusterConfig"]["headGroupSpec"]["template"]["spec"].update(container=[])),
        ("PodDisruptionBudget", lambda spec: spec.update(minAvailible=1)),
    ],
)
def test_a_misspelt_field_would_be_found(kind, spoil):
    resource = next(d for path in sorted(BASE.glob("*.yaml")) for d in documents(path) if d.get("kind") == kind)
    spoil(resource["spec"])
    with pytest.raises(Exception, match=r"enableAutoscaling|v3|groupName|container|minAvailible"):
        check(resource)


def test_every_file_that_a_kustomization_names_is_there():
    for path in FOLDER.rglob("kustomization.yaml"):
        kustomization = documents(path)[0]
        patches = [patch["path"] for patch in kustomization.get("patches", ()) if "path" in patch]
        for name in [*kustomization.get("resources", ()), *kustomization.get("components", ()), *patches]:
            assert (path.parent / name).exists(), f"{path}: {name}"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_builds_to_valid_resources(built, overlay):
    for resource in built[overlay]:
        check(resource)
        assert resource["kind"] == "Namespace" or resource["metadata"]["namespace"] == "sscm"
    image = {"kind": f"sscm:{code_version()}-cpu", "cloud": f"REGISTRY/sscm:{code_version()}-cuda"}[overlay]
    for kind in ("RayCluster", "RayService"):
        for group, template in pods_of(cluster_of(named(built[overlay], kind))).items():
            assert template["spec"]["containers"][0]["image"] == image, (kind, group)


def test_the_component_of_keys_reaches_every_container(built, tmp_path):
    copy = tmp_path / "kuberay"
    shutil.copytree(FOLDER, copy)
    kustomization = copy / "overlays/cloud/kustomization.yaml"
    text = kustomization.read_text()
    kustomization.write_text(text.replace("# components:", "components:").replace("#   - ../../comp", "  - ../../comp"))
    done = subprocess.run(["kubectl", "kustomize", kustomization.parent], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    resources = list(yaml.safe_load_all(done.stdout))
    for kind in ("RayCluster", "RayService"):
        for group, template in pods_of(cluster_of(named(resources, kind))).items():
            assert {"secretRef": {"name": "sscm-s3"}} in template["spec"]["containers"][0]["envFrom"], (kind, group)


def test_heads_take_no_work_clusters_grow_and_are_of_the_ray_that_is_installed(base):
    for kind in ("RayCluster", "RayService"):
        cluster = cluster_of(named(base, kind))
        start = cluster["headGroupSpec"]["rayStartParams"]
        assert start["num-cpus"] == "0"
        assert shlex.split(start["system-config"]) == [SILENT]
        assert cluster["enableInTreeAutoscaling"] and cluster["autoscalerOptions"]["version"] == "v2"
        assert cluster["authOptions"]["mode"] == "token"
        pins = (FOLDER.parents[1] / "constraints.txt").read_text().splitlines()
        assert f"ray=={cluster['rayVersion']}" in pins


def test_training_falls_back_from_spot_to_on_demand(base):
    groups = {group["groupName"]: group for group in named(base, "RayCluster")["spec"]["workerGroupSpecs"]}
    assert groups["gpu"]["priority"] > groups["gpu-on-demand"]["priority"]
    assert groups["gpu"]["template"] == groups["gpu-on-demand"]["template"]
    assert groups["gpu"]["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_every_pod_has_the_environment_is_nobody_special_and_its_role_is_what_policies_select(base):
    environment = named(base, "ConfigMap")["data"]
    given = {name: value for name, value in environment.items() if name.startswith("RAY_")}
    assert {"RAY_SERVE_ENABLE_HA_PROXY", "RAY_SERVE_THROUGHPUT_OPTIMIZED"} <= given.keys()
    assert given.items() <= runtime._ENVIRONMENT.items()
    roles = set()
    for kind in ("RayCluster", "RayService"):
        cluster = cluster_of(named(base, kind))
        groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
        for group in groups:
            template = group["template"]
            container = template["spec"]["containers"][0]
            assert {"configMapRef": {"name": "sscm"}} in container["envFrom"]
            assert template["spec"]["securityContext"]["runAsNonRoot"]
            assert not container["securityContext"]["allowPrivilegeEscalation"]
            assert template["spec"]["serviceAccountName"] == "sscm"
            assert group["labels"]["sscm/role"] == template["metadata"]["labels"]["sscm/role"]
            roles.add(template["metadata"]["labels"]["sscm/role"])
    assert roles == {"head", "data", "gpu", "serve"}


def test_budgets_leave_a_head_and_a_serving_pod_and_let_one_go(base):
    budgets = {b["metadata"]["name"]: b["spec"] for b in base if b["kind"] == "PodDisruptionBudget"}
    selected = {name: budget["selector"]["matchLabels"] for name, budget in budgets.items()}
    head = {"sscm/role": "head", "ray.io/cluster": named(base, "RayCluster")["metadata"]["name"]}
    assert selected == {"sscm-serve": {"sscm/role": "serve"}, "sscm-head": head}
    assert budgets["sscm-head"]["minAvailable"] == 1
    (group,) = cluster_of(named(base, "RayService"))["workerGroupSpecs"]
    assert budgets["sscm-serve"]["minAvailable"] == group["minReplicas"] - 1


def test_redis_and_keys_are_named_by_reference_only(base):
    options = named(base, "RayService")["spec"]["rayClusterConfig"]["gcsFaultToleranceOptions"]
    assert options["redisPassword"]["valueFrom"]["secretKeyRef"] == {"name": "sscm-redis", "key": "password"}
    for path in FOLDER.rglob("*.yaml"):
        assert all(document["kind"] != "Secret" for document in documents(path) if isinstance(document, dict)), path


@pytest.mark.parametrize("path", [BASE, *(FOLDER / "overlays" / overlay for overlay in OVERLAYS)], ids=lambda p: p.name)
def test_a_service_is_what_sscm_serve_writes(path):
    text = documents(path / "service.yaml")[0]["spec"]["serveConfigV2"]
    found = yaml.safe_load(text)
    ServeDeploySchema.model_validate(found)
    config = config_of({**found["applications"][0]["args"], **found["http_options"]})
    assert found == yaml.safe_load(to_yaml(config))
    assert (config.host, config.port) == ("0.0.0.0", 8000)


@pytest.mark.parametrize("path", JOBS, ids=lambda path: f"{path.parents[1].name}-{path.stem}")
def test_a_job_is_valid_runs_on_the_cluster_and_its_command_is_one(path, base, monkeypatch):
    (job,) = documents(path)
    check(job)
    assert job["metadata"]["namespace"] == "sscm"
    assert job["spec"]["clusterSelector"] == {"ray.io/cluster": named(base, "RayCluster")["metadata"]["name"]}
    (command, settings) = settings_of(job["spec"]["entrypoint"].replace("$SSCM_WORKSPACE", "/workspace"), monkeypatch)
    assert (command, settings.workspace) == (path.stem, "/workspace")


def test_the_nightly_job_submits_a_refresh_to_the_clusters_head(base, monkeypatch):
    (job,) = documents(NIGHTLY)
    check(job)
    pod = job["spec"]["jobTemplate"]["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    words = container["command"]
    cluster = named(base, "RayCluster")["metadata"]["name"]
    assert words[:5] == ["ray", "job", "submit", f"--address=http://{cluster}-head-svc:8265", "--"]
    monkeypatch.setattr("sscm.archive.sources.make_source", lambda source: source)
    (command, settings) = settings_of(shlex.join(words[5:]), monkeypatch)
    assert command == "refresh" and not settings.accept
    assert job["spec"]["concurrencyPolicy"] == "Forbid"
    (rule,) = [r for r in named(base, "NetworkPolicy")["spec"]["ingress"] if "ports" not in r]
    (expression,) = rule["from"][0]["podSelector"]["matchExpressions"]
    assert expression["operator"] == "Exists" and expression["key"] in pod["metadata"]["labels"]


def settings_of(line, monkeypatch):
    """What a command line comes to: the command, and the settings that its function is given."""
    program, command, *arguments = shlex.split(line)
    assert program == "sscm"
    taken = []
    for function in (
        "sscm.training.launch.train",
        "sscm.index.build.build_index",
        "sscm.archive.ingest.ingest",
        "sscm.refresh.launch.refresh",
    ):
        monkeypatch.setattr(function, lambda *settings: taken.append(settings) or stop())
    with pytest.raises(StopIteration):
        cli.main([command, *arguments])
    return command, taken[0][-1]


def stop():
    raise StopIteration


def test_a_training_fits_the_groups_that_it_runs_on(base):
    (job,) = documents(FOLDER / "overlays/cloud/jobs/train.yaml")
    words = shlex.split(job["spec"]["entrypoint"])
    groups = {group["groupName"]: group for group in named(base, "RayCluster")["spec"]["workerGroupSpecs"]}
    limits = groups["gpu"]["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert int(words[words.index("--cpus-per-worker") + 1]) < int(limits["cpu"])  # the stream wants one, too
    most = groups["gpu"]["maxReplicas"] + groups["gpu-on-demand"]["maxReplicas"]
    assert int(words[words.index("--workers") + 1]) <= most
