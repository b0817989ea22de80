"""What of Ray's own words reaches the terminal."""

from __future__ import annotations

import ray._private.worker as ray_worker

from tlsearch.search import ray_words


def say(*lines: str, pid: str = "raylet") -> None:
    data = {"pid": pid, "lines": list(lines), "is_err": False, "ip": "127.0.0.1", "job": None}
    ray_worker.print_to_stdstream(data, ignore_prefix=False)


def test_of_workers_that_ended_only_deaths_by_memory_are_told(capsys, monkeypatch):
    prints = ray_worker.print_to_stdstream
    monkeypatch.setattr(ray_worker, "print_to_stdstream", getattr(prints, "unfiltered", prints))
    say("A worker died or was killed while executing a task by an unexpected system error.")
    assert "worker died" in capsys.readouterr().out, "Ray says nothing of itself: no filter is needed"
    ray_words.filter_out()
    ray_words.filter_out()
    say("A worker died or was killed while executing a task. Common causes: (1) the OOM killer")
    assert capsys.readouterr() == ("", "")
    say("2 Workers (tasks / actors) killed due to memory pressure (OOM), 0 Workers crashed")
    assert capsys.readouterr() == ("", ray_words.TOLD + "\n")
    say("from somewhere else", pid="4711")
    assert "from somewhere else" in capsys.readouterr().out
