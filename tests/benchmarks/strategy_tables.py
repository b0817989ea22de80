"""What the comparison of strategies says: tables of the whole, and a section for each plugin's README.

Differences are taken within a seed: two studies of one seed have the same split, the same subset and the same
test items. So their mean and standard error say more than those of two columns side by side.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from tests.benchmarks.strategy_cells import TEST_ITEMS, Case

PEER = "fine_tune"
"""What every strategy is compared with."""

CLAIMS = {
    "linear_probe": "weaker than fine-tuning on nearly all of 12 data sets, near it where the target is like "
    "the source or small (Kornblith et al. 2019)",
    "feature_copy": "the same for logistic regression on fixed features (Kornblith et al. 2019)",
    "fine_tune": "better than fixed features nearly everywhere (Kornblith et al. 2019)",
    "joint_training": "source data beside the target's regularizes (Ganin et al. 2016 on domain losses)",
    "l2_sp": "a better baseline than plain weight decay (Li et al. 2018)",
    "bss": "better than other ways of fine-tuning, most where data is scarce (Chen et al. 2019)",
    "delta": "better than L2 and L2-SP (Li et al. 2019)",
    "lp_ft": "1 point better than fine-tuning on the training distribution, 10 outside of it "
    "(Kumar et al. 2022)",
    "gradual_unfreezing": "better than tuning all layers at once, on texts (Howard and Ruder 2018)",
    "surgical": "as good as full fine-tuning or better under a shift (Lee et al. 2023)",
    "lora": "as good as fine-tuning in large language models (Hu et al. 2021)",
    "dora": "better than LoRA in large language models (Liu et al. 2024)",
    "bitfit": "as good as fine-tuning or better on small and middle-sized data, in BERT "
    "(Ben Zaken et al. 2022)",
    "norm_tuning": "surprisingly high even in random networks (Frankle et al. 2021)",
    "ranpac": "better than linear heads on the same features, in continual learning (McDonnell et al. 2023)",
    "head2toe": "as good as fine-tuning on average, better on data unlike the source (Evci et al. 2022)",
    "co_tuning": "up to 20 % better than fine-tuning, in relative terms, with 100 to 1,000 images a class "
    "(You et al. 2020)",
    "distillation": "keeps what the source network knows (Li and Hoiem 2016)",
}
"""What the papers say, in a line; on other data and networks than here."""


def document(cells: Mapping[str, Mapping[str, Any]], cases: Sequence[Case]) -> str:
    """The whole report as Markdown."""
    found = _by_case(cells, cases)
    strategies = _ranked({cell["strategy"] for cell in cells.values()}, found, cases)
    lines = ["# Strategies under equal budgets", "", *_conditions(cases, found), ""]
    lines += ["## Test accuracy", "", *_accuracies(strategies, found, cases), ""]
    lines += [f"## Points beside `{PEER}`, within a seed", "", *_differences(strategies, found, cases), ""]
    lines += ["## Which wins where", "", *_winners(found, cases), ""]
    lines += ["## What the papers claim", "", "| strategy | claim |", "|---|---|"]
    lines += [f"| `{strategy}` | {CLAIMS.get(strategy, 'not known here')} |" for strategy in strategies]
    failed = [cell for cell in cells.values() if "error" in cell]
    if failed:
        lines += ["", "## Not measured", ""]
        lines += [
            f"- {cell['case']}, `{cell['strategy']}`, seed {cell['seed']}: {cell['error']}" for cell in failed
        ]
    return "\n".join(lines) + "\n"


def front(cells: Mapping[str, Mapping[str, Any]], cases: Sequence[Case]) -> str:
    """The section of docs/benchmarks.md: accuracies, and which strategy wins where."""
    found = _by_case(cells, cases)
    strategies = _ranked({cell["strategy"] for cell in cells.values()}, found, cases)
    lines = ["## Which strategy wins", ""]
    lines += [f"Test accuracy in %, mean ± standard error over seeds. {_BUDGETS}", ""]
    lines += [*_accuracies(strategies, found, cases), "", *_winners(found, cases), ""]
    lines += [_SOURCE]
    return "\n".join(lines)


def sections(cells: Mapping[str, Mapping[str, Any]], cases: Sequence[Case]) -> dict[str, str]:
    """For each package the section on evidence of its README."""
    packages: dict[str, set[str]] = defaultdict(set)
    for cell in cells.values():
        packages[cell["package"]].add(cell["strategy"])
    found = _by_case(cells, cases)
    parts = {}
    for package in sorted(packages):
        shown = sorted(packages[package])
        peers = [name for name in (PEER, "linear_probe") if name not in shown and _measured(name, found)]
        parts[package] = "\n".join(
            [
                "## Measured",
                "",
                f"Test accuracy in %, mean ± standard error over seeds; in brackets the points beside "
                f"`{PEER}` within a seed. {_BUDGETS}",
                "",
                *_combined([*shown, *peers], found, cases),
                "",
                *(f"- The papers on `{name}`: {CLAIMS[name]}." for name in shown if name in CLAIMS),
                "",
                _SOURCE,
            ]
        )
    return parts


_BUDGETS = (
    "EfficientNet-Lite0 with ImageNet weights at 48 pixels; each strategy alone has one or two trials of two "
    "to six epochs, its own starting points: budgets in which much is left to chance."
)
_SOURCE = (
    "`make bench-strategies` measures it; `tests/benchmarks/results/strategies.md` has the conditions, and "
    "what the papers claim."
)


Values = dict[str, dict[str, dict[int, float]]]
"""Test accuracy by case, strategy and seed."""


def _by_case(cells: Mapping[str, Mapping[str, Any]], cases: Sequence[Case]) -> Values:
    current = {case.name: case.settings for case in cases}
    found: Values = {case.name: defaultdict(dict) for case in cases}
    for cell in cells.values():
        if "error" not in cell and cell["settings"] == current.get(cell["case"]):
            found[cell["case"]][cell["strategy"]][cell["seed"]] = cell["test"]
    return found


def _conditions(cases: Sequence[Case], found: Values) -> list[str]:
    lines = [
        "EfficientNet-Lite0, ImageNet weights. A cell is a study with one strategy; its winner on the "
        "validation split is measured on the test split. Every strategy has the same images, splits, trials "
        "and epochs, its own starting points first. No trial is stopped early by others. One seed is one "
        "split, one subset and one set of random weights. Fashion-MNIST is tested on "
        f"{TEST_ITEMS:,} of its 10,000 test items. `joint_training` has source data besides (600 items of "
        "Fashion-MNIST; digits where that is the target).",
        "",
        "Two or three seeds say little: with three, a difference is sure (95 %) from 4.3 of its standard "
        "errors on, with two from 12.7. Trials are short here: strategies that need many epochs, such as "
        "`gradual_unfreezing` with its one more group an epoch, are judged by their beginnings.",
        "",
        "| data | what | pixels | trials | epochs | seeds |",
        "|---|---|---|---|---|---|",
    ]
    for case in cases:
        seeds = {seed for by_seed in found[case.name].values() for seed in by_seed}
        why = case.missing() if not seeds else ""
        lines.append(
            f"| {case.name} | {case.described} | {case.image_size} | {case.trials} | {case.epochs} | "
            f"{len(seeds) if seeds else f'left out: {why}' if why else 'not run yet'} |"
        )
    return lines


def _accuracies(strategies: Sequence[str], found: Values, cases: Sequence[Case]) -> list[str]:
    return _table(strategies, cases, lambda name, case: _spell(list(found[case][name].values())))


def _differences(strategies: Sequence[str], found: Values, cases: Sequence[Case]) -> list[str]:
    others = [name for name in strategies if name != PEER]
    return _table(others, cases, lambda name, case: _spell(_beside(found[case], name), signed=True))


def _combined(strategies: Sequence[str], found: Values, cases: Sequence[Case]) -> list[str]:
    def text(name: str, case: str) -> str:
        own, apart = list(found[case][name].values()), _beside(found[case], name)
        bracket = f" ({_spell(apart, signed=True)})" if apart and name != PEER else ""
        return _spell(own) + bracket

    shown = [case for case in cases if any(found[case.name][name] for name in strategies)]
    return _table(strategies, shown, text)


def _table(strategies: Sequence[str], cases: Sequence[Case], text: Any) -> list[str]:
    lines = [
        "| strategy | " + " | ".join(case.name for case in cases) + " |",
        "|---" * (len(cases) + 1) + "|",
    ]
    for name in strategies:
        lines.append(f"| `{name}` | " + " | ".join(text(name, case.name) for case in cases) + " |")
    return lines


def _winners(found: Values, cases: Sequence[Case]) -> list[str]:
    lines = []
    for case in cases:
        values = {name: by_seed for name, by_seed in found[case.name].items() if by_seed}
        if not values:
            continue
        most = max(len(by_seed) for by_seed in values.values())
        whole = {name: by_seed for name, by_seed in values.items() if len(by_seed) == most}
        best = max(whole, key=lambda name: statistics.fmean(whole[name].values()))
        near = [
            name
            for name in sorted(whole, key=lambda name: -statistics.fmean(whole[name].values()))
            if name != best and not _clearly_behind(whole, name, best)
        ]
        text = f"- {case.name}: `{best}`, {_spell(list(whole[best].values()))} %"
        if most < 2:
            text += "; one seed, which says nothing of chance"
        elif near:
            text += f"; not to be told from it: {', '.join(f'`{name}`' for name in near)}"
        else:
            text += "; all others are clearly behind"
        lines.append(text)
    return lines


def _clearly_behind(values: Mapping[str, Mapping[int, float]], name: str, best: str) -> bool:
    """Whether it is behind by more than chance, by Student's t at 95 % on the differences within seeds."""
    from scipy.stats import t

    apart = [values[best][seed] - values[name][seed] for seed in values[name] if seed in values[best]]
    return len(apart) > 1 and statistics.fmean(apart) > t.ppf(0.975, len(apart) - 1) * _error(apart)


def _beside(by_strategy: Mapping[str, Mapping[int, float]], name: str) -> list[float]:
    """Differences to the peer, one for each seed that both have."""
    peer, own = by_strategy.get(PEER, {}), by_strategy.get(name, {})
    return [value - peer[seed] for seed, value in own.items() if seed in peer]


def _spell(values: Sequence[float], *, signed: bool = False) -> str:
    if not values:
        return ""
    mean = 100 * statistics.fmean(values)
    text = f"{mean:+.1f}" if signed else f"{mean:.1f}"
    return f"{text} ± {100 * _error(values):.1f}" if len(values) > 1 else text


def _error(values: Sequence[float]) -> float:
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0


def _measured(name: str, found: Values) -> bool:
    return any(by_strategy.get(name) for by_strategy in found.values())


def _ranked(strategies: set[str], found: Values, cases: Sequence[Case]) -> list[str]:
    """By the mean over cases of the mean over seeds; those that weren't measured everywhere last."""

    def place(name: str) -> tuple[int, float]:
        means = [statistics.fmean(found[c.name][name].values()) for c in cases if found[c.name][name]]
        return -len(means), -statistics.fmean(means) if means else 0.0

    return sorted(strategies, key=place)
