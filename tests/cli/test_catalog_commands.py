import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.cli.conftest import Run, mlp
from tests.pictures import pixels
from weightspace.cli.commands.show import _shared
from weightspace.plotting import BLUE as BLUE_TEXT

BLUE = tuple(bytes.fromhex(BLUE_TEXT[1:]))


def rows(run: Run, *line: str) -> list[dict[str, Any]]:
    read = json.loads(run(*line, "--format", "json").stdout)
    assert isinstance(read, list)
    return read


class TestInit:
    def test_makes_a_zoo_right_here_even_below_another(self, run: Run, sandbox: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(sandbox / "checkpoints")
        assert "made an empty zoo" in run("init").stderr
        assert (sandbox / "checkpoints" / ".weightspace" / "catalog.duckdb").is_file()

    def test_leaves_a_zoo_as_it_is(self, run: Run) -> None:
        assert "is a zoo already" in run("init").stderr
        assert len(rows(run, "ls")) == 6

    def test_in_a_folder_of_its_own(self, run: Run, sandbox: Path) -> None:
        run("init", "new/place")
        assert run("ls", "--zoo", "new/place").stderr == "no models; 'weightspace ingest PATH' catalogues checkpoints\n"


class TestIngest:
    def test_says_what_it_did(self, run: Run, sandbox: Path) -> None:
        [first, quarantined, reason, hint, unsound] = run("ingest", "checkpoints", "--zoo", "fresh").stdout.splitlines()
        size = sum(path.stat().st_size for path in (sandbox / "checkpoints").iterdir() if path.stem not in ("cut", "notes"))
        assert first.startswith(f"5 checkpoints catalogued (5 new models), 1 passed over; {size / 1000:.2f} kB in ")
        assert quarantined == "1 file quarantined:"
        assert reason.endswith("checkpoints/cut.safetensors: expected 64 bytes at offset 440, the file has 496")
        assert hint == "  'weightspace ls --quarantined' lists all with advice"
        assert unsound == "1 model with NaN or infinite weights, catalogued and flagged: unsound"

    def test_a_second_run_finds_nothing_new(self, run: Run) -> None:
        assert run("ingest", ".").stdout.startswith("0 checkpoints catalogued (0 new models), 8 unchanged")

    def test_its_report_as_data(self, run: Run) -> None:
        [report] = rows(run, "ingest", "checkpoints", "--zoo", "fresh", "--tag", "new", "--prefix", "old/")
        assert (report["catalogued"], report["passed_over"], report["non_finite"], report["interrupted"]) == (5, 1, ["old/unsound"], False)
        assert [one["reason"] for one in report["quarantined"]] == ["truncated"]
        assert len(rows(run, "ls", "--tag", "new", "--zoo", "fresh")) == 5

    def test_interrupted_it_says_what_is_safe(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        from weightspace.cli.progress import Bar

        def stop(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(Bar, "update", stop)
        result = run("ingest", "checkpoints", "--zoo", "fresh", code=130)
        assert result.stderr == "interrupted: everything counted here is safe in the catalog; run the same command again to go on\n"
        monkeypatch.undo()

    def test_quick_work_shows_no_progress(self, run: Run) -> None:
        assert run("ingest", "base.safetensors", "--zoo", "fresh").stderr == ""


class TestImport:
    def test_brings_runs_and_their_metrics(self, run: Run) -> None:
        assert run("import", "log.csv").stdout.startswith("1 run with 2 metric values imported, 0 checkpoints matched")
        [listed] = rows(run, "ls", "--runs")
        assert (listed["source"], listed["seed"], listed["checkpoints"]) == ("csv", 3, 0)

    def test_its_report_as_data(self, run: Run) -> None:
        [report] = rows(run, "import", "history.jsonl")
        assert (report["runs"], report["points"], report["matches"]) == (1, 2, [])


class TestLs:
    def test_one_row_a_model_with_metrics_as_columns(self, run: Run) -> None:
        models = {row["name"]: row for row in rows(run, "ls")}
        assert set(models) == {"base", "tuned", "checkpoints/wide", "checkpoints/tower", "checkpoints/unsound", "checkpoints/hostile"}
        assert models["tuned"]["test_accuracy"] == 0.95 and models["base"]["train_loss"] is None
        assert len(models["base"]["id"]) == 64

    def test_the_table_is_for_eyes(self, run: Run) -> None:
        header, base, *_ = run("ls").stdout.splitlines()
        assert header.split() == ["name", "id", "params", "size", "format", "test_accuracy", "train_loss"]
        assert base.split()[0] == "base" and base.split()[2:] == ["58", "232", "B", "safetensors", "0.91"]
        assert "not finite" in run("ls", "--where", "not is_finite").stdout

    def test_filters_sort_and_limit(self, run: Run) -> None:
        assert [row["name"] for row in rows(run, "ls", "--where", "num_params < 100", "--order-by", "num_params desc", "--limit", "2")] == [
            "tuned",
            "base",
        ]

    @pytest.mark.parametrize(
        ("label", "names"), [("best", ["base"]), ("team=vision", ["base"]), ("team=sound", []), ("team", ["base"]), ("team=", [])]
    )
    def test_labels_select(self, run: Run, label: str, names: list[str]) -> None:
        assert [row["name"] for row in rows(run, "ls", "--tag", label)] == names

    def test_a_condition_beside_a_label_keeps_to_its_brackets(self, run: Run) -> None:
        assert rows(run, "ls", "--tag", "best", "--where", "false or num_params > 1000 -- and a comment") == []
        assert rows(run, "ls", "--tag", "none", "--where", "false or true") == []

    def test_columns_are_picked_in_order(self, run: Run) -> None:
        assert (
            run("ls", "--columns", "num_params,name", "--where", "name = 'base'", "--format", "csv").stdout == "num_params,name\n58,base\n"
        )
        assert run("ls", "--columns", "name, num_params", "--limit", "1").stdout == "name  params\nbase      58\n"
        assert "base_model" in run("ls", "--columns", "all").stdout

    def test_files(self, run: Run) -> None:
        assert [row["path"] for row in rows(run, "ls", "--files", "--tag", "best")] == ["base.safetensors", "checkpoints/copy.safetensors"]

    def test_quarantined(self, run: Run) -> None:
        assert [(row["path"], row["reason"]) for row in rows(run, "ls", "--quarantined")] == [
            ("checkpoints/cut.safetensors", "truncated"),
            ("checkpoints/unsound.safetensors", "non-finite"),
        ]
        _, line, _ = run("ls", "--quarantined").stdout.splitlines()
        assert "  expected 64 bytes" in line and "copy or download it again" in line
        assert len(rows(run, "ls", "--quarantined", "--where", "reason = 'truncated'")) == 1

    def test_columns_of_numbers_are_drawn(self, run: Run) -> None:
        assert "drew all.png" in run("ls", "--plot", "all.png").stderr
        assert "drew one.svg" in run("ls", "--columns", "name,num_params", "--format", "json", "--plot", "one.svg").stderr
        run("ls", "--columns", "num_params", "--plot", "one.png")
        every, one = (pixels(Path(name).read_bytes()) for name in ("all.png", "one.png"))
        assert every.shape[1] > 1.5 * one.shape[1]  # params and size beside each other, the metrics too
        blue = (one == BLUE).all(-1)
        assert 0.01 < blue.mean() < 0.8 and not blue[:, 0].any() and not blue[:, -1].any()

    def test_what_cannot_be_drawn_is_one_line(self, run: Run) -> None:
        for line, told in (
            (("--columns", "name"), "no column that is shown holds a finite number to draw"),
            (("--quarantined",), "no column that is shown holds a finite number to draw"),
            (("--where", "false"), "no column that is shown holds a finite number to draw"),
        ):
            refused = run("ls", *line, "--plot", "x.png", code=1).stderr
            assert told in refused and not Path("x.png").exists()
        assert "ends in .png or .svg or .pdf" in run("ls", "--plot", "x.txt", code=1, columns=400).stderr
        Path("x.png").write_bytes(b"")
        assert "exists already" in run("ls", "--plot", "x.png", code=1).stderr
        assert "drew x.png" in run("ls", "--plot", "x.png", "--force").stderr

    def test_a_metric_that_nobody_recorded_is_told_from_a_column(self, run: Run) -> None:
        asked = ("ls", "--order-by", "test_acuracy desc")
        said = run(*asked, code=1).stderr
        assert "column or metric \"test_acuracy\" not found; did you mean 'test_accuracy'?" in said and "train_loss" in said
        said = run("ls", "--where", "bleu > 3", "--limit", "2", code=1).stderr
        assert "\"bleu\" not found (known: test_accuracy, train_loss); 'weightspace record'" in said
        assert "Candidate bindings" in run("ls", "--where", "num_parms > 3", code=1).stderr
        run("ingest", "base.safetensors", "--zoo", "fresh")
        said = run(*asked, "--zoo", "fresh", code=1).stderr
        assert said.startswith("error: sql: column \"test_acuracy\" not found: no metric is recorded yet; 'weightspace record'")

    def test_a_metric_keeps_its_column_whatever_is_recorded_later(self, run: Run) -> None:
        asked = ("ls", "--where", "val_f1 is not null", "--columns", "name,val_f1", "--format", "csv")
        run("record", "base", "f1=0.5", "--split", "val")
        before = run(*asked).stdout
        run("record", "base", "F1=0.9", "--split", "val")
        run("record", "tuned", "F1=0.8", "--split", "val")
        assert run(*asked).stdout == before == "name,val_f1\nbase,0.5\n"
        assert [row["val_F1_"] for row in rows(run, "ls", "--where", "val_F1_ > 0", "--order-by", "name")] == [0.9, 0.8]
        run("record", "base", "f1=0.6", "--split", "val")  # which takes the place of the only value there was
        assert run(*asked).stdout == "name,val_f1\nbase,0.6\n"
        assert "nothing is wrong" in run("check", "--quick").stderr

    def test_a_catalog_that_was_cut_short_says_what_helps(self, run: Run, sandbox: Path) -> None:
        catalog = sandbox / ".weightspace" / "catalog.duckdb"
        os.truncate(catalog, 1_000_000)
        said = run("ls", code=1).stderr
        assert "'weightspace check'" in said and "'weightspace restore'" in said and "--tables" not in said and said.count("\n") == 1

    def test_says_when_nothing_fits(self, run: Run) -> None:
        result = run("ls", "--where", "num_params > 1e12")
        assert (result.stdout, result.stderr) == ("", "none of the models fits\n")


class TestShow:
    def test_a_catalogued_model(self, run: Run) -> None:
        lines = run("show", "base").stdout.splitlines()
        assert lines[0] == "base"
        facts = {key: " ".join(rest) for key, *rest in (line.split() for line in lines[1 : lines.index("")])}
        assert facts["kind"] == "full, safetensors"
        assert facts["parameters"] == "58 in 4 tensors, 232 B"
        assert facts["labels"] == "best, team=vision"
        assert facts["test"] == "metrics accuracy 0.91"
        assert facts["file"].startswith("checkpoints/copy.safetensors 504 B, ")
        [weight] = [line for line in lines if line.startswith("fc1.weight")]
        assert weight.split()[1:6] == ["8", "×", "4", "32", "55.2%"] and "█" in weight

    @pytest.mark.parametrize("model", ["base", "base.safetensors", "./checkpoints/../base.safetensors", "checkpoints/copy.safetensors"])
    def test_by_name_or_path(self, run: Run, model: str) -> None:
        [one] = rows(run, "show", model)
        assert one["name"] == "base" and one["is_catalogued"] and one["tags"] == {"best": "", "team": "vision"}

    def test_a_name_without_its_folder_finds_the_whole_one(self, run: Run) -> None:
        run("ingest", "base.safetensors", "--zoo", "fresh", "--prefix", "outlier-exposure/")
        for name in ("a1", "base1", "bases", "bas", "ba", "basic", "abase", "basf", "base2"):
            save_file(mlp(len(name) + ord(name[-1])), f"{name}.safetensors")
            run("ingest", f"{name}.safetensors", "--zoo", "fresh")
        said = run("show", "base", "--zoo", "fresh", code=1).stderr
        assert "did you mean 'outlier-exposure/base'?" in said
        assert "did you mean 'outlier-exposure/base'?" in run("show", "sure/bas", "--zoo", "fresh", code=1).stderr

    def test_by_the_first_digits_of_its_id(self, run: Run) -> None:
        [base] = rows(run, "ls", "--where", "name = 'base'")
        assert rows(run, "show", base["id"][:8])[0]["name"] == "base"

    def test_a_file_that_is_not_catalogued_is_read(self, run: Run, sandbox: Path) -> None:
        save_file(mlp(5), sandbox / "new.safetensors")
        [one] = rows(run, "show", "new.safetensors")
        assert not one["is_catalogued"] and one["num_params"] == 58
        weight = next(tensor for tensor in one["tensors"] if tensor["name"] == "fc1.weight")
        assert weight["std"] == pytest.approx(mlp(5)["fc1.weight"].std(), rel=1e-5)
        assert "not in it, or changed since; 'weightspace ingest' takes it in" in run("show", "new.safetensors").stdout

    def test_a_file_that_changed_is_read_again(self, run: Run, sandbox: Path) -> None:
        save_file(mlp(5, width=16), sandbox / "base.safetensors")
        [one] = rows(run, "show", "base.safetensors")
        assert not one["is_catalogued"] and one["num_params"] == 114
        assert rows(run, "show", "base")[0]["num_params"] == 58

    def test_a_file_outside_any_zoo(self, run: Run, sandbox: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        assert rows(run, "show", str(sandbox / "tuned.safetensors"))[0]["num_params"] == 61
        assert "x.pt: does not exist" in run("show", "x.pt", code=1).stderr

    def test_a_model_whose_file_is_gone_keeps_its_page(self, run: Run, sandbox: Path) -> None:
        (sandbox / "tuned.safetensors").unlink()
        shown = run("show", "tuned").stdout
        assert "the file is gone" in shown and "histogram" not in shown and "fc1.weight" in shown

    def test_repeated_layers_share_a_row_unless_all_are_wanted(self, run: Run) -> None:
        result = run("show", "checkpoints/tower")
        assert any(line.startswith("layers.{0..11}.norm.weight  12  4 ") for line in result.stdout.splitlines())
        assert result.stderr == "25 tensors in 3 rows; --all shows each\n"
        assert "layers.11.norm.weight" in run("show", "checkpoints/tower", "--all").stdout

    def test_csv_has_a_row_for_every_tensor(self, run: Run) -> None:
        header, *lines = run("show", "checkpoints/tower", "--format", "csv").stdout.splitlines()
        assert header.startswith("position,name,alias_of,") and len(lines) == 25

    def test_columns_stand_in_one_order_and_those_that_say_nothing_are_left_out(self, run: Run) -> None:
        header = next(line for line in run("show", "base").stdout.splitlines() if line.startswith("tensor"))
        assert header.split() == ["tensor", "shape", "elements", "share", "mean", "std", "l2", "zeros", "histogram"]
        header = next(line for line in run("show", "checkpoints/tower").stdout.splitlines() if line.startswith("tensor"))
        assert header.split()[:4] == ["tensor", "×", "shape", "elements"]

    def test_on_a_terminal_what_all_names_begin_with_is_said_once(self, run: Run, sandbox: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        save_file({f"model.language.encoder.{name}": value for name, value in mlp(5).items()}, sandbox / "long.safetensors")
        piped = run("show", "long.safetensors")
        assert "model.language.encoder.fc1.weight" in piped.stdout and "every name" not in piped.stderr
        monkeypatch.setenv("TERM", "dumb")
        monkeypatch.setattr("typer.testing._NamedTextIOWrapper.isatty", lambda _: True, raising=False)
        shown = run("show", "long.safetensors")
        assert "every name begins with model.language.encoder." in shown.stderr
        assert "…fc1.weight" in shown.stdout and "encoder.fc1" not in shown.stdout

    @pytest.mark.parametrize(
        ("names", "begin"),
        [
            (["long.enough.here.a", "long.enough.here.b"], "long.enough.here."),
            (["long.enough.here.ab", "long.enough.here.ac"], "long.enough.here."),
            (["short.a", "short.b"], ""),
            (["long.enough.here.a"], ""),
            (["a", "b"], ""),
            ([], ""),
        ],
    )
    def test_a_begin_ends_with_a_part_and_is_long(self, names: list[str], begin: str) -> None:
        assert _shared(names) == begin

    def test_unsound_weights_are_pointed_out(self, run: Run) -> None:
        shown = run("show", "checkpoints/unsound").stdout
        assert "2 elements NaN or infinite" in shown and "2 not finite" in shown


class TestSql:
    def test_tables_are_explained(self, run: Run) -> None:
        shown = run("sql", "--tables").stdout
        assert "models  one content: the same weights under the same names, wherever they lie\n" in shown
        assert {"table", "column", "type", "meaning", "table_meaning"} == set(rows(run, "sql", "--tables")[0])

    def test_a_query_from_stdin(self, run: Run) -> None:
        assert run("sql", "-", "--format", "csv", input="select 1 as one").stdout == "one\n1\n"


class TestDiff:
    def test_tells_what_is_not_the_same(self, run: Run) -> None:
        summary, header, *lines = run("diff", "base", "tuned").stdout.splitlines()
        assert summary == "5 tensors: 1 changed, 1 added, 3 same"
        assert header.split()[:3] == ["tensor", "shape", "dtype"]
        assert [line.split()[:2] for line in lines] == [["changed", "fc1.weight"], ["added", "head.bias"]]

    def test_as_data(self, run: Run) -> None:
        changed, added = rows(run, "diff", "base", "tuned.safetensors")
        assert changed["rank"] == 1 and changed["max_abs"] == pytest.approx(0.01, rel=1e-4)
        assert (added["status"], added["a_shape"], added["b_shape"]) == ("added", None, [3])
        assert len(rows(run, "diff", "base", "tuned", "--all")) == 5

    def test_a_cast_shows_both_dtypes(self, run: Run, sandbox: Path) -> None:
        save_file({name: value.astype(np.float16) for name, value in mlp(0).items()}, sandbox / "half.safetensors")
        assert "F32 → F16" in run("diff", "base", "half.safetensors").stdout

    def test_exit_code_when_asked(self, run: Run) -> None:
        run("diff", "base", "tuned", "--exit-code", code=1)
        assert run("diff", "base", "checkpoints/copy.safetensors", "--exit-code").stdout == "4 tensors, all the same\n"


class TestExport:
    def test_writes_the_same_weights_and_bytes(self, run: Run, sandbox: Path) -> None:
        run("export", "checkpoints/wide", "-o", "one.safetensors")
        run("export", "checkpoints/wide.npz", "-o", "two.safetensors")
        assert (sandbox / "one.safetensors").read_bytes() == (sandbox / "two.safetensors").read_bytes()
        np.testing.assert_equal(load_file(sandbox / "one.safetensors"), mlp(1, width=64))

    def test_replaces_only_by_force(self, run: Run, sandbox: Path) -> None:
        run("export", "base", "-o", "made.safetensors")
        assert "exists already" in run("export", "tuned", "-o", "made.safetensors", code=1).stderr
        run("export", "tuned", "-o", "made.safetensors", "--force")
        assert "head.bias" in load_file(sandbox / "made.safetensors")

    def test_what_a_model_lies_in_is_not_replaced(self, run: Run, sandbox: Path) -> None:
        (sandbox / "link.npz").symlink_to("checkpoints/wide.npz")
        (sandbox / "parts").mkdir()
        for at, part in enumerate(np.split(np.arange(8, dtype=np.float32), 2), 1):
            save_file({f"w{at}": part}, sandbox / "parts" / f"model-{at:05}-of-00002.safetensors")
        index = {"metadata": {}, "weight_map": {f"w{at}": f"model-{at:05}-of-00002.safetensors" for at in (1, 2)}}
        (sandbox / "parts" / "model.safetensors.index.json").write_text(json.dumps(index))
        run("ingest", "parts")
        before = {path: path.read_bytes() for path in sandbox.rglob("*") if path.is_file() and ".weightspace" not in path.parts}
        for model, file in (
            ("checkpoints/wide.npz", "checkpoints/wide.npz"),
            ("base", "checkpoints/wide.npz"),
            ("base", "./checkpoints/../link.npz"),
            ("base", "parts/model-00002-of-00002.safetensors"),
            ("parts", "parts/model-00002-of-00002.safetensors"),
            ("base", "parts/model.safetensors.index.json"),
        ):
            said = run("export", model, "-o", file, "--force", code=1).stderr
            assert "choose another name" in said and said.count("\n") == 1, (model, file, said)
        assert before == {path: path.read_bytes() for path in before}
        (sandbox / "parts" / "notes.md").write_text("of no model")
        run("export", "base", "-o", "parts/notes.md", "--force")


class TestLabelsAndMetrics:
    def test_labels_are_set_replaced_removed_and_printed(self, run: Run) -> None:
        run("tag", "base", "team=audio", "new")
        run("tag", "base", "--remove", "best")
        assert rows(run, "tag", "base") == [{"key": "new", "value": ""}, {"key": "team", "value": "audio"}]
        assert run("tag", "tuned").stderr == "no labels\n"

    def test_metrics_go_to_their_split_and_step(self, run: Run) -> None:
        run("record", "base", "loss=0.5", "f1=1e-1", "--split", "val", "--step", "7")
        metrics = [(one["name"], one["split"], one["step"], one["value"]) for one in rows(run, "show", "base")[0]["metrics"]]
        assert metrics == [("accuracy", "test", None, 0.91), ("f1", "val", 7, 0.1), ("loss", "val", 7, 0.5)]
        run("record", "base", "loss=0.25", "--split", "val", "--step", "7")
        assert rows(run, "ls", "--where", "name = 'base'")[0]["val_loss"] == 0.25


class TestDuplicates:
    def test_models(self, run: Run) -> None:
        [one] = rows(run, "duplicates")
        assert (one["name"], one["copies"], one["wasted_bytes"]) == ("base", 2, 504)
        assert run("duplicates").stderr == "1 model, 504 B that could be saved\n"

    def test_tensors(self, run: Run) -> None:
        assert [(one["shape"], one["models"]) for one in rows(run, "duplicates", "--tensors")] == [
            ([2, 8], 2),
            ([8], 2),
            ([3], 2),
            ([2], 2),
        ]

    def test_none(self, run: Run) -> None:
        run("init", "new")
        assert run("duplicates", "--zoo", "new").stderr == "no models twice\n"
