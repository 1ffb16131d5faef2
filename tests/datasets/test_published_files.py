"""Files of published sets: found and verified on this machine, or fetched, resumed and verified."""

from __future__ import annotations

import gzip
import os
import socket
from contextlib import closing
from pathlib import Path

import pytest
from toy_set import serving, toy_set

from equinet.datasets.published import cache_folder, fetch, find_file, find_local, locate, state_of
from equinet.datasets.published import local as local_module
from equinet.datasets.published.fetch import NotFetchedError
from equinet.runs.lock import InUseError, exclusive


@pytest.fixture
def server():
    with serving() as running:
        yield running


@pytest.fixture
def toys(monkeypatch, tmp_path, server):
    with toy_set(monkeypatch, tmp_path, server.base) as placed:
        server.files |= {f"/{name}.xyz": content for name, content in placed.content.items()}
        yield placed


@pytest.fixture
def data(monkeypatch, tmp_path):
    """Two folders of EQUINET_DATA."""
    folders = [tmp_path / "one", tmp_path / "two"]
    monkeypatch.setenv("EQUINET_DATA", os.pathsep.join(map(str, folders)))
    return folders


# On this machine


@pytest.mark.parametrize("packed", [False, True])
def test_a_file_is_found_in_any_folder_of_data_plain_or_gzipped(toys, data, packed):
    path = toys.put(
        data[1], "train", packed=packed
    )  # gzipped anew: other bytes than the copy on the card, the same content
    assert find_local(find_file("toy/train")) == path
    assert locate("toy/train").path == str(path)


def test_a_file_is_found_in_the_cache(toys):
    path = toys.put(cache_folder(), "train")
    assert find_local(find_file("toy/train")) == path
    assert find_local(find_file("toy/test")) is None


def test_the_gzipped_copy_on_the_card_is_known_by_its_own_bytes(toys, data):
    path = toys.put(data[0], "train", packed=True)
    path.write_bytes(gzip.compress(toys.content["train"], mtime=0))
    assert find_local(find_file("toy/train")) == path


@pytest.mark.parametrize("packed", [False, True])
def test_a_changed_file_is_refused(toys, data, packed):
    toys.content["train"] = toys.content["train"].replace(b"energy=-", b"energy=+", 1)
    toys.put(data[0], "train", packed=packed)
    toys.put(data[1], "test", packed=packed)
    with pytest.raises(
        ValueError, match=r"is not the published toy/train: its SHA-256 is .*`equinet data get toy/train`"
    ):
        locate("toy/train")
    assert [state_of(find_file(f"toy/{name}")) for name in ("train", "test", "atoms")] == [
        "wrong checksum",
        "here",
        "missing",
    ]


def test_a_truncated_gzipped_file_is_refused(toys, data):
    path = toys.put(data[0], "train", packed=True)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match="is not the published toy/train"):
        find_local(find_file("toy/train"))


def test_a_verdict_is_remembered_until_the_file_changes(toys, data, monkeypatch):
    path, computed = toys.put(data[0], "train"), []
    monkeypatch.setattr(
        local_module, "sha256_of", lambda path, own=local_module.sha256_of: computed.append(path) or own(path)
    )
    for _ in range(3):
        find_local(find_file("toy/train"))
    assert len(computed) == 1
    path.write_bytes(toys.content["train"] + b" ")
    with pytest.raises(ValueError, match="is not the published"):
        find_local(find_file("toy/train"))


def test_a_damaged_memory_of_verdicts_is_no_obstacle(toys, data):
    path = toys.put(data[0], "train")
    cache_folder().mkdir(parents=True)
    for nonsense in ("{", "[]", '{"a": 1}'):
        (cache_folder() / "checksums.json").write_text(nonsense)
        assert find_local(find_file("toy/train")) == path


# From a server


def test_a_missing_file_is_fetched_into_the_cache_and_verified(toys, server):
    moves = []
    path = fetch(find_file("toy/train"), advance=lambda done, total: moves.append((done, total)))
    assert path == cache_folder() / "toy" / "train.xyz"
    assert path.read_bytes() == toys.content["train"]
    size = len(toys.content["train"])
    assert (moves[0], moves[-1]) == ((0, size), (size, size))
    assert locate("toy/train").path == str(path)
    assert server.requests == [None]


def test_a_name_fetches_by_itself_and_says_so(toys, caplog):
    with caplog.at_level("INFO", logger="equinet"):
        assert Path(locate("toy/test").path).read_bytes() == toys.content["test"]
    assert "fetching toy/test from http://127.0.0.1" in caplog.text


def test_an_interrupted_download_goes_on_where_it_broke_off(toys, server):
    server.limits = [700]
    fetch(find_file("toy/train"))
    assert server.requests == [None, "bytes=700-"]
    assert locate("toy/train").path


def test_a_download_that_keeps_breaking_off_keeps_what_it_has(toys, server):
    server.limits = [700, 100, 0]
    with pytest.raises(NotFetchedError, match="800 bytes are kept, and the next try goes on from there"):
        fetch(find_file("toy/train"))
    fetch(find_file("toy/train"))
    assert server.requests[-1] == "bytes=800-"
    assert (cache_folder() / "toy" / "train.xyz").read_bytes() == toys.content["train"]


def test_a_server_without_ranges_sends_all_of_it_again(toys, server):
    server.limits, server.ranges = [700], False
    assert fetch(find_file("toy/train")).read_bytes() == toys.content["train"]


def test_a_whole_but_unnamed_download_is_begun_anew(toys, server):
    partial = cache_folder() / "toy" / "train.xyz.part"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(toys.content["train"] + b"more")
    assert fetch(find_file("toy/train")).read_bytes() == toys.content["train"]


def test_a_file_with_another_checksum_is_removed(toys, server):
    server.files["/train.xyz"] = toys.content["test"]
    with pytest.raises(NotFetchedError, match=r"brought a file with the SHA-256 .* and toy/train has .*it is damaged"):
        fetch(find_file("toy/train"))
    assert [path.name for path in (cache_folder() / "toy").iterdir() if path.name[0] != "."] == []


def test_a_refusal_of_the_server_is_told(toys, server):
    server.files.clear()
    with pytest.raises(NotFetchedError, match=r"could not be fetched: Not Found\. Fetch it on another machine"):
        fetch(find_file("toy/train"))


def test_without_a_network_it_is_told_what_to_put_where(toys, server, monkeypatch, tmp_path):
    with closing(socket.socket()) as unused:
        unused.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{unused.getsockname()[1]}/train.xyz"
    file = find_file("toy/train")
    object.__setattr__(file, "url", nowhere)
    with pytest.raises(NotFetchedError) as refused:
        locate("toy/train")
    for part in (
        nowhere,
        f"is in none of {cache_folder()}",
        f"{cache_folder()}/toy/train.xyz",
        "EQUINET_DATA",
        file.sha256,
    ):
        assert part in str(refused.value)
    assert "bytes are kept" not in str(refused.value)


def test_a_converted_file_is_not_fetched_but_explained(toys, server):
    with pytest.raises(
        NotFetchedError, match=r"made from https://example\.org/toys: a file in another format\. Put it as"
    ):
        locate("toy/converted")
    assert server.requests == []


def test_two_processes_do_not_write_one_file(toys):
    folder = cache_folder() / "toy"
    folder.mkdir(parents=True)
    with (
        exclusive(folder / ".train.xyz.lock", "it"),
        pytest.raises(InUseError, match=r"toy/train in the cache is being written by .* or try again"),
    ):
        fetch(find_file("toy/train"))


def test_a_cache_that_cannot_be_written_is_named(toys, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(OSError, match="cannot be written"):
        fetch(find_file("toy/train"))
