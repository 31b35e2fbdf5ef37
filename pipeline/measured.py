"""How long the items of each stage took, as the cells of a corpus and of a run say."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pipeline.cell import Recipe
from pipeline.release.partition import Partition, Tally


@dataclass(slots=True)
class Measured:
    """What is known of the cells of each stage: of those with the settings of now, and of the others."""

    same: dict[str, Tally] = field(default_factory=dict)  # stage -> its cells with the settings of now
    other: dict[str, Tally] = field(default_factory=dict)

    @classmethod
    def of(cls, partitions: Iterable[Partition], recipes: Mapping[str, Recipe]) -> "Measured":
        """What these partitions say about the stages of `recipes`."""
        measured = cls()
        for partition in partitions:
            for stage, tally in partition.stages.items():
                if stage in recipes:
                    same = partition.fingerprints[stage] == recipes[stage].fingerprint
                    measured.learn(stage, tally, same=same)
        return measured

    def learn(self, stage: str, tally: Tally, *, same: bool = True) -> None:
        """Add cells of a stage."""
        known = self.same if same else self.other
        if tally.inputs:
            known[stage] = known[stage] + tally if stage in known else tally

    def cells_of(self, stage: str) -> Tally | None:
        """The cells of a stage; those of other settings if there are none of these."""
        return self.same.get(stage) or self.other.get(stage)

    def seconds_per_item(self) -> dict[str, float]:
        """Stage -> seconds of one actor for one of its items. A stage that was not measured is left out."""
        known = {stage: self.cells_of(stage) for stage in [*self.same, *self.other]}
        return {stage: cells.seconds / cells.inputs for stage, cells in known.items() if cells}

    def seconds_per_object(self) -> dict[str, float]:
        """Stage -> seconds of one actor for one object; of index and segment, the object's part of its shard and photo.

        A stage that was not measured is left out. So are index and segment as long as no object is known.
        """
        index, segment = self.cells_of("index"), self.cells_of("segment")
        per_photo = segment.rows / segment.inputs if segment else 0.0
        per_shard = per_photo * index.rows / index.inputs if index else 0.0
        objects = {"index": per_shard, "segment": per_photo}  # of an item
        return {
            stage: seconds / objects.get(stage, 1.0)
            for stage, seconds in self.seconds_per_item().items()
            if objects.get(stage, 1.0)
        }
