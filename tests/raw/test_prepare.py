"""``prepare``: what it makes, what it need not make again, what it refuses."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path

import pytest

from recbole_llm.cli import main
from recbole_llm.data.catalog import BUNDLED, locate
from recbole_llm.data.inter_file import ReadSpec, read_interactions
from recbole_llm.errors import UserError
from recbole_llm.raw import prepare as module
from recbole_llm.raw.prepare import FAMILIES, prepare, render_report
from recbole_llm.raw.source import RawFile, RawSpec, preparable, read_spec
from tests.file_server import FileServer
from tests.raw.raw_files import DAY, amazon_spec, inter, items, meta, run, write_amazon

# Three users with the same three items, and a chain of rows (A8, B9, A9) that a k-core of 2 or 3 removes.
CORE = [(f"A{u}", f"B{i}", 1 + (u * 2 + i) % 5) for u in range(3) for i in range(3)]
ROWS = [*CORE, ("A9", "B9", 1), ("A9", "B0", 2), ("A8", "B9", 3)]
RECORDS = [meta(f"B{i}", f"Item {i}") for i in (0, 1, 2, 9)]


@pytest.fixture
def raw(tmp_path):
    return write_amazon(tmp_path / "raw", ROWS, RECORDS)


def test_the_k_core_is_taken_and_what_goes_is_counted(raw):
    report = run(amazon_spec(kcore=3), raw)
    assert sorted(row[:2] for row in inter(report)) == sorted([u, i] for u, i, _ in CORE)
    assert report.counts["rows_below_kcore"] == 3
    assert set(items(report)) == {"B0", "B1", "B2"}


def test_kcore_can_be_set(raw):
    assert run(amazon_spec(kcore=3), raw, kcore=0).counts["interactions"] == len(ROWS)


def test_a_k_core_that_leaves_nothing_is_a_user_error(raw):
    with pytest.raises(UserError, match="--kcore=50 leaves no interaction"):
        run(amazon_spec(), raw, kcore=50)
    with pytest.raises(UserError, match="--kcore=-1"):
        run(amazon_spec(), raw, kcore=-1)


def test_the_files_read_back_as_they_were_counted(raw):
    report = run(amazon_spec(kcore=2), raw)
    table = read_interactions(report.folder / "toy.inter", ReadSpec(extra=("rating",)))
    assert table.statistics()["users"] == report.counts["users"]
    assert (table.n_items, len(table)) == (report.counts["items"], report.counts["interactions"])
    assert table.time.min() >= DAY
    # The file is already in the reader's canonical order.
    assert [row[1] for row in inter(report)] == table.item_tokens[table.item].tolist()


def test_the_record_tells_sources_rules_and_counts(raw):
    report = run(amazon_spec(kcore=2), raw)
    record = json.loads((report.folder / "prepare.json").read_text(encoding="utf-8"))
    assert record == report.record
    reviews = record["sources"][0]
    assert reviews["file"] == "reviews.json.gz"
    assert reviews["sha256"] == hashlib.sha256((raw / "reviews.json.gz").read_bytes()).hexdigest()
    assert record["rules"]["kcore"] == 2
    assert record["counts"]["rows_read"] == len(ROWS)
    assert set(record["outputs"]) == {"toy.inter", "toy.item"}


def test_the_same_raw_files_give_the_same_bytes(raw, tmp_path):
    first = prepare(amazon_spec(), raw, tmp_path / "one").record["outputs"]
    assert prepare(amazon_spec(), raw, tmp_path / "two").record["outputs"] == first


def test_a_second_call_finds_it_done_even_without_the_raw_files(raw):
    made = run(amazon_spec(), raw)
    (raw / "reviews.json.gz").unlink()
    again = run(amazon_spec(), raw)
    assert made.fresh
    assert not again.fresh
    assert again.counts == made.counts
    assert "was prepared before; nothing to do" in render_report(again)


def test_force_makes_the_files_anew(raw):
    run(amazon_spec(), raw)
    write_amazon(raw, CORE, RECORDS)
    assert run(amazon_spec(), raw, force=True).counts["interactions"] == len(CORE)


def test_files_of_other_rules_are_not_passed_off(raw):
    run(amazon_spec(), raw, kcore=2)
    with pytest.raises(UserError, match=r"prepared by other rules \(kcore=2\); --force"):
        run(amazon_spec(), raw, kcore=3)


def test_files_that_prepare_did_not_make_are_not_replaced(raw):
    folder = raw.parent / "dataset" / "toy"
    folder.mkdir(parents=True)
    (folder / "toy.inter").write_text("user_id:token\titem_id:token\nu\ti\n")
    with pytest.raises(UserError, match="that prepare did not make"):
        run(amazon_spec(), raw)
    assert (folder / "toy.inter").read_text().endswith("u\ti\n")


def test_files_that_were_changed_since_are_noticed(raw):
    report = run(amazon_spec(), raw)
    (report.folder / "toy.item").write_text("item_id:token\n")
    with pytest.raises(UserError, match="are not those that prepare made"):
        run(amazon_spec(), raw)


def test_an_interrupted_call_leaves_no_dataset_behind(raw, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "write_rows", stop)
    with pytest.raises(KeyboardInterrupt):
        run(amazon_spec(), raw)
    assert not list((raw.parent / "dataset").rglob("*.inter"))


@pytest.mark.parametrize("name", ["prepare.json", "toy.item", "toy.inter"])
def test_a_call_that_was_killed_between_two_files_is_gone_on_with(raw, monkeypatch, name):
    replace = Path.replace

    def end(path, target):
        if target.name == name:
            raise KeyboardInterrupt
        return replace(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", end)
        with pytest.raises(KeyboardInterrupt):
            run(amazon_spec(), raw)
    assert not list((raw.parent / "dataset").rglob("*.inter"))
    assert run(amazon_spec(), raw).fresh
    assert not run(amazon_spec(), raw).fresh


def test_a_failure_while_forcing_keeps_what_was_there(raw):
    made = run(amazon_spec(), raw)
    path = raw / "meta.json.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match="truncated"):
        run(amazon_spec(), raw, force=True)
    assert not run(amazon_spec(), raw).fresh
    assert len(inter(made)) == len(ROWS)


def test_counts_stand_beside_the_published_ones(raw):
    report = run(amazon_spec(published={"users": 5, "items": 4, "interactions": 99, "reviews": len(ROWS)}), raw)
    assert report.differences() == ["interactions: 12 here, 99 published (-87)"]
    text = render_report(report)
    assert "-87" in text
    assert text.count("equal") == 3


def test_all_missing_files_are_named_with_their_place(tmp_path):
    with pytest.raises(UserError) as caught:
        prepare(amazon_spec(page="https://example.org/data"), None, tmp_path / "dataset")
    message = str(caught.value)
    assert "put reviews.json.gz, meta.json.gz into" in message
    assert str(tmp_path / "dataset" / "toy" / "raw") in message
    assert "from https://example.org/data" in message
    assert "\n" not in message


def test_missing_files_are_downloaded_and_resumed(raw, tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr("recbole_llm.raw.download.time.sleep", lambda _: None)
    files = {f"/{path.name}": path.read_bytes() for path in raw.iterdir()}
    with FileServer(files) as server:
        server.cuts = [100]
        sources = {
            role: (RawFile(name, (server.url(f"/{name}"),), hashlib.sha256(files[f"/{name}"]).hexdigest()),)
            for role, name in (("reviews", "reviews.json.gz"), ("items", "meta.json.gz"))
        }
        report = prepare(RawSpec("toy", "Toy", "amazon2014", sources), None, tmp_path / "fresh")
    assert server.seen == [None, "bytes=100-", None]
    assert report.counts["interactions"] == len(ROWS)
    assert {p.name for p in (tmp_path / "fresh" / "toy" / "raw").iterdir()} == {"reviews.json.gz", "meta.json.gz"}


def test_only_what_is_missing_is_downloaded(raw, tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with FileServer({"/meta.json.gz": (raw / "meta.json.gz").read_bytes()}) as server:
        (raw / "meta.json.gz").unlink()
        sources = {
            "reviews": (RawFile("reviews.json.gz", (server.url("/reviews.json.gz"),)),),
            "items": (RawFile("meta.json.gz", (server.url("/meta.json.gz"),)),),
        }
        prepare(RawSpec("toy", "Toy", "amazon2014", sources), raw, tmp_path / "fresh")
    assert len(server.seen) == 1


def test_a_hand_placed_file_of_another_checksum_is_warned_of(raw, caplog):
    sources = {"reviews": (RawFile("reviews.json.gz", (), "0" * 64),), "items": (RawFile("meta.json.gz"),)}
    prepare(RawSpec("toy", "Toy", "amazon2014", sources), raw, raw.parent / "dataset")
    assert "as published" in caplog.text


# ---- properties/dataset ------------------------------------------------------------------------


@pytest.mark.parametrize("name", preparable())
def test_every_yaml_file_describes_its_raw_files(name):
    spec = read_spec(name)
    assert spec.family in FAMILIES
    assert spec.page.startswith("https://")
    assert spec.published or name == "yelp"  # Yelp's counts change with each edition
    for alternatives in spec.files.values():
        for file in alternatives:
            assert file.urls or name == "yelp"  # Yelp's licence must be accepted before the download
            for url in file.urls:
                assert url.startswith("https://")
                assert url.endswith((file.name, file.name.removesuffix(".gz")))
            assert len(file.sha256) in (0, 64)


@pytest.mark.parametrize("name", [name for name in preparable() if name not in ("bundle", "yelp")])
def test_more_than_one_address_is_known_of_each_file(name):
    assert all(len(file.urls) > 1 for alternatives in read_spec(name).files.values() for file in alternatives)


@pytest.fixture
def mirrored(raw, monkeypatch):
    """A server and a spec whose raw files each have two URLs there: a dead one and a mirror."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with FileServer({f"/mirror/{path.name}": path.read_bytes() for path in raw.iterdir()}) as server:
        sources = {
            role: (RawFile(name, (server.url(f"/gone/{name}"), server.url(f"/mirror/{name}"))),)
            for role, name in (("reviews", "reviews.json.gz"), ("items", "meta.json.gz"))
        }
        yield server, RawSpec("toy", "Toy", "amazon2014", sources)


def test_a_mirror_stands_in_for_an_address_that_is_gone(mirrored, tmp_path, caplog):
    server, spec = mirrored
    report = prepare(spec, None, tmp_path / "fresh")
    assert report.counts["interactions"] == len(ROWS)
    assert f"{server.url('/gone/reviews.json.gz')}: the server answers 404" in caplog.text
    assert report.record["sources"][0]["urls"] == list(spec.files["reviews"][0].urls)


def test_every_address_that_failed_is_named(mirrored, tmp_path):
    server, spec = mirrored
    server.files.clear()
    with pytest.raises(UserError) as caught:
        prepare(spec, None, tmp_path / "fresh")
    assert all(f"{server.url(path)}: the server answers 404" in str(caught.value)
               for path in ("/gone/reviews.json.gz", "/mirror/reviews.json.gz"))  # fmt: skip
    assert "put reviews.json.gz, meta.json.gz into" in str(caught.value)


def test_a_mirror_may_have_a_file_unpacked(raw, tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    packed = (raw / "reviews.json.gz").read_bytes()
    files = {"/reviews.json": gzip.decompress(packed), "/meta.json.gz": (raw / "meta.json.gz").read_bytes()}
    with FileServer(files) as s:
        sources = {
            "reviews": (RawFile("reviews.json.gz", (s.url("/reviews.json.gz"), s.url("/reviews.json"))),),
            "items": (RawFile("meta.json.gz", (s.url("/meta.json.gz"),)),),
        }
        report = prepare(RawSpec("toy", "Toy", "amazon2014", sources), None, tmp_path / "fresh")
    assert report.counts["interactions"] == len(ROWS)
    assert (tmp_path / "fresh" / "toy" / "raw" / "reviews.json").is_file()


def test_an_unknown_name_is_answered_with_the_nearest(workspace):
    with pytest.raises(UserError, match="Did you mean beauty"):
        prepare("baeuty")
    with pytest.raises(UserError, match="no raw files are known for it"):
        prepare("office")
    with pytest.raises(UserError, match="there is no such dataset"):
        prepare("../overall")


# ---- the command line --------------------------------------------------------------------------


@pytest.fixture
def beauty(workspace):
    """A workspace with raw files under the names of Amazon Beauty 2014."""
    raw = write_amazon(workspace / "downloads", CORE * 1, RECORDS)
    (raw / "reviews.json.gz").rename(raw / "reviews_Beauty_5.json.gz")
    (raw / "meta.json.gz").rename(raw / "meta_Beauty.json.gz")
    return workspace


def test_the_verb_makes_a_dataset_that_others_find(beauty, capsys):
    assert main(["prepare", "beauty", "--raw=downloads", "--kcore=3"]) == 0
    out, err = capsys.readouterr()
    assert "22,363" in out
    assert "warning: users: 3 here, 22,363 published (-22,360)" in err
    location = locate("beauty")
    assert location.interactions.name == "beauty.inter"
    assert main(["prepare", "beauty", "--raw=downloads", "--kcore=3"]) == 0
    assert "was prepared before" in capsys.readouterr().out


def test_mistakes_are_one_line_and_exit_code_2(beauty, capsys):
    assert main(["prepare", "beauty", "--raw=downloads", "--kcore=9"]) == 2
    assert main(["prepare"]) == 2
    assert main(["prepare", "beauty", "--kcor=9"]) == 2
    err = capsys.readouterr().err.splitlines()
    assert [line for line in err if line.startswith("error: ")] == [line for line in err if "error" in line]
    assert sum(line.startswith("error: ") for line in err) == 3


def test_the_bundled_dataset_works_without_prepare_and_is_not_replaced_by_it(workspace, capsys):
    location = locate(BUNDLED)
    assert main(["prepare", BUNDLED]) == 2
    assert "did not make" in capsys.readouterr().err
    assert locate(BUNDLED).interactions == location.interactions
