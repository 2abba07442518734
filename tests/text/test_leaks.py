"""Leaks are found in the tokens: whole texts, quotations, and none between texts that are not the same."""

import pytest
import torch

import rcpu
from rcpu.text import held_out_windows, leak_note, overlap
from rcpu.text.windows import encode
from tests import tiny


def test_the_same_text_overlaps_wholly_and_another_not_at_all():
    tokens = tiny.ids(1, 4000, seed=1)[0]
    assert overlap(tokens, tokens[: 10 * 16].view(10, 16)) == 1
    assert overlap(tokens, tiny.ids(10, 16, seed=2)) == 0


def test_a_quotation_is_found_wherever_it_stands_and_in_its_proportion():
    tokens, windows = tiny.ids(1, 4000, seed=1)[0], tiny.ids(20, 16, seed=2)
    windows[5:10] = tokens[1234 : 1234 + 80].view(5, 16)
    assert overlap(tokens, windows) == pytest.approx((80 - 12) / (320 - 12))


def test_windows_shorter_than_a_run_are_taken_as_one_text():
    tokens = tiny.ids(1, 4000, seed=1)[0]
    assert overlap(tokens, tokens[100:140].view(10, 4)) == 1
    assert overlap(tokens, tiny.ids(10, 4, seed=2)) == 0
    assert overlap(torch.tensor([1, 2, 3]), torch.tensor([[1, 2], [3, 9]])) == 0.5


def test_only_an_overlap_that_matters_is_said():
    assert leak_note(0.005, "a", "b") is None
    assert leak_note(0.5, "a", "b").startswith("50% of b, as it is measured here, stands in the calibration text a")


def test_the_two_parts_of_the_embedded_text_are_apart(tokenizer):
    text = rcpu.load_text("embedded")
    windows = rcpu.evaluation_windows(text, tokenizer, window=128)
    words = encode(text.calibration, tokenizer)
    assert overlap(words, windows) < 0.5  # a token a byte here: thirteen letters in a row are common
    assert overlap(words, words[:12800].view(100, 128)) == 1


def test_held_out_windows_share_no_token_with_calibration(tokenizer, text_file):
    text = rcpu.load_text(str(text_file))
    tokens = encode(text.calibration, tokenizer)
    windows = held_out_windows(text, tokenizer, samples=8, held_out=2, window=16)
    assert windows.flatten().equal(tokens[len(tokens) * 8 // 10 :][: windows.numel()])
    assert len(held_out_windows(text, tokenizer, samples=8, held_out=2, window=16, max_windows=3)) == 3
    with pytest.raises(rcpu.RcpuError, match=r"nothing of words\.txt was held out"):
        held_out_windows(text, tokenizer, samples=8, held_out=0, window=16)
    with pytest.raises(rcpu.RcpuError, match=r"the held-out part of words\.txt has .* a window needs 9000"):
        held_out_windows(text, tokenizer, samples=8, held_out=2, window=9000)
