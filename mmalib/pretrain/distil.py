"""Two students of `mini`, learnt from it on text: half as deep, and half as wide.

`half_depth` keeps every second layer and learns as DistilBERT did (Sanh et al. 2019): the teacher's word
distribution at the masked places, the masked words themselves, the direction of the last hidden states.

`half_width` has as many layers of half the width. It starts from the teacher projected on the main directions of its
hidden states, with the strongest half of the heads and neurons, and learns the relations inside the teacher's last
layer as MiniLMv2 did (Wang et al. 2021: which tokens' queries, keys and values are alike), beside the teacher's word
distribution.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from transformers import BertConfig, BertForMaskedLM

from mmalib.pretrain.train import Batch, masked_logits, word_loss

TEMPERATURE = 2.0


def half_depth(teacher: BertForMaskedLM) -> BertForMaskedLM:
    """Every second layer of the teacher, the first and the last among them, under its embedding and head."""
    number = teacher.config.num_hidden_layers
    kept = np.linspace(0, number - 1, number // 2).round().astype(int)  # 6 layers: 0, 2, 5
    student = BertForMaskedLM(_smaller(teacher.config, num_hidden_layers=len(kept)))
    student.bert.embeddings.load_state_dict(teacher.bert.embeddings.state_dict())
    student.cls.load_state_dict(teacher.cls.state_dict())
    for layer, source in zip(student.bert.encoder.layer, kept, strict=True):
        layer.load_state_dict(teacher.bert.encoder.layer[source].state_dict())
    return student


@torch.no_grad()
def half_width(teacher: BertForMaskedLM, batches: list[Batch], *, seed: int = 0) -> BertForMaskedLM:
    """The teacher with half the hidden width, heads and neurons, projected on where its hidden states vary most."""
    config = teacher.config
    width, heads = config.hidden_size // 2, config.num_attention_heads // 2
    student = BertForMaskedLM(
        _smaller(
            config,
            hidden_size=width,
            num_attention_heads=heads,
            intermediate_size=config.intermediate_size // 2,
        )
    )
    project, scale = _main_directions(teacher, batches, width, seed)  # [old width, new width]
    old, new = teacher.bert.embeddings, student.bert.embeddings
    for name in ("word_embeddings", "position_embeddings", "token_type_embeddings"):
        getattr(new, name).weight.copy_(getattr(old, name).weight @ project)
    for norm in (m for m in student.bert.modules() if isinstance(m, nn.LayerNorm)):
        norm.weight.fill_(scale)
    for ours, theirs in zip(student.bert.encoder.layer, teacher.bert.encoder.layer, strict=True):
        _project_layer_(ours, theirs, project, config.num_attention_heads)
    head, old_head = student.cls.predictions, teacher.cls.predictions
    head.transform.dense.weight.copy_(project.T @ old_head.transform.dense.weight @ project)
    head.transform.dense.bias.copy_(project.T @ old_head.transform.dense.bias)
    head.bias.copy_(old_head.bias)
    return student


def _smaller(config: BertConfig, **changes: int) -> BertConfig:
    return BertConfig(**{**config.to_dict(), **changes})


def _main_directions(
    teacher: BertForMaskedLM, batches: list[Batch], width: int, seed: int
) -> tuple[torch.Tensor, float]:
    """Orthonormal directions that hold most of the hidden states of all layers, and the states' scale in them."""
    states = []
    for batch in batches:
        _, output = masked_logits(teacher, batch, output_hidden_states=True)
        real = batch["attention_mask"] > 0
        states += [state[real].float() for state in output.hidden_states]
    joined = torch.cat(states)
    _, vectors = torch.linalg.eigh(joined.T @ joined)  # eigenvalues ascending
    # LayerNorm treats all coordinates alike, so the strong directions are spread over all of them.
    spread, _ = torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(seed)))
    project = vectors[:, -width:] @ spread.to(vectors)
    return project, (joined @ project).pow(2).mean().sqrt().item()


def _project_layer_(ours: nn.Module, theirs: nn.Module, project: torch.Tensor, heads: int) -> None:
    """One layer: the strongest half of the heads and neurons, in the projected space."""
    attention, old = ours.attention, theirs.attention
    size = old.self.query.out_features // heads
    by_head = old.output.dense.weight.unflatten(1, (heads, size)).norm(dim=(0, 2))
    by_head = by_head * old.self.value.weight.unflatten(0, (heads, size)).norm(dim=(1, 2))
    kept = by_head.topk(heads // 2).indices.sort().values
    rows = (kept[:, None] * size + torch.arange(size, device=kept.device)).flatten()
    for name in ("query", "key", "value"):
        getattr(attention.self, name).weight.copy_(getattr(old.self, name).weight[rows] @ project)
        getattr(attention.self, name).bias.copy_(getattr(old.self, name).bias[rows])
    attention.output.dense.weight.copy_(project.T @ old.output.dense.weight[:, rows])
    attention.output.dense.bias.copy_(project.T @ old.output.dense.bias)
    strength = theirs.intermediate.dense.weight.norm(dim=1) * theirs.output.dense.weight.norm(dim=0)
    neurons = strength.topk(len(strength) // 2).indices.sort().values
    ours.intermediate.dense.weight.copy_(theirs.intermediate.dense.weight[neurons] @ project)
    ours.intermediate.dense.bias.copy_(theirs.intermediate.dense.bias[neurons])
    ours.output.dense.weight.copy_(project.T @ theirs.output.dense.weight[:, neurons])
    ours.output.dense.bias.copy_(project.T @ theirs.output.dense.bias)


def depth_loss(teacher: BertForMaskedLM) -> Callable[[nn.Module, Batch], torch.Tensor]:
    """DistilBERT's three terms with its weights: 5 × soft targets, 2 × masked words, 1 × direction of the states."""
    teacher.eval().requires_grad_(False)

    def loss(student: nn.Module, batch: Batch) -> torch.Tensor:
        wanted, teacher_output = masked_logits(teacher, batch)
        logits, output = masked_logits(student, batch)
        real = batch["attention_mask"] > 0
        direction = nn.functional.cosine_similarity(
            output.last_hidden_state[real].float(), teacher_output.last_hidden_state[real].float()
        )
        return 5 * soft_targets(logits, wanted) + 2 * word_loss(logits, batch) + (1 - direction).mean()

    return loss


def width_loss(teacher: BertForMaskedLM) -> Callable[[nn.Module, Batch], torch.Tensor]:
    """Soft targets, masked words, and the relations of queries, keys and values in the last layer."""
    teacher.eval().requires_grad_(False)
    remembered: dict[str, torch.Tensor] = {}
    _remember(teacher, "teacher", remembered)
    hooked: list[nn.Module] = []

    def loss(student: nn.Module, batch: Batch) -> torch.Tensor:
        if not hooked:  # the student comes with the first batch
            _remember(student, "student", remembered)
            hooked.append(student)
        wanted, _ = masked_logits(teacher, batch)
        logits, _ = masked_logits(student, batch)
        heads = teacher.config.num_attention_heads
        relations = sum(
            relation_loss(
                remembered[f"student.{name}"],
                remembered[f"teacher.{name}"],
                batch["attention_mask"],
                heads,
            )
            for name in ("query", "key", "value")
        )
        return 2 * soft_targets(logits, wanted) + word_loss(logits, batch) + relations

    return loss


def soft_targets(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Divergence from the teacher's word distribution, both softened; scaled as Hinton et al. (2015) do."""
    target = (wanted.float() / TEMPERATURE).log_softmax(-1)
    given = (logits.float() / TEMPERATURE).log_softmax(-1)
    return nn.functional.kl_div(given, target, log_target=True, reduction="batchmean") * TEMPERATURE**2


def relation_loss(ours: torch.Tensor, theirs: torch.Tensor, mask: torch.Tensor, heads: int) -> torch.Tensor:
    """Divergence between the relations of tokens, softmax(x xᵀ / √size) per relation head; [batch, length, width] in.

    The widths may differ, the number of relation heads may not.
    """
    real = mask > 0
    ours, theirs = (_relations(x.float(), real, heads) for x in (ours, theirs))
    divergence = (theirs.exp() * (theirs - ours).masked_fill(~real[:, None, None], 0.0)).sum(-1)
    return divergence.transpose(1, 2)[real].mean()  # [batch, heads, length] → rows of real tokens


def _relations(x: torch.Tensor, real: torch.Tensor, heads: int) -> torch.Tensor:
    x = x.unflatten(-1, (heads, -1)).transpose(1, 2)  # [batch, heads, length, size]
    relations = x @ x.transpose(-1, -2) / x.shape[-1] ** 0.5
    return relations.masked_fill(~real[:, None, None], -1e9).log_softmax(-1)


def _remember(model: BertForMaskedLM, owner: str, store: dict[str, torch.Tensor]) -> None:
    """Keep what the last layer's query, key and value put out at each forward pass."""
    attention = model.bert.encoder.layer[-1].attention.self

    def keep(name: str) -> None:
        getattr(attention, name).register_forward_hook(lambda _m, _i, out: store.update({f"{owner}.{name}": out}))

    for name in ("query", "key", "value"):
        keep(name)
