import json
from pathlib import Path

import jsonschema
import ray.autoscaler
import yaml


def test_the_cluster_file_satisfies_rays_own_schema() -> None:
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    cluster = yaml.safe_load((Path(__file__).parents[2] / "ray_cluster.yaml").read_text())
    jsonschema.validate(cluster, schema)
    assert cluster["head_node_type"] in cluster["available_node_types"]
