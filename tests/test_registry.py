from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tlsearch import registry
from tlsearch.contracts import BackboneFamily, DatasetSource, Strategy
from tlsearch.errors import InputError, PluginError, UnknownNameError

HEAD = """\
from tlsearch.contracts import FineTuning
print("loading", __name__)
"""
GOOD = HEAD + "class Plugin(FineTuning):\n    pass\n"

Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Installs a distribution with one module and its entry points, until the test ends."""
    registry.installed.cache_clear()
    registry._load.cache_clear()
    names: list[str] = []

    def add(
        name: str, entries: str, code: str = GOOD, *, version: str = "1.0", metadata: bool = True
    ) -> Path:
        folder = tmp_path / f"{name}-{version}"
        info = folder / f"{name}-{version}.dist-info"
        info.mkdir(parents=True)
        if metadata:
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(entries)
        (folder / f"{name.replace('-', '_')}.py").write_text(code)
        monkeypatch.syspath_prepend(folder)
        registry.installed.cache_clear()
        names.append(name.replace("-", "_"))
        return folder

    yield add
    for name in names:
        sys.modules.pop(name, None)
    registry.installed.cache_clear()
    registry._load.cache_clear()


def entry(target: str, *, name: str = "special", group: str = "strategies") -> str:
    return f"[tlsearch.{group}]\n{name} = {target}\n"


def refused(name: str = "special") -> PluginError:
    with pytest.raises(PluginError) as caught:
        registry.strategy(name)
    assert caught.value.exit_code == 2
    return caught.value


def test_built_ins_come_through_entry_points():
    for group, base in (
        (registry.STRATEGIES, Strategy),
        (registry.DATASETS, DatasetSource),
        (registry.BACKBONES, BackboneFamily),
    ):
        names = [name for name, one in registry.installed(group).items() if one.distribution == "tlsearch"]
        assert names
        load = {
            registry.STRATEGIES: registry.strategy,
            registry.DATASETS: registry.dataset,
            registry.BACKBONES: registry.backbone_family,
        }[group]
        assert all(isinstance(load(name), base) for name in names)


def test_a_plugin_is_found_and_loaded_once(install):
    install("odd-plugin", entry("odd_plugin:Plugin"), version="2.3")
    found = registry.installed(registry.STRATEGIES)["special"]
    assert (found.distribution, found.version, found.target) == ("odd-plugin", "2.3", "odd_plugin:Plugin")
    assert registry.strategy("special") is registry.strategy("special")
    version = registry.version_of(registry.STRATEGIES, "special")
    assert (version.distribution, version.version) == ("odd-plugin", "2.3")


def test_listing_runs_no_plugin_code(install, capsys):
    install("loud", entry("loud:Plugin"), "print('loud')\nraise RuntimeError('ran')\n")
    assert "special" in registry.installed(registry.STRATEGIES)
    assert registry.version_of(registry.STRATEGIES, "special").distribution == "loud"
    assert "loud" not in sys.modules
    assert capsys.readouterr().out == ""


def test_an_import_error_shows_the_entry_point_and_the_line(install):
    install("broken", entry("broken:Plugin"), "\n\ndef helper():\n    raise KeyError('k')\n\n\nhelper()\n")
    error = refused()
    assert (
        "can't be imported: KeyError: 'k' at broken.py line 4 in helper (entry point broken:Plugin)"
        in str(error)
    )
    assert "a changed entry point counts once it is installed again, with `pip install -e`" in str(error)


def test_a_class_that_is_not_there_shows_the_entry_point(install):
    install("broken", entry("broken:Plugim"))
    assert "AttributeError" in refused().message
    assert refused().message.endswith("(entry point broken:Plugim).")


def test_what_a_plugin_prints_stays_out_of_stdout(install, capsys):
    install("loud", entry("loud:Plugin"), GOOD + "    def __init__(self):\n        print('constructed')\n")
    assert registry.strategy("special") is not None
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise RuntimeError('no luck\\nat all')\n", "can't be imported: RuntimeError: no luck"),
        ("raise RuntimeError()\n", "can't be imported: RuntimeError"),
        ("import a_package_that_is_not_there\n", "can't be imported: ModuleNotFoundError"),
        ("def f(:\n", "can't be imported: SyntaxError"),
        ("import sys\nsys.exit(0)\n", "can't be imported: SystemExit: 0"),
        ("raise BaseException('whatever')\n", "can't be imported: BaseException"),
        ("x = 1\n", "can't be imported: AttributeError"),
        ("Plugin = 3\n", "is not a subclass of Strategy"),
        ("class Plugin:\n    pass\n", "is not a subclass of Strategy"),
        ("from tlsearch.contracts import NoOptions as Plugin\n", "is not a subclass of Strategy"),
        (
            GOOD + "    api_version = 3\n",
            "was written for version 3 of the plugin contract; this tlsearch speaks",
        ),
        (GOOD + "    api_version = None\n", "was written for version None"),
        (GOOD + "    def __init__(self):\n        raise KeyError('k')\n", "can't be constructed: KeyError"),
        (GOOD + "    def __init__(self):\n        raise SystemExit\n", "can't be constructed: SystemExit"),
        (GOOD + "    def __init__(self, more):\n        pass\n", "can't be constructed: TypeError"),
        ("from tlsearch.contracts import Strategy as Plugin\n", "can't be constructed: TypeError"),
        (
            GOOD + "    tasks = 'regression'\n",
            "has tasks = 'regression', a text; right is a tuple: tasks = ('regression',)",
        ),
    ],
)
def test_a_broken_plugin_harms_itself_alone(install, capsys, code, said):
    install("broken", entry("broken:Plugin"), code)
    install("good", entry("good:Plugin", name="sound"))
    error = refused()
    assert said in error.message
    assert "strategy 'special' of broken 1.0" in error.message
    assert len(error.message.splitlines()) == 1
    assert "pip uninstall broken" in str(error)
    assert refused().message == error.message  # the second time too
    assert registry.strategy("sound") is not None
    assert registry.strategy("fine_tune") is not None
    assert capsys.readouterr().out == ""


def test_an_interrupt_is_no_failure_of_the_plugin(install):
    install("slow", entry("slow:Plugin"), "raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        registry.strategy("special")


def test_a_module_instead_of_a_class(install):
    install("whole", entry("whole"))
    assert "(whole) is not a subclass of Strategy" in refused().message


def test_a_plugin_of_another_group_is_refused(install):
    install("wrong", entry("wrong:Plugin", group="datasets"))
    with pytest.raises(PluginError, match=r"data set source 'special' of wrong 1.0 .* DatasetSource"):
        registry.dataset("special")


def test_two_packages_with_one_name_are_both_named(install):
    install("first", entry("first:Plugin") + "own = first:Plugin\n")
    install("second", entry("second:Plugin"))
    error = refused()
    for package in ("first (first:Plugin)", "second (second:Plugin)"):
        assert package in error.message
    assert "Uninstall one of them" in str(error)
    assert registry.strategy("own") is not None
    with pytest.raises(PluginError):
        registry.version_of(registry.STRATEGIES, "special")


def test_a_package_cannot_take_over_a_built_in(install):
    install("thief", entry("thief:Plugin", name="fine_tune"))
    error = refused("fine_tune")
    assert "tlsearch" in error.message
    assert "thief" in error.message
    assert registry.strategy("linear_probe") is not None


def test_one_package_that_stands_twice_on_the_path_is_no_clash(install):
    install("twin", entry("twin:Plugin") + "old = twin:Plugin\n", version="1.0")
    install("twin", entry("twin:Plugin"), version="2.0")
    found = registry.installed(registry.STRATEGIES)
    assert found["special"].version == "2.0"
    assert found["special"].clashes == ()
    assert "old" not in found  # what is hidden by a newer version isn't installed
    assert registry.strategy("special") is not None


@pytest.mark.parametrize("entries", ["what is this\n", "[tlsearch.strategies]\nno target\n", "\0\xff"])
def test_damaged_metadata_of_one_package_harms_no_other(install, entries):
    install("damaged", entries)
    install("good", entry("good:Plugin"))
    assert registry.strategy("special") is not None
    assert registry.strategy("fine_tune") is not None


def test_a_package_without_metadata_is_called_unknown(install):
    install("bare", entry("bare:Plugin"), metadata=False)
    install("naked", entry("naked:Plugin", name="other"), metadata=False)
    assert registry.version_of(registry.STRATEGIES, "special").distribution == "unknown"
    assert registry.strategy("special") is not None
    assert registry.strategy("other") is not None


@pytest.mark.parametrize(
    ("load", "name", "meant", "command"),
    [
        (registry.strategy, "fine_tun", "fine_tune", "tlsearch plugins strategies"),
        (registry.dataset, "foldr", "folder", "tlsearch plugins datasets"),
        (registry.backbone_family, "torchvison", "torchvision", "tlsearch backbones"),
    ],
)
def test_an_unknown_name_gets_a_suggestion(load, name, meant, command):
    with pytest.raises(UnknownNameError) as caught:
        load(name)
    assert f'"{name}". Did you mean "{meant}"?' in caught.value.message
    assert command in str(caught.value)
    with pytest.raises(UnknownNameError) as caught:
        load("zzzz")
    assert caught.value.message.endswith('"zzzz".')


def test_a_backbone_is_loaded_by_its_whole_name():
    loaded = registry.backbone("torchvision/squeezenet1_1", weights="random", image_size=64)
    assert loaded.info.name == "torchvision/squeezenet1_1"
    with pytest.raises(UnknownNameError, match="torchvison"):
        registry.backbone("torchvison/resnet18", weights="random", image_size=None)


def test_a_name_may_carry_a_size_of_pictures():
    name = "torchvision/squeezenet1_1@96"
    loaded = registry.backbone(name, weights="random", image_size=64)
    assert (loaded.info.name, loaded.info.inputs.shape) == (name, (3, 96, 96))
    rebuilt = registry.structure(name, image_size=None, architecture=loaded.info.architecture)
    assert (rebuilt.info.name, rebuilt.info.inputs.shape) == (name, (3, 96, 96))
    with pytest.raises(UnknownNameError, match="squeezenet1_1"):
        registry.backbone("torchvision/squeezenet1_2@96", weights="random", image_size=None)
    with pytest.raises(InputError, match="8 to 4096 pixels a side, not 9600"):
        registry.backbone("torchvision/squeezenet1_1@9600", weights="random", image_size=None)


# ---------------------------------------------------------------------------------- plugins that hang

HANGS = {
    "sleeps": "import time\ntime.sleep(600)\n",
    "loops": "while True:\n    pass\n",
    "waits": "import threading\nthreading.Event().wait()\n",
    "resists": (
        "import time\nfor _ in range(60):\n    try:\n        time.sleep(0.05)\n"
        "    except SystemExit:\n        pass\n"
    ),
    "constructs": GOOD.replace("    pass", "    def __init__(self):\n        import time; time.sleep(600)"),
}


@pytest.mark.parametrize("how", HANGS)
def test_a_plugin_that_hangs_is_given_up(install, monkeypatch, capsys, how):
    name = f"hanging-{how}"
    install(name, entry(f"hanging_{how}:Plugin"), HANGS[how], version="3.1")
    install("good", entry("good:Plugin", name="sound"))
    monkeypatch.setenv("TLSEARCH_PLUGIN_SECONDS", "0.3")
    began = time.monotonic()
    error = refused()
    assert 0.3 <= time.monotonic() - began < 60
    assert f"strategy 'special' of {name} 3.1 was given up after 0.3 s of importing" in error.message
    assert "TLSEARCH_PLUGIN_SECONDS" in error.message
    monkeypatch.setenv("TLSEARCH_PLUGIN_SECONDS", "600")
    assert refused().message == error.message  # it isn't waited for again
    assert registry.strategy("sound") is not None
    assert registry.strategy("fine_tune") is not None
    assert capsys.readouterr().out == ""


def test_a_loop_that_was_given_up_ends_and_frees_its_modules(install, monkeypatch):
    install("hanging-loop", entry("hanging_loop:Plugin"), HANGS["loops"])
    monkeypatch.setenv("TLSEARCH_PLUGIN_SECONDS", "0.2")
    refused()
    registry.installed.cache_clear()
    until = time.monotonic() + 5
    while any(one.name == "tlsearch-plugin" and one.is_alive() for one in _loops()):
        assert time.monotonic() < until
        time.sleep(0.02)
    assert "hanging_loop" not in sys.modules
    # On its way out it looks for nothing: a path of its own time would come after what we find meanwhile.
    assert registry.installed.cache_info().misses == 0


def _loops() -> list[threading.Thread]:
    """Threads that import the looping plugin."""
    frames = sys._current_frames()
    return [
        thread
        for thread in threading.enumerate()
        if thread.ident in frames and "hanging_loop" in str(frames[thread.ident].f_code.co_filename)
    ]


def test_a_slow_plugin_is_waited_for(install):
    install("slow", entry("slow:Plugin"), "import time\ntime.sleep(0.5)\n" + GOOD)
    assert registry.strategy("special") is not None


@pytest.mark.parametrize("seconds", ["soon", "0", "-1", "nan", "inf"])
def test_a_limit_that_is_none_is_the_users_mistake(install, monkeypatch, seconds):
    install("good", entry("good:Plugin"))
    monkeypatch.setenv("TLSEARCH_PLUGIN_SECONDS", seconds)
    with pytest.raises(InputError, match="TLSEARCH_PLUGIN_SECONDS must be a number of seconds above 0"):
        registry.strategy("special")


def test_only_packages_that_are_allowed_are_imported(install, monkeypatch, capsys):
    install("tls-special", entry("tls_special:Plugin"))
    monkeypatch.setenv("TLSEARCH_PLUGINS_ALLOWED", "tlsearch-lora, other")
    error = refused()
    assert "of tls-special 1.0 isn't allowed here: TLSEARCH_PLUGINS_ALLOWED doesn't name" in error.message
    assert str(error.hint).endswith("TLSEARCH_PLUGINS_ALLOWED=tlsearch-lora, other,tls-special")
    assert "tls_special" not in sys.modules, "its code never ran"
    assert registry.strategy("fine_tune") is not None, "what tlsearch brings is always allowed"
    assert "isn't allowed" in str(registry.problem(registry.STRATEGIES, "special"))
    monkeypatch.setenv("TLSEARCH_PLUGINS_ALLOWED", "other,TLS_Special")
    assert registry.strategy("special") is not None


def test_an_empty_list_allows_no_plugin(install, monkeypatch):
    install("tls-special", entry("tls_special:Plugin"))
    install("nameless", entry("nameless:Plugin", name="nameless"), metadata=False)
    monkeypatch.setenv("TLSEARCH_PLUGINS_ALLOWED", "")
    assert str(refused().hint).endswith("TLSEARCH_PLUGINS_ALLOWED=tls-special")
    assert "isn't allowed" in refused("nameless").message
    assert registry.dataset("folder") is not None
