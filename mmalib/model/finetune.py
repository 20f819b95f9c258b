"""Fine-tuning on English entities: one function over the Transformers Trainer.

The checkpoint is chosen by English dev F1, or the mean of many is taken: no other language is looked at. What comes
later (pruning, quantization-aware training) comes in as Trainer callbacks. A loss that is not a number ends training at
once.

Four settings are there for the languages that are not trained on: a higher rate for the new head, smoothed labels,
words hidden behind `<mask>`, and the mean of many checkpoints in place of the best one.
"""

import gc
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch.nn.utils.rnn import pad_sequence
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from transformers import (
    DataCollatorForTokenClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from mmalib.data.subwords import IGNORED, Encoded, run_of, tags, word_logits
from mmalib.model import beside
from mmalib.model.averaging import Averaging
from mmalib.model.backbones import freeze_
from mmalib.model.evaluate import entity_scores
from mmalib.records import clock, machine


@dataclass(frozen=True)
class Recipe:
    """How a model is trained; a wrong one is refused here.

    The learning rate warms up and falls linearly to `end_rate`, anew at each of the epochs `rewinds`; or to 0 as
    `cycles` cosines with restarts. Only epochs that end after `choose_after` epochs compete: before that, a model that
    is being pruned is not as sparse as it should be. `frozen` is the share of the layers that stay as they came, with
    the embeddings. The head learns at `head_rate` times the rate. A share of `masked_words` is hidden at every step.
    With `average_from` the result is the mean of ten checkpoints of each epoch after that one, whatever dev says.
    """

    epochs: float
    batch_size: int
    learning_rate: float
    warm_up: float = 0.1
    cycles: int = 1
    rewinds: Sequence[float] = ()
    end_rate: float = 0.0
    choose_after: float = 0.0
    frozen: float | None = None
    head_rate: float = 1.0
    label_smoothing: float = 0.0
    masked_words: float = 0.0
    average_from: float | None = None

    def __post_init__(self) -> None:
        epochs, end_rate, rate = self.epochs, self.end_rate, self.learning_rate
        if not 0 <= end_rate <= rate:
            raise ValueError(f"end_rate is {end_rate}: it must lie between 0 and the learning rate, {rate}.")
        if self.cycles > 1 and (self.rewinds or end_rate):
            raise ValueError("cycles are cosines that end at 0: give either cycles, or rewinds and end_rate.")
        if not all(0 < rewind < epochs for rewind in self.rewinds):
            raise ValueError(f"rewinds are {list(self.rewinds)}: all must lie within the {epochs} epochs of training.")
        if not 0 <= self.choose_after < epochs:
            raise ValueError(f"choose_after is {self.choose_after}: no epoch of {epochs} would be left to choose from.")
        if self.average_from is not None and not 0 <= self.average_from < epochs:
            raise ValueError(f"average_from is {self.average_from}: none of the {epochs} epochs would be averaged.")


def finetune(
    model: PreTrainedModel,
    rows: list[dict],
    dev: Encoded,
    recipe: Recipe,
    *,
    folder: Path,
    seed: int,
    loss: Callable[[torch.Tensor, dict[str, torch.Tensor]], torch.Tensor] | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> tuple[PreTrainedModel, dict]:
    """The model tuned on `rows` (see `training_rows`), at the epoch that is best on English `dev`, and its history.

    A `loss` in place of the model's own takes logits [rows, positions, labels] and the batch. Checkpoints go to
    `folder`; a run that was killed goes on from there with the same result. Whoever has put the result away removes the
    folder. The history has the dev F1 of every epoch and of the mean where there is one, and the best epoch.
    """
    if loss and recipe.label_smoothing:
        raise ValueError("label_smoothing is of the model's own loss. Set it to 0 where another loss is given.")
    freeze_(model, recipe.frozen)
    settings = TrainingArguments(
        output_dir=str(folder),
        seed=seed,
        num_train_epochs=recipe.epochs,
        per_device_train_batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
        weight_decay=0.01,
        label_smoothing_factor=recipe.label_smoothing,
        warmup_steps=recipe.warm_up,  # below 1, a share of all steps
        lr_scheduler_type="linear" if recipe.cycles == 1 else "cosine_with_restarts",
        lr_scheduler_kwargs={"num_cycles": recipe.cycles},
        train_sampling_strategy="group_by_length",
        bf16=machine.has_bf16(),
        use_cpu=machine.device() == "cpu",
        dataloader_pin_memory=machine.device() == "cuda",
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=2,  # the best and the last
        load_best_model_at_end=True,
        metric_for_best_model="f1",
        logging_strategy="epoch",
        report_to="none",
        remove_unused_columns=False,  # a loss may read columns that the model does not
    )
    averaging = [] if recipe.average_from is None else [Averaging(recipe.average_from)]
    trainer = _EntityTrainer(
        model,
        settings,
        train_dataset=rows,
        data_collator=_Collator(dev.tokenizer, masked_words=recipe.masked_words),
        processing_class=dev.tokenizer,
        callbacks=[*callbacks, *averaging],
        dev=dev,
        recipe=recipe,
        loss=loss,
    )
    gc.freeze()  # the Trainer collects garbage when it begins, and would look through all of torch each time
    try:
        with clock.phase("training"):
            trainer.train(resume_from_checkpoint=_last_checkpoint(folder))
    finally:
        gc.unfreeze()
    scores = [entry for entry in trainer.state.log_history if "eval_f1" in entry]
    best = max((entry for entry in scores if entry["epoch"] > recipe.choose_after), key=lambda entry: entry["eval_f1"])
    history = {
        "dev_f1": [entry["eval_f1"] for entry in scores],
        "best_epoch": best["epoch"],
        "train_loss": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
    }
    for average in averaging:
        average.apply_(trainer.accelerator.unwrap_model(trainer.model))
        history["average_dev_f1"], history["averaged"] = trainer.dev_f1(), average.taken
    # Without the mixed precision of training: what is scored and pruned next is what will be saved.
    return trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False), history


class _Collator(DataCollatorForTokenClassification):
    """Pads a batch, and hides some of its words behind the mask; a word begins where a label stands.

    So what a window holds behind its last label, as context, is hidden with that word, and rows without labels stay.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, *, masked_words: float) -> None:
        super().__init__(tokenizer)
        if masked_words and tokenizer.mask_token_id is None:
            raise ValueError("masked_words needs a tokenizer with a mask. Set it to 0 for this backbone.")
        self.masked_words = masked_words

    def torch_call(self, features: list[dict]) -> dict[str, torch.Tensor]:
        """The batch; a teacher's `answers` are nan where it is padded."""
        answers = [torch.from_numpy(row["answers"]) for row in features if "answers" in row]
        batch = super().torch_call([{name: row[name] for name in row if name != "answers"} for row in features])
        if answers:
            batch["answers"] = pad_sequence(answers, batch_first=True, padding_value=torch.nan)
        if self.masked_words:
            word = (batch["labels"] != IGNORED).cumsum(dim=1)  # 0 before the first one
            hidden = torch.rand(len(word), int(word.max()) + 1) < self.masked_words  # [rows, words]
            hidden[:, 0] = False
            special = torch.isin(batch["input_ids"], torch.tensor(self.tokenizer.all_special_ids))
            batch["input_ids"][hidden.gather(1, word) & ~special] = self.tokenizer.mask_token_id
        return batch


class _EntityTrainer(Trainer):
    """The Trainer, evaluating with entity F1 over whole sentences in place of the loss over windows."""

    def __init__(self, *positional, dev: Encoded, recipe: Recipe, loss: Callable | None, **named) -> None:
        # The Trainer wants to know that there is something to evaluate on, and asks for nothing else of it.
        super().__init__(*positional, eval_dataset=dev.windows, **named)
        self.dev, self.recipe, self.loss = dev, recipe, loss
        self.floating_point_ops = lambda _: 0  # the Trainer's walks through all modules in every step to count them

    def _init_training_state(self, max_steps: int, per_epoch: int, epochs: int, *checkpoint) -> tuple[int, int]:
        """Where training goes on; the Trainer knows neither moved checkpoints nor a last epoch that is part of one."""
        begun = super()._init_training_state(max_steps, per_epoch, epochs, *checkpoint)
        if best := self.state.best_global_step:
            self.state.best_model_checkpoint = str(Path(self.args.output_dir) / f"checkpoint-{best}")
        return (epochs, 0) if self.state.global_step >= max_steps else begun

    def create_optimizer(self, *positional, **named) -> torch.optim.Optimizer:
        """The Trainer's own optimizer, in which the head has groups with a rate of their own."""
        fresh, optimizer = self.optimizer is None, super().create_optimizer(*positional, **named)
        if fresh and self.recipe.head_rate != 1:
            head = {id(p) for p in self.model.classifier.parameters()}
            for group in list(optimizer.param_groups):
                own = [p for p in group["params"] if id(p) in head]
                group["params"] = [p for p in group["params"] if id(p) not in head]
                optimizer.add_param_group({**group, "params": own, "lr": group["lr"] * self.recipe.head_rate})
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer=None) -> LRScheduler:
        """The linear rate with rewinds in place of the Trainer's, with which it agrees where there are none."""
        if self.args.lr_scheduler_type != "linear":
            return super().create_scheduler(num_training_steps, optimizer)
        if self.lr_scheduler is None:
            rate = partial(
                rate_at,
                total=num_training_steps,
                warm_up=self.args.get_warmup_steps(num_training_steps),
                rewinds=[round(epoch * num_training_steps / self.recipe.epochs) for epoch in self.recipe.rewinds],
                floor=self.recipe.end_rate / self.args.learning_rate,
            )
            self.lr_scheduler = LambdaLR(optimizer or self.optimizer, rate)
        return self.lr_scheduler

    def compute_loss(self, model, inputs, *positional, **named):
        """The given loss on one batch, or the model's own: cross-entropy over the labels."""
        if self.loss is None:
            return super().compute_loss(model, inputs, *positional, **named)
        logits = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
        return self.loss(logits, inputs)

    def training_step(self, *positional, **named) -> torch.Tensor:
        """One step, which must have a finite loss: the Trainer would go on for hours without."""
        loss = super().training_step(*positional, **named)
        if not torch.isfinite(loss):
            raise ValueError(
                f"The loss is {loss.item()} at step {self.state.global_step + 1}: training has diverged. "
                f"Try a lower learning rate than {self.args.learning_rate}."
            )
        return loss

    def evaluate(self, *_, **__) -> dict[str, float]:
        """F1 on English dev, as the Trainer wants it."""
        metrics = {"eval_f1": self.dev_f1()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    @clock.phase("scoring")
    def dev_f1(self) -> float:
        """F1 on English dev of the model as it is now, or what another task measures."""
        logits = word_logits(run_of(self.model), self.dev)
        if self.dev.measure:
            return self.dev.measure(logits)
        return entity_scores(self.dev.tags, tags(logits, self.model.config.id2label), resamples=1)["f1"]

    def _save_checkpoint(self, *positional, **named) -> None:
        super()._save_checkpoint(*positional, **named)
        beside.sweep(Path(self.args.output_dir))

    def _determine_best_metric(self, metrics: dict[str, float], trial) -> bool:
        return self.state.epoch > self.recipe.choose_after and super()._determine_best_metric(metrics, trial)


def rate_at(step: int, *, total: int, warm_up: int, rewinds: Sequence[int], floor: float) -> float:
    """The factor of the learning rate: up to 1 in the warm-up, then down to `floor`, from 1 again at each rewind."""
    if step < warm_up:
        return step / warm_up
    begin = max([warm_up, *(rewind for rewind in rewinds if rewind <= step)])
    end = min([total, *(rewind for rewind in rewinds if rewind > step)])
    return floor + (1 - floor) * max(0.0, (end - step) / max(1, end - begin))


def _last_checkpoint(folder: Path) -> str | None:
    """The last complete checkpoint; what a kill left half written is removed."""
    complete = []
    for path in Path(folder).glob("checkpoint-*"):
        try:
            complete.append((json.loads((path / "trainer_state.json").read_text())["global_step"], str(path)))
        except (OSError, ValueError):  # the Trainer writes this file last
            shutil.rmtree(path)
    return max(complete)[1] if complete else None
