"""How long a run waits after a fault of the machine, and when it gives up."""

from anything3d.errors import DamagedCell, MachineError
from pipeline.run_report import RunReport
from pipeline.stages import LAST

WAITS_S = (10.0, 60.0)  # before a run goes on after a fault of the machine
MOST_DAMAGED = 50  # cells of one run that are found damaged, before its storage is not believed any more
HOPELESS = ("ray_start", "ray_unreachable")  # reasons of faults that have been waited for already


class Faults:
    """The faults of one run.

    A fault has passed when a shard is finished after it, or a cell of a last stage. Other cells do not count: if one
    stage fails every time, the stages before it still make cells.
    """

    def __init__(self) -> None:
        self._waits, self._damaged, self._finished = iter(WAITS_S), 0, 0

    def wait(self, fault: MachineError, report: RunReport) -> float | None:
        """Seconds. None: the run gives up."""
        finished = len(report.partitions) + sum(report.made.get(stage, 0) for stage in LAST)
        if finished > self._finished:
            self._waits, self._finished = iter(WAITS_S), finished
        if isinstance(fault, DamagedCell):
            self._damaged += 1
            if self._damaged <= MOST_DAMAGED:
                return 0.0
        return None if fault.reason in HOPELESS else next(self._waits, None)
