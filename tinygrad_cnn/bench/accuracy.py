"""Time until a net is right in nine of ten cases: the same net, batches and rates, in turns."""

from __future__ import annotations

from tinygrad_cnn.bench.cases import training_case
from tinygrad_cnn.bench.frameworks import OURS
from tinygrad_cnn.bench.process import BenchError, workers
from tinygrad_cnn.bench.race import Report
from tinygrad_cnn.bench.run import Plan, Tell, describe_machine
from tinygrad_cnn.errors import SettingError

__all__ = ["measure_accuracy"]


def measure_accuracy(plan: Plan, tell: Tell = lambda line: None, *, net: str = "lenet",
                     data: str = "fashion-mnist", goal: float = 0.9, batch: int = 64,
                     rate: float = 0.1, most: int = 30) -> Report:
    """Train in every framework until the test accuracy reaches the goal.

    Epochs take turns, so that a change of the machine's load meets everyone.  The time of an epoch
    is training alone, the conversion of each batch included; testing is not counted.

    Parameters
    ----------
    plan : Plan
        Against whom.
    net, data : str
        Of `NETS`, and of the data sets that ``tinygrad_cnn.data.load`` knows.
    goal : float, default 0.9
        Share of right answers on the test set.
    batch, rate
        Images in a batch, and the step size of plain SGD.
    most : int, default 30
        Epochs after which a framework is given up.

    Returns
    -------
    dict
        ``machine``, ``versions``, ``skipped``, and for each framework in ``accuracy`` the
        ``seconds`` and test accuracies (``curve``) of its epochs, and ``reached``.

    Raises
    ------
    SettingError
        If the goal is not between 0 and 1.
    """
    if not 0 < goal < 1:
        raise SettingError(f"bench accuracy: goal must be between 0 and 1, got {goal}")
    skipped: dict[str, str] = {}
    case = training_case(net, data=data, batch=batch, rate=rate)
    names = plan.contenders(*plan.against, eager=True)
    report: Report = {"machine": describe_machine(plan.threads), "versions": {},
                      "skipped": skipped, "goal": goal, "net": net, "data": data, "accuracy": {}}
    with workers(names, threads=plan.threads, pythons=plan.pythons, skipped=skipped) as running:
        rows: dict[str, Report] = {}
        for name, worker in running.items():
            report["versions"].update(worker.versions)
            try:
                worker.load(case)
                rows[name] = {"seconds": [], "curve": [], "losses": [], "reached": False}
            except BenchError as error:
                if name == OURS:
                    raise
                skipped[name] = str(error)
        for epoch in range(most):
            for name, row in rows.items():
                if row["reached"]:
                    continue
                loss, seconds = running[name].clocked("epoch")
                row["losses"].append(loss)
                row["seconds"].append(seconds)
                row["curve"].append(running[name].call("accuracy")[0])
                row["reached"] = row["curve"][-1] >= goal
                tell(f"epoch {epoch + 1}: {name} {seconds:.2f} s, loss {loss:.4f}, "
                     f"test accuracy {row['curve'][-1]:.4f}")
            if all(row["reached"] for row in rows.values()):
                break
        report["accuracy"] = rows
    return report
