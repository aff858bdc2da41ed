"""Lower bound of the time that this machine needs for the arithmetic and memory traffic of an epoch.

    python benchmarks/floor.py [--threads 2]

Measures the matrix products of a batch's logits (fp32, bf16) and a pass over memory. From these rates follow:
  epoch: three products (logits, gradient of the states, gradient of the items) with 2 x width flops per entry, that
    is, steps x items x width x 6 flops; two passes over the logits (softmax reads and writes them); and one Adam step
    per batch, which reads weight, gradient and two moments and writes weight and moments.
  queries: one product and one pass over the scores.
"""

import argparse
import time
from collections.abc import Callable

import torch


def best_seconds(work: Callable[[], object], *, repeats: int = 15) -> float:
    """The time of the fastest run, which is least affected by other load."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def measure_rates(*, steps: int, items: int, width: int) -> dict[str, float]:
    """Flops per second for a batch's shape by data type, and bytes per second of a pass over memory."""
    rates = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        queries, catalogue = torch.randn(steps, width).to(dtype), torch.randn(items, width).to(dtype)
        logits = torch.empty(steps, items, dtype=dtype)
        grad = torch.empty_like(catalogue)
        products = (
            lambda: torch.mm(queries, catalogue.T, out=logits),  # noqa: B023
            lambda: torch.mm(logits, catalogue, out=queries),  # noqa: B023
            lambda: torch.mm(logits.T, queries, out=grad),  # noqa: B023
        )
        # bf16 products take seconds on CPUs that emulate bf16, so there are fewer repeats.
        repeats = 15 if name == "fp32" else 5
        seconds = sum(best_seconds(product, repeats=repeats) for product in products)
        rates[name] = 6 * steps * items * width / seconds
    memory = torch.zeros(2**26)  # 256 MiB, beyond every cache
    rates["bytes"] = 2 * 4 * len(memory) / best_seconds(lambda: memory.add_(1))
    return rates


def floor_of(
    rates: dict[str, float], *, steps: int, items: int, width: int, batches: int, parameters: int
) -> dict[str, float]:
    """Seconds per epoch and queries per second in fp32."""
    products = 6 * steps * items * width / rates["fp32"]
    softmax = 2 * 4 * steps * items / rates["bytes"]
    adam = 7 * 4 * parameters * batches / rates["bytes"]
    query = 2 * items * width / rates["fp32"] + 4 * items / rates["bytes"]
    return {"epoch": products + softmax + adam, "queries": 1 / query}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    # Beauty's training split: 40,268 steps in 87 batches over 11,390 items.
    shape = {"steps": 463, "items": 11390, "width": 128}
    rates = measure_rates(**shape)
    print({name: f"{rate / 1e9:.0f} G/s" for name, rate in rates.items()})
    print(floor_of(rates, steps=40268, items=11390, width=128, batches=87, parameters=1_600_000))


if __name__ == "__main__":
    main()
