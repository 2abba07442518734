"""What holds our methods against the authors' code: the same function with own KV heads, and the table."""

import json
from pathlib import Path

import pytest
import torch

import rcpu
from tests import parity, tiny


def test_the_copy_with_own_kv_heads_is_the_same_function():
    net = tiny.net("gqa")
    copy = parity.with_own_kv_heads(net)
    assert copy.config.num_key_value_heads == copy.config.num_attention_heads
    assert torch.allclose(tiny.logits(copy), tiny.logits(net), atol=1e-5)


def test_rows_that_are_there_make_the_table(tmp_path, monkeypatch):
    monkeypatch.setattr(rcpu, "load_model", None)
    file, readme = tmp_path / "rows.json", tmp_path / "README.md"
    rows = [
        {
            "setting": name,
            "parameters": theirs.parameters,
            "perplexity": {str(n): 1.01 * p for n, p in theirs.perplexity.items()},
        }
        for name, theirs in parity.THEIRS.items()
    ]
    file.write_text(json.dumps(rows))
    readme.write_text("before\n<!-- parity -->\n<!-- /parity -->\n")
    asked = ["--data", str(tmp_path), "--json", str(file), "--into", str(readme)]
    parity.main(asked)
    lines = readme.read_text().splitlines()
    assert len([line for line in lines if line.startswith("| ")]) == 2 + len(rows)
    (olica,) = (line for line in lines if line.startswith("| Olica |"))
    assert "| 118,492,992 | 118,492,992 (+0.00%) | 105.38 | 104.34 (+1.00%) | 90.66 | 89.76 (+1.00%) |" in olica
    readme.write_text("nothing")
    with pytest.raises(rcpu.RcpuError, match="no place for parity"):
        parity.main(asked)
    parity.text_with(Path(__file__).parents[1] / "README.md", [parity.MARK])
