"""Open a GLB in Blender without a window, and say what Blender makes of it.

    blender -b -P tests/in_blender.py -- object.glb picture.png

The picture is rendered by Cycles from glTF's front (+z), under an even white light, so that a matte surface has its own
colours. Blender's z is up. Blender runs this file with its own Python, which has none of this project's packages.
"""

import sys

import bpy
import numpy
from mathutils import Vector

SIZE = 256  # px

numpy.bool = bool  # the importer of Debian's Blender 3.4 wants this name, which Debian's numpy has no more
glb, picture = sys.argv[sys.argv.index("--") + 1 :]
bpy.ops.wm.read_factory_settings(use_empty=True)
bpy.ops.import_scene.gltf(filepath=glb)
(body,) = [one for one in bpy.context.scene.objects if one.type == "MESH"]
corners = [body.matrix_world @ Vector(corner) for corner in body.bound_box]
low, high = ([round(pick(corner[axis] for corner in corners), 4) for axis in range(3)] for pick in (min, max))
print(f"bounding box in Blender's axes (x right, y away, z up): {low} to {high}")
for slot in body.material_slots:
    shader = next(node for node in slot.material.node_tree.nodes if node.type == "BSDF_PRINCIPLED")
    links = shader.inputs["Base Color"].links
    source = links[0].from_node.type if links else tuple(shader.inputs["Base Color"].default_value)
    metallic = shader.inputs["Metallic"].default_value
    print(f"material {slot.material.name!r}: base colour from {source}, metallic {metallic}")
print(f"vertex colours: {[layer.name for layer in body.data.color_attributes]}")
for image in bpy.data.images:
    print(f"picture: {tuple(image.size)}, {image.colorspace_settings.name}")

scene = bpy.context.scene
scene.render.engine = "CYCLES"
scene.cycles.samples = 16
scene.cycles.use_denoising = False
scene.render.resolution_x = scene.render.resolution_y = SIZE
scene.render.film_transparent = True
scene.render.filepath = picture
scene.view_settings.view_transform = "Standard"
scene.world = bpy.data.worlds.new("white")
scene.world.use_nodes = True
scene.world.node_tree.nodes["Background"].inputs["Color"].default_value = (1, 1, 1, 1)
camera = bpy.data.objects.new("camera", bpy.data.cameras.new("camera"))
camera.data.type, camera.data.ortho_scale = "ORTHO", 1.5
camera.location, camera.rotation_euler = (0, -3, 0), (1.5707963, 0, 0)  # Blender's -y is glTF's +z
scene.collection.objects.link(camera)
scene.camera = camera
bpy.ops.render.render(write_still=True)
