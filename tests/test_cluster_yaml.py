"""cluster.yaml is what it claims: valid for Ray's launcher, private, with a token, of the pinned Ray version."""

import re
from copy import deepcopy
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
CLUSTER = yaml.safe_load((ROOT / "cluster.yaml").read_text())
COMMANDS = CLUSTER["head_start_ray_commands"] + CLUSTER["worker_start_ray_commands"]


@pytest.mark.filterwarnings("ignore")
def test_rays_own_schema_accepts_it():
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(deepcopy(CLUSTER)))


def test_the_head_runs_no_tasks_and_the_workers_are_bounded():
    head = CLUSTER["available_node_types"][CLUSTER["head_node_type"]]
    assert head["resources"] == {"CPU": 0, "GPU": 0}
    assert 0 < CLUSTER["max_workers"] <= 64
    assert CLUSTER["idle_timeout_minutes"] > 0


def test_nothing_is_reachable_from_outside():
    assert CLUSTER["provider"]["use_internal_ips"] is True
    assert CLUSTER["provider"]["security_group"]["IpPermissions"] == []
    assert "--dashboard-host=127.0.0.1" in " ".join(COMMANDS)
    assert "0.0.0.0" not in (ROOT / "cluster.yaml").read_text()
    for node in CLUSTER["available_node_types"].values():
        assert node["node_config"]["MetadataOptions"] == {"HttpTokens": "required"}


def test_every_node_wants_the_token_and_the_token_is_not_in_the_file():
    starts = [command for command in COMMANDS if "ray start" in command]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token" in command and "RAY_USAGE_STATS_ENABLED=0" in command for command in starts)
    assert "/home/ray/.ray/auth_token" in CLUSTER["file_mounts"]
    assert not re.search(r"AUTH_TOKEN\s*=|aws_secret|AKIA", (ROOT / "cluster.yaml").read_text())


def test_the_image_has_the_pinned_ray():
    pinned = re.search(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned
    assert CLUSTER["docker"]["image"].startswith(f"rayproject/ray:{pinned[1]}-")
