"""`anything3d weights`: what is needed, what is there, and how to get the rest."""

import shutil
import subprocess
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest
from typer.testing import CliRunner

from anything3d.errors import WeightsError
from anything3d.models.published import PUBLISHED
from anything3d.models.weights import PACKAGED, Place, directory
from jobs.cli import app

OFFICIAL = ("segment.source=sam-points", "segment.weights=sam-vit-b", "invert.weights=mine")


def weights(command, *settings, names=(), flags=()):
    sets = [part for entry in settings for part in ("--set", entry)]
    done = CliRunner().invoke(app, ["weights", command, *names, *flags, *sets])
    return done.exit_code, done.output


def test_list_says_for_whom_how_large_and_where():
    code, output = weights("list", *OFFICIAL)
    lines = {line.split()[0]: line for line in output.splitlines()}
    assert code == 0
    assert "MISSING" in lines["sam-vit-b"]
    assert " 375 " in lines["sam-vit-b"]
    assert "unknown" in lines["mine"]
    assert "lift, reconstruct, score" in lines["clip"]
    assert str(PACKAGED / "clip") in lines["clip"]


def test_sam_is_listed_for_lift_image_though_a_run_takes_the_masks_of_the_shard(tmp_path):
    root = f"resources.weights_root={tmp_path}"
    for command in ("list", "where"):
        code, output = weights(command, root, flags=("--preset", "default"))
        assert code == 0
        assert "sam-vit-h" in output
    lines = weights("list", root, flags=("--preset", "default"))[1].splitlines()
    assert "lift-image" in next(line for line in lines if line.startswith("sam-vit-h"))


def test_where_fetches_what_is_missing_and_no_more(tmp_path):
    code, output = weights("where", *OFFICIAL, f"resources.weights_root={tmp_path}")
    whole = tmp_path / "sam-vit-b" / "sam_vit_b_01ec64.pth"
    assert code == 0
    assert output.splitlines() == [
        "# mine: a folder of your own",
        f"curl --create-dirs -fL -o {whole}.part "
        f"https://dl.fbaipublicfiles.com/segment_anything/sam_vit_b_01ec64.pth && mv {whole}.part {whole}",
    ]
    sparse(whole, 100)  # what a fetch that was cut off may have left
    assert "curl" in weights("where", *OFFICIAL, f"resources.weights_root={tmp_path}")[1]
    sparse(whole, 375 * 10**6)
    assert "curl" not in weights("where", *OFFICIAL, f"resources.weights_root={tmp_path}")[1]


def sparse(path, size):
    """A file of zeros that takes no room."""
    path.parent.mkdir(exist_ok=True)
    with path.open("wb") as file:
        file.truncate(size)


class HangingUp(BaseHTTPRequestHandler):
    """Sends small files whole, and of a large one the beginning."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "4")
        self.end_headers()
        self.wfile.write(b"12" if self.path.endswith(".bin") else b"1234")

    def log_message(self, format, *args):
        pass


def test_a_fetch_that_is_cut_off_leaves_no_file_under_its_name(tmp_path):
    """The printed commands for real, from a server on loopback that hangs up in the middle of one file."""
    server = HTTPServer(("127.0.0.1", 0), HangingUp)
    Thread(target=server.serve_forever, daemon=True).start()
    root = f"resources.weights_root={tmp_path}/a folder"
    printed = weights("where", root, names=("blip-base",))[1]
    commands = printed.replace("https://huggingface.co", f"http://127.0.0.1:{server.server_port}")
    subprocess.run(["sh"], input=commands, text=True, timeout=600, capture_output=True, check=False)
    server.shutdown()
    server.server_close()
    found = {path.name for path in (tmp_path / "a folder" / "blip-base").iterdir()}
    assert "config.json" in found
    assert "pytorch_model.bin" not in found
    again = weights("where", root, names=("blip-base",))[1]
    assert ("pytorch_model.bin" in again, "config.json" in again) == (True, False)


def test_what_is_printed_holds_in_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = weights("where", "resources.weights_root=weights", names=("sam-vit-b",))[1]
    assert f"-o {tmp_path}/weights/sam-vit-b/" in given
    assert f"-o {tmp_path}/sam-vit-b/" in weights("where", names=("sam-vit-b",))[1]


def test_what_an_error_says_to_do_can_be_done(tmp_path):
    with pytest.raises(WeightsError) as caught:
        directory("blip-large", Place(weights_root=str(tmp_path)))
    line = str(caught.value).split("`")[1]
    assert line == f"anything3d weights where blip-large --set resources.weights_root={tmp_path}"
    done = CliRunner().invoke(app, line.split()[1:])
    assert done.exit_code == 0
    assert done.output.count(f"mv {tmp_path}/blip-large/") == len(PUBLISHED["blip-large"].files)
    code, output = weights("where", names=("blip-larg",))
    assert code == 2
    assert "weights_name: Nobody publishes blip-larg. Known are sam-vit-b" in output


def test_settings_of_a_file_count(tmp_path):
    (tmp_path / "mine.toml").write_text('segment.weights = "sam-vit-l"\n')
    assert "sam_vit_l_0b3195.pth" in weights("where", flags=("--config", str(tmp_path / "mine.toml")))[1]


def test_verify_reads_everything_and_names_what_is_wrong(tmp_path):
    assert weights("verify")[0] == 0
    (tmp_path / "sam-vit-b").mkdir()
    (tmp_path / "sam-vit-b" / "sam_vit_b_01ec64.pth").write_bytes(b"cut")
    shutil.copytree(PACKAGED / "diffusion", tmp_path / "mine")
    code, output = weights("verify", *OFFICIAL, f"resources.weights_root={tmp_path}")
    assert code == 1
    assert "sam_vit_b_01ec64.pth missing or not as published" in output
    assert "nothing to compare it with" in next(line for line in output.splitlines() if line.startswith("mine: sha256"))
    assert weights("verify", "segment.weightz=x")[0] == 2


def test_verify_says_of_every_file_what_it_was_compared_with(tmp_path):
    """No digest of Point-E is known: only its size can be wrong."""
    root, name = f"resources.weights_root={tmp_path}", "point-e-40m"
    sparse(tmp_path / name / "base_40m.pt", 162 * 10**6)
    code, output = weights("verify", root, names=(name,))
    assert (code, output.splitlines()[1]) == (0, "  base_40m.pt: size only")
    sparse(tmp_path / name / "base_40m.pt", 130 * 10**6)
    code, output = weights("verify", root, names=(name,))
    assert code == 1
    assert "point-e-40m: base_40m.pt missing or not as published" in output
