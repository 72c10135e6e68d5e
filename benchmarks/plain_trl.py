"""A plain trl loop, as its documentation has it, on the rows of a training: `python -m benchmarks.plain_trl FOLDER`.

FOLDER has inputs.json, as `redraft train fit` writes it. Rows are given to trl as token ids (SFT), or as texts, which
alone its DPOTrainer takes.
"""

import json
import os
from pathlib import Path
from typing import Any

import torch
import typer
from datasets import Dataset  # type: ignore[import-untyped]
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer


def main(folder: Path) -> None:
    """Trains, and writes what its trainer logged."""
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(folder / "tensorboard")
    inputs = json.loads((folder / "inputs.json").read_text())
    fit = inputs["fit"]
    rows = [json.loads(line) for line in Path(inputs["rows"]).read_text().splitlines()]
    tokenizer: Any = AutoTokenizer.from_pretrained(inputs["model"])
    model: Any = AutoModelForCausalLM.from_pretrained(inputs["model"], dtype=torch.float32)
    settings: dict[str, Any] = {
        "output_dir": str(folder / "steps"),
        "report_to": [],
        "per_device_train_batch_size": fit["micro_batch"],
        "gradient_accumulation_steps": fit["batch"] // fit["micro_batch"],
        "num_train_epochs": fit["epochs"],
        "learning_rate": fit["learning_rate"],
        "logging_steps": 1,
        "save_strategy": "no",
        "bf16": fit["autocast"],
        "gradient_checkpointing": fit["checkpointing"],
        "use_cpu": not torch.cuda.is_available(),
        "max_length": None,
    }
    trainer: Any
    if "rejected" in rows[0]:
        texts = [{key: tokenizer.decode(row[key]) for key in ("prompt", "chosen", "rejected")} for row in rows]
        config = DPOConfig(
            **settings,
            beta=fit["beta"],
            loss_type=["sigmoid", "sft"],
            loss_weights=[fit["dpo_weight"], fit["nll_weight"]],
            precompute_ref_log_probs=True,
        )
        trainer = DPOTrainer(model, args=config, train_dataset=Dataset.from_list(texts), processing_class=tokenizer)
    else:
        ids = [
            {"input_ids": row["prompt"] + row["chosen"], "labels": [-100] * len(row["prompt"]) + row["chosen"]}
            for row in rows
        ]
        data = Dataset.from_list(ids)
        trainer = SFTTrainer(model, args=SFTConfig(**settings), train_dataset=data, processing_class=tokenizer)
    trainer.train()
    with (folder / "losses.jsonl").open("w") as file:
        file.writelines(json.dumps(line) + "\n" for line in trainer.state.log_history)


if __name__ == "__main__":
    typer.run(main)
