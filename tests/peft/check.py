"""Whether PEFT and transformers take exported adapters for what fedpipe takes them for; README.md says more.

Run by check.sh. One line is printed for each case, and the exit code is 1 if one failed.
"""

import itertools
import json
import os
import shutil
import sys
import tempfile
import traceback
import warnings
from importlib.util import find_spec
from pathlib import Path

import peft
import tokenizers
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
    load_tokenizer,
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


class Skipped(Exception):
    """A case that lacks what it needs."""


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


def federation(start, rounds=2, more="", clients=3, optimizer="AdamW(lr: 1e-2)"):
    """Some clients, which move B far from zero; `start` is `lora: ..` or `from: ..`."""
    local = f"(epochs: 1, batch: 8, optimizer: {optimizer})"
    return [
        f"shards: Partition(of: tokens, clients: {clients})",
        f"fed: Federate(base: base, shards: shards, {start}, local: {local}, rounds: {rounds}{more})",
    ]


SCORED = "score: Evaluate(base: base, adapter: fed, on: tokens, untrained: true)"


# What is compared.


@torch.inference_mode()
def apart(task, model, base, max_len, predicted):
    """The largest difference between what fedpipe predicted and what a model answers."""
    tokenizer = load_tokenizer(base)
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


def setting_cases():
    """Every setting of LoRA once."""
    patterns = {
        "rank": 4,
        "alpha": 8,
        "rank_pattern": {"v_proj": 2, r"layers\.0\.self_attn\.q_proj": 6},
        "alpha_pattern": {r"layers\.2\..*": 3},
        "layers": "Only([0, 2])",
    }
    on_blocks = {"rank": 2, "targets": r".*\.(dense|query_key_value)", "layers": "Last(2)"}
    classes, labels = Classify(), {family: Verbalize(PROMPT, ONE_TOKEN[family]) for family in BASES}
    completion = Complete(PROMPT, " {label}")
    cases = [
        ("llama", "all-linear", classes, {"rank": 4, "targets": "all-linear"}),
        ("bloom", "all-linear", completion, {"rank": 4, "targets": "all-linear"}),
        ("llama", "a regular expression", labels["llama"], {"rank": 4, "targets": r".*\.[12]\..*(up|q)_proj"}),
        ("bloom", "a regular expression and blocks", classes, on_blocks),
        ("llama", "patterns and blocks", completion, patterns),
        ("llama", "patterns and blocks, classes", classes, patterns),
        ("bloom", "rslora", classes, {"rank": 4, "alpha": 8, "rslora": True}),
        ("llama", "dropout", classes, {"rank": 4, "dropout": 0.1}),
        ("bloom", "gaussian", labels["bloom"], {"rank": 4, "init": "Gaussian"}),
        ("llama", "frozen head", classes, {"rank": 4}),
    ]
    for family, name, task, lora in cases:
        more = ", head: Frozen" if name == "frozen head" else ""
        check = lambda here, t=task, b=BASES[family], l=lora, m=more: check_task(t, b, 64, here, l, m)
        yield f"{family}: {name}", check


# Each rule with the clients that it needs. Two clients' stacks stay factors, those of seven become dense.
RULES = [
    ("FedAvg", 3),
    ("Median", 3),
    ("FedAvgM(lr: 1.0, momentum: 0.9)", 3),
    ("FedAdam(lr: 0.01)", 3),
    ("FedYogi(lr: 0.01)", 3),
    ("FedAdagrad(lr: 0.05)", 3),
    ("TrimmedMean(cut: 0.2)", 7),
    ("Krum(byzantine: 1)", 7),
    ("MultiKrum(byzantine: 1, keep: 4)", 7),
    ("Bulyan(byzantine: 1)", 7),
    ("QFedAvg(q: 0.1, lr: 0.1)", 3),
    ("FFALoRA", 3),
    ("RoLoRA", 3),
    ("FLoRA", 2),
    ("FLoRA", 7),
    ("FlexLoRA", 3),
    ("HetLoRA(weights: Norm)", 3),
    ("FedExLoRA", 2),
    ("FedExLoRA", 7),
    ("LoRAFairLS(lambda: 0.01)", 3),
    ("FedSB", 3),
    ("Scaffold(lr: 1.0)", 3),
]
# Those that put their update into the base: their exports have more than the trained rank.
ADDS_TO_BASE = ["FLoRA", "FedExLoRA"]
# SCAFFOLD's correction is one of plain SGD.
OPTIMIZERS = {"Scaffold": "Sgd(lr: 0.5)"}


def run_rule(here, task, base, rule, clients, more=""):
    """A federation under a rule; skipped where this fedpipe has no such rule."""
    name = rule.split("(")[0]
    optimizer = OPTIMIZERS.get(name, "AdamW(lr: 1e-2)")
    training = federation(f"lora: {lora_ron({'rank': 4, 'alpha': 8})}", 2, more, clients, optimizer)
    try:
        return here.run(graph(base, task, 64, training, SCORED), f"fed.aggregate={rule}")
    except Failed as failure:
        if f"nothing is called `{name}` here" in str(failure):
            raise Skipped(f"this fedpipe has no rule {name}") from None
        raise


def check_rule(task, base, here, rule, clients):
    """What a rule came to, as PEFT and transformers take it."""
    run = run_rule(here, task, base, rule, clients)
    figures = check_exports(task, base, run, 64, "score/round-002")
    moved = largest_gap(run.predictions("score/round-002"), run.predictions("score/round-000"))
    require(moved > 100 * BOUND, f"training moved the answers by {moved:.1e} only")
    config = json.loads((here.folder / "adapter/adapter_config.json").read_text(encoding="utf-8"))
    grew = config["r"] > 4 and not config["use_rslora"] and config["lora_alpha"] == config["r"]
    adds = rule.split("(")[0] in ADDS_TO_BASE
    require(grew == adds, f"the exported rank is {config['r']}, its alpha {config['lora_alpha']}")
    return f"{check_within(figures)} (rank {config['r']}, training moved {moved:.2f})"


def rule_cases():
    """Every rule that ends a round with an adapter for all, on one family; on both where the base changes."""
    kinds = itertools.cycle(["classes", "labels", "completion"])
    families = itertools.cycle(BASES)
    for rule, clients in RULES:
        adds = rule in ADDS_TO_BASE
        for family in BASES if adds else [next(families)]:
            tasks = {
                "classes": Classify(),
                "labels": Verbalize(PROMPT, ONE_TOKEN[family]),
                "completion": Complete(PROMPT, " {label}"),
            }
            kind = next(kinds)
            check = lambda here, t=tasks[kind], b=BASES[family], r=rule, c=clients: check_rule(t, b, here, r, c)
            yield f"{family}: {rule} of {clients} clients, {kind}", check


def check_clients(task, base, here, rule, more=""):
    """What each client has where it keeps something to itself, against what was predicted with it."""
    run = run_rule(here, task, base, rule, 3, more)
    predicted = [run.predictions("score/round-002", client)["logits"] for client in range(3)]
    figures = {}
    for client, logits in enumerate(predicted):
        flags = ("--client", str(client))
        own = {"logits": logits}
        model = load_adapter(load_base(task, base), run.export(f"client-{client}", *flags))
        figures[f"client {client}"] = apart(task, model, base, 64, own)
        merged = run.export(f"merged-{client}", *flags, "--merge")
        figures[f"merged {client}"] = apart(task, load_merged(task, merged), merged, 64, own)
    gap = (predicted[0] - predicted[1]).abs().max().item()
    require(gap > 100 * BOUND, f"two clients' answers are only {gap:.1e} apart")
    return f"{check_within(figures)}{check_shared(task, base, run, rule, more)}"


def check_shared(task, base, run, rule, more):
    """What is exported where no client is named, and nobody has the whole of it."""
    if rule == "Local":
        try:
            run.export("shared")
        except Failed as failure:
            require("exited with 2" in str(failure) and "--client" in str(failure), str(failure))
            return ", refused without a client"
        raise Failed("what all clients started from was exported as if it were trained")
    folder = run.export("shared")
    load_adapter(load_base(task, base), folder)
    if rule != "FedSALoRA":
        return ""
    found = load_file(folder / "adapter_model.safetensors")
    clients = [run.adapter(f"fed/round-002/client-{client:03}") for client in range(3)]
    if more:
        # No classifier is sent, so there is no mean of them.
        del found[SCORE]
    far = max((sum(own[name] for own in clients) / 3 - found[name]).abs().max().item() for name in found)
    require(far < 1e-6, f"what stands in for a global adapter is {far:.1e} from the mean of the clients'")
    require("approximation" in (folder / "README.md").read_text(encoding="utf-8"), "the card does not say what it is")
    return f", stands in for all within {far:.0e}"


def client_cases():
    """Rules and heads by which clients keep something to themselves."""
    cases = [("FedAvg", ", head: Local"), ("FedSALoRA", ""), ("FedSALoRA", ", head: Local"), ("Local", "")]
    for (rule, more), family in itertools.product(cases, BASES):
        check = lambda here, b=BASES[family], r=rule, m=more: check_clients(Classify(), b, here, r, m)
        yield f"{family}: each client's own under {rule}{more}", check


def card_model(folder):
    """The model that the Python of an exported folder's README.md makes."""
    text = (folder / "README.md").read_text(encoding="utf-8")
    code = text.split("```python\n")[1].split("```")[0]
    made = {}
    exec(code.replace("this folder", str(folder)), made)
    return made["model"].eval()


def check_cards(task, base, here):
    """What model cards tell others to do, and the adapter of an earlier round."""
    training = federation(f"lora: {lora_ron({'rank': 4})}")
    run = here.run(graph(base, task, 64, training, SCORED))
    last, first = run.predictions("score/round-002"), run.predictions("score/round-001")
    folders = {
        "adapter's card": (run.export("adapter"), last),
        "merged card": (run.export("merged", "--merge"), last),
        "round 1": (run.export("earlier", "--step", "fed/round-001"), first),
    }
    return check_within(
        {name: apart(task, card_model(folder), base, 64, said) for name, (folder, said) in folders.items()}
    )


def card_cases():
    """With a classifier and without one."""
    for family, base in BASES.items():
        for name, task in {"classes": Classify(), "completion": Complete(PROMPT, " {label}")}.items():
            yield f"{family}: model cards, {name}", lambda here, t=task, b=base: check_cards(t, b, here)


def make_base(source, folder, **changes):
    """A copy of a base with other settings; where it has no tokenizer, with one that takes letters for tokens."""
    ignored = shutil.ignore_patterns("*.md", "recorded*", "lora*", "train*", "fedavg", "causal*", "seqcls*", "input_ids*")
    shutil.copytree(source, folder, ignore=ignored)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    # A change to None takes the field away; a null of the file's own is not the same as nothing, and stays.
    gone = [name for name, value in changes.items() if value is None]
    changed = {name: value for name, value in (config | changes).items() if name not in gone}
    (folder / "config.json").write_text(json.dumps(changed), encoding="utf-8")
    if not (folder / "tokenizer.json").exists():
        letters_tokenizer(config["vocab_size"]).save_pretrained(folder)
    return folder


def letters_tokenizer(size):
    """A tokenizer of so many tokens, for models that are too small for any other."""
    special = ["<unk>", "<s>", "</s>", "<pad>"]
    tokens = special + list(" etaoinshrdlucmfwypvbgkjqxzTIAS.,'-!?\n:RV" + "0123456789")
    vocab = {token: at for at, token in enumerate(tokens[:size])}
    inner = tokenizers.Tokenizer(tokenizers.models.BPE(vocab, [], unk_token="<unk>"))
    names = dict(zip(("unk_token", "bos_token", "eos_token", "pad_token"), special))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=inner, **names)


def check_base(task, source, here, **changes):
    """The same on another base, with all of its linear modules adapted."""
    base = make_base(source, here.folder / "base", **changes)
    return check_task(task, base, 48, here, {"rank": 4, "targets": "all-linear"})


def base_cases():
    """What bases differ in: biases, shared keys, ties, kinds of numbers, shards, names, heads of their own."""
    folders = sorted(path.parent for path in (ROOT / "tests/data/families").glob("*/config.json"))
    for base in folders:
        yield f"{base.name}: classes", lambda here, b=base: check_base(Classify(), b, here)
        if "seqcls" not in base.name:
            yield f"{base.name}: completion", lambda here, b=base: check_base(Complete("{first}", "{rest}"), b, here)
    for family, base in BASES.items():
        check = lambda here, b=base: check_base(Classify(), b, here, pad_token_id=None)
        yield f"{family}: classes, no padding token in config.json", check


def save_adapter(task, base, lora, folder, dtype):
    """An adapter of PEFT's own, with B and the classifier at random."""
    model = peft.get_peft_model(load_base(task, base), lora_peft(lora, task))
    for name, tensor in model.named_parameters():
        if "lora_B" in name or "modules_to_save" in name:
            torch.nn.init.normal_(tensor, std=0.1)
    model.to(dtype).save_pretrained(folder)


def check_start(task, base, here, lora, dtype=torch.float32):
    """A federation that goes on with PEFT's adapter: before any training, and after a round."""
    folder = here.folder / "start"
    save_adapter(task, base, lora, folder, dtype)
    start = f"from: Adapter(folder: {ron(str(folder))})"
    run = here.run(graph(base, task, 64, federation(start, rounds=1), SCORED))
    saved = load_file(folder / "adapter_model.safetensors")
    held = run.adapter("fed/init")
    require(saved.keys() == held.keys(), f"fedpipe holds other tensors than the file: {saved.keys() ^ held.keys()}")
    require(all(torch.equal(held[name], saved[name].float()) for name in saved), "fedpipe changed the adapter")
    before = run.predictions("score/round-000")
    # What PEFT makes of its own folder, not the model that was saved.
    model = load_adapter(load_base(task, base), folder)
    figures = {"start": apart(task, model, base, 64, before)}
    with model.disable_adapter():
        plain = apart(task, model, base, 64, before)
    require(plain > 100 * BOUND, "the adapter says what its base says")
    return check_within(figures | check_exports(task, base, run, 64, "score/round-001"))


def start_cases():
    """Adapters that PEFT saved."""
    classes, half = Classify(), torch.bfloat16
    patterns = {"rank": 4, "targets": ["q_proj", "down_proj"], "rank_pattern": {"down_proj": 2}, "layers": "Only([1])"}
    expression = {"rank": 4, "rslora": True, "targets": r".*\.1\..*(dense|query_key_value)", "dropout": 0.1}
    several = Verbalize(PROMPT, SEVERAL["llama"])
    cases = [
        ("llama", "classes", classes, {"rank": 4}, torch.float32),
        ("bloom", "classes, all-linear", classes, {"rank": 4, "targets": "all-linear"}, torch.float32),
        ("llama", "labels of several tokens, patterns and a block", several, patterns, torch.float32),
        ("bloom", "completion, a regular expression", Complete(PROMPT, " {label}"), expression, torch.float32),
        ("llama", "classes, saved in bfloat16", classes, {"rank": 4, "targets": "all-linear"}, half),
    ]
    for family, name, task, lora, dtype in cases:
        check = lambda here, t=task, b=BASES[family], l=lora, d=dtype: check_start(t, b, here, l, d)
        yield f"{family}: from PEFT's adapter, {name}", check


def check_modules(task, base, here, lora):
    """Whether PEFT, given the same settings, adapts the same modules with the same ranks and scales."""
    training = f"fed: Train(base: base, on: tokens, lora: {lora_ron(lora)}, local: (steps: 1, batch: 2))"
    run = here.run(graph(base, task, 16, [training]))
    wanted = adapted_modules(peft.get_peft_model(load_base(task, base), lora_peft(lora, task)))
    folder = run.export("adapter")
    tensors = load_file(folder / "adapter_model.safetensors")
    found = merged_modules(tensors, load_file(base / "model.safetensors"), run.export("merged", "--merge"))
    require(found.keys() == wanted.keys(), f"not the same in both: {sorted(found.keys() ^ wanted.keys())}")
    ranks = {name for name in wanted if found[name][0] != wanted[name][0]}
    require(not ranks, f"other ranks: {sorted(ranks)}")
    scale = max(abs(found[name][1] / wanted[name][1] - 1) for name in wanted)
    require(scale < 1e-3, f"scales are off by a factor of up to {1 + scale:.3f}")
    # The exported settings must say the same again, also where they are written in another way.
    again = adapted_modules(load_adapter(load_base(task, base), folder))
    require(again == wanted, f"the exported settings mean {again}, not {wanted}")
    return f"{len(wanted)} modules, ranks {sorted({rank for rank, _ in wanted.values()})}, scales within {scale:.0e}"


def merged_modules(adapter, base, folder):
    """Each module of an adapter with its rank, and with the scale by which it was merged into its weight."""
    merged = load_file(folder / "model.safetensors")
    modules = {}
    for name in adapter:
        if not name.endswith(".lora_A.weight"):
            continue
        path = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        a, b = adapter[name].double(), adapter[name.replace("lora_A", "lora_B")].double()
        product, moved = b @ a, merged[f"{path}.weight"].double() - base[f"{path}.weight"].double()
        scale = ((moved * product).sum() / (product * product).sum()).item()
        require((moved - scale * product).abs().max() < 1e-6, f"`{path}` was not merged as s·B·A")
        modules[path] = (a.shape[0], scale)
    for name in base.keys() & merged.keys():
        is_adapted = name.removesuffix(".weight") in modules
        require(is_adapted or torch.equal(base[name], merged[name]), f"`{name}` changed without an adapter")
    return modules


LLAMA_MODULES = [
    {},
    {"targets": ["q_proj"]},
    {"targets": ["q_proj", "k_proj", "v_proj", "o_proj"]},
    {"targets": ["self_attn.q_proj", "mlp.up_proj"]},
    {"targets": ["model.layers.0.self_attn.q_proj"]},
    {"targets": ["layers.1.mlp.gate_proj", "down_proj"]},
    {"targets": ["1.self_attn.v_proj"]},
    {"targets": "all-linear"},
    {"targets": r".*\.(0|2)\..*(q|v)_proj"},
    {"targets": r"(?!.*mlp).*_proj"},
    {"targets": r".*0.*q_proj|.*2.*v_proj"},
    {"targets": r"model\.layers\.\d+\.mlp\.[^.]+_proj"},
    {"targets": r".*(?<!gate)_proj"},
    {"targets": r".*\.(\w)_proj"},
    {"layers": "Only([0, 2])"},
    {"layers": "Last(1)", "targets": ["up_proj", "self_attn.o_proj"]},
    {"rank_pattern": {"v_proj": 2}, "alpha_pattern": {"q_proj": 3}},
    {"rank_pattern": {r"layers\.[01]\..*": 2}, "rslora": True},
    {"rank_pattern": {"model.layers.1.self_attn.q_proj": 5}, "alpha_pattern": {"self_attn.v_proj": 1.5}},
    {"rank_pattern": {r"^model\.layers\.0.*": 3}, "targets": "all-linear"},
    {"rank_pattern": {"q_proj|v_proj": 3}, "alpha_pattern": {r"(0|1)\.self_attn\..*": 5}},
    {"rank_pattern": {"v_proj": 2}, "layers": "Only([1])", "rslora": True},
]
BLOOM_MODULES = [
    {},
    {"targets": ["dense"]},
    {"targets": ["dense_h_to_4h", "dense_4h_to_h"]},
    {"targets": ["self_attention.dense", "query_key_value"]},
    {"targets": ["transformer.h.1.mlp.dense_4h_to_h"]},
    {"targets": ["h.0.self_attention.query_key_value", "2.mlp.dense_h_to_4h"]},
    {"targets": "all-linear"},
    {"targets": r".*dense"},
    {"targets": r".*\.h\.[02]\..*dense.*"},
    {"targets": r"transformer\.h\.\d\.(mlp|self_attention)\.dense(_h_to_4h)?"},
    {"targets": r"(?!.*mlp)transformer\.h.*(value|dense)"},
    {"layers": "Only([1])"},
    {"layers": "Last(2)", "targets": ["dense", "mlp.dense_h_to_4h"]},
    {"rank_pattern": {"dense": 2}, "targets": "all-linear"},
    {"rank_pattern": {r"mlp\..*": 2}, "alpha_pattern": {r"h\.0\..*": 5}, "targets": "all-linear"},
    {"rank_pattern": {r".*\.dense.*": 3}, "rslora": True, "targets": "all-linear"},
    {"alpha_pattern": {"1.self_attention.query_key_value": 0.5}, "rslora": True},
]


def module_cases():
    """Which modules are meant, with and without a classifier beside them."""
    kinds = itertools.cycle([Classify(), Complete(PROMPT, " {label}")])
    for family, settings in {"llama": LLAMA_MODULES, "bloom": BLOOM_MODULES}.items():
        for more in settings:
            check = lambda here, t=next(kinds), b=BASES[family], l=more: check_modules(t, b, here, {"rank": 4} | l)
            yield f"{family}: modules of {lora_ron(more)}", check


def check_refused(here, family, lora):
    """Settings by which PEFT adapts a module that fedpipe cannot: it must say so, not adapt the others alone."""
    task, base = Complete(PROMPT, " {label}"), BASES[family]
    wanted = adapted_modules(peft.get_peft_model(load_base(task, base), lora_peft(lora, task)))
    training = f"fed: Train(base: base, on: tokens, lora: {lora_ron(lora)}, local: (steps: 1, batch: 2))"
    try:
        run = here.run(graph(base, task, 16, [training]))
    except Failed as failure:
        require("exited with 2" in str(failure), f"not refused as a mistake in the graph: {failure}")
        return "refused"
    adapted = {name.split(".lora_")[0].removeprefix("base_model.model.") for name in run.adapter("fed/init")}
    raise Failed(f"PEFT adapts {sorted(wanted.keys() - adapted)}, too, and fedpipe does not say that it will not")


def refused_cases():
    """Heads and embeddings, by name and by expression."""
    cases = [
        ("llama", ["q_proj", "lm_head"]),
        ("llama", ["q_proj", "embed_tokens"]),
        ("bloom", ["query_key_value", "word_embeddings"]),
        ("llama", r".*(q_proj|lm_head)"),
        ("llama", r"lm_head|.*q_proj"),
        ("llama", r".*(q_proj|embed_tokens)"),
        ("bloom", r".*(query_key_value|word_embeddings)"),
    ]
    for family, targets in cases:
        lora = {"rank": 4, "targets": targets}
        yield f"{family}: refuses {ron(targets)}", lambda here, f=family, l=lora: check_refused(here, f, l)


@torch.inference_mode()
def check_zero_shot(here):
    """A real model, which was never trained here, on real prompts."""
    folders = [os.environ.get(name) for name in ("FEDPIPE_SMOLLM2", "FEDPIPE_SST2")]
    if not all(folders):
        raise Skipped("FEDPIPE_SMOLLM2 and FEDPIPE_SST2 do not name a model and a data set")
    if find_spec("pyarrow") is None:
        raise Skipped("there is no pyarrow to read the data set with")
    base, data = map(Path, folders)
    rows = read_parquet(data / "validation.parquet", 200)
    here.write_rows("validation.tsv", rows)
    # The data set needs the split that a federation would be trained on.
    here.write_rows("train.tsv", rows[:2])
    task = Verbalize("Review: {sentence}\nSentiment:", (" negative", " positive"))
    run = here.run(graph(base, task, 128, [], "score: Evaluate(base: base, on: tokens)"))
    predicted = run.predictions("score")
    tokenizer = load_tokenizer(base)
    answers = task.answers(load_base(task, base), tokenizer, rows, 128)
    right = [share_right(logits["logits"], rows) for logits in (predicted, answers)]
    require(right[0] == right[1], f"accuracy {right[0]} here, {right[1]} there")
    # Thirty blocks of float32 add up to more than three do.
    line = check_within({"logits": largest_gap(predicted, answers)}, 5e-4)
    return f"{line}, accuracy {right[0]:.3f}"


def read_parquet(path, count):
    """The first sentences of a file, with their labels."""
    import pyarrow.parquet

    return pyarrow.parquet.read_table(path, columns=["sentence", "label"]).slice(0, count).to_pylist()


def share_right(logits, rows):
    labels = torch.tensor([row["label"] for row in rows])
    return (logits.argmax(1) == labels).double().mean().item()


def zero_shot_cases():
    yield "SmolLM2-135M-Instruct: SST-2 without training", check_zero_shot


CASES = [
    task_cases,
    setting_cases,
    rule_cases,
    client_cases,
    card_cases,
    base_cases,
    start_cases,
    module_cases,
    refused_cases,
    zero_shot_cases,
]


def run_case(name, check, binary, folder):
    """Prints one line; how it went."""
    try:
        print(f"passed: {name}: {check(space(binary, folder))}", flush=True)
        return "passed"
    except Skipped as reason:
        print(f"skipped: {name}: {reason}", flush=True)
        return "skipped"
    except Failed as failure:
        print(f"FAILED: {name}: {failure}", flush=True)
    except Exception:
        print(f"FAILED: {name}:\n{traceback.format_exc()}", flush=True)
    return "failed"


def main(binary):
    warnings.simplefilter("ignore", FutureWarning)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.manual_seed(17)
    binary = str(Path(binary).resolve())
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    with tempfile.TemporaryDirectory() as folder:
        cases = itertools.chain.from_iterable(cases() for cases in CASES)
        for number, (name, check) in enumerate(cases):
            counts[run_case(name, check, binary, Path(folder) / str(number))] += 1
    print(", ".join(f"{count} {what}" for what, count in counts.items()))
    return 1 if counts["failed"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
