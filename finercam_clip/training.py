"""What training the bundled models has in common: optimizer, checkpoints, texts, and the file of weights.

A checkpoint holds all state, and batch n is a function of n. So a run that was stopped goes on exactly.
"""

from __future__ import annotations

from pathlib import Path

import open_clip
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, safe_open, save_file
from torch import Tensor, nn

WEIGHTS = "open_clip_model.safetensors"


def make_optimizer(model: nn.Module, weight_decay: float) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices only. The token table has none, because training sees few of its rows."""
    learning = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    matrices = [p for n, p in learning if p.ndim >= 2 and "embedding" not in n]
    others = [p for n, p in learning if p.ndim < 2 or "embedding" in n]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98))


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """The learning rate of the next step."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def descend(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """One step down a loss, with gradients of norm 1 at most."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


def follow(averages: dict[str, float], parts: dict[str, Tensor], newest: float) -> str:
    """Moves averages of losses on by one step.

    Args:
        averages: By name; changed in place.
        parts: The losses of the step.
        newest: The weight of the step in each average, 0..1.

    Returns:
        The averages as a line of the log has them.
    """
    for name, value in parts.items():
        averages[name] = (1 - newest) * averages.get(name, value.item()) + newest * value.item()
    return " ".join(f"{name} {value:.3f}" for name, value in averages.items())


def logit_scale(model: open_clip.CLIP) -> Tensor:
    """What cosines are multiplied with in losses; 100 at most."""
    scale: Tensor = model.logit_scale.exp().clamp(max=100)
    return scale


def encode_texts(model: open_clip.CLIP, tokens: Tensor) -> Tensor:
    """Embeddings of texts, unit norm, [texts, D]: `model.encode_text` without what every text leaves empty.

    Args:
        model: The model.
        tokens: [texts, context]. Columns that are padding in every text are left out. That changes nothing, because
            attention is causal.
    """
    length = int((tokens != 0).sum(1).max())
    x = model.token_embedding(tokens[:, :length]) + model.positional_embedding[:length]
    x = model.transformer(x, attn_mask=model.attn_mask[:length, :length])
    x = model.ln_final(x)[torch.arange(len(x)), tokens.argmax(1)]
    return F.normalize(x @ model.text_projection, dim=-1)


def caption_loss(similarities: Tensor, true: Tensor) -> Tensor:
    """InfoNCE between pictures and captions (van den Oord et al., 2018), with one hard negative per caption.

    Args:
        similarities: [B, 2B]. Text i < B is the caption of picture i; text B + i is the same with one trait changed.
        true: bool [B, 2B], whether a text is true of a picture. Such a pair is never a negative.
    """
    own = torch.arange(len(similarities), device=similarities.device)
    left_out = true.clone()
    left_out[own, own] = False
    masked = similarities.masked_fill(left_out, -torch.inf)
    from_images = F.cross_entropy(masked, own)
    from_texts = F.cross_entropy(masked[:, : len(own)].T, own)
    return (from_images + from_texts) / 2


def save_checkpoint(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, seen: Tensor, metadata: dict[str, str]
) -> None:
    """Writes everything that the next step depends on: the model, the optimizer, the tokens seen, and metadata."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
    tensors["seen"] = seen
    part = path.with_suffix(".part")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, part, metadata)
    part.replace(path)


def checkpoint_metadata(path: Path) -> dict[str, str]:
    """The metadata of a checkpoint; empty if there is none yet."""
    if not path.exists():
        return {}
    with safe_open(path, "pt") as file:
        return dict(file.metadata())


def restore(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, seen: Tensor) -> None:
    """Puts a checkpoint into a fresh model, its fresh optimizer and `seen`."""
    tensors = load_file(path)
    seen |= tensors.pop("seen")
    own = {name.removeprefix("model."): tensor for name, tensor in tensors.items() if name.startswith("model.")}
    model.load_state_dict(own)
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".", 2)
            state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def package(model: open_clip.CLIP, seen: Tensor, output: Path, present: float) -> None:
    """Writes the weights as fp16 safetensors.

    Args:
        model: What was trained.
        seen: Which tokens training saw, bool [vocabulary]. The token table's rows of all others become exactly zero.
        output: The folder of the file.
        present: The cosine that 99 % of true traits reach; it goes into the file's metadata.
    """
    state = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    state["token_embedding.weight"] = state["token_embedding.weight"] * seen[:, None]
    half = {n: (t.half() if t.is_floating_point() else t).contiguous() for n, t in state.items()}
    save_file(half, output / WEIGHTS, metadata={"present_above": f"{present:.3f}"})


def note(path: Path, line: str) -> None:
    """Prints a line of the log, and appends it to the log's file."""
    print(line, flush=True)
    with path.open("a") as file:
        file.write(line + "\n")
