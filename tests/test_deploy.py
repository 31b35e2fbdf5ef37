"""deploy/ is what it claims: valid for Kubernetes and KubeRay, of the pinned Ray, private, without root and weights.

The schemas of Kubernetes come from the package kubernetes-validate. KubeRay publishes its own with its operator only,
so RAY_JOB below is written by hand: the fields that deploy/rayjob.yaml uses, as KubeRay 1.7 documents them.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import typer
import yaml

from jobs.cli import app
from jobs.command import PRESETS
from pipeline.config import load
from pipeline.metrics import CORPUS, COUNTERS, GAUGES

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
MANIFESTS = sorted(DEPLOY.glob("*.yaml"))
KUBERNETES = "1.34"


def documents():
    return [document for path in MANIFESTS for document in yaml.safe_load_all(path.read_text())]


def of_kind(kind):
    return [document for document in documents() if document["kind"] == kind]


RAY_JOB_SPEC = of_kind("RayJob")[0]["spec"]
CRON_JOB_SPEC = of_kind("CronJob")[0]["spec"]


def exactly(required, **optional):
    """The schema of an object that has all of `required`, perhaps some of `optional`, and nothing else."""
    return {
        "type": "object",
        "properties": {**required, **optional},
        "required": list(required),
        "additionalProperties": False,
    }


TEXT, COUNT, POD = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "object"}
START = {"type": "object", "additionalProperties": TEXT}
RULE = exactly(
    {
        "condition": {
            **exactly(
                {"ttlSeconds": COUNT},
                jobStatus={"enum": ["SUCCEEDED", "FAILED"]},
                jobDeploymentStatus={"enum": ["Failed"]},
            ),
            "oneOf": [{"required": ["jobStatus"]}, {"required": ["jobDeploymentStatus"]}],
        },
        "policy": {"enum": ["DeleteCluster", "DeleteWorkers", "DeleteSelf", "DeleteNone"]},
    }
)
GROUP = exactly(
    {"groupName": TEXT, "minReplicas": COUNT, "maxReplicas": COUNT, "template": POD},
    replicas=COUNT,
    rayStartParams=START,
)
CLUSTER = exactly(
    {"headGroupSpec": exactly({"template": POD}, rayStartParams=START, serviceType={"enum": ["ClusterIP"]})},
    workerGroupSpecs={"type": "array", "items": GROUP},
    rayVersion=TEXT,
    authOptions=exactly({"mode": {"enum": ["token", "disabled"]}}),
)
RAY_JOB = exactly(
    {
        "apiVersion": {"const": "ray.io/v1"},
        "kind": {"const": "RayJob"},
        "metadata": exactly({"name": TEXT}),
        "spec": exactly(
            {"entrypoint": TEXT, "rayClusterSpec": CLUSTER},
            backoffLimit=COUNT,
            deletionStrategy=exactly({"deletionRules": {"type": "array", "items": RULE, "minItems": 1}}),
        ),
    }
)


def ray_pods():
    cluster = RAY_JOB_SPEC["rayClusterSpec"]
    return [cluster["headGroupSpec"]["template"], *(group["template"] for group in cluster["workerGroupSpecs"])]


def pods():
    jobs = [job["spec"]["template"] for job in of_kind("Job")]
    return [*ray_pods(), *jobs, CRON_JOB_SPEC["jobTemplate"]["spec"]["template"]]


@pytest.mark.parametrize("document", documents(), ids=lambda document: document["kind"])
def test_every_manifest_has_the_fields_that_its_kind_has_and_no_other(document):
    if document["kind"] == "RayJob":
        jsonschema.validate(document, RAY_JOB)
        for pod in ray_pods():
            kubernetes_validate.validate(
                {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}, "template": pod},
                KUBERNETES,
                strict=True,
            )
    elif document["kind"] == "Kustomization":
        assert document["resources"] == ["nightly.yaml"]
    else:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)


def test_a_misspelt_field_is_found():
    job = of_kind("RayJob")[0]
    with pytest.raises(jsonschema.ValidationError, match="backofLimit"):
        jsonschema.validate({**job, "spec": {**job["spec"], "backofLimit": 1}}, RAY_JOB)
    cron = of_kind("CronJob")[0]
    with pytest.raises(kubernetes_validate.ValidationError, match="timezone"):
        kubernetes_validate.validate({**cron, "spec": {**cron["spec"], "timezone": "UTC"}}, KUBERNETES, strict=True)


def test_no_pod_runs_as_root_or_may_become_root():
    for pod in pods():
        context = pod["spec"]["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["spec"]["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["limits"]["memory"]


def test_the_cluster_is_private_and_has_the_pinned_ray():
    cluster = RAY_JOB_SPEC["rayClusterSpec"]
    pinned = re.search(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned
    assert cluster["rayVersion"] == pinned[1]
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert not re.search(r"(?i)secret|password|akia|token\s*=", "".join(path.read_text() for path in MANIFESTS))


def test_the_run_of_the_job_is_one_that_the_command_takes():
    program, name, *arguments = shlex.split(RAY_JOB_SPEC["entrypoint"])
    assert program == "anything3d"
    given = typer.main.get_command(app).commands[name].make_context(name, arguments).params
    assert given["out"].startswith("s3://")
    settings = load([(PRESETS / f"{given['preset']}.toml").read_text()], given["settings"])
    (mounted,) = {
        mount["mountPath"] for pod in ray_pods() for one in pod["spec"]["containers"] for mount in one["volumeMounts"]
    }
    assert settings.resources.weights_root == mounted
    shares = sum(
        getattr(settings.resources, stage).num_gpus
        for stage in ("segment", "caption", "invert", "lift", "reconstruct", "score")
    )
    (group,) = RAY_JOB_SPEC["rayClusterSpec"]["workerGroupSpecs"]
    gpus = group["replicas"] * group["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"]
    assert group["replicas"] == group["minReplicas"] == group["maxReplicas"]  # a run counts the GPUs at its start
    assert shares <= gpus


def test_the_volume_and_the_identity_that_the_pods_name_are_made_by_setup():
    made = {(document["kind"], document["metadata"]["name"]) for document in documents() if "metadata" in document}
    for pod in pods():
        assert ("ServiceAccount", pod["spec"].get("serviceAccountName", "anything3d")) in made
        for volume in pod["spec"]["volumes"]:
            if claim := volume.get("persistentVolumeClaim"):
                assert ("PersistentVolumeClaim", claim["claimName"]) in made


def test_the_nightly_job_may_only_create_the_job_and_never_two():
    (role,) = of_kind("Role")
    assert role["rules"] == [{"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["create"]}]
    assert CRON_JOB_SPEC["concurrencyPolicy"] == "Forbid"
    assert "generateName" not in of_kind("RayJob")[0]["metadata"]
    (generated,) = of_kind("Kustomization")[0]["configMapGenerator"]
    pod = CRON_JOB_SPEC["jobTemplate"]["spec"]["template"]["spec"]
    (volume,) = pod["volumes"]
    assert volume["configMap"]["name"] == generated["name"]
    assert generated["files"] == ["rayjob.yaml"]
    assert pod["containers"][0]["args"] == ["create", "--filename=/deploy/rayjob.yaml"]


def test_all_pods_but_that_of_kubectl_run_the_image_of_the_dockerfile():
    images = {container["image"] for pod in pods() for container in pod["spec"]["containers"]}
    tag = re.search(r"--tag (\S+)", (DEPLOY / "Dockerfile").read_text())
    assert tag
    assert {image for image in images if "kubectl" not in image} == {tag[1]}


def instructions():
    """The instructions of the Dockerfile, each as its words."""
    text = re.sub(r"^#.*\n", "", (DEPLOY / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [line.split() for line in text.splitlines() if line.strip()]


def test_the_image_is_slim_and_ends_as_a_user_that_is_not_root():
    assert re.fullmatch(r"python:3\.1[1-9]-slim", next(words[1] for words in instructions() if words[0] == "FROM"))
    assert [words[1] for words in instructions() if words[0] == "USER"][-1] == "1000"
    assert not any(words[0] == "ADD" for words in instructions())


def test_what_the_image_takes_of_the_checkout_is_enough_to_install_the_package(tmp_path):
    """The last installation of the Dockerfile, with the files that `docker build` lets through, and no other."""
    allowed = [
        line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line.startswith("!")
    ]
    copied = [word for words in instructions() if words[0] == "COPY" for word in words[1:-1]]
    assert sorted(allowed) == sorted(copied)
    context, home = tmp_path / "context", tmp_path / "home"
    for name in copied:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        context.mkdir(exist_ok=True)
        copy(ROOT / name, context / name)
    install = next(words for words in instructions() if words[:2] == ["RUN", "uv"] and "--no-deps" in words)
    options = [word for word in install[4:-1] if word != "--system"]
    uv = [
        sys.executable,
        "-m",
        "uv",
        "pip",
        "install",
        "--python",
        sys.executable,
        "--target",
        str(home),
        *options,
        ".",
    ]
    done = subprocess.run(uv, cwd=context, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (home / "jobs/presets/default.toml").exists()
    assert (home / "anything3d/reasons.toml").exists()
    assert any((home / "anything3d/mini/weights").rglob("*.safetensors"))
    assert "anything3d = jobs.cli:app" in next(home.glob("anything3d-*.dist-info/entry_points.txt")).read_text()


def test_the_page_says_what_each_file_is():
    page = (ROOT / "docs/deploy.md").read_text()
    for path in DEPLOY.iterdir():
        assert f"`deploy/{path.name}`" in page


SLURM = DEPLOY / "slurm.sh"


def test_the_script_for_slurm_is_sound():
    subprocess.run(["bash", "-n", SLURM], check=True)
    shellcheck = Path(sys.executable).parent / "shellcheck"
    done = subprocess.run([shellcheck, SLURM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_script_for_slurm_uses_options_that_ray_has():
    from ray.scripts.scripts import start

    known = {option for parameter in start.params for option in (*parameter.opts, *parameter.secondary_opts)}
    given = re.findall(r"start=\((.*)\)|start\[@\]}\"(.*)", SLURM.read_text())
    used = {option for texts in given for text in texts for option in re.findall(r"--[a-z][a-z-]*", text)}
    assert used >= {"--block", "--head", "--address", "--port", "--num-cpus", "--num-gpus", "--temp-dir"}
    assert used <= known, used - known


def test_the_script_for_slurm_makes_a_token_and_deletes_it(tmp_path):
    """Without Slurm the head cannot start: the job ends with the code of a fault of the machine, and leaves nothing."""
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "node1",
        "SLURM_JOB_NUM_NODES": "1",
        "HEAD_IP": "127.0.0.1",
    }
    for name, body in {"scontrol": "echo node1", "srun": "ls -l .ray-token-7 >&2; exit 1", "ray": "exit 1"}.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        ["bash", SLURM, "x.tar"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 4, done.stderr
    assert "-rw------- 1" in done.stderr
    assert not list(tmp_path.glob(".ray-token*"))


def test_the_dashboard_and_the_docs_have_every_metric_and_no_other():
    labels = {f"ray_{name}": {CORPUS, *own} for name, (own, _) in {**COUNTERS, **GAUGES}.items()}
    dashboard = json.loads((DEPLOY / "grafana.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert set(re.findall(r"\bray_\w+", " ".join(queries))) == set(labels)
    for by, _, name in re.findall(r"by \(([^)]*)\) \((rate\()?(ray_\w+)", " ".join(queries)):
        assert set(by.split(", ")) <= labels[name], name
    variables = {one["name"]: one["query"] for one in dashboard["templating"]["list"]}
    assert variables.keys() == {"datasource", CORPUS}
    assert re.findall(r"ray_\w+", variables[CORPUS]["query"])[0] in labels
    table = re.findall(r"^\| `(ray_\w+)` \| (.*?) \|", (ROOT / "docs" / "cluster.md").read_text(), re.MULTILINE)
    assert {name: {CORPUS, *re.findall(r"`(\w+)`", own)} for name, own in table} == labels
