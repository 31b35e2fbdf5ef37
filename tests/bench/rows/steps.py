"""Row 10: the network calls from one photo to a finished object, against those of the paper's own code.

Theirs are the numbers of AnyObject3D@c502655 and 3DFuse@571c3ae: 500 steps of textual inversion, 500 of LoRA, 10,000
of score distillation with guidance, in each of which the prompt and the empty prompt are encoded again, and Point-E
with 64 Heun steps and guidance for both networks.
"""

from jobs.command import read_settings
from tests.bench.row import Counted

INVERSION, LORA, DISTILLATION, HEUN, GUIDED = 500, 500, 10_000, 64, 2
OF_A_STEP = 2  # prompts that theirs encodes in a step of distillation


def unet():
    """Rows of the UNet, forward. In both, those of inversion go backward, too."""
    config = read_settings("default", None, None)
    invert, reconstruct = config.invert, config.reconstruct
    inversion = invert.steps * invert.samples + 2 * invert.held_out + invert.lora.steps * invert.lora.samples
    distillation = reconstruct.steps * reconstruct.views.count * GUIDED
    return inversion + distillation, INVERSION + LORA + DISTILLATION * GUIDED


def text():
    """Prompts encoded."""
    config = read_settings("default", None, None)
    invert, prefixes = config.invert, len(config.reconstruct.views.prefixes)
    return invert.steps + 2 + invert.lora.steps + prefixes + 1, INVERSION + LORA + DISTILLATION * OF_A_STEP


def base():
    """Rows of Point-E's base network."""
    lift = read_settings("default", None, None).lift
    return lift.candidates * _heun(lift.steps) * GUIDED, _heun(HEUN) * GUIDED


def _heun(steps):
    """Evaluations: two a step, and one in the last."""
    return 2 * steps - 1


WHAT, PEER = "preset default, one object: {}", "the paper's own code"
ROWS = (
    Counted("10u", WHAT.format("rows of the UNet"), PEER, None, "calls", unet),
    Counted("10t", WHAT.format("prompts encoded"), PEER, None, "calls", text),
    Counted("10p", WHAT.format("rows of Point-E's base network"), PEER, None, "calls", base),
)
