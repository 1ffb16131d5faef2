"""`equinet convert-mace`, its page and its example: from a file that mace-torch wrote to a potential with its licence."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import preloaded
import pytest
import torch
from ase import Atoms
from e3nn import o3
from typer.testing import CliRunner

import equinet.cli
import equinet.convert
from equinet.checkpoint import load_potential, read_header
from equinet.cli import app
from equinet.convert.mace import published, report
from equinet.convert.mace.origin import warning_of
from equinet.datasets import SAMPLE
from equinet.graph import from_atoms

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs" / "mace.md").read_text()
PLAIN = {"COLUMNS": "220", "TERM": "dumb", "NO_COLOR": "1", "FORCE_COLOR": None}
CUTOFF = 4.0
HEADS = ("pbe", "r2scan")


@pytest.fixture(autouse=True)
def wide_consoles(monkeypatch):
    for console in (equinet.cli.console, equinet.cli.errors_to):
        monkeypatch.setattr(console, "_width", 220)


@pytest.fixture(scope="module")
def build(in_double) -> Callable[..., Any]:
    """A function that builds a small random model with mace-torch; keyword arguments override its own."""
    modules = pytest.importorskip(
        "mace.modules", reason="mace-torch is not installed; CONTRIBUTING.md says how to get it"
    )

    def make(heads: tuple[str, ...] = ("Default",), **overrides: Any) -> torch.nn.Module:
        energies = np.random.default_rng(0).normal(size=(len(heads), 3)) * 100
        arguments = {
            "r_max": CUTOFF,
            "num_bessel": 6,
            "num_polynomial_cutoff": 5,
            "max_ell": 2,
            "interaction_cls": modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
            "interaction_cls_first": modules.interaction_classes["RealAgnosticInteractionBlock"],
            "num_interactions": 2,
            "num_elements": 3,
            "hidden_irreps": o3.Irreps("4x0e+4x1o"),
            "MLP_irreps": o3.Irreps("4x0e"),
            "atomic_energies": energies if len(heads) > 1 else energies[0],
            "avg_num_neighbors": 7.3,
            "atomic_numbers": [1, 6, 8],
            "correlation": 2,
            "gate": torch.nn.functional.silu,
            "radial_MLP": [8],
            "radial_type": "bessel",
            "atomic_inter_scale": [1.7] * len(heads) if len(heads) > 1 else 1.7,
            "atomic_inter_shift": [-0.4] * len(heads) if len(heads) > 1 else -0.4,
            "heads": list(heads),
        }
        with in_double():
            torch.manual_seed(1)
            return modules.ScaleShiftMACE(**{**arguments, **overrides})

    return make


@pytest.fixture(scope="module")
def files(build, tmp_path_factory) -> dict[str, Path]:
    """Model files as mace-torch writes them, by name."""
    folder = tmp_path_factory.mktemp("mace")
    models = {
        "one": build(),
        "heads": build(HEADS),
        "tanh": build(gate=torch.tanh),
    }
    for name, model in models.items():
        torch.save(model, folder / f"{name}.model")
    return {name: folder / f"{name}.model" for name in models}


@pytest.fixture
def known(files, monkeypatch) -> Callable[[str], published.Published]:
    """A function: take the file with one head for the published file of this name."""

    def know(name: str) -> published.Published:
        one = next(one for one in published.published_files() if one.name == name)
        monkeypatch.setitem(published._by_hash(), published.sha256_of(files["one"]), one)
        return one

    return know


def call(*arguments):
    return CliRunner(env=PLAIN).invoke(app, ["convert-mace", *map(str, arguments)])


def works(*arguments) -> str:
    result = call(*arguments)
    assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
    return unstyled(result.stdout)


def fails(*arguments) -> str:
    """See the command fail without a traceback and leave nothing behind; give the sentence it said."""
    out = Path(arguments[1])
    before = set(out.parent.glob("*"))
    result = call(*arguments)
    assert result.exit_code == 1, f"{result.output}\n{result.exception!r}"
    assert isinstance(result.exception, SystemExit)
    assert set(out.parent.glob("*")) == before
    message = unstyled(result.stderr).strip()
    assert message.count("\n") == 0
    assert message.startswith("error: ")
    return message


def unstyled(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r", "\n")


def predicted_by_mace(model: Any, atoms: Atoms, head: int = 0) -> dict[str, torch.Tensor]:
    graph = from_atoms(atoms, CUTOFF)
    species = torch.tensor([[1, 6, 8].index(z) for z in atoms.numbers])
    shifts = graph.unit_shifts.double() @ torch.tensor(atoms.cell.array)
    return model(
        {
            "positions": torch.tensor(atoms.positions),
            "cell": torch.tensor(atoms.cell.array),
            "node_attrs": torch.nn.functional.one_hot(species, 3).double(),
            "edge_index": graph.edge_index,
            "unit_shifts": graph.unit_shifts.double(),
            "shifts": shifts,
            "batch": torch.zeros(len(atoms), dtype=torch.int64),
            "ptr": torch.tensor([0, len(atoms)]),
            "head": torch.tensor([head]),
        },
        compute_stress=bool(atoms.pbc.any()),
    )


# What it does


def test_a_converted_model_has_the_energies_forces_and_stress_of_mace_torch(files, tmp_path, ethanol, triclinic):
    works(files["one"], tmp_path / "one.eqn")
    potential, mace = load_potential(tmp_path / "one.eqn"), torch.load(files["one"], weights_only=False)
    for atoms in (ethanol, triclinic):
        theirs = predicted_by_mace(mace, atoms)
        ours = potential(from_atoms(atoms, CUTOFF), stress=bool(atoms.pbc.any()))
        assert ours["forces"].abs().max() > 1e-3
        for name in ("energy", "forces", *(("stress",) if atoms.pbc.any() else ())):
            torch.testing.assert_close(ours[name], theirs[name], rtol=1e-9, atol=1e-9)


def test_it_tells_what_is_in_the_file_in_both_vocabularies(files, tmp_path):
    printed = works(files["one"], tmp_path / "one.eqn")
    model = torch.load(files["one"], weights_only=False)
    for words in (
        f"SHA-256 {published.sha256_of(files['one'])[:16]}",
        f"ScaleShiftMACE, 2 layers, {sum(p.numel() for p in model.parameters()):,} weights in float64",
        "H C O",
        'RealAgnosticInteractionBlock, here "plain"',
        'RealAgnosticResidualInteractionBlock, here "residual"',
        "4 channels, max_l 1, harmonics up to 2 (max_ell), correlation 2",
        "4 Å (r_max), envelope power 5",
        "6 Bessel functions of the distance, network [8]",
        "7.3 on average",
        "4 hidden channels",
        "no published file has this content",
    ):
        assert words in printed


def test_it_tells_what_to_do_next(files, tmp_path):
    printed = works(files["one"], tmp_path / "one.eqn")
    for command in ("check", "md"):
        assert f"equinet {command} {tmp_path}/one.eqn" in printed
    assert f'start_from = "{tmp_path}/one.eqn"' in printed


def test_square_brackets_in_names_are_shown(files, tmp_path):
    printed = works(files["one"], tmp_path / "[red]one.eqn")
    assert "[red]one.eqn" in printed
    assert "under [train]" in printed


def test_the_precision_can_be_chosen(files, tmp_path):
    works(files["one"], tmp_path / "one.eqn", "--dtype", "float32")
    assert load_potential(tmp_path / "one.eqn").dtype == torch.float32
    assert load_potential(tmp_path / "one.eqn").scale.reference.dtype == torch.float64


def test_neither_mace_torch_nor_its_e3nn_is_imported(files, tmp_path):
    script = (
        "import sys; sys.modules['mace'] = None\n"
        "import equinet.cli\n"
        f"equinet.cli.app(['convert-mace', {str(files['one'])!r}, {str(tmp_path / 'one.eqn')!r}], standalone_mode=False)\n"
        "assert not any(name.startswith('mace.') for name in sys.modules)"
    )
    done = preloaded.run([sys.executable, "-c", script])
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "one.eqn").exists()


def test_the_package_can_load_a_mace_model():
    import equinet.convert.mace

    assert equinet.load_mace is equinet.convert.mace.load_mace


# Heads


def test_heads_are_listed_where_none_is_chosen(files, tmp_path):
    message = fails(files["heads"], tmp_path / "out.eqn")
    assert "has several heads, which give different energies: add --head, one of pbe, r2scan" in message


def test_an_unknown_head_is_refused(files, tmp_path):
    message = fails(files["heads"], tmp_path / "out.eqn", "--head", "scan")
    assert "this model has no head 'scan', but 'pbe', 'r2scan'" in message


@pytest.mark.parametrize("number", [0, 1])
def test_a_head_is_taken_by_name(files, tmp_path, ethanol, number):
    works(files["heads"], tmp_path / "out.eqn", "--head", HEADS[number])
    mace = torch.load(files["heads"], weights_only=False)
    theirs, others = (predicted_by_mace(mace, ethanol, head) for head in (number, 1 - number))
    ours = load_potential(tmp_path / "out.eqn")(from_atoms(ethanol, CUTOFF))
    assert not torch.allclose(theirs["forces"], others["forces"], rtol=1e-3)
    for name in ("energy", "forces"):
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-9, atol=1e-9)
    assert read_header(tmp_path / "out.eqn").origin["head"] == HEADS[number]


# Licences


def test_the_file_says_where_it_comes_from(files, tmp_path):
    works(files["one"], tmp_path / "one.eqn")
    origin = read_header(tmp_path / "one.eqn").origin
    assert origin == {
        "file": "one.model",
        "sha256": published.sha256_of(files["one"]),
        "head": "Default",
        "converted_by": f"equinet {equinet.__version__}",
        "published": None,
        "licence": None,
        "licence_note": None,
        "named_like": None,
    }


def test_a_non_commercial_licence_is_told_and_travels_with_the_model(files, known, tmp_path):
    warning = known("MACE-OFF23 small").warning()
    printed = works(files["one"], tmp_path / "one.eqn")
    assert warning
    assert warning in printed
    assert "MACE-OFF23 small: mace_off" in printed
    origin = read_header(tmp_path / "one.eqn").origin
    assert (origin["published"], origin["licence"], origin["licence_note"]) == ("MACE-OFF23 small", "ASL", warning)
    shown = CliRunner(env=PLAIN).invoke(app, ["show", str(tmp_path / "one.eqn")])
    assert '"licence": "ASL"' in unstyled(shown.stdout)
    assert "academic, non-commercial use only" in unstyled(shown.stdout)


def test_a_licence_travels_through_another_conversion(files, known, tmp_path):
    warning = known("MACE-OFF23 small").warning()
    works(files["one"], tmp_path / "one.eqn")
    arguments = ["convert", tmp_path / "one.eqn", "--many-body", "cg", "--out", tmp_path / "two.eqn"]
    assert CliRunner(env=PLAIN).invoke(app, [str(argument) for argument in arguments]).exit_code == 0
    assert warning_of(read_header(tmp_path / "two.eqn").origin) == warning


def test_a_licence_is_told_from_python_and_travels_through_a_training(files, known, tmp_path):
    warning = known("MACE-OFF23 small").warning()
    with pytest.warns(UserWarning, match=re.escape(warning)):
        potential = equinet.load_mace(files["one"])
    equinet.save(potential, tmp_path / "one.eqn")
    config = {"data": {"train": str(SAMPLE["train"]), "valid": 0.9}, "train": {"start_from": "one.eqn", "epochs": 1}}
    (tmp_path / "train.toml").write_text(
        "".join(f"[{k}]\n" + "".join(f"{n} = {json.dumps(v)}\n" for n, v in part.items()) for k, part in config.items())
    )
    done = CliRunner(env=PLAIN).invoke(app, ["train", str(tmp_path / "train.toml"), "--out", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    assert warning_of(read_header(tmp_path / "run" / "model.eqn").origin) == warning


def test_a_free_licence_brings_no_warning(files, known, tmp_path):
    known("MACE-MP-0 small")
    printed = works(files["one"], tmp_path / "one.eqn")
    assert "MACE-MP-0 small" in printed
    assert "MIT" in printed
    assert "non-commercial" not in printed
    assert warning_of(read_header(tmp_path / "one.eqn").origin) is None


@pytest.mark.parametrize(
    ("name", "like", "warned"),
    [("MACE-OFF23_small.model", "MACE-OFF23 small", True), ("MACE_MPtrj_2022.9.model", "MACE-MP-0 large", False)],
)
def test_a_file_named_like_a_published_one_is_told_so(files, tmp_path, name, like, warned):
    model = tmp_path / name
    model.write_bytes(files["one"].read_bytes())
    printed = works(model, tmp_path / "one.eqn")
    assert f"named like {like}" in printed
    assert ("may still be under that licence" in printed) == warned
    origin = read_header(tmp_path / "one.eqn").origin
    assert origin["named_like"] == like
    assert origin["licence"] is None
    assert (warning_of(origin) is not None) == warned


# What it refuses


def test_nothing_is_overwritten(files, tmp_path):
    out = tmp_path / "one.eqn"
    out.write_text("mine")
    assert "is there already and is not overwritten" in fails(files["one"], out)
    assert out.read_text() == "mine"


def test_a_folder_to_write_into_must_exist(files, tmp_path):
    assert "there is no folder" in fails(files["one"], tmp_path / "nowhere" / "one.eqn")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no file"),
        (b"garbage" * 100, "is not a zip archive, as a .model file is"),
        (b"", "is empty"),
    ],
)
def test_what_is_no_model_file_is_refused(tmp_path, content, message):
    model = tmp_path / "x.model"
    if content is not None:
        model.write_bytes(content)
    assert message in fails(model, tmp_path / "x.eqn")


def test_a_directory_is_no_model_file(tmp_path):
    assert "there is no file" in fails(tmp_path, tmp_path / "x.eqn")


def test_a_model_of_equinet_is_no_model_of_mace(files, tmp_path):
    works(files["one"], tmp_path / "one.eqn")
    assert "is an equinet or another safetensors file" in fails(tmp_path / "one.eqn", tmp_path / "two.eqn")


def test_what_equinet_has_no_form_for_is_named(files, tmp_path):
    message = fails(files["tanh"], tmp_path / "x.eqn")
    assert "cannot be converted; equinet has no form for the gate" in message
    assert "tanh" in message


def test_weights_that_are_no_numbers_are_refused(build, tmp_path):
    model = build()
    with torch.no_grad():
        model.interactions[1].linear.weight[0] = math.nan
    torch.save(model, tmp_path / "nan.model")
    message = fails(tmp_path / "nan.model", tmp_path / "nan.eqn")
    assert "holds numbers that are not finite, in `model.interactions.1.linear.weights." in message
    assert not (tmp_path / "nan.eqn").exists()


def test_a_file_that_does_not_read_as_it_was_written_is_not_kept(files, tmp_path, monkeypatch):
    def changed(old, new):
        return equinet.convert.products.Change(0.1, 0.2, 0.3, 0.4, 5)

    monkeypatch.setattr("equinet.convert.products.measure_change", changed)
    message = fails(files["one"], tmp_path / "x.eqn")
    assert "does not give the energies of" in message
    assert "nothing was written" in message


# The page and the example


def test_the_page_lists_the_published_files_as_the_code_does():
    """To mend it: print(equinet.convert.mace.report.table_of_published())"""
    assert report.table_of_published() in PAGE


def test_links_of_the_page_lead_somewhere():
    targets = [target for target in re.findall(r"\]\(([^)#]+)\)", PAGE) if not target.startswith("https://")]
    assert targets
    for target in targets:
        assert (REPOSITORY / "docs" / target).exists(), target


def test_the_python_of_the_page_runs(files, build, tmp_path):
    from equinet.datasets import SAMPLE

    build()  # the way back needs mace-torch
    (tmp_path / "mace.model").write_bytes(files["one"].read_bytes())
    lines = SAMPLE["train"].read_text().splitlines(keepends=True)
    (tmp_path / "frames.xyz").write_text("".join(lines[: 3 * 3 + 4 * 11]))
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    (tmp_path / "page.py").write_text("\n".join(blocks))
    works(files["one"], tmp_path / "mace.eqn")
    done = preloaded.run([sys.executable, "-W", "ignore", "page.py"], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[-1]) < 1e-9  # the way back


def test_the_example_runs_and_is_short(files, tmp_path):
    example = REPOSITORY / "examples" / "mace_model.py"
    for arguments, words in (
        ([], "MACE-MP-0 medium"),
        ([files["one"]], " eV, largest force "),
        ([files["heads"], SAMPLE_ETHANOL, "pbe"], " eV, largest force "),
    ):
        command = [sys.executable, str(example), *map(str, arguments)]
        done = preloaded.run(command, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert words in done.stdout
    assert load_potential(tmp_path / "from_mace.eqn").symbols == ("H", "C", "O")
    assert len(example.read_text().splitlines()) < 40


SAMPLE_ETHANOL = REPOSITORY / "equinet" / "datasets" / "sample" / "ethanol_test.xyz"
