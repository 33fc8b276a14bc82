"""The published cluster files, against Ray's own schema, KubeRay's and each other."""

import json
import os
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import ray.autoscaler
import yaml

ROOT = Path(__file__).parents[2]
ON_MACHINES = pytest.mark.parametrize("name", ["ray_cluster.yaml", "clusters/on_prem.yaml"])
SCHEMA_VARIABLE = "KUBERAY_RAYJOB_CRD"


def read(name: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / name).read_text())


def commands(cluster: Mapping[str, Any], *kinds: str) -> str:
    return "\n".join(line for kind in kinds for line in cluster.get(kind, []))


@ON_MACHINES
def test_a_cluster_file_satisfies_rays_own_schema(name: str) -> None:
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    jsonschema.validate(read(name), schema)


@ON_MACHINES
def test_what_a_cluster_file_brings_exists_and_is_all_that_the_project_needs(name: str) -> None:
    mounts = read(name)["file_mounts"]
    assert mounts.pop("~/.ray/auth_token") == "~/.ray/auth_token"
    assert mounts == {f"~/bat-sweeps/{there}": there for there in mounts.values()}
    assert all((ROOT / local).exists() for local in mounts.values())
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"benchmarks", "tests"}
    assert set(mounts.values()) == packages | {"pyproject.toml", "README.md"}


@ON_MACHINES
def test_all_nodes_ask_for_the_token_and_only_the_head_listens_on_loopback(name: str) -> None:
    cluster = read(name)
    assert "RAY_AUTH_MODE=token" in commands(cluster, "setup_commands")
    head = commands(cluster, "head_start_ray_commands")
    assert "--dashboard-host=127.0.0.1" in head
    assert "--host 127.0.0.1 --port 5000" in head
    assert "0.0.0.0" not in (ROOT / name).read_text()


def test_aws_workers_come_from_none_spot_first() -> None:
    cluster = read("ray_cluster.yaml")
    types = cluster["available_node_types"]
    assert cluster["head_node_type"] == "head"
    spot, on_demand = types["gpu_spot"], types["gpu_on_demand"]
    assert [one["min_workers"] for one in (spot, on_demand)] == [0, 0]
    assert spot["priority"] > on_demand["priority"]
    market = spot["node_config"].pop("InstanceMarketOptions")
    assert market == {"MarketType": "spot"}
    assert spot["node_config"] == on_demand["node_config"]


def containers(job: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    cluster = job["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        for container in group["template"]["spec"]["containers"]:
            yield container["name"], container


def test_the_manifest_is_of_one_piece() -> None:
    job = read("clusters/rayjob.yaml")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    cluster = job["spec"]["rayClusterSpec"]
    (worker,) = cluster["workerGroupSpecs"]
    assert cluster["rayVersion"] == ray.__version__
    assert cluster["authOptions"] == {"mode": "token"}
    assert (worker["minReplicas"], worker["replicas"]) == (0, 0)
    by_name = dict(containers(job))
    assert set(by_name) == {"ray-head", "mlflow", "ray-worker"}
    assert {one["image"] for one in by_name.values()} == {"YOUR_IMAGE"}
    for group in (cluster["headGroupSpec"], worker):
        pod = group["template"]["spec"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} == volumes
            assert container["resources"]["limits"] == container["resources"]["requests"]
    assert "nvidia.com/gpu" in by_name["ray-worker"]["resources"]["limits"]
    assert "127.0.0.1" in by_name["mlflow"]["command"]
    assert {"name": "MLFLOW_TRACKING_URI", "value": "http://127.0.0.1:5000"} in by_name["ray-head"]["env"]


def test_the_manifest_runs_a_sweep_that_its_cluster_can_hold() -> None:
    job = read("clusters/rayjob.yaml")
    python, script, *options = shlex.split(job["spec"]["entrypoint"])
    given = dict(zip(options[::2], options[1::2], strict=True))
    assert python == "python"
    dockerfile = (ROOT / "clusters" / "Dockerfile").read_text()
    assert f"FROM rayproject/ray:{ray.__version__}-py311" in dockerfile
    installed = Path("/opt/bat-sweeps")
    assert f"--editable '{installed}[all]'" in dockerfile
    assert (ROOT / Path(script).relative_to(installed)).is_file()
    (worker,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    gpus = int(dict(containers(job))["ray-worker"]["resources"]["limits"]["nvidia.com/gpu"])
    assert int(given["--max-concurrent"]) * float(given["--gpus-per-worker"]) <= worker["maxReplicas"] * gpus
    assert all(given[name].startswith("/mnt/shared/") for name in ("--data-dir", "--output"))


def strict(schema: dict[str, Any]) -> dict[str, Any]:
    """A CRD's schema as a server applies it with strict field validation: what it does not name is refused."""
    schema = dict(schema)
    if schema.pop("x-kubernetes-int-or-string", False):
        return {"type": ["integer", "string"]}
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            schema[key] = strict(schema[key])
    if "properties" in schema:
        schema["properties"] = {name: strict(one) for name, one in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields") and "additionalProperties" not in schema:
            schema["additionalProperties"] = False
    return schema


def test_the_manifest_satisfies_kuberays_schema() -> None:
    """KubeRay publishes its definition in its repository alone: ray-operator/config/crd/bases/ray.io_rayjobs.yaml."""
    if (file := os.environ.get(SCHEMA_VARIABLE)) is None:
        pytest.skip(f"{SCHEMA_VARIABLE} names no file: the manifest is not checked against KubeRay's schema")
    versions = {one["name"]: one for one in yaml.safe_load(Path(file).read_text())["spec"]["versions"]}
    job = read("clusters/rayjob.yaml")
    schema = strict(versions[job["apiVersion"].removeprefix("ray.io/")]["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    jsonschema.Draft202012Validator(schema).validate(job)
