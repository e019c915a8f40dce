"""The report's page: one file with one script, known by its hash, and data that come back as they were."""

import base64
import hashlib
import html.parser
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.zoo.report.zoos import HOSTILE, LONG, everything, many
from weightspace.errors import CatalogError
from weightspace.zoo.report import data as gathering
from weightspace.zoo.report.data import block, gather
from weightspace.zoo.report.report import write_report
from weightspace.zoo.zoo import Zoo


@pytest.fixture(scope="module")
def zoo(small_zoo: Zoo) -> Zoo:
    return small_zoo


@pytest.fixture(scope="module")
def page(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_report(zoo, tmp_path_factory.mktemp("page") / "report.html").read_text("utf-8")


class Scripts(html.parser.HTMLParser):
    """Scripts of a page as a browser cuts them, and all else that could load or run something."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.others: list[str] = []
        self._inside = False
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self._inside = tag == "script"
        if self._inside:
            self.scripts.append((dict(attributes), ""))
        self.others += [
            f"{tag} {name}" for name, _ in attributes if name.startswith("on") or name in ("src", "srcset", "data", "action", "style")
        ]
        self.others += [f"{tag} {value}" for name, value in attributes if name.endswith("href") and not (value or "").startswith("#")]
        if tag in ("link", "iframe", "object", "embed", "base", "img", "form"):
            self.others.append(tag)

    def handle_data(self, text: str) -> None:
        if self._inside:
            attributes, before = self.scripts.pop()
            self.scripts.append((attributes, before + text))

    def handle_endtag(self, tag: str) -> None:
        self._inside = False


def values(data: dict[str, Any], name: str) -> list[Any]:
    [column] = [one for one in data["columns"] if one["name"] == name]
    listed: list[Any] = column["values"]
    return listed if "codes" not in column else [None if code < 0 else listed[code] for code in column["codes"]]


def test_page_runs_its_own_script_and_nothing_else(page: str) -> None:
    found = Scripts(page)
    assert found.others == [] and not re.search(r"url\(|@import|https?://(?!www\.w3\.org/2000/svg)", page)
    [(data, _), (_, script)] = found.scripts
    assert data == {"type": "application/json", "id": "data"}
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    [policy] = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy.split("; ") == [
        "default-src 'none'",
        f"script-src 'sha256-{digest}'",
        "style-src 'unsafe-inline'",
        "base-uri 'none'",
        "form-action 'none'",
    ]


def test_script_puts_no_text_through_a_parser_of_html(page: str) -> None:
    [_, (_, script)] = Scripts(page).scripts
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|\beval\b|new Function|fetch\(|XMLHttp|import\(", script
    )


def test_data_come_back_as_they_were(zoo: Zoo, page: str) -> None:
    [(_, text), _] = Scripts(page).scripts
    assert json.loads(text) == gather(zoo) == json.loads(block(gather(zoo)))


def test_hostile_text_ends_no_block(page: str) -> None:
    assert "<script>window" not in page and "<img" not in page and "\u202e" not in page and "\x07" not in page
    assert page.count("<script") == page.count("</script>") == 2
    assert not re.search("[<>&]", block({"a": HOSTILE, HOSTILE: [HOSTILE]}))


def test_page_without_its_data_is_small(page: str) -> None:
    [(_, text), _] = Scripts(page).scripts
    assert len(page.encode()) - len(text.encode()) < 100_000


def test_data_say_what_the_catalog_says(zoo: Zoo) -> None:
    data = gather(zoo)
    rows = {name: row for row, name in enumerate(values(data, "name"))}
    assert data["headline"]["models"] == 9 and data["headline"]["training runs"] == 2 and data["headline"]["quarantined"] == 1
    assert values(data, "test_accuracy")[rows["run1/step-20"]] == pytest.approx(0.8)
    assert values(data, "id") == [one["id"][:16] for one in zoo.models().to_pylist()]
    about = data["about"][rows["mean"]]
    assert about["tags"] == {"best": ""} and about["measured"] == {"flatness": 0.25} and about["files"][0][1] == "safetensors"
    assert json.loads(data["recipes"][about["recipe"]]) == {"kind": "merge", "note": HOSTILE}
    assert ["run0/step-20", "mean", "merge"] in data["edges"] and len(data["edges"]) == 4


def test_tensors_are_told_once_with_what_was_measured(zoo: Zoo) -> None:
    data = gather(zoo)
    row = values(data, "name").index("mean")
    layout, *held = data["held"][row]
    told = {one["name"]: one for one in zoo.page("mean").tensors.to_pylist()}
    assert data["layouts"][layout] == list(told)
    for name, place in zip(data["layouts"][layout], held, strict=True):
        tensors = data["tensors"]
        assert tensors["shape"][place] == told[name]["shape"] and tensors["l2"][place] == pytest.approx(told[name]["l2"], rel=1e-5)
        assert (data["measures"]["alpha"].get(str(place)) == 2.5) is (len(told[name]["shape"]) == 2)
    assert len(data["layouts"]) == 3  # of seven networks of one kind, and of two others


def test_condition_chooses_models(zoo: Zoo, tmp_path: Path) -> None:
    page = write_report(zoo, tmp_path / "some.html", where="test_accuracy > 0.6 -- the better ones").read_text("utf-8")
    [(_, text), _] = Scripts(page).scripts
    data = json.loads(text)
    assert data["headline"]["models"] == 3 == len(values(data, "name")) == len(data["held"]) == len(data["map"]["x"])
    assert "3 models of a zoo" in page and "Chosen by <code>test_accuracy &gt; 0.6" in page
    assert ["run0/step-20", "mean", "merge"] in data["edges"]  # lineage goes beyond what was chosen


def test_wrong_condition_is_an_error_and_writes_nothing(zoo: Zoo, tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="no_such_column"):
        write_report(zoo, tmp_path / "new" / "report.html", where="no_such_column > 1")
    assert list(tmp_path.iterdir()) == []


def test_condition_that_fits_nothing_gives_a_page(zoo: Zoo, tmp_path: Path) -> None:
    assert "0 models of a zoo" in write_report(zoo, tmp_path / "none.html", where="num_params < 0").read_text("utf-8")


def test_long_texts_are_cut(zoo: Zoo) -> None:
    longest = max(len(one) for one in values(gather(zoo), "name"))
    assert longest == gathering.MAX_TEXT < len(LONG)


def test_large_zoos_are_cut_and_the_page_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zoo = many(tmp_path / "zoo", 60)
    whole = write_report(zoo, tmp_path / "whole.html").read_text("utf-8")
    assert "The table holds" not in whole and "go along for" not in whole
    monkeypatch.setattr(gathering, "MAX_MODELS", 40)
    monkeypatch.setattr(gathering, "MAX_TENSORS", 50)
    page = write_report(zoo, tmp_path / "part.html").read_text("utf-8")
    [(_, text), _] = Scripts(page).scripts
    data = json.loads(text)
    assert len(values(data, "name")) == 40 and len(data["held"]) == len(data["about"]) == 25
    assert "the first 40 of 60 models" in page and "go along for the first 25" in page


def test_five_thousand_models_make_a_page_of_some_megabytes(large_page: Path) -> None:
    [(_, text), _] = Scripts(large_page.read_text("utf-8")).scripts
    assert large_page.stat().st_size - len(text.encode()) < 100_000 and len(text) < 3_000_000
    assert len(json.loads(text)["held"]) == 5000


def test_map_is_made_of_embeddings_where_there_are_any(tmp_path: Path) -> None:
    zoo = everything(tmp_path)
    before = gather(zoo)["map"]
    assert "statistics of the weights" in before["source"] and len(before["rows"]) == 9
    rng = np.random.default_rng(0)
    line = np.outer(np.linspace(-1, 1, 6), np.arange(1, 6)) + 1e-3 * rng.normal(size=(6, 5))
    names = [f"run{run}/step-{step}" for run in (0, 1) for step in (0, 10, 20)]
    zoo.record_embeddings("metanet<b>", "1", dict(zip(names, line, strict=True)))
    after = gather(zoo)["map"]
    assert after["source"] == "embeddings of the metanet 'metanet<b>'" and len(after["rows"]) == 6
    assert abs(np.sign(np.diff(after["x"])).sum()) == 5 and np.ptp(after["x"]) > 100 * np.ptp(after["y"])
    assert after["axes"][0] == "component 1 (100% of the variance)"
