"""Whether fedpipe cuts given proportions where Flower's DirichletPartitioner cuts them; README.md says more.

Run by check.sh. One line is printed for each case, and the exit code is 1 if one failed.
"""

import sys
import tempfile
import traceback
import warnings
from pathlib import Path

import datasets
import numpy as np
from flwr_datasets.partitioner import DirichletPartitioner

from fedpipe import Failed, Space

ROOT = Path(__file__).resolve().parents[2]
BASE = ROOT / "tests/data/llama-tiny-mha"
SST2 = (29780, 37569)


class Recorder:
    """Flower's generator, which keeps the proportions that it draws."""

    def __init__(self, rng):
        self.rng, self.drawn = rng, []

    def dirichlet(self, alpha):
        self.drawn.append(self.rng.dirichlet(alpha))
        return self.drawn[-1]

    def shuffle(self, indices):
        self.rng.shuffle(indices)


def partition(labels, clients, alpha, least=10, seed=42, balance=False):
    """Who has which examples by Flower, the proportions of each class as they were cut, and the number of draws."""
    partitioner = DirichletPartitioner(
        num_partitions=clients,
        partition_by="label",
        alpha=alpha,
        min_partition_size=least,
        self_balancing=balance,
        seed=seed,
    )
    recorder = partitioner._rng = Recorder(partitioner._rng)
    partitioner.dataset = datasets.Dataset.from_dict({"label": labels})
    # It makes up its mind when it is first asked.
    partitioner.load_partition(0)
    shards = [sorted(partitioner._partition_id_to_indices[client]) for client in range(clients)]
    classes = sorted(set(labels))
    proportions = dict(zip(classes, recorder.drawn[-len(classes) :]))
    if balance:
        proportions = balanced(labels, shards, proportions)
    draws = len(recorder.drawn) // len(classes)
    return shards, {str(label): row.tolist() for label, row in proportions.items()}, draws


def balanced(labels, shards, proportions):
    """The proportions after Flower's balancing, which goes by what each client has of the classes before."""
    labels, even = np.array(labels), len(labels) / len(shards)
    sizes, rows = [0] * len(shards), {}
    for label, drawn in proportions.items():
        row = [0 if size > even else share for size, share in zip(sizes, drawn)]
        total = sum(row)
        rows[label] = np.array([share / total for share in row])
        sizes = [size + int((labels[shard] == label).sum()) for size, shard in zip(sizes, shards)]
    return rows


def require_same(ours, flowers):
    """The very same positions for every client."""
    if len(ours) != len(flowers):
        raise Failed(f"{len(ours)} clients, not {len(flowers)}")
    apart = [client for client, (own, theirs) in enumerate(zip(ours, flowers)) if own != theirs]
    if apart:
        own, theirs = (set(side[apart[0]]) for side in (ours, flowers))
        raise Failed(f"clients {apart} differ; the first in {len(own ^ theirs)} positions")


# The cases: each gives a line of figures, or fails.


def check_cut(here, labels, clients, alpha, **settings):
    flowers, proportions, draws = partition(labels, clients, alpha, **settings)
    require_same(here(labels).split(clients, {"proportions": proportions}), flowers)
    sizes = sorted(map(len, flowers))
    return f"{len(labels)} positions of {clients} clients with {sizes[0]} to {sizes[-1]} examples, draw {draws}"


def check_both_ways(here, labels, clients, alpha):
    flowers, _, _ = partition(labels, clients, alpha)
    space = here(labels)
    ours = space.split(clients, {"clients": flowers})
    require_same(ours, flowers)
    require_same(space.split(clients, ours), flowers)
    return f"{len(labels)} positions of {clients} clients"


def check_gives_up(here, labels, clients, alpha):
    try:
        partition(labels, clients, alpha)
    except ValueError as error:
        return str(error).split(".")[0]
    raise Failed("Flower found a split")


def drawn(classes, count, seed):
    return np.random.default_rng(seed).choice(classes, count).tolist()


def sst2(order):
    """Labels in the numbers of SST-2's training split."""
    labels = np.repeat([0, 1], SST2)
    if order == "shuffled":
        np.random.default_rng(7).shuffle(labels)
    return (labels[::-1] if order == "reversed" else labels).tolist()


def cases():
    for seed, (name, classes, count, clients, alpha) in enumerate(
        [
            ("two classes", [0, 1], 400, 5, 0.5),
            ("three classes of text", ["bad", "good", "so so"], 500, 4, 0.3),
            ("ten classes", list(range(10)), 1000, 7, 0.1),
            ("ten small classes", list(range(10)), 120, 30, 1.0),
            ("one alpha a client", [0, 1, 2], 600, 3, [0.2, 1.0, 5.0]),
            ("nearly even", [0, 1], 1001, 9, 1000.0),
        ]
    ):
        labels = drawn(classes, count, seed)
        yield name, lambda here, l=labels, c=clients, a=alpha: check_cut(here, l, c, a, least=1)
    for order, clients, alpha in [
        ("sorted", 10, 0.5),
        ("reversed", 3, 0.1),
        ("shuffled", 10, 0.5),
        ("shuffled", 10, 0.3),
        ("shuffled", 100, 0.5),
    ]:
        name = f"SST-2, {order}, {clients} clients, alpha {alpha}"
        yield name, lambda here, o=order, c=clients, a=alpha: check_cut(here, sst2(o), c, a)
    labels = drawn(list(range(10)), 1000, 20)
    yield "self_balancing, ten classes", lambda here: check_cut(here, labels, 4, 0.3, balance=True)
    yield "self_balancing, nine clients", lambda here: check_cut(here, labels, 9, 0.2, balance=True)
    yield "self_balancing, SST-2", lambda here: check_cut(here, sst2("shuffled"), 10, 0.5, balance=True)
    yield "both ways, SST-2", lambda here: check_both_ways(here, sst2("shuffled"), 10, 0.5)
    yield "Flower gives up", lambda here: check_gives_up(here, sst2("shuffled"), 10, 0.1)


def run_case(name, check, here):
    """Prints one line; whether it held."""
    try:
        print(f"passed: {name}: {check(here)}", flush=True)
        return True
    except Failed as failure:
        print(f"FAILED: {name}: {failure}", flush=True)
    except Exception:
        print(f"FAILED: {name}:\n{traceback.format_exc()}", flush=True)
    return False


def main(binary):
    warnings.simplefilter("ignore")
    binary = str(Path(binary).resolve())
    held = []
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, check) in enumerate(cases()):
            here = lambda labels, n=number: Space(binary, Path(folder) / str(n), BASE, labels)
            held.append(run_case(name, check, here))
    print(f"{sum(held)} passed, {len(held) - sum(held)} failed")
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
