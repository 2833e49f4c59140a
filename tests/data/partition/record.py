"""Records what the reference code cuts from given proportions; README.md says more.

    python record.py
"""

import json
import warnings
from pathlib import Path

import datasets
import numpy as np
from flwr_datasets.partitioner import DirichletPartitioner


class Recorder:
    """A generator that keeps the proportions that it draws."""

    def __init__(self, seed):
        self.rng, self.drawn = np.random.default_rng(seed), []

    def dirichlet(self, alpha):
        self.drawn.append(self.rng.dirichlet(alpha))
        return self.drawn[-1]


def groups(labels):
    return [np.nonzero(labels == label)[0].tolist() for label in np.unique(labels)]


def flower(name, labels, clients, alpha, seed, balance, least=1):
    """What Flower's own class makes of these labels."""
    partitioner = DirichletPartitioner(
        num_partitions=clients,
        partition_by="label",
        alpha=alpha,
        min_partition_size=least,
        self_balancing=balance,
        shuffle=False,
    )
    recorder = partitioner._rng = Recorder(seed)
    partitioner.dataset = datasets.Dataset.from_dict({"label": labels.tolist()})
    partitioner.load_partition(0)
    parts = partitioner._partition_id_to_indices
    of_classes = groups(labels)
    return {
        "name": name,
        "balance": "flower" if balance else "off",
        "groups": of_classes,
        # What the last attempt drew.
        "proportions": [row.tolist() for row in recorder.drawn[-len(of_classes) :]],
        "shards": [parts[client] for client in range(clients)],
    }


def niid_bench(name, labels, clients, alpha, seed):
    """The lines of NIID-Bench's `noniid-labeldir` that cut, without the loop around them."""
    rng = np.random.default_rng(seed)
    shuffled, drawn = groups(labels), []
    batches = [[] for _ in range(clients)]
    for idx_k in shuffled:
        rng.shuffle(idx_k)
        proportions = rng.dirichlet(np.repeat(alpha, clients))
        drawn.append(proportions.tolist())
        proportions = np.array(
            [p * (len(idx_j) < len(labels) / clients) for p, idx_j in zip(proportions, batches)]
        )
        proportions = proportions / proportions.sum()
        proportions = (np.cumsum(proportions) * len(idx_k)).astype(int)[:-1]
        batches = [
            idx_j + [int(i) for i in idx] for idx_j, idx in zip(batches, np.split(idx_k, proportions))
        ]
    return {
        "name": name,
        "balance": "niid-bench",
        "groups": shuffled,
        "proportions": drawn,
        "shards": batches,
    }


def main():
    warnings.simplefilter("ignore")
    rng = np.random.default_rng(5)
    few, many = rng.integers(0, 3, 90), rng.integers(0, 10, 240)
    cases = [
        flower("three classes", few, 5, 0.5, 1, False),
        flower("one alpha a client", few, 3, [0.2, 1.0, 5.0], 2, False),
        flower("nearly even", few, 7, 1000.0, 3, False),
        flower("ten classes", many, 9, 0.3, 4, False),
        flower("balanced", many, 4, 0.3, 5, True),
        flower("balanced, nine clients", many, 9, 0.1, 6, True),
        niid_bench("balanced", many, 4, 0.3, 7),
        niid_bench("balanced, nine clients", many, 9, 0.3, 8),
    ]
    lines = ",\n".join(json.dumps(case) for case in cases)
    Path(__file__).with_name("cuts.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
