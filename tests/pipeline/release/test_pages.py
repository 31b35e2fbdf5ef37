"""The report of a photo escapes what comes from outside."""

from dataclasses import replace

import pytest
import torch

from anything3d.photo.image import encode_png
from pipeline.nothing import least_row
from pipeline.release.pages import photo_page
from schemas.corpus import ObjectRows
from schemas.records import CaptionRecord, FieldRecord, MeshRecord, ObjectRecord, ScoreRecord

PNG = encode_png(torch.zeros(8, 8, 4, dtype=torch.uint8))
HOSTILE = '<script>alert(1)</script> & "a" lamp'
REPLACED = "<em>The cloud's own surface: distillation had made it worse.</em>"


@pytest.fixture
def rows():
    return ObjectRows(
        segment=replace(least_row(ObjectRecord), object_id="sa_1-0000", image_id="sa_1", crop_png=PNG),
        caption=CaptionRecord("sa_1-0000", HOSTILE, -1.0, ""),
        reconstruct=replace(least_row(FieldRecord), kept="field"),
        mesh=least_row(MeshRecord),
        score=replace(least_row(ScoreRecord), reference_psnr_db=21.26, render_png=PNG),
    )


def test_a_hostile_caption_is_text_and_scores_without_truth_are_left_out(rows):
    html = photo_page("<b>.jpg", PNG, rows, "untrained & random")
    assert "<script>" not in html
    assert "<b>" not in html
    assert html.count("&lt;script&gt;alert(1)&lt;/script&gt; &amp; &#34;a&#34; lamp") == 2  # above, and in the table
    assert "<title>&lt;b&gt;.jpg</title>" in html
    assert "untrained &amp; random" in html
    assert "<td>21.3</td>" in html
    assert "Chamfer" not in html
    assert REPLACED not in html
    assert html.count("data:image/png;base64,") == 3
    assert html.count("data:image/webp;base64,") == 1


def test_a_field_that_was_replaced_by_the_cloud_is_said(rows):
    html = photo_page("a.jpg", PNG, replace(rows, reconstruct=replace(rows.reconstruct, kept="cloud")), "")
    assert REPLACED in html
