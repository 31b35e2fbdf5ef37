"""The mini world's vocabulary: what its captions say and what the toy tokenizers know."""

SHAPES = (
    "sphere", "box", "cylinder", "cone", "torus", "capsule", "pyramid",
    "mug", "table", "mushroom", "bottle", "dumbbell", "lamp",
)  # fmt: skip
COLORS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink", "white")
VIEWS = ("front", "side", "back", "overhead", "view", "of")
CAPTION_WORDS = ("a", "an", "the", "photo", "thing", "object", "on", "and", "with", *VIEWS, *COLORS, *SHAPES)


def caption(shape: str, color: str) -> str:
    """The mini world's caption of one object: "a red mug", "an orange torus"."""
    return f"{'an' if color[0] in 'aeiou' else 'a'} {color} {shape}"
