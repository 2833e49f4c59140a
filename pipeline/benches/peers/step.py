"""LoRA training steps with transformers and PEFT, some at a time.

    python step.py FOLDER --mode f32 --threads 2

FOLDER holds `base/` (a Llama in Hugging Face layout), `adapter/` (a LoRA adapter with a classifier, as PEFT writes it) and
`batches.json`: a list of batches, each `{"ids": [[..], ..], "labels": [..]}`, which are met in turn, again and again.

For each line on standard input, a number n, n optimizer steps are done, and a line of JSON tells the seconds and the loss of
each. The end of the input ends the program.
"""

import argparse
import json
import sys
import time
import warnings
from pathlib import Path

warnings.filterwarnings("ignore")

import torch
from peft import PeftModel
from transformers import LlamaForSequenceClassification


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--mode",
        choices=["f32", "bf16", "autocast"],
        default="f32",
        help="all in f32, all in bf16 (adapter and optimizer, too), or f32 with torch.autocast to bf16",
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--device", default="cpu", help="as torch names it")
    return parser.parse_args()


def load_model(folder, mode):
    model = LlamaForSequenceClassification.from_pretrained(
        folder / "base", num_labels=2, use_cache=False, attn_implementation="sdpa", dtype=torch.float32
    )
    if mode == "bf16":
        model = model.bfloat16()
    model = PeftModel.from_pretrained(model, folder / "adapter", is_trainable=True)
    if mode == "bf16":
        model = model.bfloat16()  # PEFT keeps adapters in f32 otherwise
    return model.train()


def padded(batch):
    """The rows of a batch, filled up with zeros to the longest of them."""
    rows = batch["ids"]
    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = 1
    return {"input_ids": ids, "attention_mask": mask, "labels": torch.tensor(batch["labels"])}


def main():
    given = arguments()
    torch.set_num_threads(given.threads)
    model = load_model(given.folder, given.mode).to(given.device)
    on_device = lambda batch: {name: values.to(given.device) for name, values in batch.items()}
    batches = [on_device(padded(batch)) for batch in json.loads((given.folder / "batches.json").read_text())]
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=given.lr)

    def step(batch):
        with torch.autocast(given.device.split(":")[0], dtype=torch.bfloat16, enabled=given.mode == "autocast"):
            loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    done = 0
    for line in sys.stdin:
        seconds, losses = [], []
        for _ in range(int(line)):
            start = time.perf_counter()
            losses.append(step(batches[done % len(batches)]))
            seconds.append(time.perf_counter() - start)
            done += 1
        print(json.dumps({"seconds": seconds, "losses": losses}), flush=True)


if __name__ == "__main__":
    main()
