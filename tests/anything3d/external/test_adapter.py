"""The adapter of docs/backends.md speaks the protocol. TRELLIS is not installable here: a stand-in makes boxes."""

import sys
from pathlib import Path

import pytest
import torch

from anything3d.errors import OutOfMemory
from anything3d.external.backend import External
from anything3d.settings.external import ExternalConfig
from tests.anything3d.external.conftest import evidence

DOCUMENT = Path(__file__).parents[3] / "docs" / "backends.md"
PIPELINES = """
import torch

print("[SPARSE] Backend: spconv, Attention: flash_attn")


class TrellisImageTo3DPipeline:
    @staticmethod
    def from_pretrained(path):
        assert path == "microsoft/TRELLIS-image-large"
        return TrellisImageTo3DPipeline()

    def cuda(self):
        pass

    def run(self, image, seed, formats):
        assert image.mode == "RGBA"
        width = image.getchannel("A").getbbox()[2] - image.getchannel("A").getbbox()[0]
        if width == 18:
            raise ValueError("the sparse structure is empty")
        if width == 20:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return {name: [width] for name in formats}
"""
POSTPROCESSING = """
import trimesh


def to_glb(gaussian, mesh, simplify, texture_size, verbose):
    return trimesh.creation.box((mesh, 40, mesh))
"""


@pytest.fixture
def adapter(tmp_path):
    """The adapter as the document has it, beside a package `trellis`."""
    text = DOCUMENT.read_text().split("## A whole adapter")[1].split("```python\n")[1].split("```")[0]
    (tmp_path / "adapter.py").write_text(text)
    for name, code in {
        "__init__": "",
        "pipelines": PIPELINES,
        "utils/__init__": "",
        "utils/postprocessing_utils": POSTPROCESSING,
    }.items():
        path = tmp_path / "trellis" / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(code)
    licence = "MIT; LicenseRef-NVIDIA-Source-Code; LicenseRef-Gaussian-Splatting"
    config = ExternalConfig(f"{sys.executable} {tmp_path / 'adapter.py'}", "", "TRELLIS-image-large 1.0", licence)
    said: list[str] = []
    backend = External(config, "cpu", 60.0, said.append)
    assert said == ["[SPARSE] Backend: spconv, Attention: flash_attn"]  # was printed to the standard output
    yield lambda count: backend(evidence(count), [torch.Generator().manual_seed(row) for row in range(count)], [])
    backend.close()


def test_the_adapter_of_the_document_makes_meshes_and_says_what_it_cannot(adapter):
    made, failed = adapter(2)
    assert made.mesh.vertices.max(0).tolist() == pytest.approx([0.2, 0.5, 0.2])
    assert (failed.reason, failed.message) == ("external_failed", "the sparse structure is empty")
    with pytest.raises(OutOfMemory, match="CUDA out of memory"):
        adapter(3)
