"""A checkpoint that runs can begin with."""

from pathlib import Path

import pytest
import torch

from mambalab.pretrained import export
from mambalab.pretrained.layout import Layout
from mambalab.tokenization.tokenizer import Characters, FileTokenizer
from mambalab.tokenization.vocabulary import Vocabulary
from tests.pretrained.test_tokens import bpe

OTHER = "".join(f"Line {n}: a lazy fox {n} jumps over the dog.\n" for n in range(300))
ROWS = 304  # of the embedding: more than the tokenizer has, as published checkpoints do


@pytest.fixture
def checkpoint(folder, build_model, build_settings):
    """A function that writes a checkpoint of random weights, its tokens byte pairs or characters;
    in the folder of the test, where text.txt is another text than that it knows."""

    def write(name="ck", *, layout=Layout.hf, symbols=None, seed=0, **changes) -> Path:
        changes = {"d_model": 24, "n_layer": 2, "d_state": 4, "tie_embeddings": True, **changes}
        model = build_model(**changes)
        torch.manual_seed(seed)
        model.backbone.embedding = torch.nn.Embedding(ROWS, 24)
        model.lm_head = torch.nn.Linear(24, ROWS, bias=False)
        if changes["tie_embeddings"]:
            model.lm_head.weight = model.backbone.embedding.weight
        torch.nn.init.normal_(model.backbone.embedding.weight, std=0.02)
        for p in model.parameters():  # nothing is left as a fresh model has it
            p.data += 0.05 * torch.randn(p.shape)
        if symbols is None:
            bpe(folder / "made/tokenizer.json")
            tokenizer = FileTokenizer(folder / "made/tokenizer.json")
        else:
            tokenizer = Characters(Vocabulary(symbols))
        settings = build_settings(**changes)
        out = folder / name
        export.write(
            out, model, settings, layout=layout, tokenizer=tokenizer, card="", overwrite=True
        )
        return out

    (folder / "text.txt").write_text(OTHER)
    return write
