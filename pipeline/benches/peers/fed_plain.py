"""Federated LoRA by FedAvg in plain PyTorch and PEFT: one client after another, on one model that stays loaded.

    FED_DIR=FOLDER python fed_plain.py --threads 2

The last line of its output is JSON: the accuracy after each round. `federation.py` says what FOLDER holds.
"""

import argparse
import json

import torch

from federation import (
    CLIENTS,
    ROUNDS,
    accuracy,
    client_examples,
    get_adapter,
    load_model,
    read_examples,
    set_adapter,
    train,
)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    torch.set_num_threads(parser.parse_args().threads)

    model = load_model()
    shards = [client_examples(client) for client in range(CLIENTS)]
    validation = read_examples("validation")
    adapter, accuracies = get_adapter(model), []
    examples = sum(map(len, shards))
    for number in range(ROUNDS):
        total = {name: torch.zeros_like(tensor) for name, tensor in adapter.items()}
        for client, shard in enumerate(shards):
            set_adapter(model, adapter)
            train(model, shard, seed=number * CLIENTS + client)
            for name, tensor in get_adapter(model).items():
                total[name] += tensor * (len(shard) / examples)
        adapter = total
        set_adapter(model, adapter)
        accuracies.append(accuracy(model, validation))
    print(json.dumps({"accuracy": accuracies}))


if __name__ == "__main__":
    main()
