"""A real command that carves hulls, as it should be, and with every fault that a command can have."""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from anything3d.distil.evidence import FinishedMesh, Reconstructor
from anything3d.errors import ConfigError, MachineError, OutOfMemory
from anything3d.external.backend import External, write_request
from anything3d.external.protocol import CAMERA, Answer, answer
from anything3d.mesh import checked
from anything3d.quality.metrics import mask_iou
from anything3d.space.raster import rasterize
from anything3d.space.reference import stack
from anything3d.space.sight import found_camera
from tests.anything3d.external.conftest import HULL, SIDE, config, evidence, left_of

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("kind", ["ply", "glb", "textured"])
@pytest.mark.parametrize("camera", [["--camera"], []], ids=["its camera", "camera searched for"])
def test_the_mesh_is_seen_from_the_camera_as_the_crop_shows_it(start, kind, camera):
    running = start("--kind", kind, *camera)
    assert isinstance(running.backend, Reconstructor)
    made = running(2)
    assert len(running.starts) == 1
    for one, crop in zip(made, evidence(2).crops, strict=True):
        assert isinstance(one, FinishedMesh)
        assert checked(one.mesh) is one.mesh
        assert one.mesh.vertices.dtype == np.float32
        seen = rasterize(one.mesh, stack([one.reference]), SIDE)
        assert float(mask_iou(seen.alpha > 0.5, crop[None, 3] > 0.5)) > 0.85
        both = (seen.alpha[0] == 1) & (crop[3] == 1)
        off = (seen.color[0] - crop[:3]).abs().mean(0)[both]
        assert float(off.mean()) < 0.03


def test_a_camera_that_is_searched_for_knows_what_may_hide_the_object(start):
    """Something hides the lower half of the photo. The backend says so to the search."""
    running, known = start(), evidence(1)
    hidden = torch.zeros(1, SIDE, SIDE)
    hidden[:, SIDE // 2 :] = 1
    cut = known.crops.clone()
    cut[:, 3] *= 1 - hidden
    (blind,) = running.backend(replace(known, crops=cut), [torch.Generator()], [])
    (told,) = running.backend(replace(known, crops=cut, unseen=hidden), [torch.Generator()], [])
    np.testing.assert_array_equal(blind.mesh.vertices, told.mesh.vertices)
    assert told.reference == found_camera(told.mesh, cut[0], hidden[0], torch.device("cpu"))
    assert blind.reference == found_camera(told.mesh, cut[0], None, torch.device("cpu"))
    assert told.reference != blind.reference


@pytest.fixture(scope="module")
def sound():
    """The meshes of two of three objects, by a command that does not break off."""
    backend = External(config("--camera"), "cpu", 60.0, print)
    made = backend(evidence(3), [torch.Generator().manual_seed(row) for row in range(3)], [])
    backend.close()
    return made[0].mesh, made[2].mesh


@pytest.mark.parametrize(
    ("how", "reason", "kind", "starts"),
    [
        ("fail", "external_failed", "failed", 1),
        ("missing", "external_no_output", "failed", 1),
        ("splats", "external_bad_output", "failed", 1),
        ("damaged", "external_bad_output", "failed", 1),
        ("outside", "external_bad_output", "failed", 1),
        ("crash", "external_died", "crashed", 3),
        ("exit", "external_died", "crashed", 3),
        ("hang", "external_timeout", "crashed", 3),
        ("garbage", "external_bad_output", "failed", 3),
        ("huge", "external_bad_output", "failed", 3),
        ("other", "external_bad_output", "failed", 3),
        ("camera", "external_bad_output", "failed", 3),
    ],
)
def test_one_object_is_rejected_and_its_neighbours_are_as_without_it(start, sound, how, reason, kind, starts):
    """The command is started again after the batch, and for the object after the one that it breaks off with."""
    running = start("--camera", "--break", how, "--on", left_of(1), seconds=5 if how == "hang" else 60)
    first, broken, last = running(3)
    assert (broken.reason, broken.kind) == (reason, kind)
    for one, mesh in zip((first, last), sound, strict=True):
        np.testing.assert_array_equal(one.mesh.vertices, mesh.vertices)
        np.testing.assert_array_equal(one.mesh.colors, mesh.colors)
    assert len(running.starts) == starts


def test_the_message_has_how_it_died_and_its_last_words(start):
    (broken,) = start("--break", "exit")(1)
    assert broken.message == "it ended with exit code 3; it said: hull: ready | CUDA error: an illegal memory access"
    (broken,) = start("--break", "crash")(1)
    assert broken.message.startswith("the signal SIGSEGV ended it")


def test_a_fault_of_the_machine_is_no_verdict_on_an_object(start):
    with pytest.raises(OutOfMemory, match="CUDA out of memory"):
        start("--break", "memory")(2)


def test_a_command_that_cannot_be_started_again_is_a_fault_of_the_machine(start, tmp_path):
    program = tmp_path / "hull.py"
    program.write_bytes(HULL.read_bytes())
    running = start(
        "--break", "crash", command=f"{sys.executable} {program} --break crash --started {tmp_path / 'started'}"
    )
    program.unlink()
    with pytest.raises(MachineError, match="cannot be started again") as error:
        running(1)
    assert error.value.reason == "machine"


@pytest.mark.parametrize(
    ("settings", "reason", "said"),
    [
        ({"command": "/no/such/command --fast"}, "external_start", "No such file or directory: '/no/such/command'"),
        ({"command": "true"}, "external_start", "ended with exit code 0"),
        ({"command": "sh -c 'echo no GPU >&2; exit 4'"}, "external_start", "exit code 4; it said: no GPU"),
        ({"folder": "/no/such/folder"}, "external_start", "'/no/such/folder', which is no folder"),
        ({"command": "sleep 600"}, "external_start", "no line came within 1 s"),
        ({"command": "echo Loading"}, "external_handshake", "is 'Loading'; it must be a JSON object"),
        ({"version": "hull 1.3"}, "external_handshake", "version is 'hull 1.2', not 'hull 1.3'; set reconstruct.ext"),
        ({"licence": "MIT"}, "external_handshake", "licence is 'CC0-1.0', not 'MIT'; set reconstruct.external.lic"),
    ],
    ids=str,
)
def test_a_command_that_is_none_or_another_one_ends_the_run(settings, reason, said):
    with pytest.raises(ConfigError, match=r".") as error:
        External(config(**settings), "cpu", 60.0, print, start_seconds=1.0 if "sleep" in str(settings) else 600.0)
    assert error.value.reason == reason
    assert said in error.value.message


@pytest.mark.parametrize("number", [10**400, 1e300, "0", None])
def test_a_camera_with_a_number_that_is_none_is_a_bad_answer(number):
    camera = dict.fromkeys(CAMERA, 1.0)
    assert isinstance(said(camera), Answer)
    assert said(camera | {"azimuth_deg": number}).reason == "external_bad_output"


def said(camera):
    return answer(json.dumps({"object": "a", "mesh": "a.glb", "camera": camera}), ["a"])


def test_another_protocol_is_refused():
    with pytest.raises(ConfigError, match="its protocol is 2, not 1"):
        External(config("--handshake", '{"protocol": 2}'), "cpu", 60.0, print)


def test_the_environment_is_passed_on_but_for_what_is_of_this_python(start, monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    monkeypatch.setenv("PYTHONPATH", "/of/another/python")
    folder = tmp_path / "own"
    folder.mkdir()
    (told,) = start(folder=str(folder)).starts
    assert (told["gpus"], told["folder"]) == ("3", str(folder))
    printed = 'python3 -c \'import os, sys; sys.exit(os.environ.get("PYTHONPATH", "none"))\''
    with pytest.raises(ConfigError, match="it said: none before"):
        External(config(command=printed), "cpu", 60.0, print)


def test_the_request_has_the_crop_the_mask_and_where_they_are(tmp_path):
    known = evidence(2)
    write_request(tmp_path, known, [7, 11], [1])
    body = json.loads((tmp_path / "request.json").read_text())
    (asked,) = body["objects"]
    assert body["protocol"] == 1
    x, y, width, height = known.positions[1].box
    assert asked["box"] == {"x": x, "y": y, "width": width, "height": height}
    assert (asked["object"], asked["seed"]) == ("0001", 11)
    assert asked["photo"] == {"width": SIDE, "height": SIDE}
    assert asked["window"] == {"x": 0.0, "y": 0.0, "side": SIDE}
    crop, mask = (np.array(Image.open(tmp_path / asked[name])) for name in ("crop", "mask"))
    np.testing.assert_allclose(crop / 255, known.crops[1].permute(1, 2, 0).numpy(), atol=1 / 510)
    np.testing.assert_array_equal(mask, known.crops[1, 3].numpy() > 0)


def test_what_it_says_is_told_line_by_line_and_what_is_too_much_is_counted(tmp_path):
    program = tmp_path / "talk.py"
    program.write_text(
        "import sys\n"
        "for step in range(100): sys.stderr.write(f'\\r{step} %')\n"
        "sys.stderr.write('\\nloaded\\n' + 'much\\n' * 300)\n"
        "sys.stderr.flush()\n"
        'print(\'{"protocol": 1, "version": "hull 1.2", "licence": "CC0-1.0"}\', flush=True)\n'
        "sys.stdin.read()\n"
    )
    said: list[str] = []
    External(config(command=f"{sys.executable} {program}"), "cpu", 60.0, said.append).close()
    assert said[:3] == ["99 %", "loaded", "much"]
    assert len(said) == 201
    assert said[-1] == "... and 102 more lines"


def gone(pid, seconds=600.0):
    """Whether a process ends within a time."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([handle], [], [], seconds)[0])
    finally:
        os.close(handle)


def test_the_command_and_its_own_children_end_with_it(start):
    running = start("--child")
    scratch = running.backend._command.scratch
    running.backend.close()
    assert all(map(gone, running.starts[0]["pids"]))
    assert not scratch.exists()


OWNER = """
import sys
from anything3d.external.backend import External
from tests.anything3d.external.conftest import config

backend = External(config("--child", "--started", sys.argv[1]), "cpu", 60.0, print)
print(backend._command.scratch, backend._command._process.pid, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def owner(tmp_path):
    """A process of its own that has a backend; its scratch folder, its guard, its command and its command's child."""
    words = [sys.executable, "-c", OWNER, str(tmp_path / "started")]
    with subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        while not (line := process.stdout.readline().split()) or not line[-1].isdigit():
            assert process.poll() is None
        pids = json.loads((tmp_path / "started").read_text())["pids"]
        yield process, Path(line[0]), int(line[1]), pids
        process.kill()


def test_nothing_of_the_command_outlives_a_process_that_was_killed(owner):
    process, scratch, guard, pids = owner
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert all(map(gone, [*pids, guard]))
    assert not scratch.exists()


READER = """
import sys
from anything3d.external.command import Command

command = Command("cat", "", print)
print(command.scratch, command._process.pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_a_command_that_ends_by_itself_leaves_no_folder_of_a_process_that_was_killed():
    words = [sys.executable, "-c", READER]
    with subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        scratch, guard = process.stdout.readline().split()
        children = Path(f"/proc/{guard}/task/{guard}/children")
        while not (command := children.read_text().split()):
            assert process.poll() is None
        os.kill(int(guard), signal.SIGSTOP)  # so that both ends come to it at once
        process.kill()
    assert gone(int(command[0]))
    os.kill(int(guard), signal.SIGCONT)
    assert gone(int(guard))
    assert not Path(scratch).exists()


@pytest.mark.skipif(sys.platform != "linux", reason="prctl")
def test_the_command_dies_with_its_guard(owner):
    _, scratch, guard, pids = owner
    os.kill(guard, signal.SIGKILL)
    assert gone(pids[0])
    os.kill(pids[1], signal.SIGKILL)  # nobody is left who would kill it, or delete the folder
    shutil.rmtree(scratch)
