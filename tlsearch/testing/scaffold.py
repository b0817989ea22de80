"""A new plugin package that passes its own tests as it stands."""

from __future__ import annotations

import keyword
import re
from dataclasses import dataclass
from pathlib import Path

from tlsearch import registry
from tlsearch.errors import InputError, did_you_mean

NAME = re.compile(r"[a-z][a-z0-9]*([_-][a-z0-9]+)*")
MAX_NAME = 40
PREFIX = "tlsearch"


@dataclass(frozen=True, slots=True)
class _Kind:
    """What differs between the kinds of plugins."""

    group: str
    contract: str
    attributes: str
    source: str
    does: str
    use: str


def scaffold(name: str, *, kind: str = "strategy", parent: Path = Path()) -> Path:
    """Write ``tlsearch-NAME/``: a package of one source file, with README and test.

    Args:
        name: of the entry point; lower-case words joined by ``-`` or ``_``.
        kind: ``strategy``, ``backbone``, ``dataset`` or ``combination``.
        parent: the folder to write it in; made where it is missing.

    Returns:
        The new folder.

    Raises:
        InputError: a name that can't be one or is taken, a kind that isn't one, or a folder in the way.
    """
    if kind not in _KINDS:
        raise InputError(
            f'There is no kind "{kind}" of plugin. {did_you_mean(kind, _KINDS)}'.strip(),
            hint=f"Kinds: {', '.join(_KINDS)}.",
        )
    own = _KINDS[kind]
    _check_name(name, own.group)
    entry = name.replace("-", "_")
    words = {
        "distribution": f"{PREFIX}-{entry.replace('_', '-')}",
        "module": f"{PREFIX}_{entry}",
        "entry": entry,
        "cls": _class_name(entry),
        "group": own.group,
        "contract": own.contract,
    }
    for part in ("attributes", "does", "use"):
        words[part] = _filled(getattr(own, part), words)
    folder = parent / words["distribution"]
    files = {
        "pyproject.toml": _PYPROJECT,
        "README.md": _README,
        f"src/{words['module']}/__init__.py": own.source,
        "tests/test_contract.py": _TEST,
    }
    try:
        parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir()
        for path, template in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(_filled(template, words))
    except FileExistsError as error:
        raise InputError(
            f"{error.filename or folder} is there already.",
            hint="Take another name, or another folder with -o.",
        ) from None
    except OSError as error:
        raise InputError(f"Can't write {folder}: {error.strerror or error}.") from None
    return folder


def _check_name(name: str, group: str) -> None:
    entry = name.replace("-", "_")
    if not NAME.fullmatch(name) or len(name) > MAX_NAME or keyword.iskeyword(_class_name(entry)):
        raise InputError(
            f'"{name}" can\'t name a plugin.',
            hint=f"Right are lower-case words and digits, joined by - or _, at most {MAX_NAME} characters, "
            "such as my_method.",
        )
    if entry.startswith(f"{PREFIX}_"):
        raise InputError(
            f'"{name}" begins with {PREFIX}, which the package gets anyway.',
            hint=f"Take {entry.removeprefix(f'{PREFIX}_')}.",
        )
    if taken := registry.installed(group).get(entry):
        raise InputError(
            f'"{entry}" is taken by {taken.distribution} {taken.version}: two of one name would clash.',
            hint="Take another name.",
        )


def _class_name(entry: str) -> str:
    return "".join(word.capitalize() for word in entry.split("_"))


def _filled(template: str, words: dict[str, str]) -> str:
    return re.sub(r"<<(\w+)>>", lambda match: words[match[1]], template)


_PYPROJECT = """\
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "<<distribution>>"
version = "0.1.0"
description = "<<does>>"
readme = "README.md"
requires-python = ">=3.11"
dependencies = ["tlsearch>=0.1"]

[project.entry-points."<<group>>"]
<<entry>> = "<<module>>:<<cls>>"

[tool.setuptools.packages.find]
where = ["src"]
"""

_README = """\
# <<distribution>>

<<does>> Say here what it is, which paper it follows, and where it wins.

```
pip install <<distribution>>
```

<<use>>

To work on it: `pip install -e .`, then `pytest` (the contract tests), or `tlsearch plugins check <<entry>>`.
"""

_TEST = '''\
"""<<cls>> keeps the contract."""

from tlsearch.testing import <<contract>>


class Test<<cls>>(<<contract>>):
    <<attributes>>
'''

_STRATEGY = '''\
"""A strategy for tlsearch: fine-tuning that rewards predictions of high entropy.

Pereyra et al. 2017, arXiv:1701.06548. Put your own method in its place: every hook is optional.
"""

from __future__ import annotations

from optuna.distributions import FloatDistribution

from tlsearch import contracts


class <<cls>>(contracts.FineTuning):
    """Fine-tuning with a confidence penalty."""

    tasks = ("classification",)  # whose outputs are logits of classes; leave it out where any will do

    def space(self, backbone):
        """Fine-tuning's hyperparameters, and the strength of the penalty."""
        return {**super().space(backbone), "strength": FloatDistribution(0.0, 0.5)}

    def default(self, backbone):
        """Fine-tuning's default, with a light penalty."""
        return {**super().default(backbone), "strength": 0.1}

    def loss(self, model, batch, params):
        """The task's loss minus ``strength`` times the entropy of the predictions."""
        logits = model(batch.inputs)
        logs = logits.log_softmax(dim=1)
        entropy = -(logs.exp() * logs).sum(dim=1).mean()
        own = batch.task.loss(logits, batch.targets, self.recipe(params))
        return own - params["strength"] * entropy
'''

_BACKBONE = '''\
"""A backbone for tlsearch: put your own network and its weights in the place of this one."""

from __future__ import annotations

from torch import nn

from tlsearch import contracts
from tlsearch.backbones.checkpoints import default_init, read_state
from tlsearch.contracts.images import ImageInput
from tlsearch.errors import UnknownNameError, WeightsError


class <<cls>>(contracts.BackboneFamily):
    """``<<entry>>/small``."""

    def names(self):
        """The variants."""
        return ["small"]

    def load(self, variant, *, weights, image_size):
        """Build a variant; it has no published weights, only random ones or those of a file."""
        name = f"<<entry>>/{variant}"
        if variant not in self.names() or weights == "pretrained":
            error = UnknownNameError if variant not in self.names() else WeightsError
            raise error(f"There is no {name} with {weights} weights.", hint=f"Variants: {self.names()}")
        with default_init():  # random, but the same in every process
            first, second = nn.Conv2d(3, 16, 3, stride=2), nn.Conv2d(16, 32, 3, stride=2)
        pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        trunk = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), *pool).eval()
        if weights != "random":
            trunk.load_state_dict(read_state(weights))
        inputs = ImageInput(image_size or 32, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
        groups = [("first", ["0.weight", "0.bias"]), ("second", ["2.weight", "2.bias"])]
        facts = {"weights": weights, "inputs": inputs, "groups": groups, "width": 32, "head": "none"}
        return contracts.Pretrained(contracts.describe(name, trunk, **facts), trunk)
'''

_DATASET = '''\
"""A data set for tlsearch: put your own items and labels in the place of these."""

from __future__ import annotations

import numpy as np

from tlsearch import contracts
from tlsearch.errors import DataError


class Options(contracts.DatasetOptions):
    """Keys of the study file's data section."""

    count: int = 120


class <<cls>>(contracts.DatasetSource[Options]):
    """Noisy squares: a bright half above, below, or none."""

    options = Options
    spec = contracts.TargetSpec(("above", "below", "none"))

    def load(self, options):
        """``count`` images as uint8 arrays (16, 16); paths of image files would do as well."""
        if options.count < 3:
            raise DataError(f"count must be at least 3, not {options.count}")
        targets = [index % 3 for index in range(options.count)]  # indices into the names of spec
        items = np.random.default_rng(0).integers(0, 100, (options.count, 16, 16), dtype=np.uint8)
        for item, target in zip(items, targets, strict=True):
            item[8 * target : 8 * target + 8] += 120
        names = [f"square {index}" for index in range(options.count)]
        return contracts.Samples(items=items, targets=targets, spec=self.spec, names=names)
'''

_COMBINATION = '''\
"""A combination for tlsearch: the plain mean of finished models. Put your own method in its place."""

from __future__ import annotations

from tlsearch import contracts


class <<cls>>(contracts.Combination):
    """The mean of the two best members' weights."""

    def combine(self, task):
        """Halfway between them; None where there is only one."""
        if len(task.members) < 2:
            return None
        one, other = task.members[0].state(), task.members[1].state()
        mean = {
            name: tensor.lerp(other[name], 0.5) if tensor.is_floating_point() else tensor
            for name, tensor in one.items()
        }
        return contracts.Combined(mean, (task.members[0].number, task.members[1].number))
'''

_KINDS = {
    "strategy": _Kind(
        registry.STRATEGIES,
        "StrategyContract",
        'strategy = "<<entry>>"',
        _STRATEGY,
        "The strategy <<entry>> for tlsearch.",
        "Every study then searches it beside the other strategies; `tlsearch plugins strategies` lists it.",
    ),
    "backbone": _Kind(
        registry.BACKBONES,
        "BackboneContract",
        'backbone = "<<entry>>/small"',
        _BACKBONE,
        "The backbones <<entry>>/* for tlsearch.",
        "In a study file: `backbones: [{name: <<entry>>/small, weights: random}]`.",
    ),
    "dataset": _Kind(
        registry.DATASETS,
        "DatasetContract",
        'dataset = "<<entry>>"',
        _DATASET,
        "The data set <<entry>> for tlsearch.",
        "In a study file: `data: {source: <<entry>>, count: 300}`.",
    ),
    "combination": _Kind(
        registry.COMBINATIONS,
        "CombinationContract",
        'combination = "<<entry>>"',
        _COMBINATION,
        "The combination <<entry>> for tlsearch.",
        "It is offered the fine-tuned finalists of every study; what it makes is a trial of its own.",
    ),
}
