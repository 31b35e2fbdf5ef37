"""Meshes as OBJ, PLY and USDZ, made from GLB files. This file imports no torch.

All of them have y up, and one unit is the longest side of the object. Colours are sRGB in OBJ and PLY, as programs read
them. A texture is copied byte by byte.

Sources: Wavefront OBJ and MTL, 1995; OpenUSD 26, UsdGeom and UsdPreviewSurface.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from jaxtyping import Float

from anything3d.space.gltf import picture_of
from anything3d.space.mesh import decode_srgb, from_glb, vertex_normals

MTL = "newmtl matte\nKd 1 1 1\nKs 0 0 0\nillum 1\n"


def obj_files(glb: bytes, name: str) -> dict[str, bytes]:
    """`name.obj`; with a texture also `name.mtl` and the picture. Without one, each vertex line has its colour.

    Raises: InputError("bad_glb"), here and below, if `glb` is not one coloured mesh.
    """
    mesh = from_glb(glb)
    normals = vertex_normals(mesh.vertices, mesh.faces)
    numbers = mesh.faces + 1
    if mesh.texture is None:
        colored = np.concatenate([mesh.vertices, mesh.colors.clip(0, 1)], axis=1)
        corners = np.stack([numbers, numbers], axis=2)
        text = _lines("v", colored) + _lines("vn", normals) + _faces("%d//%d", corners)
        return {f"{name}.obj": f"o {name}\n{text}".encode()}
    picture, suffix = picture_of(glb)
    places, number = np.unique(mesh.texture.corners.reshape(-1, 2), axis=0, return_inverse=True)
    corners = np.stack([numbers, number.reshape(numbers.shape) + 1, numbers], axis=2)
    text = _lines("v", mesh.vertices) + _lines("vt", _from_bottom(places)) + _lines("vn", normals)
    return {
        f"{name}.obj": f"mtllib {name}.mtl\no {name}\n{text}usemtl matte\n{_faces('%d/%d/%d', corners)}".encode(),
        f"{name}.mtl": f"{MTL}map_Kd {name}.{suffix}\n".encode(),
        f"{name}.{suffix}": picture,
    }


def ply_files(glb: bytes, name: str) -> dict[str, bytes]:
    """`name.ply`, binary, with normals and 8-bit vertex colours. Of a texture, it has what lies at the vertices."""
    import trimesh
    from trimesh.exchange.ply import export_ply

    mesh = from_glb(glb)
    body = trimesh.Trimesh(
        mesh.vertices,
        mesh.faces,
        vertex_normals=vertex_normals(mesh.vertices, mesh.faces),
        vertex_colors=np.round(mesh.colors.clip(0, 1) * 255).astype(np.uint8),
        process=False,
    )
    return {f"{name}.ply": bytes(export_ply(body, vertex_normal=True))}


def usdz_files(glb: bytes, name: str) -> dict[str, bytes]:
    """`name.usdz`: one mesh with a UsdPreviewSurface, whose colour is the texture or the vertex colours (linear)."""
    from pxr import Sdf, Usd, UsdGeom, UsdShade, UsdUtils, Vt

    mesh = from_glb(glb)
    with TemporaryDirectory() as folder:
        stage = Usd.Stage.CreateNew(f"{folder}/object.usdc")
        UsdGeom.SetStageUpAxis(stage, UsdGeom.Tokens.y)
        UsdGeom.SetStageMetersPerUnit(stage, 1.0)
        root = UsdGeom.Xform.Define(stage, "/object")
        stage.SetDefaultPrim(root.GetPrim())
        body = UsdGeom.Mesh.Define(stage, "/object/mesh")
        body.CreatePointsAttr(Vt.Vec3fArray.FromNumpy(mesh.vertices))
        body.CreateFaceVertexCountsAttr(Vt.IntArray.FromNumpy(np.full(len(mesh.faces), 3, np.int32)))
        body.CreateFaceVertexIndicesAttr(Vt.IntArray.FromNumpy(mesh.faces.astype(np.int32).reshape(-1)))
        body.CreateNormalsAttr(Vt.Vec3fArray.FromNumpy(vertex_normals(mesh.vertices, mesh.faces)))
        body.SetNormalsInterpolation(UsdGeom.Tokens.vertex)
        body.CreateSubdivisionSchemeAttr(UsdGeom.Tokens.none)
        body.CreateExtentAttr(Vt.Vec3fArray.FromNumpy(np.stack([mesh.vertices.min(0), mesh.vertices.max(0)])))

        surface = UsdShade.Shader.Define(stage, "/object/matte/surface")
        surface.CreateIdAttr("UsdPreviewSurface")
        surface.CreateInput("roughness", Sdf.ValueTypeNames.Float).Set(1.0)
        surface.CreateInput("metallic", Sdf.ValueTypeNames.Float).Set(0.0)
        color = surface.CreateInput("diffuseColor", Sdf.ValueTypeNames.Color3f)
        reader = UsdShade.Shader.Define(stage, "/object/matte/reader")
        primvars = UsdGeom.PrimvarsAPI(body)
        if mesh.texture is None:
            values = decode_srgb(mesh.colors).astype(np.float32)
            shown = primvars.CreatePrimvar("displayColor", Sdf.ValueTypeNames.Color3fArray, UsdGeom.Tokens.vertex)
            shown.Set(Vt.Vec3fArray.FromNumpy(values))
            reader.CreateIdAttr("UsdPrimvarReader_float3")
            reader.CreateInput("varname", Sdf.ValueTypeNames.String).Set("displayColor")
            color.ConnectToSource(reader.CreateOutput("result", Sdf.ValueTypeNames.Float3))
        else:
            data, suffix = picture_of(glb)
            Path(folder, f"texture.{suffix}").write_bytes(data)
            places = _from_bottom(mesh.texture.corners.reshape(-1, 2)).astype(np.float32)
            shown = primvars.CreatePrimvar("st", Sdf.ValueTypeNames.TexCoord2fArray, UsdGeom.Tokens.faceVarying)
            shown.Set(Vt.Vec2fArray.FromNumpy(places))
            reader.CreateIdAttr("UsdPrimvarReader_float2")
            reader.CreateInput("varname", Sdf.ValueTypeNames.String).Set("st")
            picture = UsdShade.Shader.Define(stage, "/object/matte/picture")
            picture.CreateIdAttr("UsdUVTexture")
            picture.CreateInput("file", Sdf.ValueTypeNames.Asset).Set(f"texture.{suffix}")
            picture.CreateInput("sourceColorSpace", Sdf.ValueTypeNames.Token).Set("sRGB")
            for side in ("wrapS", "wrapT"):
                picture.CreateInput(side, Sdf.ValueTypeNames.Token).Set("clamp")
            picture.CreateInput("st", Sdf.ValueTypeNames.Float2).ConnectToSource(
                reader.CreateOutput("result", Sdf.ValueTypeNames.Float2)
            )
            color.ConnectToSource(picture.CreateOutput("rgb", Sdf.ValueTypeNames.Float3))
        matte = UsdShade.Material.Define(stage, "/object/matte")
        matte.CreateSurfaceOutput().ConnectToSource(surface.CreateOutput("surface", Sdf.ValueTypeNames.Token))
        UsdShade.MaterialBindingAPI.Apply(body.GetPrim()).Bind(matte)
        stage.GetRootLayer().Save()
        UsdUtils.CreateNewUsdzPackage(f"{folder}/object.usdc", f"{folder}/object.usdz")
        return {f"{name}.usdz": Path(folder, "object.usdz").read_bytes()}


def _from_bottom(places: Float[np.ndarray, "N 2"]) -> Float[np.ndarray, "N 2"]:
    """The same places with y counted from the picture's bottom, as OBJ and USD do."""
    return np.stack([places[:, 0], 1 - places[:, 1]], axis=1)


def _lines(word: str, rows: Float[np.ndarray, "N C"]) -> str:
    line = f"{word}{' %.7g' * rows.shape[1]}\n"
    return "".join(line % tuple(row) for row in rows.tolist())


def _faces(corner: str, corners: np.ndarray) -> str:
    """One line for each triangle; `corners` are the numbers of each corner, from 1, [F, 3, K]."""
    line = f"f {' '.join([corner] * 3)}\n"
    return "".join(line % tuple(row) for row in corners.reshape(len(corners), -1).tolist())


# Suffix -> the files of one object: those bytes of its GLB, and its name.
FORMATS: Mapping[str, Callable[[bytes, str], dict[str, bytes]]] = {
    "obj": obj_files,
    "ply": ply_files,
    "usdz": usdz_files,
}
