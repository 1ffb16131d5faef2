"""The configuration: every key explained, nothing misspelt gets through, what was written reads back the same."""

import glob
import os
import re
import tomllib
from pathlib import Path

import pytest

from equinet.train import parse_config, read_config, to_toml
from equinet.train.config import describe_keys

DATA = {"train": "frames.xyz"}


def with_key(section, key, value):
    return {"data": DATA, section: {**(DATA if section == "data" else {}), key: value}}


@pytest.fixture
def write_config(tmp_path):
    """Writes a configuration and reads it with settings."""

    def write_and_read(text='[data]\ntrain = "frames.xyz"\n', settings=()):
        path = tmp_path / "config.toml"
        path.write_text(text)
        return read_config(path, settings)

    return write_and_read


# Explained


def test_every_key_has_an_explanation():
    for key, _, explanation in describe_keys():
        assert re.fullmatch(r"(data|model|train)\.[a-z0-9_]+", key)
        assert len(explanation.split()) >= 3, key


def test_the_described_keys_are_those_of_a_configuration():
    config = parse_config({"data": DATA})
    keys = [f"{section}.{key}" for section, model in config for key, _ in model]
    assert [key for key, _, _ in describe_keys()] == keys


def test_the_described_defaults_are_what_an_empty_configuration_gets():
    config = parse_config({"data": DATA}).model_dump(mode="json")
    for key, default, _ in describe_keys():
        section, name = key.split(".")
        if default == "required":
            assert key == "data.train"
        elif default == "not set":
            assert config[section][name] is None, key
        else:
            assert tomllib.loads(f"value = {default}")["value"] == config[section][name], key


def test_toml_has_the_explanation_above_every_key():
    lines = to_toml(parse_config({"data": DATA})).splitlines()
    for key, _, explanation in describe_keys():
        section, name = key.split(".")
        after = lines[lines.index(f"[{section}]") :]
        at = next(n for n, line in enumerate(after) if line.startswith((f"{name} = ", f"# {name} is not set")))
        wanted = [f"# {line}" for line in explanation.splitlines()]
        assert after[at - len(wanted) : at] == wanted, key


# Round trip


@pytest.mark.parametrize(
    "tree",
    [
        {"data": DATA},
        {"data": {"train": ["a.xyz", "b.xyz.gz"], "valid": "v.xyz", "test": "t.xyz", "e0s": {"H": -13.6, "Cl": 2e-20}}},
        {"data": {"train": r'C:\frames\the "good" ones é.xyz', "valid": 0.25, "allow_missing": True, "stress_key": ""}},
        {"data": DATA, "model": {"radial_hidden": [], "cutoff": 6, "max_l": 0, "exact_isolated_atoms": False}},
        {"data": DATA, "model": {"radial_hidden": [16, 8], "interaction": "gated", "zbl": True, "channels": 7}},
        {"data": DATA, "train": {"learning_rate": 1e-5, "max_minutes": 1e6, "seed": 12345678901, "ema_decay": 0}},
        {"data": DATA, "train": {"energy_weight": 0.1 + 0.2, "dtype": "float64", "device": "cuda:1", "epochs": 0}},
    ],
)
def test_a_written_configuration_reads_back_the_same(tree):
    config = parse_config(tree)
    assert parse_config(tomllib.loads(to_toml(config))) == config


def test_writing_keeps_every_value_that_was_given():
    tree = {
        "data": {"train": ["a.xyz"], "e0s": {"H": -1.5}},
        "model": {"channels": 5, "radial_hidden": [3]},
        "train": {"learning_rate": 0.004, "max_minutes": 1.5},
    }
    written = tomllib.loads(to_toml(parse_config(tree)))
    for section, keys in tree.items():
        assert {key: written[section][key] for key in keys} == keys


def test_training_frames_are_all_a_configuration_needs(write_config):
    config = write_config()
    assert Path(config.data.train).name == "frames.xyz"
    assert config == parse_config({"data": {"train": config.data.train}, "model": {}, "train": {}})


def test_a_configuration_cannot_be_changed_by_accident():
    config = parse_config({"data": DATA})
    with pytest.raises(ValueError, match="frozen"):
        config.train.epochs = 3


# Unknown keys


@pytest.mark.parametrize(
    ("tree", "wrong", "right"),
    [
        ({"data": DATA, "model": {"chanels": 8}}, "model.chanels", "model.channels"),
        ({"data": DATA, "model": {"Cutoff": 8}}, "model.Cutoff", "model.cutoff"),
        ({"data": DATA, "train": {"learning-rate": 0.1}}, "train.learning-rate", "train.learning_rate"),
        ({"data": DATA, "train": {"epoch": 1}}, "train.epoch", "train.epochs"),
        ({"data": {**DATA, "validation": 0.1}}, "data.validation", "data.valid"),
        ({"data": {**DATA, "force_key": "F"}}, "data.force_key", "data.forces_key"),
        ({"data": DATA, "modle": {}}, "modle", "model"),
        ({"data": DATA, "channels": 8}, "channels", "model.channels"),
        ({"data": DATA, "max_minutes": 8}, "max_minutes", "train.max_minutes"),
    ],
)
def test_an_unknown_key_names_the_nearest_known_one(tree, wrong, right):
    with pytest.raises(ValueError, match=rf"no key `{wrong}`; did you mean `{right}`\?"):
        parse_config(tree)


def test_an_unknown_key_is_told_before_a_wrong_value():
    with pytest.raises(ValueError, match=r"no key `train\.epoch`"):
        parse_config({"data": DATA, "train": {"epoch": 1, "batch_size": -1}})


def test_a_message_names_the_file(write_config, tmp_path):
    with pytest.raises(ValueError, match=f"{tmp_path}/config.toml: there is no key `model.chanels`"):
        write_config('[data]\ntrain = "a.xyz"\n[model]\nchanels = 8\n')


# Wrong values


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("train", "epochs", -1),
        ("train", "epochs", 1.5),
        ("train", "epochs", "many"),
        ("train", "batch_size", 0),
        ("train", "learning_rate", 0.0),
        ("train", "learning_rate", float("nan")),
        ("train", "schedule", "linear"),
        ("train", "max_minutes", 0),
        ("train", "energy_weight", -1.0),
        ("train", "forces_weight", -1.0),
        ("train", "stress_weight", -1.0),
        ("train", "ema_decay", 1.0),
        ("train", "ema_decay", -0.1),
        ("train", "clip_gradient", 0.0),
        ("train", "dtype", "float16"),
        ("model", "channels", 0),
        ("model", "max_l", 7),
        ("model", "sh_degree", -1),
        ("model", "correlation", 8),
        ("model", "layers", 0),
        ("model", "cutoff", -5.0),
        ("model", "convolution", "fft"),
        ("model", "many_body", "cuda"),
        ("model", "envelope_power", 1),
        ("model", "radial_hidden", 64),
        ("data", "train", 3),
        ("data", "valid", [1]),
        ("data", "e0s", "automatic"),
        ("data", "e0s", {"H": "low"}),
        ("data", "scale_shift", "none"),
        ("data", "allow_missing", "perhaps"),
    ],
)
def test_a_wrong_value_is_named_with_its_key(section, key, value):
    with pytest.raises(ValueError, match=rf"`{section}\.{key}[`.]") as caught:
        parse_config(with_key(section, key, value))
    assert repr(value) in str(caught.value) or repr("low") in str(caught.value)


def test_a_missing_train_file_is_named():
    with pytest.raises(ValueError, match=r"`data\.train`: Field required"):
        parse_config({"data": {}})
    with pytest.raises(ValueError, match="`data`: Field required"):
        parse_config({})


def test_a_section_that_is_no_table_is_named():
    with pytest.raises(ValueError, match=r"`model`: a model is described by a table of keys, got 3"):
        parse_config({"data": DATA, "model": 3})


def test_all_wrong_values_are_told_at_once():
    with pytest.raises(ValueError, match=r"`model\.channels`.*`train\.epochs`"):
        parse_config({"data": DATA, "model": {"channels": 0}, "train": {"epochs": -1}})


def test_a_missing_or_broken_file_is_named(tmp_path, write_config):
    with pytest.raises(FileNotFoundError, match=r"there is no configuration .*nowhere\.toml"):
        read_config(tmp_path / "nowhere.toml")
    with pytest.raises(ValueError, match=r"config\.toml is not valid TOML: .*line 2"):
        write_config("[data]\ntrain = frames.xyz\n")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"[data]\ntrain = '\xff.xyz'\n", "can't decode byte 0xff"),
        (b"x = 1" + b"0" * 5000, "limit .* for integer string conversion"),
        (b"x = " + b"[" * 50_000, "recursion"),
    ],
    ids=["bytes that are no text", "digits", "depth"],
)
def test_a_file_that_toml_cannot_be_is_named(tmp_path, content, complaint):
    path = tmp_path / "odd.toml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"odd\.toml is not valid TOML: .*{complaint}"):
        read_config(path)


# Settings


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("model.channels=32", 32),
        ("model.channels = 32", 32),
        ("train.learning_rate=0.005", 0.005),
        ("train.learning_rate=5e-3", 0.005),
        ("model.zbl=true", True),
        ("model.interaction=gated", "gated"),
        ("model.radial_hidden=[8, 16]", (8, 16)),
        ("data.train=['a.xyz', 'b.xyz']", [os.path.abspath("a.xyz"), os.path.abspath("b.xyz")]),
        ("data.train=bare.xyz", os.path.abspath("bare.xyz")),
        ("data.train=/some/where/a-b_c.xyz", "/some/where/a-b_c.xyz"),
        ("data.train=../the = sign.xyz", os.path.abspath("../the = sign.xyz")),
        ("data.train='quoted.xyz'", os.path.abspath("quoted.xyz")),
        ("data.valid=0.2", 0.2),
        ("data.valid=other.xyz", os.path.abspath("other.xyz")),
        ("data.e0s=least_squares", "least_squares"),
        ("data.e0s={ H = -13.6, C = -1029 }", {"H": -13.6, "C": -1029.0}),
        ("train.device=cuda:1", "cuda:1"),
        ("train.dtype=float64", "float64"),
    ],
)
def test_a_setting_overrides_a_key(write_config, setting, value):
    text = '[data]\ntrain = "frames.xyz"\n[model]\nchannels = 8\n[train]\nlearning_rate = 0.1\n'
    config = write_config(text, [setting])
    section, name = setting.partition("=")[0].strip().split(".")
    found = getattr(getattr(config, section), name)
    assert found == value
    assert type(found) is type(value)


def test_a_setting_adds_to_a_table(write_config):
    config = write_config('[data]\ntrain = "a.xyz"\ne0s = { H = -1.0 }\n', ["data.e0s.C=-2.5"])
    assert config.data.e0s == {"H": -1.0, "C": -2.5}


def test_the_last_of_two_settings_counts(write_config):
    assert write_config(settings=["model.channels=8", "model.channels=16"]).model.channels == 16


def test_a_setting_leaves_other_keys_alone(write_config):
    config = write_config('[data]\ntrain = "a.xyz"\n[model]\nchannels = 8\nmax_l = 2\n', ["model.channels=16"])
    assert (config.model.channels, config.model.max_l) == (16, 2)


@pytest.mark.parametrize("setting", ["model.channels", "channels=8", "=8", "model.=8", ".channels=8"])
def test_a_setting_without_section_key_or_value_is_refused(write_config, setting):
    with pytest.raises(ValueError, match=rf"`settings` must read section.key=value, .* got '{re.escape(setting)}'"):
        write_config(settings=[setting])


def test_a_setting_below_a_value_is_refused(write_config):
    with pytest.raises(ValueError, match=r"`settings`: in 'data\.train\.file=a' `train` is a value, not a section"):
        write_config(settings=["data.train.file=a"])


def test_an_unknown_key_in_a_setting_names_the_nearest_known_one(write_config):
    with pytest.raises(ValueError, match=r"no key `model\.chanels`; did you mean `model\.channels`"):
        write_config(settings=["model.chanels=8"])


def test_a_wrong_value_in_a_setting_names_the_key(write_config):
    with pytest.raises(ValueError, match=r"`train\.epochs`.*'ten'"):
        write_config(settings=["train.epochs=ten"])


# Paths


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Two folders, `here` (where the program runs) and `project` (where the configuration is)."""
    here, project = tmp_path / "here", tmp_path / "project"
    here.mkdir()
    project.mkdir()
    monkeypatch.chdir(here)
    return here, project


def test_data_files_beside_the_configuration_are_found(folders):
    _, project = folders
    (project / "data").mkdir()
    for name in ("data/a.xyz", "b.xyz", "v.xyz", "t.xyz"):
        (project / name).touch()
    (project / "c.toml").write_text('[data]\ntrain = ["data/a.xyz", "b.xyz"]\nvalid = "v.xyz"\ntest = "t.xyz"\n')
    data = read_config("../project/c.toml").data
    found = [*data.train, data.valid, data.test]
    names = ("data/a.xyz", "b.xyz", "v.xyz", "t.xyz")
    assert [os.path.abspath(path) for path in found] == [str(project / name) for name in names]


def test_a_single_data_file_beside_the_configuration_is_found(folders):
    _, project = folders
    (project / "a.xyz").touch()
    (project / "c.toml").write_text('[data]\ntrain = "a.xyz"\nvalid = 0.2\n')
    data = read_config(project / "c.toml").data
    assert data.train == str(project / "a.xyz")
    assert data.valid == 0.2


def test_a_file_of_that_name_where_the_program_runs_does_not_win(folders):
    here, project = folders
    (here / "a.xyz").touch()
    (project / "c.toml").write_text('[data]\ntrain = "a.xyz"\n')
    assert read_config(project / "c.toml").data.train == str(project / "a.xyz")


def test_data_files_of_a_setting_are_looked_for_where_the_program_runs(folders):
    here, project = folders
    (project / "c.toml").write_text('[data]\ntrain = "a.xyz"\n')
    assert read_config(project / "c.toml", ["data.train=b.xyz"]).data.train == str(here / "b.xyz")


def test_absolute_paths_stay_as_they_are(folders):
    here, project = folders
    (project / "c.toml").write_text(f"[data]\ntrain = '{here}/a.xyz'\n")
    assert read_config(project / "c.toml").data.train == f"{here}/a.xyz"


@pytest.mark.parametrize("pattern", ["data/*.xyz", "run[12].xyz", "**/a.xyz"])
def test_patterns_stay_patterns_beside_the_configuration(folders, tmp_path, pattern):
    odd = tmp_path / "project [1]"
    odd.mkdir()
    (odd / "c.toml").write_text(f'[data]\ntrain = "{pattern}"\n')
    train = read_config(odd / "c.toml").data.train
    assert train == f"{glob.escape(str(odd))}/{pattern}"
    (tmp_path / "saved.toml").write_text(to_toml(read_config(odd / "c.toml")))
    assert read_config(tmp_path / "saved.toml").data.train == train


def test_a_file_with_brackets_in_its_name_is_no_pattern(folders):
    _, project = folders
    (project / "a[1].xyz").touch()
    (project / "c.toml").write_text('[data]\ntrain = "a[1].xyz"\n')
    assert read_config(project / "c.toml").data.train == str(project / "a[1].xyz")


def test_the_home_folder_is_that_of_the_user(folders, monkeypatch):
    here, project = folders
    monkeypatch.setenv("HOME", str(here))
    (project / "c.toml").write_text('[data]\ntrain = ["~/a.xyz", "~/b*.xyz"]\n')
    assert read_config(project / "c.toml").data.train == [f"{here}/a.xyz", f"{here}/b*.xyz"]


def test_the_saved_configuration_finds_its_data_from_anywhere(folders, tmp_path):
    _, project = folders
    (project / "c.toml").write_text('[data]\ntrain = "a.xyz"\n')
    config = read_config(project / "c.toml")
    (tmp_path / "saved.toml").write_text(to_toml(config))
    assert read_config(tmp_path / "saved.toml") == config


LONG = "a" * 10_000


@pytest.mark.parametrize(
    "text",
    [
        f'data.train = "a.xyz"\ntrain.dtype = "{LONG}"',
        f'data.train = "a.xyz"\ntrain.{LONG} = 1',
        f'data.train = "a.xyz"\n{LONG} = 1',
        f'data.train = "a.xyz"\nmodel.architecture = "{LONG}"',
        f'data.train = "a.xyz"\nmodel.convolution = "{LONG}"',
        f'data.train = "a.xyz"\nmodel.many_body = {{ method = "cg", {LONG} = 1 }}',
        f'data.train = "a.xyz"\ndata.keys = {{ {LONG} = "x" }}',
        f"data.train = {{ a = [{', '.join(['[[1]]'] * 3000)}] }}",
        f"data.train = [{', '.join(['1'] * 3000)}]",
        f'data.train = "a.xyz"\ntrain.epochs = 0x{"f" * 10_000}',
        'data.train = "a.xyz"\ndata.keys = { "\\u001b[31m" = "x" }',
    ],
    ids=range(11),
)
def test_long_values_are_quoted_in_part(write_config, text):
    with pytest.raises(ValueError, match=r"config\.toml: ") as caught:
        write_config(text)
    assert len(str(caught.value)) < 1500
    assert str(caught.value).isprintable()


def test_of_many_faults_the_first_are_told():
    with pytest.raises(ValueError, match=r"`train.epochs`: .*; `train.batch_size`: .*; `train.seed`: .*; and 2 more$"):
        parse_config({"data": DATA, "train": {"epochs": -1, "batch_size": 0, "seed": -1, "dtype": "x", "compile": 0}})


def test_a_setting_that_is_none_is_quoted_in_part(write_config):
    for setting in (LONG, f"data.train.{LONG}=1"):
        with pytest.raises(ValueError, match="`settings`") as caught:
            write_config(settings=[setting])
        assert len(str(caught.value)) < 400
