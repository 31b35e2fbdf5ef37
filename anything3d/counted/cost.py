"""What the counts of a stage mean: the memory that it needs, the card that has it, and the least time it can take."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count

from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from anything3d.counted.counter import Counts, counting
from anything3d.counted.stages import FullSize, Stage
from anything3d.method import MethodConfig, Pace
from anything3d.models.weights import Place

CARDS_GB = (24, 40, 80, 141)  # memory of common cards: RTX 4090 and L4, A100 40 GB, A100 and H100 80 GB, H200
PEAK_TFLOPS: Mapping[str, float] = {  # dense bfloat16 matrix products, from NVIDIA's data sheets of 2022 and 2021
    "H100 SXM": 989.4,  # nvidia.com/h100: 1,979 "with sparsity", which is twice the dense rate
    "A100 SXM": 312.0,  # nvidia.com/a100
}
SHARE_USABLE = 0.9  # of a card's memory; the rest is for CUDA itself, work space and rounding, none of which is counted
WORDS = {  # class of a network, as it is called here
    "UNet2DConditionModel": "UNet",
    "ControlNetModel": "ControlNet",
    "Encoder": "VAE encoder",
    "EncoderTiny": "TAESD",
    "CLIPTextModel": "text encoder",
    "CLIPVisionTransformer": "CLIP",
    "CLIPVisionModel": "CLIP",
    "Dinov2Model": "DINOv2",
    "PointDenoiser": "Point-E",
    "BlipVisionModel": "BLIP image tower",
    "BlipTextLMHeadModel": "BLIP decoder",
    "ImageEncoderViT": "SAM encoder",
    "MaskDecoder": "SAM decoder",
    "Sam2VisionModel": "SAM 2 encoder",
    "Sam2MaskDecoder": "SAM 2 decoder",
}


@dataclass(frozen=True, slots=True)
class PartCost:
    """A call of a stage, for one item."""

    name: str
    times: float  # how often it is made for an item
    tflop: float  # of one call
    host_reads: int  # of one call for a batch of one


@dataclass(frozen=True, slots=True)
class StageCost:
    """A stage, for one item. A byte count is that of the part that needs most."""

    stage: str
    item: str
    tflop: float
    share: Mapping[str, float]  # network -> its share of the TFLOP
    parts: tuple[PartCost, ...]
    weight_bytes: int
    fixed_bytes: int  # of activations and results, whatever the batch is
    item_bytes: int  # what each item of a batch adds
    batch: int  # items at once, as the settings have it

    def peak_bytes(self, batch: int) -> int:
        """Weights and activations of so many items at once."""
        return self.weight_bytes + self.fixed_bytes + batch * self.item_bytes

    def card_gb(self) -> int | None:
        """The memory of the smallest common card that holds the stage at its batch; None if there is none."""
        return next((card for card in CARDS_GB if self.fits(self.batch, card)), None)

    def fits(self, batch: int, memory_gb: float) -> bool:
        """Whether so many items fit a card at once."""
        return self.peak_bytes(batch) <= SHARE_USABLE * memory_gb * 1e9

    def largest_batch(self, memory_gb: float) -> int | None:
        """How many items fit a card at once. None if an item adds nothing to what is counted."""
        if self.item_bytes <= 0:
            return None
        return next(batch - 1 for batch in count(1) if not self.fits(batch, memory_gb))

    def floor_s(self, card: str, share_of_peak: float) -> float:
        """Seconds for an item if the card only computes its matrix products, at a share of its peak rate."""
        return self.tflop / (share_of_peak * PEAK_TFLOPS[card])


def count_stages(config: MethodConfig, pace: Pace, objects: int, dtype: str, stages: Sequence[str]) -> list[StageCost]:
    """The costs of the stages with these names, for units of so many objects.

    Autograd needs a device that exists. So the tensors say that they are on a CPU. FLOPs and sizes are those of a GPU.
    """
    with FakeTensorMode():
        full = FullSize(config, Place("cpu", dtype), pace, objects)
        return [cost(getattr(full, name)()) for name in stages]


def cost(stage: Stage) -> StageCost:
    """Counts one and two items: what the second one adds, every further one does."""
    one = {part.name: _counted(stage, part.name, 1) for part in stage.parts}
    two = {part.name: _counted(stage, part.name, 2) for part in stage.parts}
    flops: dict[str, float] = {}
    parts = []
    for part in stage.parts:
        own, over = one[part.name], one.get(part.over, Counts())
        parts.append(PartCost(part.name, part.times, (own.flops - over.flops) / 1e12, own.host_reads))
        for name in own.flops_of:
            more = part.times * (own.flops_of[name] - over.flops_of.get(name, 0))
            flops[WORDS.get(name, "other")] = flops.get(WORDS.get(name, "other"), 0) + more
    total = sum(part.times * part.tflop for part in parts)
    flops["other"] = 1e12 * total - sum(value for name, value in flops.items() if name != "other")
    per_item = {name: max(two[name].peak_bytes - one[name].peak_bytes, 0) for name in one}
    largest = max(one, key=lambda name: one[name].peak_bytes + (stage.batch - 1) * per_item[name])
    return StageCost(
        stage=stage.name,
        item=stage.item,
        tflop=total,
        share={name: value / total / 1e12 for name, value in flops.items() if value > 1e-4 * total * 1e12},
        parts=tuple(parts),
        weight_bytes=sum(_bytes(network) for network in stage.networks.values()),
        fixed_bytes=max(one[largest].peak_bytes - per_item[largest], 0),
        item_bytes=per_item[largest],
        batch=stage.batch,
    )


def _counted(stage: Stage, part: str, items: int) -> Counts:
    (call,) = (own.call for own in stage.parts if own.name == part)
    with counting() as counts:
        call(items)
    return counts


def _bytes(network: nn.Module) -> int:
    tensors = (kept for several in (network.parameters(), network.buffers()) for kept in several)
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
