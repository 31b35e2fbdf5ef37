"""`anything3d weights`: what is needed, what is there, and how to get the rest."""

import shutil

from typer.testing import CliRunner

from anything3d.weights import PACKAGED
from jobs.cli import app

OFFICIAL = ("segment.source=sam-points", "segment.weights=sam-vit-b", "invert.weights=mine")


def weights(command, *settings):
    done = CliRunner().invoke(app, ["weights", command, *(part for entry in settings for part in ("--set", entry))])
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


def test_where_fetches_what_is_missing_and_no_more(tmp_path):
    code, output = weights("where", *OFFICIAL, f"resources.weights_root={tmp_path}")
    assert code == 0
    assert output.splitlines() == [
        "# mine: a folder of your own",
        f"curl --create-dirs -fL -o '{tmp_path}/sam-vit-b/sam_vit_b_01ec64.pth' "
        "'https://dl.fbaipublicfiles.com/segment_anything/sam_vit_b_01ec64.pth'",
    ]
    (tmp_path / "sam-vit-b").mkdir()
    (tmp_path / "sam-vit-b" / "sam_vit_b_01ec64.pth").write_bytes(b"")
    assert "curl" not in weights("where", *OFFICIAL, f"resources.weights_root={tmp_path}")[1]


def test_verify_reads_everything_and_names_what_is_wrong(tmp_path):
    assert weights("verify")[0] == 0
    (tmp_path / "sam-vit-b").mkdir()
    (tmp_path / "sam-vit-b" / "sam_vit_b_01ec64.pth").write_bytes(b"cut")
    shutil.copytree(PACKAGED / "diffusion", tmp_path / "mine")
    code, output = weights("verify", *OFFICIAL, f"resources.weights_root={tmp_path}")
    assert code == 1
    assert "sam_vit_b_01ec64.pth missing or not as published" in output
    assert "mine: sha256" in output
    assert weights("verify", "segment.weightz=x")[0] == 2
