"""What the work of actors costs, and how much of it a run may use.

The cost comes from the seconds that cells took, their GPU-seconds, and the prices in the settings. The plan of a run,
its limits and its report all use `cost`. Importing this file loads no torch.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from anything3d.errors import ConfigError, LimitReached

if TYPE_CHECKING:
    from pipeline.config import Config, Price, Workers

HOUR_S = 3600.0


def cost(seconds: float, gpu_seconds: float, num_cpus: float, price: "Price") -> float:
    """In `price.currency`: what cells cost that took so long, on an actor that has so many CPUs."""
    return (gpu_seconds * price.gpu_hour + seconds * num_cpus * price.cpu_hour) / HOUR_S


@dataclass(frozen=True, slots=True)
class Spent:
    """What cells took. Time in which an actor waits or loads its networks is not in it."""

    seconds: float = 0.0  # of actors
    gpu_seconds: float = 0.0  # the same times the share of a GPU that each actor has
    cost: float = 0.0  # price.currency; 0 where no price is known

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(self.seconds + other.seconds, self.gpu_seconds + other.gpu_seconds, self.cost + other.cost)

    def told(self, currency: str) -> str:
        """In words; a cost of 0 is not known, and so is left out."""
        parts = [f"{self.seconds / HOUR_S:.3g} hours of actors", f"{self.gpu_seconds / HOUR_S:.3g} GPU-hours"]
        return ", ".join([*parts, *([f"{self.cost:.2f} {currency}"] if self.cost else [])])


def spent(stage: str, seconds: float, gpu_seconds: float, config: "Config") -> Spent:
    """What cells of a stage took that needed so many seconds."""
    own: Workers = getattr(config.resources, stage)
    return Spent(seconds, gpu_seconds, cost(seconds, gpu_seconds, own.cpus, config.price))


@dataclass(slots=True)
class Spending:
    """What a run may use, and what the cells that it has made took."""

    max_gpu_hours: float | None = None
    max_cost: float | None = None  # currency
    currency: str = ""
    spent: Spent = field(default_factory=Spent)

    @classmethod
    def allowed(cls, config: "Config", max_gpu_hours: float | None, max_cost: float | None) -> "Spending":
        """Raises: ConfigError if a limit could never be reached."""
        workers = [getattr(config.resources, name) for name in config.resources.stages]
        if max_gpu_hours is not None and not any(own.num_gpus for own in workers):
            raise ConfigError(
                "no_gpu_share",
                "No stage has a share of a GPU, so that --max-gpu-hours would never be reached."
                " Set resources.<stage>.num_gpus, or leave the limit out.",
            )
        if max_cost is not None and not (config.price.gpu_hour or config.price.cpu_hour):
            raise ConfigError(
                "no_price",
                "No price is known, so that --max-cost would never be reached. Set price.gpu_hour or price.cpu_hour.",
            )
        return cls(max_gpu_hours, max_cost, config.price.currency)

    def check_without_gpus(self, price: "Price") -> None:
        """On a cluster without a GPU. Raises: ConfigError if a limit could never be reached there."""
        if self.max_gpu_hours is not None:
            limit, remedy = "--max-gpu-hours", "Leave the limit out"
        elif self.max_cost is not None and not price.cpu_hour:
            limit, remedy = "--max-cost", "Set price.cpu_hour"
        else:
            return
        raise ConfigError(
            "no_gpu_share",
            f"The cluster has no GPU, so that {limit} would never be reached. {remedy}, or add a node with a GPU.",
        )

    def reached(self) -> LimitReached | None:
        """What is to be said if no further cell may be begun."""
        hours = self.spent.gpu_seconds / HOUR_S
        if self.max_gpu_hours is not None and hours >= self.max_gpu_hours:
            used = f"{hours:.3g} GPU-hours; --max-gpu-hours allows {self.max_gpu_hours:g}"
        elif self.max_cost is not None and self.spent.cost >= self.max_cost:
            used = f"{self.spent.cost:.2f} {self.currency}; --max-cost allows {self.max_cost:g}"
        else:
            return None
        return LimitReached(
            "limit_reached", f"The run used {used}. What is finished is published. The same command continues."
        )
