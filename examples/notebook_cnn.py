"""The unfinished notebook, finished: one network trained by hand and with Tensors, side by side.

The first run uses only ``tinygrad_cnn.stepwise``: loops, caches and gradients written out by hand.
The second starts from the same weights, sees the same images, and leaves the gradients to
``backward()``.  Both columns of losses are printed, the largest difference between them, and how
much faster the second run is.  Last comes the convolution of the exercise, forward and backward,
in four nested loops and by the registered op.

python examples/notebook_cnn.py             digits, about a minute
python examples/notebook_cnn.py --quick     20 small steps, some seconds
python examples/notebook_cnn.py --data PATH CIFAR-10, or any set that tinygrad_cnn.data reads

The exit status is 1 if the losses of the first 20 steps differ by more than 1e-10.
"""

import argparse
import sys
from time import perf_counter

import numpy as np

import tinygrad_cnn as tc
from tinygrad_cnn import Tensor, stepwise
from tinygrad_cnn.data import load

COMPARED_STEPS = 20
LARGEST_DIFFERENCE = 1e-10
LEARNING_RATE = 0.1
TEST_IMAGES = 400                           # the loops need seconds for these


def batches(dataset, size, steps, seed):
    """``steps`` random batches: float64 images between 0 and 1, and integer labels."""
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        rows = rng.choice(len(dataset.images), size=size, replace=False)
        yield dataset.images[rows] / dataset.peak, dataset.labels[rows]


def train_by_hand(parameters, data, learning_rate):
    """Every gradient written out: returns the losses, seconds per step, and the parameters."""
    losses, seconds = [], []
    for X, y in data:
        start = perf_counter()
        P, caches = stepwise.convnet_forward(X, parameters)
        losses.append(stepwise.compute_loss(P, y))
        grads = stepwise.convnet_backward(P, y, caches)
        parameters = stepwise.update_parameters(parameters, grads, learning_rate)
        seconds.append(perf_counter() - start)
    return losses, seconds, parameters


def logits_of(X, parameters):
    """The same network on Tensors: the graph keeps the caches."""
    a, last = Tensor(X), len(parameters) // 2
    for stage in range(1, last):
        b = parameters[f"b{stage}"].reshape(-1)
        a = tc.relu(tc.conv2d(a, parameters[f"W{stage}"], b, padding=1))
        a = tc.max_pool2d(a, kernel_size=2, ties="all")     # the notebooks' rule for ties
    return tc.linear(tc.flatten(a, 1), parameters[f"W{last}"], parameters[f"b{last}"].reshape(-1))


def train_with_tensors(parameters, data, learning_rate):
    """Every gradient from backward(): returns the losses, seconds per step, and the parameters."""
    parameters = {name: Tensor(value.copy(), requires_grad=True, name=name)
                  for name, value in parameters.items()}
    losses, seconds = [], []
    for X, y in data:
        start = perf_counter()
        loss = tc.cross_entropy(logits_of(X, parameters), y)
        loss.backward()
        losses.append(loss.item())
        parameters = {name: Tensor(p.data - learning_rate * p.grad.data, requires_grad=True,
                                   name=name) for name, p in parameters.items()}
        seconds.append(perf_counter() - start)
    return losses, seconds, parameters


def accuracies(by_hand, with_tensors, dataset):
    """Share of test images that each run gets right."""
    X = dataset.images[:TEST_IMAGES] / dataset.peak
    y = dataset.labels[:TEST_IMAGES]
    P, _ = stepwise.convnet_forward(X, by_hand)
    with tc.no_grad():
        logits = logits_of(X, with_tensors).data
    return (P.argmax(axis=1) == y).mean(), (logits.argmax(axis=1) == y).mean()


def time_exercise_convolution(repeats, images=14):
    """Seconds for the exercise's convolution, forward and backward: by loops, by the op."""
    rng = np.random.default_rng(0)
    A = rng.standard_normal((images, 32, 32, 3))
    W, b = rng.standard_normal((3, 3, 3, 8)), rng.standard_normal((1, 1, 1, 8))
    dZ = rng.standard_normal((images, 32, 32, 8))

    def loops():
        _, cache = stepwise.conv_forward(A, W, b, {"stride": 1, "pad": 1})
        return stepwise.conv_backward(dZ, cache)

    def op():
        x, w, bias = (Tensor(v, requires_grad=True) for v in (A, W, b.reshape(-1)))
        tc.conv2d(x, w, bias, padding=1).backward(dZ)
        return x.grad.data, w.grad.data, bias.grad.data.reshape(b.shape)

    slow, fast = [], []
    for _ in range(repeats):
        seconds, by_loops = timed(loops)
        slow.append(seconds)
        for _ in range(60):
            seconds, by_op = timed(op)
            fast.append(seconds)
    difference = max(np.abs(p - q).max() / np.abs(p).max()
                     for p, q in zip(by_loops, by_op, strict=True))
    return min(slow), min(fast), difference


def timed(work):
    """How long one call takes, and what it gives."""
    start = perf_counter()
    result = work()
    return perf_counter() - start, result


def main(arguments=None):
    """Run both trainings and print what they have in common; 0 if the losses agree."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="20 small steps")
    parser.add_argument("--data", default="digits", metavar="PATH",
                        help="name, folder or archive of a data set; default: the digits")
    parser.add_argument("--steps", type=int, help="default 100, or 20 with --quick")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    steps = options.steps or (20 if options.quick else 100)
    hidden, size = ((4, 6), 16) if options.quick else ((8, 16), 32)

    train, test = load(options.data)
    print(f"{train.name}: {train.split}; {steps} steps of {size} images, filters {hidden}, float64")
    np.random.seed(options.seed)
    structure = stepwise.layer_structure(train.images, train.labels, hidden)
    start = stepwise.initialize_parameters(structure)
    data = list(batches(train, size, steps, options.seed))

    slow, slow_seconds, by_hand = train_by_hand(start, data, learning_rate=LEARNING_RATE)
    fast, fast_seconds, with_tensors = train_with_tensors(start, data, learning_rate=LEARNING_RATE)

    print(f"\n{'step':>4}  {'by hand':>18}  {'with Tensors':>18}")
    for step, pair in enumerate(zip(slow, fast, strict=True), start=1):
        if step <= COMPARED_STEPS or step % 20 == 0:
            print(f"{step:>4}  {pair[0]:18.14f}  {pair[1]:18.14f}")
    differences = np.abs(np.subtract(slow, fast))
    largest = differences[:COMPARED_STEPS].max()
    print(f"largest difference in the first {len(differences[:COMPARED_STEPS])} steps: "
          f"{largest:.1e} (at most {LARGEST_DIFFERENCE:.0e}); in all {steps}: "
          f"{differences.max():.1e}")
    right = accuracies(by_hand, with_tensors, test)
    print(f"accuracy on {min(TEST_IMAGES, len(test.images))} test images ({test.split}): "
          f"{right[0]:.1%} by hand, {right[1]:.1%} with Tensors")
    a, b = np.median(slow_seconds), np.median(fast_seconds)
    print(f"one step: {1e3 * a:.1f} ms by hand, {1e3 * b:.2f} ms with Tensors, "
          f"{a / b:,.0f} times faster")

    a, b, off = time_exercise_convolution(repeats=1 if options.quick else 3)
    print("\nthe exercise's convolution, 14 × 32 × 32 × 3, 8 filters, padding 1, forward and "
          f"backward:\n{1e3 * a:,.0f} ms in four loops, {1e3 * b:.2f} ms by the registered op, "
          f"{a / b:,.0f} times faster (relative difference {off:.0e})")
    return 0 if largest <= LARGEST_DIFFERENCE else 1


if __name__ == "__main__":
    sys.exit(main())
