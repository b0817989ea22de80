"""The report in a real browser, and its figures against the database."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path

import pytest
import tiny_bench
import tiny_search
from tiny_looking import Looking, drawn_data
from typer.testing import CliRunner

from tlsearch.cli.app import app
from tlsearch.database.store import Store
from tlsearch.errors import InputError, UnknownNameError
from tlsearch.models.intervals import wilson
from tlsearch.records import HANDED_OUT, TrialRole, TrialState
from tlsearch.reports import html
from tlsearch.reports.evidence import gather

FIGURES = {"seeds", "history", "freeze", "branches", "rate", "importance", "curves"}
OF_THE_MODEL = {"confusion", "reliability", "risk-coverage"}


@pytest.fixture(scope="session")
def report(searched, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("report") / "deep" / "r.html"
    return html.write(searched.url, searched.name, path)


@pytest.fixture
def opened(browser, report):
    looking = Looking(browser)
    looking.page.goto(report.as_uri())
    looking.page.wait_for_selector("[data-figure]:not([data-drawn])", state="detached")
    yield looking
    looking.close()


def drawn(opened, name):
    """A figure as the page has it."""
    figures = json.loads(opened.page.locator("#figures").inner_text())
    return next(figure for figure in figures if figure["name"] == name)


def test_renders_without_error_or_network(opened, report):
    there = opened.page.eval_on_selector_all("[data-drawn]", "all => all.map(one => one.dataset.figure)")
    assert set(there) == FIGURES | OF_THE_MODEL
    assert opened.page.locator("[data-drawn] .main-svg").count() >= len(there)
    assert opened.complaints == []
    assert {url.partition(":")[0] for url in opened.requests} <= {"file", "data", "blob"}
    assert [url for url in opened.requests if url.startswith("file")] == [report.as_uri()]


def test_key_figures_are_those_of_the_database(opened, searched):
    with searched.store as store:
        model, study = store.model(searched.name), store.study(searched.name)
        trial, trials = store.trial(searched.name, model.trial), store.trials(searched.name)
        tested = store.dataset(study.fingerprint).counts["test"]

    def told(key: str) -> str:
        return opened.page.locator(f"[data-key={key}]").inner_text()

    assert told("test") == f"{100 * model.metrics['test']['accuracy']:.2f}%"
    assert told("val") == f"{100 * trial.value:.2f}%"
    assert told("mean") == f"{100 * model.metrics['val']['accuracy_mean']:.2f}%"
    assert told("sha256") == model.sha256
    searched = [one for one in trials if one.role is TrialRole.SEARCH]
    assert told("trials") == str(len(searched)) != str(len(trials))
    interval = wilson(8, tested)
    assert told("test-interval") == f"{100 * interval.low:.1f} to {100 * interval.high:.1f}%"
    assert "4 reruns of the best" in opened.page.locator("#cost").inner_text()
    verdict = opened.page.locator(".verdict").inner_text()
    assert trial.strategy in verdict
    assert trial.backbone in verdict
    assert opened.page.locator("#trials tbody tr").count() == len(trials)


def test_tells_what_ended_early_and_why(opened):
    text = opened.page.locator("#ended").inner_text()
    assert "stopped by ASHA: others were better at the same epoch" in text
    assert "the loss fell over" in text
    assert "tiny_raising 1" in text


def test_confusion_and_mistakes_are_those_of_the_validation_split(opened, searched):
    with searched.store as store:
        study, model = store.study(searched.name), store.model(searched.name)
        trial = store.trial(searched.name, model.trial)
        count = store.dataset(study.fingerprint).counts["val"]
    figure = drawn(opened, "confusion")
    cells = [[int(cell or 0) for cell in row] for row in figure["traces"][0]["text"]]
    assert sum(map(sum, cells)) == count
    right = sum(cells[index][index] for index in range(3))
    assert right == round(trial.value * count)
    assert opened.page.locator("#mistakes .bad").count() == count - right
    sizes = opened.page.eval_on_selector_all("#mistakes img", "all => all.map(one => one.naturalWidth)")
    assert sizes
    assert all(size > 50 for size in sizes)


def test_names_are_text_wherever_they_stand(opened):
    data = opened.page.locator("#data").inner_text()
    for name in tiny_search.CLASSES:
        assert name in data
    assert opened.page.locator("#data b, #data img, #mistakes b").count() == 0
    labels = opened.page.locator("#figure-confusion .xtick text").all_text_contents()
    assert len(labels) == 3
    assert labels[0].startswith("<b>")


def test_fits_a_phone_and_follows_the_scheme(browser, report):
    grounds = {}
    for scheme in ("light", "dark"):
        looking = Looking(browser, width=390, scheme=scheme)
        looking.page.goto(report.as_uri())
        looking.page.wait_for_selector("[data-figure]:not([data-drawn])", state="detached")
        assert looking.page.evaluate("document.documentElement.scrollWidth") == 390
        colours = "e => [getComputedStyle(document.body).backgroundColor, getComputedStyle(e).fill]"
        grounds[scheme] = looking.page.locator("#figure-history .xtick text").first.evaluate(colours)
        assert looking.complaints == []
        looking.close()
    assert grounds["light"][0] != grounds["dark"][0]
    assert grounds["light"][1] != grounds["dark"][1]


def test_charts_follow_their_cards(opened):
    """Of whatever makes a card narrower, be it the window or not."""
    widths = (
        "[...document.querySelectorAll('[data-figure]')].map(one => "
        "[one.clientWidth, one.querySelector('.main-svg').getBoundingClientRect().width])"
    )
    before = opened.page.evaluate(widths)
    for way in ("window", "card"):
        if way == "window":
            opened.page.set_viewport_size({"width": 390, "height": 900})
        else:
            opened.page.evaluate("() => { document.querySelector('main').style.width = '300px'; }")
        opened.page.wait_for_function(f"() => {widths}.every(([card, chart]) => Math.abs(card - chart) < 1)")
        after = opened.page.evaluate(widths)
        assert all(now[0] < then[0] for now, then in zip(after, before, strict=True))
        before = after
    assert opened.page.evaluate("document.documentElement.scrollWidth") == 390
    assert opened.complaints == []


def test_colours_follow_while_the_page_is_open(opened):
    tick = opened.page.locator("#figure-history .xtick text").first
    before = tick.evaluate("e => getComputedStyle(e).fill")
    opened.page.emulate_media(color_scheme="dark")
    opened.page.wait_for_function(
        "was => getComputedStyle(document.querySelector('#figure-history .xtick text')).fill !== was",
        arg=before,
    )


def test_says_what_cannot_be_shown(searched, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(searched.folder, moved)
    url = f"sqlite:///{moved}/studies.db"
    page = html.write(searched.url, searched.name, tmp_path / "a.html", run_model=False).read_text()
    assert "the report was made without running the model" in page
    assert 'data-figure="confusion"' not in page
    with Store.open(url) as store:
        evidence = gather(store, searched.name)
    spec = {**evidence.study.spec, "data": {**evidence.study.spec["data"], "path": str(tmp_path / "gone")}}
    gone = dataclasses.replace(evidence, study=dataclasses.replace(evidence.study, spec=spec))
    looked = html.look(gone, say=lambda _: None)
    assert looked.found is None
    assert str(tmp_path / "gone") in looked.why
    assert "can't be shown" in html.render(gone, looked)


def test_data_that_changed_is_not_measured(searched):
    with searched.store as store:
        evidence = gather(store, searched.name)
    assert evidence.items is not None
    one = evidence.items.of("val")[0]
    hashes = [*evidence.items.hashes[:one], "other", *evidence.items.hashes[one + 1 :]]
    items = dataclasses.replace(evidence.items, hashes=tuple(hashes))
    looked = html.look(dataclasses.replace(evidence, items=items), say=lambda _: None)
    assert looked.found is None
    name = evidence.items.names[one]
    assert looked.why == f"The data has changed since the study was begun: 1 item changed ({name})."
    older = dataclasses.replace(
        evidence, items=None, study=dataclasses.replace(evidence.study, fingerprint="other")
    )
    assert html.look(older, say=lambda _: None).why == "The data has changed since the study was begun."


def test_study_without_a_finished_trial_has_a_report(tmp_path, browser):
    spec = tiny_bench.study()
    failing = tiny_search.search(
        tmp_path, spec=spec, tried=[tiny_bench.point("tiny_raising", number=0)], promoted=False
    )
    path = html.write(failing.url, failing.name, tmp_path / "r.html")
    looking = Looking(browser)
    looking.page.goto(path.as_uri())
    text = looking.page.locator("main").inner_text()
    looking.close()
    assert "No trial has completed" in text
    assert "the loss fell over" in text
    assert looking.complaints == []


@pytest.fixture
def evidence(searched):
    with searched.store as store:
        return gather(store, searched.name)


def changed(evidence, change):
    """The evidence with each trial of the search as ``change`` makes it."""
    trials = [change(trial) if trial in evidence.searched else trial for trial in evidence.trials]
    finalists = [dataclasses.replace(one, trial=change(one.trial)) for one in evidence.finalists]
    return dataclasses.replace(evidence, trials=trials, finalists=finalists)


def figures_of(evidence, backbones=None):
    page = html.render(evidence, html.Looked(None, "not looked", backbones or {}))
    return {figure["name"]: figure for figure in drawn_data(page)}, page


def on_two_backbones(trial):
    other = trial.number % 2 == 0
    costs = dataclasses.replace(trial.costs, total_parameters=1000 if other else 5000)
    return dataclasses.replace(trial, backbone="bench/other" if other else trial.backbone, costs=costs)


def test_a_heat_map_and_prices_only_where_there_is_something_to_compare(evidence):
    one, page = figures_of(evidence, {evidence.complete[0].backbone: 3.0})
    assert not {"heat", "size", "latency"} & one.keys()
    assert "All trials have models of one size and speed" in page
    latencies = {"bench/other": 1.0, evidence.complete[0].backbone: 3.0}
    two, _ = figures_of(changed(evidence, on_two_backbones), latencies)
    assert {"heat", "size", "latency"} <= two.keys()
    assert "branches" not in two


@pytest.mark.parametrize("change", [lambda trial: trial, on_two_backbones])
def test_nobody_leads_where_all_tie_and_no_share_is_above_one(evidence, change):
    def perfect(trial):
        return dataclasses.replace(change(trial), value=None if trial.value is None else 1.0)

    figures, page = figures_of(changed(evidence, perfect))
    assert "All tie at 100.00%" in page
    assert " leads with " not in page
    for name in ("history", "rate", "freeze"):
        low, high = figures[name]["layout"]["yaxis"]["range"]
        assert 0.9 < low < 1 < high < 1.05


def test_what_leads_by_less_than_chance_is_called_so(evidence):
    def close(trial):
        return dataclasses.replace(trial, value=0.55 if trial.strategy == "fine_tune" else 0.5)

    _, page = figures_of(changed(evidence, close))
    assert (
        "fine_tune leads with 55.00%, ahead of linear_probe (50.00%). The difference may be chance." in page
    )


def test_the_model_tells_what_it_has_learned_from_and_what_to_read_its_score_beside(evidence):
    assert evidence.model is not None
    metrics = {**evidence.model.metrics, HANDED_OUT: {"refitted": 0.0, "members": 1.0}}
    model = dataclasses.replace(evidence.model, metrics=metrics)
    _, page = figures_of(dataclasses.replace(evidence, model=model))
    counts = evidence.dataset.counts
    assert f"{counts['train']} of 72 labelled items, without the {counts['val']} for validation" in page
    assert "there was no time to train it anew on these too" in page
    assert "Always answering &#34;plain&#34;, the commonest class, is right on" in page


def test_an_interval_over_single_items_is_called_too_narrow_where_they_come_in_groups(evidence):
    assert evidence.model is not None
    scores = {split: {**told, "groups": 6.0} for split, told in evidence.model.metrics.items()}
    model = dataclasses.replace(evidence.model, metrics=scores)
    _, page = figures_of(dataclasses.replace(evidence, model=model))
    assert page.count("each counted alone; they come in 6 groups, so it is too narrow") == 2
    assert "or a wider range, as they come in few groups" in page
    assert "%. On other items, expect" in " ".join(page.split())
    _, before = figures_of(evidence)
    assert "too narrow" not in before


def test_the_only_trial_is_the_best_of_nothing(evidence):
    first = dataclasses.replace(evidence.finalists[0], repeated=False, values=(0.5,))
    alone = dataclasses.replace(evidence, finalists=[first], trials=[evidence.winner])
    _, page = figures_of(alone)
    assert "of one trial with one seed" in page
    assert "so it is optimistic" not in page
    assert "1 trials" not in page


def test_no_interval_of_no_width_is_told(evidence):
    first, *rest = evidence.finalists
    tied = dataclasses.replace(first, values=(1.0, 1.0), expected=1.0)
    _, page = figures_of(dataclasses.replace(evidence, finalists=[tied, *rest]))
    assert "100.00% to 100.00%" not in page
    assert re.search(r"95% interval 7\d\.\d to 100.0%", page)


def test_the_first_words_are_for_everybody(opened):
    assert "Right on 73% of 11 items that it had never seen." in opened.page.locator(".headline").inner_text()


@pytest.mark.parametrize("width", [390, 768, 1440])
def test_legends_menu_and_tables_fit(browser, evidence, tmp_path, width):
    def many(trial):
        return dataclasses.replace(trial, strategy=f"a_strategy_of_a_long_name_{trial.number}")

    path = tmp_path / "many.html"
    path.write_text(html.render(changed(evidence, many), html.Looked(None, "not looked", {})))
    looking = Looking(browser, width=width)
    looking.page.goto(path.as_uri())
    looking.page.wait_for_selector("[data-figure]:not([data-drawn])", state="detached")
    heights = "all => all.map(one => [one.offsetHeight, one.nextElementSibling.offsetHeight])"
    sizes = looking.page.eval_on_selector_all(".legend", heights)
    assert sizes
    assert all(legend <= plot for legend, plot in sizes)
    menu = "e => [e.scrollWidth, e.clientWidth, e.offsetHeight]"
    needed, there, height = looking.page.locator("nav").evaluate(menu)
    assert needed <= there
    assert height < 80
    tables = "all => all.map(one => one.scrollWidth - one.parentElement.clientWidth)"
    assert max(looking.page.eval_on_selector_all("#data table", tables)) <= 0
    assert looking.page.evaluate("document.documentElement.scrollWidth") == width
    looking.close()
    assert looking.complaints == []


def test_a_strategy_is_hidden_by_its_legend(opened):
    figure = opened.page.locator("#figure-history")
    button = figure.locator(".legend button", has_text="linear_probe")
    before = figure.locator(".point").count()
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    assert figure.locator(".point").count() < before


def test_command_writes_the_page_and_refuses_what_is_wrong(searched, tmp_path):
    run = CliRunner()
    path = tmp_path / "out.html"
    done = run.invoke(app, ["report", searched.name, "-o", str(path), "--no-model", "--db", searched.url])
    assert done.exit_code == 0
    assert done.stdout.strip() == str(path)
    assert re.search(r"<title>tiny · tlsearch report</title>", path.read_text())
    bundle = run.invoke(app, ["report", str(searched.folder / "model"), "--db", searched.url])
    assert isinstance(bundle.exception, InputError)
    assert "is the bundle of a model, and a report is of a study" in str(bundle.exception)
    assert "tlsearch evaluate" in str(bundle.exception.hint)
    with pytest.raises(UnknownNameError, match='Did you mean "tiny"'):
        html.write(searched.url, "tinny", tmp_path / "x.html", run_model=False)
    with pytest.raises(InputError, match="Can't write"):
        html.write(searched.url, searched.name, path / "below-a-file.html", run_model=False)


def test_pruned_trials_are_hollow(opened, searched):
    with searched.store as store:
        pruned = [t.number for t in store.trials(searched.name) if t.state is TrialState.PRUNED]
    figure = drawn(opened, "history")
    hollow = [
        x
        for trace in figure["traces"]
        if isinstance(trace.get("marker", {}).get("symbol"), list)
        for x, symbol in zip(trace["x"], trace["marker"]["symbol"], strict=True)
        if symbol.endswith("-open")
    ]
    assert hollow == pruned
