"""The gallery escapes what comes from outside."""

from dataclasses import replace

import torch

from anything3d.photo.image import encode_png
from pipeline.release.pages import Card, corpus_page

PNG = encode_png(torch.zeros(8, 8, 4, dtype=torch.uint8))


def test_a_hostile_caption_is_text_and_scores_without_truth_are_left_out():
    card = Card(
        "sa_1-0000",
        PNG,
        PNG,
        b"RIFF",
        "<script>alert(1)</script>",
        "field",
        {"reference_psnr_db": 21.26, "chamfer": None},
    )
    html = corpus_page([card], "abc", 1, 0, "untrained & random")
    assert "<script>" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "untrained &amp; random" in html
    assert "21.3" in html
    assert "Chamfer" not in html
    assert "own surface" not in html
    replaced = corpus_page([replace(card, kept="cloud")], "abc", 1, 0, "")
    assert "The cloud's own surface: distillation had made it worse." in replaced
