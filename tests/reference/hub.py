"""Small models of Hugging Face with random weights, their processors, and a network of one's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch

transformers = pytest.importorskip("transformers", reason="pip install 'finercam_clip[hf]'")


def vocabulary(folder: Path) -> Any:
    """CLIP's own tokenizer in Hugging Face's format, made of open_clip's vocabulary."""
    own = open_clip.SimpleTokenizer()
    ends = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {ends.get(word, word): number for word, number in own.encoder.items()}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    merges = sorted(own.bpe_ranks, key=own.bpe_ranks.__getitem__)
    (folder / "merges.txt").write_text(
        "#version: 0.2\n" + "\n".join(" ".join(pair) for pair in merges), encoding="utf-8"
    )
    return transformers.CLIPTokenizer.from_pretrained(str(folder))


WIDTHS = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4}
WORDS = {"vocab_size": 49408, "max_position_embeddings": 32}


def _randomised(model: Any) -> Any:
    """Every parameter away from its special value."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_((0.2 if parameter.ndim == 1 else 0.05) * torch.randn_like(parameter))
    return model.eval().requires_grad_(False)


def hub_model(kind: str) -> Any:
    torch.manual_seed(0)
    text = WIDTHS | WORDS
    if kind == "clip":
        vision = WIDTHS | {"image_size": 48, "patch_size": 16}
        config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=32)
        return _randomised(transformers.CLIPModel(config))
    if kind == "siglip":
        vision = WIDTHS | {"image_size": 48, "patch_size": 16}
        config = transformers.SiglipConfig(text_config=text | {"projection_size": 64}, vision_config=vision)
        return _randomised(transformers.SiglipModel(config))
    vision = WIDTHS | {"num_patches": 9, "patch_size": 16}
    config = transformers.Siglip2Config(text_config=text | {"projection_size": 64}, vision_config=vision)
    return _randomised(transformers.Siglip2Model(config))


def processor_of(kind: str, folder: Path) -> Any:
    tokenizer = vocabulary(folder)
    if kind == "clip":
        size = {"size": {"shortest_edge": 48}, "crop_size": {"height": 48, "width": 48}}
        return transformers.CLIPProcessor(transformers.CLIPImageProcessor(**size), tokenizer)
    if kind == "siglip":
        image_processor = transformers.SiglipImageProcessor(size={"height": 48, "width": 48})
    else:
        image_processor = transformers.Siglip2ImageProcessor(patch_size=16, max_num_patches=9)
    return type("Processor", (), {"image_processor": image_processor, "tokenizer": tokenizer})()


KINDS = ("clip", "siglip", "siglip2")
