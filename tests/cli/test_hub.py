"""`weightspace hub`, and addresses of the Hub wherever a model is named."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.remote.hubs import Hub, running

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw:DeprecationWarning")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sandbox: Path) -> Iterator[Hub]:
    """A hub with a model on it, and the sandbox as the working folder."""
    with running(tmp_path, monkeypatch) as made:
        made.model("lab/toy")
        yield made


@pytest.mark.usefixtures("hub")
class TestIngest:
    def test_says_what_it_read(self, run: Run) -> None:
        [row] = json.loads(run("hub", "ingest", "lab/toy", "--format", "json").stdout)
        assert row["catalogued"] == 1 and row["bytes_read"] < 300

    def test_shows_in_lists_and_pages(self, run: Run) -> None:
        run("hub", "ingest", "--author", "lab")
        assert "not read" in run("ls", "--where", "name = 'lab/toy'", "--columns", "name,is_finite").stdout
        assert "only the header is known" in run("show", "lab/toy", columns=200).stdout
        assert "yes" in run("hub", "ls", "--author", "lab").stdout

    def test_what_is_refused_is_said(self, run: Run) -> None:
        result = run("hub", "ingest", "lab/absent", code=1)
        assert "missing: hf:lab/absent: is not there" in result.stderr
        some = run("hub", "ingest", "lab/absent", "lab/toy", *(f"lab/absent-{at}" for at in range(3)))
        assert "and 1 more; 'weightspace ls --quarantined' lists them" in some.stderr

    def test_nothing_to_do_is_said(self, run: Run) -> None:
        assert "nothing to catalogue; name repositories" in run("hub", "ingest", code=1).stderr


@pytest.mark.usefixtures("hub")
class TestPushAndPull:
    def test_a_zoo_comes_back(self, run: Run, tmp_path: Path) -> None:
        assert "nothing was sent" in run("hub", "push", "--to", "lab/zoo", "--private", "--dry-run").stderr
        assert "commit" in run("hub", "push", "--to", "lab/zoo", "--private").stderr
        assert "nothing was sent" in run("hub", "push", "--to", "lab/zoo", "--private").stderr
        run("hub", "pull", "lab/zoo", "--zoo", str(tmp_path / "there"))
        line = ("sql", "select lower(hex(id)) as id, name from models order by id", "--format", "csv")
        assert run(*line, "--zoo", str(tmp_path / "there")).stdout == run(*line).stdout

    def test_a_model_comes_back(self, run: Run, tmp_path: Path) -> None:
        run("hub", "push", "base", "--to", "lab/base", "--public")
        run("hub", "pull", "lab/base", "--zoo", str(tmp_path / "there"))
        assert run("sql", "select name from models", "--format", "csv", "--zoo", str(tmp_path / "there")).stdout.splitlines() == [
            "name",
            "lab/base",
        ]

    def test_who_may_see_it_must_be_said(self, run: Run) -> None:
        said = run("hub", "push", "--to", "lab/zoo", code=2).stderr
        assert "--private" in said and "--public" in said

    def test_private_and_public_exclude_each_other(self, run: Run, hub: Hub) -> None:
        for order in (("--private", "--public"), ("--public", "--private")):
            said = run("hub", "push", "base", "--to", "lab/both", *order, code=1).stderr
            assert said == "error: --private and --public exclude each other, so nothing was sent; give one of them\n"
        assert not hub.api.repo_exists("lab/both")

    @pytest.mark.parametrize(("models", "to"), [(("base",), "lab/base"), ((), "lab/zoo")])
    def test_a_branch_is_made_where_nothing_is_new(self, run: Run, tmp_path: Path, models: tuple[str, ...], to: str) -> None:
        run("hub", "push", *models, "--to", to, "--public")
        line = ("hub", "push", *models, "--to", f"{to}@v2", "--public")
        assert run(*line, "--dry-run").stderr == "branch 'v2' would be made\nnothing was sent\n"
        assert "is not there" in run("hub", "pull", f"{to}@v2", "--zoo", str(tmp_path / "there"), code=1).stderr
        assert run(*line).stderr == "branch 'v2' was made\nnothing was sent\n"
        run("hub", "pull", f"{to}@v2", "--zoo", str(tmp_path / "there"))
        assert run(*line).stderr == "nothing was sent\n"

    def test_nothing_is_pushed_to_a_space(self, run: Run) -> None:
        for line in (("hub", "push"), ("hub", "push", "base")):
            said = run(*line, "--to", "spaces/lab/zoo", "--private", code=1).stderr
            assert said.startswith("error: hf:spaces/lab/zoo: is the address of a space, which nothing can be pushed to; write org/name")

    def test_several_models_are_a_zoo(self, run: Run, tmp_path: Path) -> None:
        for models, to in ((("base", "tuned"), "lab/pair"), (("base",), "datasets/lab/one")):
            [row] = json.loads(run("hub", "push", *models, "--to", to, "--private", "--format", "json").stdout)
            assert row["repository"].startswith("hf:datasets/lab/") and row["models"] == len(models)
        run("hub", "push", "checkpoints/tower", "--to", "lab/pair", "--private")  # a model repository of the same name is another one
        run("hub", "pull", "lab/pair", "--zoo", str(tmp_path / "there"))
        listed = run("sql", "select name from models order by 1", "--format", "csv", "--zoo", str(tmp_path / "there")).stdout
        assert listed.split() == ["name", "base", "tuned"]

    def test_what_is_there_stays_private_or_is_not_pushed_to(self, run: Run) -> None:
        run("hub", "push", "base", "--to", "lab/closed", "--private")
        run("hub", "push", "base", "--to", "lab/open", "--public")
        assert "is private, and stays so" in run("hub", "push", "tuned", "--to", "lab/closed", "--public").stderr
        assert "is there and public, so nothing was sent" in run("hub", "push", "tuned", "--to", "lab/open", "--private", code=1).stderr

    def test_a_data_set_that_is_no_zoo_is_called_so(self, run: Run, hub: Hub) -> None:
        hub.api.create_repo("lab/notes", repo_type="dataset")
        hub.api.upload_file(path_or_fileobj=b"a,b", path_in_repo="data.csv", repo_id="lab/notes", repo_type="dataset")
        for name in ("lab/notes", "datasets/lab/notes", "hf:datasets/lab/notes"):
            said = run("hub", "pull", name, code=1).stderr
            assert said == (
                "error: hf:datasets/lab/notes: is there, but is no zoo that was pushed (it has no weights/index.parquet); "
                "name one that 'hub push' made, or download its files and 'weightspace ingest' them\n"
            )
        assert "hf:lab/absent: is not there, or not for this user" in run("hub", "pull", "lab/absent", code=1).stderr

    def test_a_zoo_is_no_model(self, run: Run) -> None:
        run("hub", "push", "--to", "lab/zoo", "--private")
        before = run("sql", "select count(*) as n from models", "--format", "csv").stdout
        for name in ("datasets/lab/zoo", "hf:datasets/lab/zoo"):
            said = run("hub", "ingest", name, code=1).stderr
            assert "is a zoo that was pushed, and no model; bring it here with 'weightspace hub pull lab/zoo'" in said
        assert "is a zoo that was pushed, and no model" in run("show", "hf:datasets/lab/zoo", code=1).stderr
        assert run("sql", "select count(*) as n from models", "--format", "csv").stdout == before

    def test_a_dry_run_says_that_it_could_not_look(self, run: Run, hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_IMPLICIT_TOKEN", False)  # as it is outside of tests
        monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
        object.__setattr__(hub.settings, "token", "any")
        run("hub", "push", "--to", "lab/zoo", "--private")
        assert "is not there, or" not in run("hub", "push", "--to", "lab/zoo", "--private", "--dry-run").stderr
        told = run("hub", "push", "base", "--to", "lab/new", "--private", "--dry-run").stderr
        assert "hf:lab/new: is not there, or cannot be seen by this login; so all is counted as new\n" in told
        monkeypatch.delenv("HF_TOKEN")
        told = run("hub", "push", "--to", "lab/zoo", "--private", "--dry-run").stderr
        why = "cannot be seen, since nobody is logged in (`hf auth login`)"
        assert f"hf:datasets/lab/zoo: is not there, or {why}; so all is counted as new\n" in told

    def test_two_ways_to_choose(self, run: Run) -> None:
        assert "give one of them" in run("hub", "push", "base", "--where", "true", "--to", "lab/x", "--private", code=1).stderr


@pytest.mark.usefixtures("hub")
def test_a_search_that_finds_nothing_says_so(run: Run) -> None:
    found = run("hub", "ls", "--search", "zzz")
    assert (found.stdout, found.stderr) == ("", "the Hub lists no model that fits\n")


def test_a_list_that_was_cut_says_so(run: Run, hub: Hub) -> None:
    hub.model("lab/second")
    cut = run("hub", "ls", "--author", "lab", "--limit", "1", "--format", "json")
    assert len(json.loads(cut.stdout)) == 1
    assert cut.stderr == "the first 1 are listed, there are more; --limit N lists more of them\n"
    whole = run("hub", "ls", "--author", "lab", "--limit", "2", "--format", "json")
    assert len(json.loads(whole.stdout)) == 2 and whole.stderr == ""
    assert "[default: 100]" in run("hub", "ls", "--help").stdout


@pytest.mark.parametrize("token", ["hf_s\u00e9cret", "hf_s\u20accret", "hf_s\x0bcret"])
def test_a_token_that_cannot_be_sent_is_said_and_not_shown(run: Run, hub: Hub, monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_IMPLICIT_TOKEN", False)  # as it is outside of tests
    for line in (("ls", "--author", "lab"), ("pull", "lab/toy"), ("ingest", "lab/toy"), ("push", "base", "--to", "lab/x", "--public")):
        told = run("hub", *line, code=1)
        assert "the token of the login has letters that a request cannot carry; log in again with `hf auth login`" in told.stderr
        assert "cret" not in told.stderr + told.stdout and "HF_ENDPOINT" not in told.stderr


@pytest.mark.usefixtures("hub")
def test_an_address_stands_for_a_model(run: Run) -> None:
    shown = run("show", "hf:lab/toy", columns=200).stdout
    assert "72 in 2 tensors" in shown and "'weightspace hub ingest' takes it in" in shown and "1970" not in shown and " 0 B" not in shown
    run("export", "hf:lab/toy", "-o", "toy.safetensors")
    assert run("diff", "hf:lab/toy", "toy.safetensors").exit_code == 0
