"""The sweep file that is kept with the results, and a run that goes on from it alone."""

from pathlib import Path

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

import sweep.cli
from energyaware.errors import InputError
from sweep.sweep_file import dump, loads, parse

HOSTILE = ["1e5", "0809", "12e03", "5e-5", "2e-4", "08", "010", "0x1f", "0o17", "1_000", "1.", ".5", ".inf", ".nan"]
HOSTILE += ["true", "yes", "null", "~", "2026-02-30", "1:30", "-", "--", "..", "<<", "=", "größe"]

texts = st.sampled_from(HOSTILE) | st.text("0123456789eExo._-+:~", min_size=1, max_size=8)


@given(texts, texts, st.floats(1e-12, 1e12))
@example("2e-4", "08", 1e-5)
def test_what_a_run_keeps_is_read_as_the_same_sweep(name, revision, rate):
    asked = {"precisions": "bf16", "model": {"hub": "a/b", "revision": revision}, "finetune": {"learning_rate": rate}}
    sweep = parse(asked, Path(f"/sweeps/{name}.yaml"))
    kept = dump(sweep)
    assert loads(kept, "/results/sweep.yaml") == sweep
    assert yaml.safe_load(kept)["name"] == sweep.name, "the analysis reads its own keys of it as YAML 1.1"


@pytest.fixture
def resumed(monkeypatch, tmp_path):
    """Resumes from a kept file of those bytes; gives the arguments that the run would have had."""

    def resume(content):
        runs = []
        monkeypatch.setattr(sweep.cli, "_run", lambda *arguments, **_: runs.append(arguments))
        (tmp_path / "sweep.yaml").write_bytes(content)
        sweep.cli.resume(f"{tmp_path}/")
        return runs[0]

    return resume


def test_a_run_goes_on_from_the_kept_file_wherever_python_writes_other_than_utf_8(resumed, tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "write_text", None)
    asked, *_, source, _ = resumed("precisions: bf16\nmodel: ./größe\nname: größe".encode())
    assert (asked.name, asked.model[0].folder) == ("größe", str(tmp_path / "größe"))
    assert source == f"{tmp_path}/sweep.yaml"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"precisions: [bf17]", "precisions[0]: 'bf17' is no precision"),
        (b"precisions: [", "line 1, column 14: not YAML"),
        (b"\xff\xfe", "cannot be read: 'utf-8'"),
    ],
)
def test_a_damaged_file_is_named_where_it_is_kept(resumed, tmp_path, content, problem):
    with pytest.raises(InputError) as caught:
        resumed(content)
    assert str(caught.value).startswith(f"{tmp_path}/sweep.yaml: {problem}")
