"""Fits a checkpoint or an adapter to rows, with trl: `python -m trainer.fitting FOLDER`, or under `accelerate launch`.

FOLDER is an artefact of `trainer.steps.fit`, with a file that says how to fit, and where the rows and the model are. It
is given checkpoints, from which a killed run goes on, and in the end one that vLLM loads as it is, or an adapter.
"""

import json
import math
import os
import random
from collections.abc import Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
import typer
from accelerate.utils import gather_object, parse_flag_from_env  # type: ignore[import-untyped]
from datasets import Dataset, concatenate_datasets  # type: ignore[import-untyped]
from peft import PeftModel
from rich.console import Console
from torch.utils.data import Sampler
from tqdm import tqdm  # type: ignore[import-untyped]
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PrinterCallback, TrainerCallback
from transformers.trainer_pt_utils import get_length_grouped_indices
from transformers.utils import logging
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from trainer import device, forward
from trainer.artefacts import Log
from trainer.callbacks import Finite, Saving, Shown
from trainer.loading import OneRow, embeddings_of, inner_of, loaded
from trainer.rows import Row
from trainer.settings import FitSettings


def main(folder: Path) -> None:
    """Trains to the end, from the latest checkpoint if there is one."""
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(folder / "tensorboard")
    inputs = json.loads((folder / "inputs.json").read_text())
    settings = FitSettings.model_validate(inputs["fit"])
    rows = [Row.of(line) for line in Log(Path(inputs["rows"])).read()]
    tokenizer: Any = AutoTokenizer.from_pretrained(inputs["model"])
    if inputs["chat_template"] is not None:
        tokenizer.chat_template = Path(inputs["chat_template"]).read_text(encoding="utf-8")
    model = loaded(inputs["model"], tokenizer, settings, inputs["token"])
    largest = max(max(*row.prompt, *row.chosen, *(row.rejected or ())) for row in rows)
    if largest >= (size := len(embeddings_of(inner_of(model))[0])):
        raise SystemExit(f"the rows hold token {largest}, and the model has {size}: give fit the rows' --token")
    if inputs["token"] is not None and rows[0].rejected is not None:
        # Where the strategy `revise` finds it.
        inner_of(model).config.refine_token = inputs["token"]
    callbacks: list[TrainerCallback] = [Saving(settings.save_minutes), Finite(), Shown(Console(stderr=True))]
    if inputs["token"] is not None and settings.freeze_embeddings and settings.lora is None:
        callbacks.append(OneRow(tokenizer.get_vocab()[inputs["token"]]))
    trainer = trainer_of(model, tokenizer, rows, settings, folder, callbacks)
    last = _latest(folder / "steps")
    trainer.train(resume_from_checkpoint=None if last is None else str(last))
    if trainer.accelerator.is_main_process:
        Log(folder / "losses.jsonl").write(iter(trainer.state.log_history))
    save(trainer, tokenizer, settings, folder / ("model" if settings.whole else f"adapters/{name_of(folder)}"))


class RowsDPO(DPOTrainer):
    """trl's, on rows that are token ids already, each pair one sequence. What the reference makes of them is computed
    once, and written down as it is.
    """

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        return dataset

    def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
        """Adds columns to the dataset. trl calls it once the model is as it will be, but for its training."""
        model = self.ref_model or self.model
        forward.install(inner_of(self.model), pairs=True)
        if self.ref_model is not None:
            forward.install(inner_of(self.ref_model), pairs=True)
        log = Log(Path(str(self.args.output_dir)).parent / "reference.jsonl")
        here = self.accelerator
        main, world, rank = here.is_main_process, here.num_processes, here.process_index
        if main:
            log.begin()
        self.accelerator.wait_for_everyone()
        known = {line["row"]: line for line in log.read()}
        self.accelerator.wait_for_everyone()
        # Alike lengths side by side.
        missing = sorted((i for i in range(len(dataset)) if i not in known), key=lambda i: dataset[i]["length"])
        for begin in tqdm(range(0, len(missing), batch_size * world), desc="reference", disable=not main):
            # Every process has a batch each time, for some share a model that all compute with.
            mine = missing[begin:][rank * batch_size : (rank + 1) * batch_size] or missing[begin : begin + 1]
            batch = self.data_collator([dataset[i] for i in mine])
            batch = {key: value.to(self.accelerator.device) for key, value in batch.items()}
            chosen, rejected = (
                part.tolist()
                for part in self.compute_ref_log_probs(model, batch)  # type: ignore[no-untyped-call]
            )
            found = zip(mine, chosen, rejected, strict=True)
            lines: dict[int, Any] = {}
            for line in gather_object([{"row": i, "chosen": c, "rejected": r} for i, c, r in found]):
                lines[line["row"]] = line
            known |= lines
            if main:
                log.add(*lines.values())
        rows = [known[i] for i in range(len(dataset))]
        columns = {f"ref_{which}_logps": [row[which] for row in rows] for which in ("chosen", "rejected")}
        return concatenate_datasets([dataset, Dataset.from_dict(columns)], axis=1)


class Order(Sampler[int]):
    """Rows of a like length side by side, so that little of a batch is padding.

    An epoch's order depends on the seed and the epoch alone, so that a killed run goes on with the rows that it has not
    seen; that of transformers' own sampler depends on all that was drawn before. The epoch is the trainer's: accelerate
    tells it to no sampler of several processes that skip what they have seen.
    """

    def __init__(self, trainer: Any, settings: FitSettings) -> None:
        self._trainer = trainer
        self._settings = settings
        self._lengths: list[int] = list(trainer.train_dataset["length"])

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        draw = random.Random(f"{self._settings.seed} {int(self._trainer.state.epoch or 0)}")
        generator = torch.Generator().manual_seed(draw.getrandbits(63))
        yield from get_length_grouped_indices(  # type: ignore[no-untyped-call]
            self._lengths, self._settings.batch, generator=generator
        )


def trainer_of(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    settings: FitSettings,
    folder: Path,
    callbacks: list[TrainerCallback],
) -> Any:
    """Trl's trainer for rows, which are of one sort: all with a rejected answer, or none."""
    pairs = rows[0].rejected is not None
    world = settings.processes
    accumulate = settings.batch // (settings.micro_batch * world)
    steps = math.ceil(len(rows) / (settings.micro_batch * world * accumulate)) * settings.epochs
    common: dict[str, Any] = {
        "output_dir": str(folder / "steps"),
        "report_to": ["tensorboard"],
        "per_device_train_batch_size": settings.micro_batch,
        "gradient_accumulation_steps": accumulate,
        "num_train_epochs": settings.epochs,
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": settings.schedule,
        "warmup_steps": math.ceil(settings.warmup * steps),
        "weight_decay": 0.0,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "save_total_limit": 1,
        "seed": settings.seed,
        "bf16": settings.autocast and device.multiplies_bfloat16(),
        "use_cpu": not torch.cuda.is_available(),
        "ddp_backend": "gloo" if settings.processes > 1 and not torch.cuda.is_available() else None,
        "gradient_checkpointing": settings.checkpointing,
        "max_length": None,
        "dataloader_pin_memory": torch.cuda.is_available(),
    }
    trainer: Any
    if pairs:
        data = Dataset.from_list(
            [
                {"prompt_ids": row.prompt, "chosen_ids": row.chosen, "rejected_ids": row.rejected, "length": row.length}
                for row in rows
            ]
        )
        weights = {"sigmoid": settings.dpo_weight, "sft": settings.nll_weight}
        config = DPOConfig(
            **common,
            beta=settings.beta,
            loss_type=[name for name, weight in weights.items() if weight],
            loss_weights=[weight for weight in weights.values() if weight],
            precompute_ref_log_probs=True,
        )
        # Else, where it shards, trl reads a reference from the disk, which knows no new token.
        sharded = parse_flag_from_env("ACCELERATE_USE_FSDP")
        reference = deepcopy(model) if sharded and not isinstance(model, PeftModel) else None
        trainer = RowsDPO(model, reference, config, train_dataset=data, processing_class=tokenizer, callbacks=callbacks)
        trainer.ref_model = None  # It has said all that it is asked.
        if isinstance(model, PeftModel) and "ref" in model.peft_config:
            # So has trl's copy of an adapter. Of a checkpoint with both, transformers would load the copy alone.
            model.delete_adapter("ref")
    else:
        data = Dataset.from_list([_sft(row) for row in rows])
        trainer = SFTTrainer(
            model, args=SFTConfig(**common), train_dataset=data, processing_class=tokenizer, callbacks=callbacks
        )
        forward.install(inner_of(trainer.model), pairs=False)
    trainer.remove_callback(PrinterCallback)  # All losses are in tensorboard's files, and in losses.jsonl.
    trainer._get_train_sampler = lambda dataset: Order(trainer, settings)
    return trainer


def _sft(row: Row) -> dict[str, Any]:
    ids = (*row.prompt, *row.chosen)
    labels = (*[forward.IGNORED] * len(row.prompt), *row.chosen)
    return {"input_ids": ids, "labels": labels, "length": len(ids)}


def _latest(folder: Path) -> Path | None:
    """The last checkpoint that was written to its end."""
    whole = [state.parent for state in folder.glob("checkpoint-*/trainer_state.json") if _is_json(state)]
    return max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text())
    except ValueError:
        return False
    return True


def name_of(folder: Path) -> str:
    """Of an adapter, by the folder that it is fitted in: such as runs/NAME/fit."""
    folder = folder.resolve()
    return folder.parent.name if folder.name == "fit" else folder.name


def save(trainer: Any, tokenizer: PreTrainedTokenizerBase, settings: FitSettings, folder: Path) -> None:
    """A checkpoint, or an adapter, that vLLM loads as it is."""
    model = trainer.model
    if settings.lora is not None and settings.merge:
        model = model.merge_and_unload()
        trainer.model = trainer.model_wrapped = model
    trainer.save_model(str(folder))
    if trainer.accelerator.is_main_process:
        tokenizer.save_pretrained(str(folder))


if __name__ == "__main__":
    typer.run(main)
