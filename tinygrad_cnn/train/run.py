"""What a checkpoint of a trainer holds beside its parts: the place in the run, and its settings."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from itertools import zip_longest

import numpy as np

from tinygrad_cnn import checks
from tinygrad_cnn.data.dataset import digest
from tinygrad_cnn.errors import CheckpointError, SettingError
from tinygrad_cnn.nn import Module
from tinygrad_cnn.parallel import Group
from tinygrad_cnn.types import Settings
from tinygrad_cnn.version import __version__

__all__ = ["Configuration", "Listed", "Place", "generators", "states_of"]


@dataclass
class Place:
    """How far a run is, and the sums over the epoch under way."""

    began: int = 0              # epochs before this call of `fit`
    batch: int = 0              # of the epoch under way that are done
    steps: int = 0              # of the call
    seconds: float = 0.0        # that the epoch under way has taken
    trained: bool = False       # on all batches of the epoch under way, which is being judged
    stopped: bool = False       # a callback has ended the run
    count: float = 0.0          # samples of the epoch under way that this worker has taken
    sums: dict[str, float] = field(default_factory=dict)

    def add(self, size: float, figures: dict[str, float]) -> None:
        """Count a batch of ``size`` samples with its mean figures."""
        self.batch, self.steps, self.count = self.batch + 1, self.steps + 1, self.count + size
        for name, value in figures.items():
            self.sums[name] = self.sums.get(name, 0.0) + size * value

    def means(self, who: str, group: Group) -> dict[str, float]:
        """The figures over the batches of all workers, which are of unlike size."""
        if not self.count:
            raise SettingError(f"{who}: there are no batches; an iterator that was used up gives "
                               "none: pass a DataLoader or a list")
        count, *sums = group.add_up(np.array([self.count, *self.sums.values()])).tolist()
        return {name: total / count for name, total in zip(self.sums, sums, strict=True)}

    def end_epoch(self, *, stopped: bool) -> None:
        """Begin the next epoch."""
        self.batch, self.count, self.seconds, self.sums = 0, 0.0, 0.0, {}
        self.trained, self.stopped = False, stopped

    def state_dict(self) -> Settings:
        """All of it."""
        return asdict(self)

    def load_state_dict(self, entries: Settings) -> None:
        """Take over what `state_dict` gave."""
        for name in ("began", "batch", "steps"):
            checks.integer("place", name, entries[name], minimum=0)
        for name in ("trained", "stopped"):
            checks.flag("place", name, entries[name])
        numbers = {"seconds": entries["seconds"], "count": entries["count"], **entries["sums"]}
        if odd := [name for name, value in numbers.items() if type(value) is not float]:
            raise CheckpointError(f"{odd[0]!r:.60} is no number")
        for each in fields(self):
            setattr(self, each.name, entries[each.name])


class Configuration:
    """Settings that a run goes on with only if they are the same."""

    def __init__(self, settings: Settings) -> None:
        self.settings = {"tinygrad_cnn": __version__, "numpy": np.__version__, **settings}

    def state_dict(self) -> Settings:
        """The settings."""
        return self.settings

    def load_state_dict(self, entries: Settings) -> None:
        """Refuse other settings, with all that differs."""
        lines = [f"{name} is {a or 'nothing'} in the file, {b or 'nothing'} here"
                 for name in dict.fromkeys([*entries, *self.settings])
                 for a, b in zip_longest(*(str(s.get(name, "")).splitlines() or [""]
                                           for s in (entries, self.settings)), fillvalue="")
                 if a != b]
        if lines:
            raise CheckpointError("; ".join(line.strip() for line in lines)
                                  + "; load_checkpoint(path, model=model) takes the weights alone")


class Listed:
    """A list of batches: what a `DataLoader` tells of its data by itself."""

    def __init__(self, name: str, batches: object) -> None:
        if not isinstance(batches, (list, tuple)):
            raise SettingError(f"fit: the {name} of a run that is saved must be a DataLoader, a "
                               "list, or have a state_dict and load_state_dict, got "
                               f"{type(batches).__name__}")
        self.batches = batches

    def state_dict(self) -> Settings:
        """What tells the data from others."""
        return {"batches": len(self.batches), "data": digest(self.batches)}

    def load_state_dict(self, entries: Settings) -> None:
        """Refuse other data."""
        if entries != (own := self.state_dict()):
            raise CheckpointError(f"the file is of {entries}, here is {own}")


def generators(**parts: object) -> dict[str, np.random.Generator]:
    """The generators that modules hold, such as those of dropout, each once, by where they are."""
    found: dict[int, tuple[str, np.random.Generator]] = {}
    for name, part in parts.items():
        for path, module in part.named_modules() if isinstance(part, Module) else ():
            for key, value in vars(module).items():
                if isinstance(value, np.random.Generator):
                    found.setdefault(id(value), (".".join(filter(None, (name, path, key))), value))
    return dict(found.values())


def states_of(own: Settings) -> str:
    """The generators and the place of a worker, as text for rank 0 to save."""
    states = {name: rng.bit_generator.state for name, rng in own["rng"].items()}
    try:
        return json.dumps({"rng": states, "place": own["place"].state_dict()})
    except TypeError:
        raise SettingError("fit: with several workers that are saved, generators must be those of "
                           "np.random.default_rng") from None
