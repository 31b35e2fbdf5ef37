"""The examples that `anything3d <command> --help` ends with. Every one of them is parsed by a test."""

from collections.abc import Mapping

EXAMPLES: Mapping[str, tuple[str, ...]] = {  # command -> calls of it
    "run": (
        "anything3d run world.tar --out corpus",
        "anything3d run 'sa_0000{00..09}.tar' --out corpus --preset default",
        "anything3d run s3://bucket/sa_000020.tar --out s3://bucket/corpus --preset default --max-objects 500",
        "anything3d run photos --out corpus --preset default --set segment.source=sam-grid",
        "anything3d run 'sa_*.tar' --out corpus --preset default --sample-rate 0.01",
    ),
    "plan": (
        "anything3d plan 'sa_*.tar' --out corpus --preset default",
        "anything3d plan 'sa_*.tar' --out corpus --preset default --set caption.beams=5",
    ),
    "preview": (
        "anything3d preview 'sa_*.tar' --photos 100 --set segment.max_edges=1",
        "anything3d preview photos --out look.html --preset default --set segment.source=sam-grid --device cuda",
    ),
    "lift-image": (
        "anything3d lift-image photo.jpg --out photo --preset default",
        "anything3d lift-image photo.jpg --point 290 220 --out photo --preset default",
    ),
    "world": ("anything3d world world.tar --scenes 20 --seed 3",),
    "demo": ("anything3d demo", "anything3d demo somewhere"),
    "evaluate": (
        "anything3d evaluate corpus --truth world.truth --json summary.json",
        "anything3d evaluate corpus --protocol gso --truth GSO",
    ),
    "status": ("anything3d status corpus", "anything3d status s3://bucket/corpus --watch"),
    "view": (
        "anything3d view corpus --open",
        "anything3d view corpus --against 3",
        "anything3d view s3://bucket/corpus --port 0",
    ),
    "report": (
        "anything3d report corpus",
        "anything3d report s3://bucket/corpus --against 3 --out monday.html",
    ),
    "duplicates": (
        "anything3d duplicates corpus",
        "anything3d duplicates s3://bucket/corpus --min-cosine 0.98 --device cuda",
    ),
    "drop": ("anything3d drop corpus sa_000020",),
    "verify": ("anything3d verify corpus", "anything3d verify s3://bucket/corpus --shard sa_000020"),
    "export": (
        "anything3d export corpus --format hf --out hub",
        "anything3d export corpus --format objaverse --out shop --use commercial",
        "anything3d export corpus --format lance --out table --where 'clip_similarity > 0.25'",
        "anything3d export corpus --format usdz --out usdz --where watertight",
        "anything3d export corpus --format hf --out hub --where 'duplicate_of is null'",
    ),
    "gc": ("anything3d gc corpus", "anything3d gc corpus --older-than 7 --keep-last 3 --apply"),
    "nightly": ("anything3d nightly --config night.toml",),
    "retry": ("anything3d retry corpus", "anything3d retry corpus --reason timeout"),
    "train": ("anything3d train sam",),
    "ablate": ("anything3d ablate world.tar --truth world.truth --out ablation",),
    "weights list": ("anything3d weights list --preset default",),
    "weights where": ("anything3d weights where --preset default --set resources.weights_root=$HOME/weights | sh",),
    "weights verify": ("anything3d weights verify --preset default --set resources.weights_root=$HOME/weights",),
    "bench plan": (
        "anything3d bench plan --preset default --set price.gpu_hour=2.5 --set price.currency=EUR",
        "anything3d bench plan --stage reconstruct --memory-gb 24 --json",
    ),
    "bench engine": ("anything3d bench engine --units 100,1000 --out engine.json",),
    "config show": (
        "anything3d config show --preset default > mine.toml",
        "anything3d config show --preset paper --changed",
    ),
    "config explain": (
        "anything3d config explain reconstruct.sds.cfg_scale",
        "anything3d config explain lift",
    ),
}


def ending(command: str, more: str = "") -> str:
    """The end of a command's help: its examples, each on a line of its own, and then `more`."""
    lines = "\n".join(f"  {line}" for line in EXAMPLES[command])
    return f"\b\nExamples:\n{lines}" + (f"\n\n{more}" if more else "")
