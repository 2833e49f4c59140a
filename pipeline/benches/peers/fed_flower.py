"""The same federation in Flower's simulation, on Ray.

    FED_DIR=FOLDER python fed_flower.py --threads 2 --cpus 1

`--cpus` is what one client is given: with 2 threads in all, 1 lets two clients train at a time, 2 lets one. The last line of
its output is JSON: the accuracy after each round. `federation.py` says what FOLDER holds.
"""

import argparse
import json
import os

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

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

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--cpus", type=int, default=1)
given = parser.parse_args()

client_app, server_app = ClientApp(), ServerApp()
cpus, threads, accuracies = given.cpus, given.threads, []


@client_app.train()
def train_client(message: Message, context: Context):
    torch.set_num_threads(cpus)
    model = load_model()
    set_adapter(model, message.content["arrays"].to_torch_state_dict())
    client = int(context.node_config["partition-id"])
    examples = client_examples(client)
    loss = train(model, examples, seed=message.content["config"]["server-round"] * CLIENTS + client)
    metrics = MetricRecord({"train_loss": loss, "num-examples": len(examples)})
    return Message(
        content=RecordDict({"arrays": ArrayRecord(get_adapter(model)), "metrics": metrics}), reply_to=message
    )


@server_app.main()
def serve(grid: Grid, context: Context):
    torch.set_num_threads(threads)
    model, validation = load_model(), read_examples("validation")

    def evaluate(number, arrays):
        if number == 0:
            return MetricRecord({})
        set_adapter(model, arrays.to_torch_state_dict())
        accuracies.append(accuracy(model, validation))
        return MetricRecord({"accuracy": accuracies[-1]})

    strategy = FedAvg(
        fraction_train=1.0, fraction_evaluate=0.0, min_available_nodes=CLIENTS, min_train_nodes=CLIENTS
    )
    arrays = ArrayRecord(get_adapter(model))
    strategy.start(grid=grid, initial_arrays=arrays, num_rounds=ROUNDS, evaluate_fn=evaluate)


if __name__ == "__main__":
    run_simulation(
        server_app=server_app,
        client_app=client_app,
        num_supernodes=CLIENTS,
        backend_config={
            "client_resources": {"num_cpus": cpus, "num_gpus": 0.0},
            "init_args": {"num_cpus": threads, "include_dashboard": False},
        },
    )
    print(json.dumps({"accuracy": accuracies}))
