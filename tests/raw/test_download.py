"""Complete and interrupted downloads, against a server on the loopback interface."""

from __future__ import annotations

import hashlib
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from recbole_llm.errors import UserError
from recbole_llm.raw.download import ATTEMPTS, download
from tests.file_server import FileServer
from tests.processes import wait_for

DATA = bytes(range(256)) * 4000  # a million bytes
SHA = hashlib.sha256(DATA).hexdigest()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def server():
    with FileServer({"/a.gz": DATA}) as running:
        yield running


def left_over(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != "a.gz")


def test_a_file_is_fetched_whole(server, tmp_path):
    path = download(server.url("/a.gz"), tmp_path / "raw" / "a.gz", SHA, pause=0)
    assert path.read_bytes() == DATA
    assert left_over(tmp_path / "raw") == []
    assert server.seen == [None]


def test_a_broken_connection_is_gone_on_with(server, tmp_path):
    server.cuts = [300_000, 200_000]
    path = download(server.url("/a.gz"), tmp_path / "a.gz", SHA, pause=0)
    assert path.read_bytes() == DATA
    assert server.seen == [None, "bytes=300000-", "bytes=500000-"]
    assert left_over(tmp_path) == []


def test_another_start_goes_on_where_the_first_was_given_up(server, tmp_path):
    server.cuts = [400_000] + [0] * (ATTEMPTS - 1)
    with pytest.raises(UserError, match=r"keeps breaking .* 400,000 bytes are kept"):
        download(server.url("/a.gz"), tmp_path / "a.gz", SHA, pause=0)
    assert not (tmp_path / "a.gz").exists()
    server.seen.clear()
    assert download(server.url("/a.gz"), tmp_path / "a.gz", SHA, pause=0).read_bytes() == DATA
    assert server.seen == ["bytes=400000-"]


def test_bytes_of_two_versions_are_never_joined(server, tmp_path):
    server.cuts = [400_000] + [0] * (ATTEMPTS - 1)
    with pytest.raises(UserError):
        download(server.url("/a.gz"), tmp_path / "a.gz", pause=0)
    server.files["/a.gz"] = DATA[::-1]
    assert download(server.url("/a.gz"), tmp_path / "a.gz", pause=0).read_bytes() == DATA[::-1]


def test_a_server_that_knows_no_ranges_is_asked_for_all_of_it_again(server, tmp_path):
    server.ranges, server.cuts = False, [300_000]
    assert download(server.url("/a.gz"), tmp_path / "a.gz", SHA, pause=0).read_bytes() == DATA


def test_without_a_tag_a_partial_file_is_not_trusted(server, tmp_path):
    server.tagged, server.cuts = False, [300_000]
    assert download(server.url("/a.gz"), tmp_path / "a.gz", SHA, pause=0).read_bytes() == DATA
    assert server.seen == [None, None]


def test_what_had_arrived_whole_is_not_fetched_again(server, tmp_path):
    (tmp_path / "a.gz.part").write_bytes(DATA)
    (tmp_path / "a.gz.part.tag").write_text('"x"')
    assert download(server.url("/a.gz"), tmp_path / "a.gz", SHA, pause=0).read_bytes() == DATA


def test_a_wrong_checksum_is_refused(server, tmp_path):
    with pytest.raises(UserError, match=f"the sha256 is {SHA}, not {'0' * 64} as published"):
        download(server.url("/a.gz"), tmp_path / "a.gz", "0" * 64, pause=0)
    assert not (tmp_path / "a.gz").exists()
    assert not (tmp_path / "a.gz.part").exists()


def test_a_busy_server_is_asked_again(server, tmp_path):
    server.refusals = [503, 429]
    assert download(server.url("/a.gz"), tmp_path / "a.gz", pause=0).read_bytes() == DATA


@pytest.mark.parametrize("status", [403, 404])
def test_a_refusal_is_not_asked_again(server, tmp_path, status):
    server.refusals = [status]
    with pytest.raises(UserError, match=f"answers {status}"):
        download(server.url("/a.gz"), tmp_path / "a.gz", pause=0)
    assert len(server.seen) == 1


def test_an_address_where_nobody_answers_is_a_user_error(tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(UserError, match="cannot be reached"):
            download(f"http://127.0.0.1:{unused.getsockname()[1]}/a.gz", tmp_path / "a.gz", pause=0)


def test_other_schemes_are_refused(tmp_path):
    with pytest.raises(UserError, match="only http and https"):
        download("file:///etc/passwd", tmp_path / "a.gz")


def test_a_folder_that_cannot_be_made_is_a_user_error(server, tmp_path):
    (tmp_path / "raw").write_text("a file")
    with pytest.raises(UserError, match="raw cannot be made"):
        download(server.url("/a.gz"), tmp_path / "raw" / "a.gz", pause=0)


def test_two_commands_at_once_fetch_a_file_once(tmp_path, caplog):
    """Both appended to the same half, and what was checked changed afterwards."""
    caplog.set_level("INFO")
    asked, may_answer = threading.Event(), threading.Event()

    class Waiting(FileServer):
        def answer(self, request):
            asked.set()
            may_answer.wait(60)
            super().answer(request)

    with Waiting({"/a.gz": DATA}) as server, ThreadPoolExecutor(2) as pool:
        fetches = [pool.submit(download, server.url("/a.gz"), tmp_path / "a.gz", SHA, pause=0)]
        try:
            assert asked.wait(60)
            fetches.append(pool.submit(download, server.url("/a.gz"), tmp_path / "a.gz", SHA, pause=0))
            wait_for(lambda: "another process is at a download into" in caplog.text, 10)
        finally:
            may_answer.set()
        assert {each.result().read_bytes() for each in fetches} == {DATA}
    assert server.seen == [None]
    assert left_over(tmp_path) == []


def test_what_came_from_one_address_is_not_gone_on_with_at_another(server, tmp_path):
    """Different mirrors may use the same ETag for different bytes."""
    server.files["/mirror/a.gz"] = DATA
    server.cuts = [400_000] + [0] * (ATTEMPTS - 1)
    with pytest.raises(UserError, match="400,000 bytes are kept"):
        download(server.url("/a.gz"), tmp_path / "a.gz", pause=0)
    server.seen.clear()
    assert download(server.url("/mirror/a.gz"), tmp_path / "a.gz", pause=0).read_bytes() == DATA
    assert server.seen == [None]
