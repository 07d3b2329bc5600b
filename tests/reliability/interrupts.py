"""Ctrl-C at random moments of a session: afterwards every result is that of a fresh process.

    python tests/reliability/interrupts.py [--count 200] [--seed 0]

Nine in ten interrupts come while a session trains, differentiates twice or predicts, with compiled
kernels and with NumPy's alone; the session then goes on, as one does in a notebook.  The others
come while a new process imports the package, loads the compiler and compiles.  After each, a
number of results are compared, to the last bit, with those of a process that nobody interrupted;
so are what is recorded, the settings, and the number of threads of BLAS.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
KERNELS = ("compiled", "numpy")
WAIT = 60.0             # seconds, after which an interrupt that was lost is sent again


# ---- what is interrupted -------------------------------------------------------------------------

def workloads() -> dict[str, Callable[[], Any]]:
    """Training, second order and inference: each about a tenth of a second.

    Seven images do not split evenly, so that one thread often waits for the other.
    """
    import numpy as np

    import tinygrad_cnn as tc
    from tinygrad_cnn import nn, optim, train

    rng = np.random.default_rng(0)
    images = rng.standard_normal((7, 48, 48, 32)).astype(np.float32)
    labels = rng.integers(0, 10, 7)

    def model() -> nn.Module:
        rng = np.random.default_rng(1)
        return nn.Sequential(
            nn.Conv2D(32, 32, 3, padding=1, rng=rng), nn.BatchNorm2D(32), nn.ReLU(),
            nn.MaxPool2D(2), nn.Conv2D(32, 16, 3, padding=1, stride=2, rng=rng), nn.ReLU(),
            nn.Flatten(), nn.Dropout(0.25, rng=rng), nn.Linear(16 * 12 * 12, 10, rng=rng))

    def training() -> Iterator[np.ndarray]:
        net = model()
        optimizer = optim.Adam(net.parameters(), 1e-3)
        history = train.fit(net, [(images, labels)] * 2, epochs=1, optimizer=optimizer,
                            progress=False)
        yield np.array(history["loss"])
        yield from net.state_dict().values()
        for state in optimizer.state_dict()["state"].values():
            yield from (np.asarray(value) for value in state.values())

    def second_order() -> Iterator[np.ndarray]:
        x = tc.Tensor(images[:3], requires_grad=True)
        w = tc.Parameter(images[0, :3, :3, :, None] * images[1, 0, 0])         # KH KW C O
        y = tc.tanh(tc.conv2d(x, w, padding=1)).mean()
        g, = tc.grad(y, [x], create_graph=True)
        for part in tc.grad((g * g).sum(), [x, w]):
            yield part.numpy()

    trained = model()

    def inference() -> Iterator[np.ndarray]:
        with tc.no_grad():
            yield trained.eval()(tc.Tensor(images)).numpy()
            yield tc.softmax(tc.Tensor(images)).numpy()
            yield tc.mean(tc.Tensor(images), axis=(0, 1, 2)).numpy()
        trainer = train.Trainer(trained, optim.SGD(trained.parameters(), 0.1), progress=False)
        yield trainer.predict(images, batch_size=5)
        yield np.array(list(trainer.evaluate([(images, labels)]).values()))

    return {"training": training, "second order": second_order, "inference": inference}


# ---- what must hold afterwards -------------------------------------------------------------------

def findings(works: dict[str, Callable[[], Any]]) -> dict[str, str]:
    """Results, each as a digest of its bytes, and the state of everything that is shared."""
    import tinygrad_cnn as tc
    from tinygrad_cnn.kernels import parallel as threads

    found = {}
    for name, work in works.items():
        for i, array in enumerate(work()):
            found[f"{name}, result {i}"] = hashlib.sha256(array.tobytes()).hexdigest()
    blas = threads._Shared.blas()
    found["BLAS threads"] = str([get() for get, _ in blas._libraries])
    found["regions of BLAS"] = str(len(blas.regions))
    found["threads"] = str(tc.get_num_threads())
    for module in [m for name, m in sys.modules.items() if name.startswith("tinygrad_cnn")]:
        for name, value in list(vars(module).items()):
            if type(value).__name__ == "ContextVar":
                found[f"{module.__name__}.{name}"] = repr(value.get(None))
    return found


def differences(works: dict[str, Callable[[], Any]], expected: dict[str, str]) -> list[str]:
    """Findings that are not those of a fresh process, in which fewer modules may be imported."""
    try:
        found = findings(works)
    except Exception as error:
        return [f"{type(error).__name__}: {error}"]
    return [f"{name}: {found.get(name)}, {value} in a fresh process"
            for name, value in expected.items() if found.get(name) != value]


def interrupt(work: Callable[[], Any], delay: float) -> int:
    """Do ``work`` over and over until Ctrl-C ends it; how many signals that took."""
    over, sent = threading.Event(), [0]

    def send() -> None:
        time.sleep(delay)
        while not over.is_set():
            sent[0] += 1
            os.kill(os.getpid(), signal.SIGINT)
            over.wait(WAIT)

    sender = threading.Thread(target=send, daemon=True)
    try:
        sender.start()
        while True:
            for _ in work():
                pass
    except KeyboardInterrupt:
        over.set()
    sender.join()
    return sent[0]


# ---- the parts of the script, each in a process of its own ---------------------------------------

def child_session(count: int, seed: int, expected: dict[str, str]) -> None:
    """A session that is interrupted again and again."""
    rng = random.Random(seed)
    works = workloads()
    for work in works.values():                         # first calls compile: see child_start
        for _ in work():
            pass
    started = threading.active_count()
    sound = 0
    for i in range(count):
        name = list(works)[i % len(works)]
        signals = interrupt(works[name], rng.uniform(0.0, 0.4))
        wrong = differences(works, expected)
        if signals > 1:
            wrong.append(f"{signals} signals until one was heard")
        if threading.active_count() > started + 1:
            wrong.append(f"{threading.active_count()} threads, {started} before")
        sound += not wrong
        for line in wrong:
            print(f"interrupt {i + 1}, {name}: {line}", file=sys.stderr)
    print(sound)


def child_start(delay: float, expected: dict[str, str]) -> None:
    """A process that is interrupted while it loads the compiler and compiles."""
    works = workloads()
    interrupt(lambda: (array for work in works.values() for array in work()), delay)
    wrong = differences(works, expected)
    for line in wrong:
        print(f"interrupt {delay:.2f} s after the start: {line}", file=sys.stderr)
    print(int(not wrong))


def run(*arguments: Any, kernels: str, folder: str = "", given: Any = None) -> Any:
    """Run a part of this script; its last line of output, read as JSON."""
    environment = os.environ | ({"NUMBA_CACHE_DIR": folder} if folder else {})
    done = subprocess.run([sys.executable, str(HERE), "--kernels", kernels, *map(str, arguments)],
                          input=json.dumps(given), stdout=subprocess.PIPE, text=True, check=True,
                          env=environment, cwd=HERE.parents[2])
    return json.loads(done.stdout.splitlines()[-1])


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=200, help="interrupts")
    parser.add_argument("--seed", type=int, default=0, help="of the moments at which they come")
    parser.add_argument("--kernels", choices=KERNELS, help=argparse.SUPPRESS)
    parser.add_argument("--part", choices=("fresh", "session", "start"), help=argparse.SUPPRESS)
    parser.add_argument("--delay", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        sys.path.insert(0, str(HERE.parents[2]))
        import tinygrad_cnn as tc
        tc.set_compiled(options.kernels == "compiled")
        expected = json.load(sys.stdin)
        if options.part == "fresh":
            print(json.dumps(findings(workloads())))
        elif options.part == "session":
            child_session(options.count, options.seed, expected)
        else:
            child_start(options.delay, expected)
        return 0
    rng = random.Random(options.seed)
    sound = 0
    at_start = options.count // 10
    kinds = KERNELS if has_compiler() else KERNELS[1:]
    for i, kernels in enumerate(kinds):
        expected = run("--part", "fresh", kernels=kernels)
        rounds = len(range(i, options.count - at_start, len(kinds)))
        sound += run("--part", "session", "--count", rounds, "--seed", rng.randrange(1 << 30),
                     kernels=kernels, given=expected)
        for j in range(i, at_start, len(kinds)):
            with tempfile.TemporaryDirectory() as folder:
                # One in four finds nothing compiled yet, which takes many seconds.
                empty = folder if kernels == "compiled" and j // len(kinds) % 4 == 0 else ""
                sound += run("--part", "start", "--delay", rng.uniform(0, 12 if empty else 1.5),
                             kernels=kernels, folder=empty, given=expected)
    print(f"{sound} of {options.count} sound")
    return int(sound != options.count)


def has_compiler() -> bool:
    """Whether compiled kernels can be chosen."""
    from importlib.util import find_spec
    return find_spec("numba") is not None


if __name__ == "__main__":
    sys.exit(main())
