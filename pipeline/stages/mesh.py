"""The stage mesh makes the surface of every field, or limits the mesh that a backend has made, as GLB.

Source: marching cubes, Lorensen and Cline 1987.
"""

from collections.abc import Sequence

from anything3d.errors import Anything3DError
from anything3d.models.weights import Place
from anything3d.settings.mesh import MeshConfig
from pipeline.batch import Checkpoint, Outcome
from pipeline.config import Config
from pipeline.rows import mesh_row, sight
from pipeline.stages.reconstruct import ReconstructStage
from pipeline.unit import Unit
from schemas.records import CloudRecord, FieldRecord, MeshRecord, ObjectRecord

Item = tuple[ObjectRecord, FieldRecord] | tuple[ObjectRecord, FieldRecord, CloudRecord]


class MeshStage:
    name = "mesh"
    version = 10
    record = MeshRecord

    def __init__(self, config: Config, place: Place) -> None:
        del place  # marching cubes runs on the CPU
        self._config = config.mesh

    @staticmethod
    def reads(config: Config) -> tuple[str, ...]:
        lift = ("lift",) if "lift" in ReconstructStage.reads(config) else ()
        return ("segment", "reconstruct", *lift)

    @staticmethod
    def weights(config: MeshConfig) -> tuple[str, ...]:
        del config
        return ()

    def __call__(self, items: Sequence[Item], unit: Unit, checkpoint: Checkpoint) -> list[Outcome]:
        from anything3d.mesh import surface
        from anything3d.space.grids import Grids
        from anything3d.space.mesh import from_glb

        outcomes: list[Outcome] = []
        for row, shape, *cloud in items:
            given = None if shape.own_mesh is None else from_glb(shape.own_mesh)
            if given is not None:
                mesh = surface(given, self._config)
            else:
                assert shape.field is not None, f"{row.object_id} has neither a field nor a mesh"
                mesh = surface(
                    Grids.from_bytes(shape.field), self._config, sight(row, shape, cloud[0] if cloud else None)
                )
            outcomes.append(mesh if isinstance(mesh, Anything3DError) else [mesh_row(row.object_id, mesh, given)])
        return outcomes
