"""`anything3d bench plan` counts what the stages compute and keep at full size, without a GPU and without weights."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.command import ConfigFile, Preset, Settings, errors_as_one_line, read_settings

if TYPE_CHECKING:
    from anything3d.counted.cost import StageCost
    from pipeline.config import Config

STAGES = ("segment", "caption", "invert", "lift", "reconstruct", "score")
HALF = 0.5  # of the peak rate: what large matrix products reach in practice is not measured here


def plan(
    preset: Preset = "default",
    config: ConfigFile = None,
    settings: Settings = None,
    stage: Annotated[list[str] | None, typer.Option(help="Count this stage alone; repeatable.")] = None,
    memory_gb: Annotated[float, typer.Option(min=1, help="Memory of a card, for the largest batches.")] = 80,
    as_json: Annotated[bool, typer.Option("--json", help="Print the counts as JSON.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write the counts here, as JSON.", dir_okay=False)] = None,
) -> None:
    """Count what every stage computes and keeps at full size, on tensors without values.

    Shows a Markdown table for each question: what an item costs, what has a share in it, which card holds it, and the
    least seconds that it can take on known cards. Nothing is measured. `mesh` has no networks and runs on CPUs.
    """
    with errors_as_one_line():
        import json
        from dataclasses import asdict

        from anything3d.errors import ConfigError

        if unknown := sorted({*(stage or [])} - {*STAGES}):
            raise ConfigError("setting", f"--stage {unknown[0]}: known are {', '.join(STAGES)}")
        chosen, wanted = read_settings(preset, config, settings), stage or STAGES
        backend = chosen.reconstruct.backend
        if "reconstruct" in wanted and backend != "sds":
            raise ConfigError(
                "setting",
                f'reconstruct.backend is "{backend}", and of reconstruct only the steps of "sds" are counted; name the'
                " other stages with --stage, or set reconstruct.backend=sds",
            )
        counts = count(chosen, wanted)
        text = json.dumps({one.stage: asdict(one) for one in counts}, indent=1) + "\n"
        if out:
            out.write_text(text)
        print(text if as_json else "\n".join([*tables(counts, memory_gb), *rates(counts, chosen)]))


def count(config: "Config", stages: Sequence[str]) -> "list[StageCost]":
    """The costs of stages, as a run with these settings has them."""
    from anything3d.counted.cost import count_stages
    from pipeline.photo import method_config, pace

    return count_stages(method_config(config), pace(config), config.units.objects, config.dtype, stages)


def tables(counts: "Sequence[StageCost]", memory_gb: float) -> Iterator[str]:
    """Markdown."""
    from anything3d.counted.cost import PEAK_TFLOPS

    yield "| stage | item | TFLOP of an item | one call of a part, TFLOP (times for an item) |"
    yield "|---|---|---|---|"
    for one in counts:
        parts = ", ".join(f"{part.name} {part.tflop:.3g} ({part.times:g})" for part in one.parts)
        yield f"| {one.stage} | {one.item} | {one.tflop:,.1f} | {parts} |"
    yield ""
    yield "| stage | share of the TFLOP |"
    yield "|---|---|"
    for one in counts:
        ranked = sorted(one.share.items(), key=lambda entry: -entry[1])
        yield f"| {one.stage} | {', '.join(f'{name} {share:.1%}' for name, share in ranked)} |"
    yield ""
    yield (
        "| stage | weights, GB | one more item, GB | items at once | all, GB | smallest card, GB "
        f"| items at once in {memory_gb:g} GB |"
    )
    yield "|---" * 7 + "|"
    for one in counts:
        gb = [value / 1e9 for value in (one.weight_bytes, one.item_bytes, one.peak_bytes(one.batch))]
        card, largest = one.card_gb(), one.largest_batch(memory_gb)
        yield (
            f"| {one.stage} | {gb[0]:.2f} | {gb[1]:.3f} | {one.batch} | {gb[2]:.1f} | {card or 'none'} "
            f"| {'any' if largest is None else largest} |"
        )
    yield ""
    cards = [f"{name}, {text}" for name in PEAK_TFLOPS for text in ("peak", "half")]
    yield f"| least seconds of an item | {' | '.join(cards)} |"
    yield "|---" * (1 + len(cards)) + "|"
    for one in counts:
        floors = [one.floor_s(name, share) for name in PEAK_TFLOPS for share in (1.0, HALF)]
        yield f"| {one.stage} | {' | '.join(f'{floor:.3g}' for floor in floors)} |"


def rates(counts: "Sequence[StageCost]", config: "Config") -> Iterator[str]:
    """Markdown: the most objects of an hour, and of a unit of currency where the settings have the price of a GPU.

    SAM works on photos, and only if the settings want it. So `segment` is not in these figures.
    """
    from anything3d.counted.cost import PEAK_TFLOPS

    ours, price = [one for one in counts if one.item == "object"], config.price
    paid = f"| of 1 {price.currency}, at {price.gpu_hour:g} an hour of a GPU " if price.gpu_hour else ""
    yield ""
    yield f"| {' + '.join(one.stage for one in ours)} | least seconds of an object | most objects of an hour {paid}|"
    yield "|---" * (4 if paid else 3) + "|"
    for name in PEAK_TFLOPS:
        for gpus in (1, 8):
            hour = gpus * 3600 / sum(one.floor_s(name, HALF) for one in ours)
            bought = f"| {hour / (gpus * price.gpu_hour):,.0f} " if paid else ""
            yield f"| {gpus} x {name}, half of the peak rate | {3600 / hour:.2f} | {hour:,.0f} {bought}|"
