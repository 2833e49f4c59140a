"""Whether PEFT and transformers take exported adapters for what fedpipe takes them for; README.md says more.

Run by check.sh. One line is printed for each case, and the exit code is 1 if one failed.
"""

import itertools
import os
import sys
import tempfile
import traceback
from pathlib import Path

import peft
import torch
import transformers
from safetensors.torch import load_file

from fedpipe import Failed, Space
from reference import (
    CLASSES,
    Classify,
    Complete,
    Verbalize,
    adapted_modules,
    load_adapter,
    load_base,
    load_merged,
    require,
    ron,
    same_tokens,
)

ROOT = Path(__file__).resolve().parents[2]
BASES = {"llama": ROOT / "tests/data/llama-tiny-mha", "bloom": ROOT / "tests/data/bloom-tiny"}
SCORE = "base_model.model.score.weight"
# Both sides compute in float32, in another order.
BOUND = 1e-4

PROMPT = "Review: {sentence}\nVerdict:"
# Tokens of the tiny vocabularies: of LLaMA's, " bad" is two; of BLOOM's, " yes" is two.
ONE_TOKEN = {"llama": (" no", " good"), "bloom": (" bad", " good")}
SEVERAL = {"llama": (" bad", " very good"), "bloom": (" bad film", " yes")}


# What is trained on.


def sentences(name, count):
    """Rows of a file of movie reviews, from all over it; `first` and `rest` are a sentence that is cut in a word."""
    lines = (ROOT / f"graphs/data/vader_movie/{name}.tsv").read_text(encoding="utf-8").splitlines()[1:]
    rows = []
    for line in lines[:: len(lines) // count][:count]:
        _, sentence, label = line.split("\t")
        half = len(sentence) // 2
        halves = {"first": sentence[:half], "rest": sentence[half:]}
        rows.append({"sentence": sentence, "label": CLASSES[int(label)]} | halves)
    return rows


TRAIN, VALIDATION = sentences("train", 60), sentences("validation", 30)


def space(binary, folder):
    """A folder with the data in it."""
    made = Space(binary, folder)
    made.write_rows("train.tsv", TRAIN)
    made.write_rows("validation.tsv", VALIDATION)
    return made


# Settings, written once for fedpipe and once for PEFT.


def lora_ron(lora):
    """LoRA's settings, a dictionary of fedpipe's fields, as RON; `layers` is RON already."""
    fields = [f"{name}: {value if name in ('layers', 'init') else ron(value)}" for name, value in lora.items()]
    return f"({', '.join(fields)})"


def lora_peft(lora, task, blocks=3):
    """The same settings for PEFT."""
    layers = lora.get("layers")
    if layers is not None:
        kind, numbers = layers.rstrip(")").split("(")
        layers = [int(number) for number in numbers.strip("[]").split(",")]
        layers = list(range(blocks - layers[0], blocks)) if kind == "Last" else layers
    return peft.LoraConfig(
        task_type=task.peft_type,
        r=lora["rank"],
        lora_alpha=lora.get("alpha", 16),
        target_modules=lora.get("targets"),
        rank_pattern=lora.get("rank_pattern", {}),
        alpha_pattern=lora.get("alpha_pattern", {}),
        use_rslora=lora.get("rslora", False),
        lora_dropout=lora.get("dropout", 0.0),
        layers_to_transform=layers,
    )


def graph(base, task, max_len, training, *more):
    """A graph whose stage `fed` trains, with more stages behind it."""
    stages = [
        f"base: Model(folder: {ron(str(base))})",
        'data: Dataset(files: {"train": "train.tsv", "validation": "validation.tsv"}, text: "sentence")',
        f"tokens: Tokenize(of: data, with: base, max_len: {max_len}, task: {task.ron()})",
        *training,
        *more,
    ]
    return "Graph(\n    seed: 17,\n    stages: (\n        " + ",\n        ".join(stages) + ",\n    ),\n)\n"


def federation(start, rounds=2, more=""):
    """Three clients, which move B far from zero; `start` is `lora: ..` or `from: ..`."""
    local = "(epochs: 1, batch: 8, optimizer: AdamW(lr: 1e-2))"
    return [
        "shards: Partition(of: tokens, clients: 3)",
        f"fed: Federate(base: base, shards: shards, {start}, local: {local}, rounds: {rounds}{more})",
    ]


SCORED = "score: Evaluate(base: base, adapter: fed, on: tokens, untrained: true)"


# What is compared.


@torch.inference_mode()
def apart(task, model, base, max_len, predicted):
    """The largest difference between what fedpipe predicted and what a model answers."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    answers = task.answers(model, tokenizer, VALIDATION, max_len)
    return largest_gap(predicted, answers)


def largest_gap(predicted, answers):
    require(predicted.keys() == answers.keys(), f"fedpipe predicted {set(predicted)}, not {set(answers)}")
    if "offsets" in answers:
        require(torch.equal(predicted["offsets"], answers["offsets"]), "completions have other lengths")
    values = [name for name in answers if name != "offsets"]
    shapes = [[tuple(side[name].shape) for name in values] for side in (predicted, answers)]
    require(shapes[0] == shapes[1], f"fedpipe predicted {shapes[0]}, not {shapes[1]}")
    return max((predicted[name] - answers[name]).abs().max().item() for name in values)


def check_within(figures, bound=BOUND):
    """Figures as a line, if all are within the bound (a NaN is not)."""
    line = ", ".join(f"{name} {value:.1e}" for name, value in figures.items())
    require(all(value <= bound for value in figures.values()), f"{line}: more than {bound:.0e}")
    return line


def check_trained(folder, run, frozen):
    """Whether training moved what it should have moved."""
    first, last = run.adapter("fed/init"), load_file(folder / "adapter_model.safetensors")
    for name, tensor in last.items():
        if "lora_B" in name:
            require(tensor.abs().max() > 1e-3, f"`{name}` was hardly trained")
    if SCORE in last:
        same = torch.equal(first[SCORE], last[SCORE])
        require(same == frozen, "a frozen classifier moved" if frozen else "the classifier was not trained")


def check_exports(task, base, run, max_len, step, frozen=False):
    """The last adapter, beside the base and merged into it, against what fedpipe predicted in `step`."""
    predicted = run.predictions(step)
    folder = run.export("adapter")
    check_trained(folder, run, frozen)
    model = load_adapter(load_base(task, base), folder)
    figures = {"adapter": apart(task, model, base, max_len, predicted)}
    merged = run.export("merged", "--merge")
    texts = [row["sentence"] for row in VALIDATION] + [PROMPT.format(**row) for row in VALIDATION]
    same_tokens(base, merged, texts)
    # The merged folder's own tokenizer is used: it is all that others have.
    figures["merged"] = apart(task, load_merged(task, merged), merged, max_len, predicted)
    return figures


# The cases: each gives a line of figures, or fails.


def check_task(task, base, max_len, here, lora=None, more=""):
    """Train, export, and compare."""
    lora = lora or {"rank": 4, "alpha": 8}
    training = federation(f"lora: {lora_ron(lora)}", more=more)
    run = here.run(graph(base, task, max_len, training, SCORED))
    figures = check_exports(task, base, run, max_len, "score/round-002", frozen="Frozen" in more)
    # How far training went, beside which a difference is to be seen.
    moved = largest_gap(run.predictions("score/round-002"), run.predictions("score/round-000"))
    require(moved > 100 * BOUND, f"training moved the answers by {moved:.1e} only")
    return f"{check_within(figures)} (training moved {moved:.2f})"


def task_cases():
    """Every task on both families."""
    for family, base in BASES.items():
        tasks = {
            "classes": (Classify(), 64),
            "labels of one token": (Verbalize(PROMPT, ONE_TOKEN[family]), 64),
            "labels of several tokens": (Verbalize(PROMPT, SEVERAL[family]), 64),
            "completion by the label": (Complete(PROMPT, " {label}"), 64),
            "completion by text": (Complete("{first}", "{rest}"), 64),
            "completion, cut": (Complete("{first}", "{rest}"), 20),
        }
        for name, (task, max_len) in tasks.items():
            yield f"{family}: {name}", lambda here, t=task, b=base, m=max_len: check_task(t, b, m, here)


CASES = [task_cases]


def run_case(name, check, binary, folder):
    """Prints one line; whether it passed."""
    try:
        print(f"ok      {name}: {check(space(binary, folder))}", flush=True)
        return True
    except Failed as failure:
        print(f"FAILED  {name}: {failure}", flush=True)
    except Exception:
        print(f"FAILED  {name}:\n{traceback.format_exc()}", flush=True)
    return False


def main(binary):
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.manual_seed(17)
    binary = str(Path(binary).resolve())
    counts = {True: 0, False: 0}
    with tempfile.TemporaryDirectory() as folder:
        cases = itertools.chain.from_iterable(cases() for cases in CASES)
        for number, (name, check) in enumerate(cases):
            counts[run_case(name, check, binary, Path(folder) / str(number))] += 1
    print(f"{counts[True]} passed, {counts[False]} failed, 0 skipped")
    return 1 if counts[False] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
