"""The training loop of all mini networks.

Every step has its own seed. A training resumes from its own checkpoint, and is judged on held-out data as it runs.
"""

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from anything3d import seed as seeds
from anything3d.errors import InputError
from anything3d.models.device import has_bfloat16

EMA = 0.998  # of the averaged weights, which are the ones that are judged and kept
CLIP_NORM = 1.0  # of the gradient
WARM_UP = 100  # steps
LAST_RATE = 0.02  # of the learning rate, at the end of the cosine
WEIGHT_DECAY = 0.01


@dataclass(frozen=True, slots=True)
class Training:
    """How one set of networks is trained. The callables see the networks as they are at that moment."""

    name: str
    networks: nn.Module  # everything with parameters to learn, what is dropped after training included
    loss: Callable[[torch.Generator], Float[Tensor, ""]]  # of a batch that the generator draws
    save: Callable[[Path], None]  # into a folder of weights folders
    score: Callable[[], dict[str, float]]  # on held-out data, of the networks as just saved
    steps: int
    lr: float  # AdamW, at its highest
    bf16: bool = False  # matrix products of the loss in bfloat16, where the device has them; pays for transformers only
    every: int = 500  # steps between scores and checkpoints
    load: Callable[[Path], None] | None = None  # weights, as saved; None: the one file has all of `networks`
    start_share: float | None = None  # of the first weights in their mean with the averaged ones; None: no mean


def train(training: Training, work: Path, seed: int, device: str, progress: Callable[[str], None]) -> None:
    """Train to the training's last step and save the averaged weights below WORK/weights, at every score.

    WORK/NAME holds `checkpoint.pt`, from which an interrupted training goes on as if nothing had happened (every step
    has its own generator), and `log.jsonl`, a line for every score. A finished training is only saved again.

    Raises: InputError("bad_checkpoint") if the checkpoint is of other networks.
    """
    folder = work / training.name
    folder.mkdir(parents=True, exist_ok=True)
    networks = training.networks.to(device).train()
    parameters: list[Tensor] = [value for value in networks.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=training.lr, weight_decay=WEIGHT_DECAY, betas=(0.9, 0.99))
    average = [value.detach().clone() for value in parameters]
    first = [] if training.start_share is None else [value.clone() for value in average]
    start, seconds = _resume(folder / "checkpoint.pt", networks, average, first, optimizer)
    total, begun, since = torch.zeros((), device=device), time.monotonic(), start
    bf16 = training.bf16 and has_bfloat16(device)
    for step in range(start, training.steps):
        generator = seeds.generators(seed, f"training/{training.name}", [str(step)])[0]
        for group in optimizer.param_groups:
            group["lr"] = training.lr * rate(step, training.steps)
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=bf16):
            loss = training.loss(generator)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, CLIP_NORM)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, parameters, 1 - min(EMA, (step + 1) / (step + 10)))
        total += loss.detach()
        done = step + 1
        if done % training.every and done != training.steps:
            continue
        seconds += time.monotonic() - begun
        scores = _judge(training, parameters, average, first, work)
        mean = float(total) / (done - since)
        line = {"step": done, "seconds": round(seconds), "loss": mean, **scores}
        with (folder / "log.jsonl").open("a") as log:
            log.write(json.dumps(line) + "\n")
        progress("  ".join(f"{key} {value:.4g}" for key, value in line.items()))
        _keep(folder / "checkpoint.pt", networks, average, first, optimizer, done, seconds)
        total, begun, since = torch.zeros((), device=device), time.monotonic(), done
    if start >= training.steps:
        _judge(training, parameters, average, first, work)


def rate(step: int, steps: int) -> float:
    """Share of the highest learning rate: a linear rise, then half a cosine."""
    rise = min(1.0, (step + 1) / WARM_UP)
    return rise * (LAST_RATE + (1 - LAST_RATE) * (1 + math.cos(math.pi * step / steps)) / 2)


def _judge(
    training: Training, parameters: list[Tensor], average: list[Tensor], first: list[Tensor], work: Path
) -> dict[str, float]:
    """Save and score the averaged weights, or their mean with the first ones, then go back to the others.

    Source of the mean: Wortsman et al. 2022 (WiSE-FT). It keeps more of what was known before than the trained weights.
    """
    kept = [value.detach().clone() for value in parameters]
    with torch.no_grad():
        torch._foreach_copy_(parameters, average)
        if training.start_share:
            torch._foreach_lerp_(parameters, first, training.start_share)
        training.networks.eval()
        training.save(work / "weights")
        scores = training.score()
        torch._foreach_copy_(parameters, kept)
    training.networks.train()
    return scores


def _resume(
    path: Path, networks: nn.Module, average: list[Tensor], first: list[Tensor], optimizer: torch.optim.Optimizer
) -> tuple[int, float]:
    """Step and seconds so far."""
    if not path.exists():
        return 0, 0.0
    state = torch.load(path, weights_only=True)
    if (with_packaged := bool(state.get("first"))) != bool(first):
        how = "with" if with_packaged else "without"
        raise InputError("bad_checkpoint", f"{path} was begun {how} --from-packaged; go on like that, or remove it")
    try:
        networks.load_state_dict(state["networks"])
        optimizer.load_state_dict(state["optimizer"])
        for kept, value in zip([*state["average"], *state.get("first", [])], [*average, *first], strict=True):
            value.copy_(kept)
    except (RuntimeError, ValueError, KeyError) as error:
        raise InputError("bad_checkpoint", f"{path} is of other networks; remove it: {str(error)[:200]}") from error
    return int(state["step"]), float(state["seconds"])


def _keep(
    path: Path,
    networks: nn.Module,
    average: list[Tensor],
    first: list[Tensor],
    optimizer: torch.optim.Optimizer,
    step: int,
    seconds: float,
) -> None:
    partial = path.with_suffix(".partial")
    state = {
        "networks": networks.state_dict(),
        "average": average,
        "first": first,
        "optimizer": optimizer.state_dict(),
        "step": step,
        "seconds": seconds,
    }
    torch.save(state, partial)
    partial.rename(path)
