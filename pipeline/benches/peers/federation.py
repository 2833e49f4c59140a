"""What both federations share: the model, the data, local training and the evaluation of `settings.json`.

The environment variable FED_DIR names a folder with `base/` (a Llama in Hugging Face layout), `train.jsonl` and
`validation.jsonl` (`{"text": "t17 t4", "label": 1}`: a word's number is its token's id), `split.json` (the rows of each client)
and `settings.json` (clients, rounds, batch, rank, lr). Workers of Ray find it in their environment, too.
"""

import json
import os
import warnings
from pathlib import Path

warnings.filterwarnings("ignore")

import numpy as np
import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from transformers import LlamaForSequenceClassification

FOLDER = Path(os.environ["FED_DIR"])
SETTINGS = json.loads((FOLDER / "settings.json").read_text())
CLIENTS, ROUNDS = SETTINGS["clients"], SETTINGS["rounds"]


def load_model():
    """The base with a fresh adapter, the same each time."""
    torch.manual_seed(1)
    model = LlamaForSequenceClassification.from_pretrained(
        FOLDER / "base", num_labels=2, use_cache=False, dtype=torch.float32
    )
    rank = SETTINGS["rank"]
    lora = LoraConfig(
        task_type="SEQ_CLS", r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules=["q_proj", "v_proj"]
    )
    return get_peft_model(model, lora)


def read_examples(split, rows=None):
    """The examples of a split, or those at `rows`: token ids and label of each."""
    lines = (FOLDER / f"{split}.jsonl").read_text().splitlines()
    kept = map(json.loads, lines if rows is None else (lines[row] for row in rows))
    return [([int(word[1:]) for word in row["text"].split()], row["label"]) for row in kept]


def client_examples(client):
    """The training examples of one client."""
    return read_examples("train", json.loads((FOLDER / "split.json").read_text())["clients"][client])


def collate(examples):
    """One batch, padded to its longest row."""
    ids = torch.zeros(len(examples), max(len(tokens) for tokens, _ in examples), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, (tokens, _) in enumerate(examples):
        ids[i, : len(tokens)] = torch.tensor(tokens)
        mask[i, : len(tokens)] = 1
    labels = torch.tensor([label for _, label in examples])
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def batches(examples, seed=None):
    """The batches of one pass, in an order drawn from `seed` where there is one."""
    order = np.arange(len(examples))
    if seed is not None:
        np.random.default_rng(seed).shuffle(order)
    size = SETTINGS["batch"]
    for start in range(0, len(order), size):
        yield collate([examples[i] for i in order[start : start + size]])


def train(model, examples, seed):
    """One epoch with a fresh optimizer; gives the mean loss."""
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=SETTINGS["lr"])
    losses = []
    for batch in batches(examples, seed):
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
    return sum(losses) / len(losses)


@torch.no_grad()
def accuracy(model, examples):
    """The share of the examples whose class is found."""
    model.eval()
    right = 0
    for batch in batches(examples):
        right += (model(**batch).logits.argmax(-1) == batch["labels"]).sum().item()
    return right / len(examples)


def get_adapter(model):
    return {name: tensor.detach().clone() for name, tensor in get_peft_model_state_dict(model).items()}


def set_adapter(model, adapter):
    set_peft_model_state_dict(model, adapter)
