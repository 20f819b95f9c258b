"""Fine-tuning on English entities: one function over the Transformers Trainer.

The checkpoint is chosen by English dev F1 and nothing else: no other language is looked at. What comes on top later
(pruning, quantization-aware training) comes in as Trainer callbacks.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from datasets import Dataset
from transformers import (
    DataCollatorForTokenClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from mmalib import machine
from mmalib.backbones import freeze_, predict_tags, training_rows
from mmalib.evaluate import entity_scores


def finetune(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    train: Dataset,
    dev: Dataset,
    *,
    folder: Path,
    seed: int,
    epochs: float,
    batch_size: int,
    learning_rate: float,
    max_length: int,
    warm_up: float = 0.1,
    weight_decay: float = 0.01,
    cycles: int = 1,
    frozen_layers: int | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> tuple[PreTrainedModel, dict]:
    """The model tuned on `train`, at the epoch that is best on `dev` (both English), and its history.

    The learning rate warms up and falls linearly, or as `cycles` cosines with restarts. Checkpoints go to `folder`; a
    run that was killed goes on from there with the same result. Whoever has put the result away removes the folder.
    The history has the dev F1 of every epoch, the best epoch, and the seconds since the last start.
    """
    freeze_(model, frozen_layers)
    rows = training_rows(train["words"], train["tags"], tokenizer, model.config.label2id, max_length)
    settings = TrainingArguments(
        output_dir=str(folder),
        seed=seed,
        num_train_epochs=epochs,
        per_device_train_batch_size=batch_size,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        max_grad_norm=1.0,
        warmup_steps=warm_up,  # below 1, a share of all steps
        lr_scheduler_type="linear" if cycles == 1 else "cosine_with_restarts",
        lr_scheduler_kwargs={} if cycles == 1 else {"num_cycles": cycles},
        train_sampling_strategy="group_by_length",
        bf16=_has_bf16(),
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=2,  # the best and the last
        load_best_model_at_end=True,
        metric_for_best_model="f1",
        greater_is_better=True,
        logging_strategy="epoch",
        report_to="none",
    )
    trainer = _EntityTrainer(
        model,
        settings,
        train_dataset=rows,
        data_collator=DataCollatorForTokenClassification(tokenizer),
        processing_class=tokenizer,
        callbacks=list(callbacks),
        dev=dev,
        max_length=max_length,
    )
    done = trainer.train(resume_from_checkpoint=_last_checkpoint(folder))
    scores = [entry for entry in trainer.state.log_history if "eval_f1" in entry]
    best = max(scores, key=lambda entry: entry["eval_f1"])
    history = {
        "dev_f1": [entry["eval_f1"] for entry in scores],
        "best_epoch": best["epoch"],
        "train_loss": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
        "seconds": done.metrics["train_runtime"],
    }
    return trainer.model, history


class _EntityTrainer(Trainer):
    """The Trainer, evaluating with entity F1 over whole sentences in place of the loss over windows."""

    def __init__(self, *positional, dev: Dataset, max_length: int, **named) -> None:
        # The Trainer wants to know that there is something to evaluate on, and asks for nothing else of it.
        super().__init__(*positional, eval_dataset=dev, **named)
        self.max_length = max_length

    def evaluate(self, *_, **__) -> dict[str, float]:
        """F1 on English dev."""
        dev = self.eval_dataset
        predicted = predict_tags(self.model, self.processing_class, dev["words"], max_length=self.max_length)
        metrics = {"eval_f1": entity_scores(list(dev["tags"]), predicted, resamples=1)["f1"]}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


def _has_bf16() -> bool:
    """Whether bf16 is faster here: without the instructions a CPU computes it slower than float32."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    flags = machine.describe()["flags"]
    return bool(flags["avx512_bf16"] or flags["amx_bf16"])


def _last_checkpoint(folder: Path) -> str | None:
    """The last complete checkpoint; what a kill left half written is removed."""
    complete = []
    for path in Path(folder).glob("checkpoint-*"):
        try:
            complete.append((json.loads((path / "trainer_state.json").read_text())["global_step"], str(path)))
        except (OSError, ValueError):  # the Trainer writes this file last
            shutil.rmtree(path)
    return max(complete)[1] if complete else None
