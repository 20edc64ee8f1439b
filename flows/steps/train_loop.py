"""The training loop: trl's SFTTrainer, held to a time budget, to finite numbers and to the best hold-out
loss.

Reads tokenised rows, writes nothing: the trained model stays in memory. Invariant: a non-finite loss or
gradient ends the run with `TrainingError`; what is returned has the weights of the best hold-out loss, all
finite.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from flows.steps.train_config import TrainConfig
from flows.steps.train_model import adapter_config, score_completions_only
from flows.steps.train_rows import TokenRow
from lake.errors import TrainingError
from lake.progress import Progress


@dataclass(slots=True)
class LoopState:
    """What the callbacks note down while the loop runs; times are `time.monotonic()` seconds."""

    history: list[dict[str, float]] = field(default_factory=list[dict[str, float]])
    eval_history: list[dict[str, float]] = field(default_factory=list[dict[str, float]])
    start: float = 0.0
    eval_s: float = 0.0  # of the last hold-out evaluation: reserved for the one at the end
    step_s: list[float] = field(default_factory=list[float])
    best_loss: float = math.inf
    best_step: int = 0
    best: dict[str, Any] = field(default_factory=dict[str, Any])
    tokens: float = 0.0
    stopped_by: str = "epochs"


@dataclass(frozen=True, slots=True)
class Trained:
    """The peft model with its best weights, and what the run measured."""

    model: Any
    state: LoopState
    steps: int
    epochs: float
    seconds: float


def learning_rate_share(done: float, warmup: float, shape: str) -> float:
    """Share of the peak learning rate when `done` (0..1) of the run is over."""
    if done < warmup:
        return max(done / warmup, 0.05)  # never zero: the first step would be lost
    left = min(max((1.0 - done) / (1.0 - warmup), 0.0), 1.0)
    if shape == "constant":
        return 1.0
    return left if shape == "linear" else 0.5 * (1.0 - math.cos(math.pi * left))


def train(
    config: TrainConfig,
    model: Any,
    tokenizer: Any,
    train_rows: list[TokenRow],
    holdout_rows: list[TokenRow],
    work_dir: Path,
    base_name: str,
    dtype_name: str,
    progress: Progress,
) -> Trained:
    """Train until epochs, steps or seconds are used up. Raises `TrainingError`; not resumable yet."""
    from datasets import Dataset
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    state = LoopState()
    on_cpu = not torch.cuda.is_available()
    arguments = SFTConfig(
        output_dir=str(work_dir),
        per_device_train_batch_size=config.batch_size,
        per_device_eval_batch_size=config.batch_size,
        gradient_accumulation_steps=config.grad_accumulation,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        num_train_epochs=config.epochs,
        max_steps=config.max_steps or -1,
        logging_steps=config.log_steps,
        logging_nan_inf_filter=False,  # the default hides NaN losses
        eval_strategy="steps" if config.eval_steps and holdout_rows else "no",
        eval_steps=config.eval_steps or None,
        prediction_loss_only=True,
        save_strategy="no",
        report_to="none",
        seed=config.seed,
        data_seed=config.seed,
        use_cpu=on_cpu,
        bf16=dtype_name == "bfloat16",
        fp16=dtype_name == "float16",
        gradient_checkpointing=config.gradient_checkpointing,
        train_sampling_strategy="group_by_length" if config.group_by_length else "random",
        max_length=None,  # rows were measured and refused before
        completion_only_loss=True,
        dataset_kwargs={"skip_prepare_dataset": True},
        disable_tqdm=True,
        dataloader_pin_memory=not on_cpu,
    )

    class BudgetTrainer(SFTTrainer):
        """trl's trainer with a schedule over steps or seconds, and no patience with non-finite losses."""

        def training_step(self, *args: Any, **kwargs: Any) -> Any:
            loss = super().training_step(*args, **kwargs)
            if not torch.isfinite(loss).all():
                raise TrainingError(
                    f"The loss became {float(loss)} at step {self.state.global_step + 1}: the run ends "
                    "without an "
                    "adapter. Lower learning_rate, or look for damaged rows."
                )
            return loss

        def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
            def share(step: int) -> float:
                done = step / max(num_training_steps, 1)
                if config.max_seconds and state.start:
                    done = max(done, (time.monotonic() - state.start) / config.max_seconds)
                return learning_rate_share(min(done, 1.0), config.warmup_share, config.scheduler)

            wrapped: Any = optimizer or self.optimizer
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(wrapped, share)
            return self.lr_scheduler

    trainer = BudgetTrainer(
        model=model,
        args=arguments,
        processing_class=tokenizer,
        train_dataset=_dataset(Dataset, train_rows),
        eval_dataset=_dataset(Dataset, holdout_rows) if holdout_rows else None,
        peft_config=adapter_config(config, base_name),
        callbacks=[_callback(config, state, progress)],
    )
    tuned: Any = trainer.model
    for parameter in tuned.parameters():
        if parameter.requires_grad:  # trl casts QLoRA's weights to bf16: slow without native bf16, and coarse
            parameter.data = parameter.data.float()
    score_completions_only(tuned.get_base_model())
    if holdout_rows:
        trainer.evaluate()
    state.start = time.monotonic()
    result = trainer.train()
    if holdout_rows and state.eval_history[-1]["step"] != result.global_step:
        trainer.evaluate()
    seconds = time.monotonic() - state.start
    if result.global_step == 0:
        raise TrainingError("No training step fitted into max_seconds: raise it, or lower batch_size.")
    _restore_best(tuned, state)
    return Trained(tuned, state, int(result.global_step), float(trainer.state.epoch or 0.0), seconds)


def _dataset(kind: Any, rows: list[TokenRow]) -> Any:
    return kind.from_list([{"input_ids": row.ids, "labels": row.labels} for row in rows])


def _trainable(model: Any) -> dict[str, Any]:
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


def _restore_best(model: Any, state: LoopState) -> None:
    """Put the best hold-out weights back; refuse weights that are not finite."""
    for name, value in _trainable(model).items():
        if name in state.best:
            value.data.copy_(state.best[name])
        if not torch.isfinite(value).all():
            raise TrainingError(f"The trained weight {name} is not finite: the run ends without an adapter.")


def _callback(config: TrainConfig, noted: LoopState, progress: Progress) -> Any:
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        """Loss curve, progress, best weights, and the end of the time budget."""

        step_start = 0.0

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            noted.start = time.monotonic()

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.step_start = time.monotonic()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            now = time.monotonic()
            noted.step_s.append(now - self.step_start)
            if state.global_step >= state.max_steps and config.max_steps:
                noted.stopped_by = "max_steps"
            progress.advance(1, _note(noted))
            if config.max_seconds:
                longest = max(noted.step_s[-5:])
                if now - noted.start + longest + noted.eval_s > config.max_seconds:
                    noted.stopped_by = "max_seconds"
                    control.should_training_stop = True

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
            logs = logs or {}
            for name in ("loss", "grad_norm", "eval_loss"):
                if name in logs and not math.isfinite(float(logs[name])):
                    raise TrainingError(f"{name} became {logs[name]} at step {state.global_step}: no adapter is kept.")
            if "loss" not in logs:
                return
            tokens = float(logs.get("num_tokens", 0.0))
            spent = sum(noted.step_s[-config.log_steps :]) or 1e-9
            noted.history.append(
                {
                    "step": float(state.global_step),
                    "epoch": float(state.epoch or 0.0),
                    "loss": float(logs["loss"]),
                    "learning_rate": float(logs.get("learning_rate", 0.0)),
                    "tokens_per_s": round((tokens - noted.tokens) / spent, 1),
                }
            )
            noted.tokens = tokens

        def on_evaluate(
            self, args: Any, state: Any, control: Any, metrics: dict[str, Any] | None = None, **extra: Any
        ) -> None:
            loss = float((metrics or {})["eval_loss"])
            noted.eval_s = float((metrics or {}).get("eval_runtime", 0.0))
            noted.eval_history.append({"step": float(state.global_step), "loss": loss})
            if loss < noted.best_loss and state.global_step > 0:  # step 0 is the base: never the adapter
                noted.best_loss, noted.best_step = loss, int(state.global_step)
                noted.best = {name: value.detach().clone() for name, value in _trainable(extra["model"]).items()}

    return Watch()


def _note(state: LoopState) -> str:
    if not state.history:
        return "first steps"
    last = state.history[-1]
    return f"loss {last['loss']:.3f}, {last['tokens_per_s']:.0f} tokens/s"
