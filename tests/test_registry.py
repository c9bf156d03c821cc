"""Which models exist and how they are found."""

from __future__ import annotations

import pytest

from recbole_llm import registry
from recbole_llm.errors import UserError
from recbole_llm.registry import Method, find_method, methods, recbole_methods, register


@pytest.fixture(autouse=True)
def _same_rows_afterwards():
    before = dict(methods())
    yield
    methods().clear()
    methods().update(before)


@pytest.fixture
def module_of(workspace):
    """Write a user's module into the current folder; its name must differ between tests."""

    def write(name, text):
        (workspace / f"{name}.py").write_text(text)
        return name

    return write


def test_rows_are_kept_under_their_names():
    assert all(name == row.name for name, row in methods().items())


@pytest.mark.parametrize("name", sorted(methods()))
def test_a_row_of_ours_names_a_class_of_the_kind_it_says(name):
    loaded = methods()[name].load()
    assert loaded.__name__ == methods()[name].target.partition(":")[2]
    assert registry.kind_of(loaded) == methods()[name].kind


@pytest.mark.parametrize("name", sorted(methods()))
def test_a_row_of_ours_is_not_external(name):
    assert not methods()[name].is_external


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("SASRec", "sequential"),
        ("S3Rec", "sequential"),
        ("BPR", "general"),
        ("LightGCN", "general"),
        ("FM", "context"),
        ("KGAT", "knowledge"),
        ("XGBoost", "exlib"),
    ],
)
def test_a_model_of_recbole_has_its_kind(name, kind):
    assert find_method(name).kind == kind


def test_every_model_of_recbole_is_listed_with_its_own_class():
    from recbole.utils import get_model

    rows = {name: row for name, row in recbole_methods().items() if row.kind != registry.EXTERNAL_LIBRARY}
    assert len(rows) > 85
    different = [name for name, row in rows.items() if row.load() is not get_model(name)]
    assert different == []


def test_the_kind_of_each_recbole_row_is_that_of_its_class():
    rows = [row for row in recbole_methods().values() if row.kind != registry.EXTERNAL_LIBRARY]
    assert [row.name for row in rows if registry.kind_of(row.load()) != row.kind] == []


def test_models_of_recbole_are_not_external():
    assert not find_method("SASRec").is_external


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(UserError, match=r"--model=LLMDmsrec: there is no such model. Did you mean LLMDMsRec\?"):
        find_method("LLMDmsrec")


def test_a_class_in_the_current_folder_is_found_with_its_kind(module_of):
    module_of(
        "own_sequential", "import enum\nT = enum.Enum('T', 'GENERAL SEQUENTIAL')\nclass Mine:\n  type = T.SEQUENTIAL\n"
    )
    row = find_method("own_sequential:Mine")
    assert (row.name, row.kind, row.is_external) == ("Mine", "sequential", True)


def test_a_class_without_a_type_counts_as_general(module_of):
    module_of("own_plain", "class Mine:\n  pass\n")
    assert find_method("own_plain:Mine").kind == "general"


def test_a_missing_module_is_named(workspace):
    with pytest.raises(UserError, match="there is no module 'no_such_module_of_mine'"):
        find_method("no_such_module_of_mine:Mine")


def test_a_missing_class_is_answered_with_the_nearest(module_of):
    module_of("own_misspelt", "class MyModel:\n  pass\n")
    with pytest.raises(UserError, match=r"own_misspelt has no class 'MyModle'. Did you mean MyModel\?"):
        find_method("own_misspelt:MyModle")


def test_a_name_that_is_no_class_is_refused(module_of):
    module_of("own_function", "def model():\n  pass\n")
    with pytest.raises(UserError, match="has no class 'model'"):
        find_method("own_function:model")


def test_a_library_that_a_model_needs_is_named(module_of):
    module_of("own_needy", "import no_such_library_at_all\nclass Mine:\n  pass\n")
    with pytest.raises(UserError, match=r"needs the package 'no_such_library_at_all'.*pip install"):
        find_method("own_needy:Mine")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("class Mine:\n  def broken(:\n", r"own_broken\.py, line 2: invalid syntax"),
        ("class Mine:\n  size = 1 / 0\n", "importing own_broken fails: ZeroDivisionError: division by zero"),
        ("SIDE = open('no_such.npy')\n", "importing own_broken fails: FileNotFoundError: .*no_such.npy"),
        ("raise SystemExit(0)\n", "importing own_broken fails: SystemExit: 0"),  # a script without a main guard
    ],
)
def test_a_module_that_cannot_be_imported_is_named_with_the_reason(module_of, monkeypatch, code, said):
    module_of("own_broken", code)
    with pytest.raises(UserError, match=rf"^--model=own_broken:Mine: .*{said}"):
        find_method("own_broken:Mine")


def test_a_registered_model_is_found_by_name():
    row = Method("Mine", "own_module:Mine", "general")
    register(row)
    assert find_method("Mine") is row


def test_registering_the_same_class_again_is_fine():
    row = Method("Mine", "own_module:Mine", "general")
    register(row)
    register(row)
    assert methods()["Mine"] == row


@pytest.mark.parametrize("name", ["LLMDMsRec", "SASRec"])
def test_a_taken_name_is_refused(name):
    with pytest.raises(UserError, match=f"the model name '{name}' is taken by recbole"):
        register(Method(name, "own_module:Mine", "general"))


def test_a_class_that_extends_a_method_reads_what_it_reads(module_of):
    module_of("own_extension", "from recbole_llm.methods.ldmi.model import LDMI\nclass Mine(LDMI):\n  pass\n")
    row, base = find_method("own_extension:Mine"), methods()["LDMI"]
    assert (row.features, row.protocols, row.settings_of) == (base.features, base.protocols, "LDMI")
    assert (row.name, row.paper, row.is_external) == ("Mine", "", True)


@pytest.mark.parametrize("name", ["LLMDMsRec", "FDSA"])
def test_the_path_of_a_known_model_is_that_model(name, module_of):
    """Otherwise it would run without the features that its registry row names."""
    row = find_method(name)
    assert find_method(row.target) is row
    module, _, class_name = row.target.partition(":")
    module_of(f"own_imports_{name}", f"from {module} import {class_name}\n")
    assert find_method(f"own_imports_{name}:{class_name}") is row


def test_a_class_says_of_itself_what_the_harness_must_know(module_of):
    said = {"paper": "arXiv 1", "features": ["own_saying:Feature"], "protocols": ["loo"]}
    module_of("own_saying", f"class Mine:\n  registry_row = {said}\n")
    row = find_method("own_saying:Mine")
    assert (row.paper, row.features, row.protocols) == ("arXiv 1", ("own_saying:Feature",), ("loo",))


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("{'feature': ['a:B']}", r"registry_row: there is no 'feature'. Did you mean features\?"),
        ("{'target': 'a:B'}", "registry_row: there is no 'target'"),
        ("{'features': 'a:B'}", r"features is a list, such as \('a:B',\)"),
    ],
)
def test_what_a_class_says_wrong_is_named(module_of, said, message):
    name = f"own_wrong_{abs(hash(said))}"
    module_of(name, f"class Mine:\n  registry_row = {said}\n")
    with pytest.raises(UserError, match=message):
        find_method(f"{name}:Mine")


def test_properties_beside_a_module_belong_to_its_classes(workspace, module_of):
    module_of("own_properties", "class Mine:\n  pass\n")
    row = find_method("own_properties:Mine")
    assert row.properties is None
    (workspace / "properties").mkdir()
    assert row.properties == workspace / "properties"
    assert find_method("SASRec").properties is None
