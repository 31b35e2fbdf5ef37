"""OBJ, PLY and USDZ, opened with the tools that read them."""

import io
import zipfile

import numpy as np
import pytest
import trimesh
from pxr import Gf, Usd, UsdGeom, UsdShade, UsdValidation

from anything3d.errors import InputError
from anything3d.space.atlas import textured
from anything3d.space.formats import FORMATS, obj_files, ply_files, usdz_files
from anything3d.space.gltf import picture_of
from anything3d.space.mesh import Mesh, decode_srgb, to_glb


def by_place(points: np.ndarray, normals: np.ndarray) -> np.ndarray:
    del normals
    return (points + 0.5).clip(0, 1)


@pytest.fixture(scope="module", params=[0, 128])
def mesh(request) -> Mesh:
    """A ball that is coloured by place, with vertex colours, and with a texture."""
    made = trimesh.creation.icosphere(3, radius=0.5)
    vertices, faces = made.vertices.astype(np.float32), made.faces.astype(np.int64)
    texture = textured(vertices, faces, request.param, by_place) if request.param else None
    return Mesh(vertices, faces, by_place(vertices, vertices).astype(np.float32), texture)


@pytest.fixture(scope="module")
def glb(mesh: Mesh) -> bytes:
    return to_glb(mesh)


def test_trimesh_reads_the_obj_in_colour(mesh, glb, tmp_path):
    files = obj_files(glb, "ball")
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    loaded = trimesh.load_mesh(tmp_path / "ball.obj")
    assert len(loaded.faces) == len(mesh.faces)
    assert loaded.volume == pytest.approx(4 / 3 * np.pi * 0.5**3, rel=0.02)  # faces look outwards
    np.testing.assert_allclose((loaded.vertex_normals * loaded.vertices).sum(1), 0.5, atol=0.01)
    if mesh.texture is None:
        assert files.keys() == {"ball.obj"}
        colors = loaded.visual.vertex_colors
    else:
        assert files.keys() == {"ball.obj", "ball.mtl", "ball.jpg"}
        assert files["ball.jpg"] == picture_of(glb)[0]
        assert loaded.visual.material.image.size == (128, 128)
        colors = loaded.visual.to_color().vertex_colors
    np.testing.assert_allclose(colors[:, :3] / 255, loaded.vertices + 0.5, atol=0.08)


def test_trimesh_reads_the_ply_in_colour(mesh, glb):
    files = ply_files(glb, "ball")
    loaded = trimesh.load_mesh(io.BytesIO(files["ball.ply"]), file_type="ply", process=False)
    np.testing.assert_array_equal(loaded.vertices.astype(np.float32), mesh.vertices)
    np.testing.assert_array_equal(loaded.faces, mesh.faces)
    np.testing.assert_allclose(loaded.visual.vertex_colors[:, :3] / 255, mesh.colors, atol=0.06)
    assert b"property float nx" in files["ball.ply"][:400]


def test_usd_reads_the_usdz_in_colour_and_finds_nothing_wrong(mesh, glb, tmp_path):
    path = tmp_path / "ball.usdz"
    path.write_bytes(usdz_files(glb, "ball")["ball.usdz"])
    stage = Usd.Stage.Open(str(path))
    validators = UsdValidation.ValidationRegistry().GetOrLoadAllValidators()
    assert "usdUtilsValidators:UsdzPackageValidator" in {one.GetMetadata().name for one in validators}
    assert UsdValidation.ValidationContext(validators).Validate(stage) == []
    with zipfile.ZipFile(path) as package:
        infos = package.infolist()
        for info in infos:
            header = path.read_bytes()[info.header_offset : info.header_offset + 30]
            start = info.header_offset + 30 + sum(int.from_bytes(header[i : i + 2], "little") for i in (26, 28))
            assert (info.compress_type, start % 64) == (zipfile.ZIP_STORED, 0)
        assert [info.filename for info in infos] == ["object.usdc", *(["0/texture.jpg"] if mesh.texture else [])]
        assert mesh.texture is None or package.read("0/texture.jpg") == picture_of(glb)[0]

    assert (UsdGeom.GetStageUpAxis(stage), UsdGeom.GetStageMetersPerUnit(stage)) == ("Y", 1.0)
    body = UsdGeom.Mesh(stage.GetPrimAtPath("/object/mesh"))
    np.testing.assert_array_equal(np.array(body.GetPointsAttr().Get()), mesh.vertices)
    np.testing.assert_array_equal(np.array(body.GetFaceVertexIndicesAttr().Get()).reshape(-1, 3), mesh.faces)
    box = UsdGeom.BBoxCache(Usd.TimeCode.Default(), ["default"]).ComputeWorldBound(body.GetPrim()).GetRange()
    np.testing.assert_allclose(box.GetSize(), Gf.Vec3d(1, 1, 1), atol=0.01)
    material, _ = UsdShade.MaterialBindingAPI(body.GetPrim()).ComputeBoundMaterial()
    surface, _, _ = material.ComputeSurfaceSource()
    (source,) = surface.GetInput("diffuseColor").GetConnectedSources()[0]
    shader = UsdShade.Shader(source.source.GetPrim())
    primvars = UsdGeom.PrimvarsAPI(body)
    if mesh.texture is None:
        assert shader.GetIdAttr().Get() == "UsdPrimvarReader_float3"
        colors = np.array(primvars.GetPrimvar("displayColor").Get())
        np.testing.assert_allclose(colors, decode_srgb(mesh.colors), atol=1e-5)
    else:
        assert shader.GetIdAttr().Get() == "UsdUVTexture"
        places = np.array(primvars.GetPrimvar("st").Get()).reshape(-1, 3, 2)
        np.testing.assert_allclose(places * [1, -1] + [0, 1], mesh.texture.corners, atol=1e-6)


@pytest.mark.parametrize("form", FORMATS)
def test_bytes_that_are_no_mesh_are_refused(form):
    with pytest.raises(InputError, match="bad_glb"):
        FORMATS[form](b"no glb", "ball")
