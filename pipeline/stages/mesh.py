"""The stage mesh makes the surface of every field, or checks the mesh that a backend has made, as GLB.

Source: marching cubes, Lorensen and Cline 1987.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from anything3d.errors import Anything3DError, NumericsError
from anything3d.models.weights import Place
from anything3d.settings.mesh import MeshConfig
from pipeline.batch import Checkpoint, Outcome
from pipeline.config import Config
from pipeline.rows import mesh_row
from pipeline.unit import Unit
from schemas.records import FieldRecord, MeshRecord

if TYPE_CHECKING:
    from anything3d.space.mesh import Mesh


class MeshStage:
    name = "mesh"
    version = 3
    record = MeshRecord

    def __init__(self, config: Config, place: Place) -> None:
        del place  # marching cubes runs on the CPU
        self._config = config.mesh

    @staticmethod
    def reads(config: Config) -> tuple[str, ...]:
        del config
        return ("reconstruct",)

    @staticmethod
    def weights(config: MeshConfig) -> tuple[str, ...]:
        del config
        return ()

    def __call__(self, items: Sequence[tuple[FieldRecord]], unit: Unit, checkpoint: Checkpoint) -> list[Outcome]:
        outcomes: list[Outcome] = []
        for (row,) in items:
            mesh = self._mesh(row)
            outcomes.append(mesh if isinstance(mesh, Anything3DError) else [mesh_row(row.object_id, mesh)])
        return outcomes

    def _mesh(self, row: FieldRecord) -> "Mesh | NumericsError":
        """The surface of the field, or the backend's own mesh."""
        from anything3d.mesh import surface
        from anything3d.space.grids import Grids
        from anything3d.space.mesh import from_glb

        if row.own_mesh is not None:
            return surface(from_glb(row.own_mesh), self._config)
        assert row.field is not None, f"{row.object_id} has neither a field nor a mesh"
        return surface(Grids.from_bytes(row.field), self._config)
