"""What lies beside checkpoints may be hostile too: nothing in it runs, and none of it stops an ingest."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from weightspace.zoo import Zoo

INDEX = '{"weight_map":{"w":"model-00001-of-00001.safetensors"},"metadata":{"x":%s}}'


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (
            "config.json",
            '{"architectures":["\\ud800"],"a\\ud800":"\\udfff\\u0000","auto_map":{"AutoModel":"evil.M"},"trust_remote_code":true}',
        ),
        ("config.json", '{"a":' * 900 + "1" + "}" * 900),
        ("config.json", '{"a":NaN,"b":1e999,"c":' + "9" * 5000 + "}"),
        ("adapter_config.json", '{"base_model_name_or_path":"\\ud800","r":2}'),
        ("trainer_state.json", '{"global_step":N,"log_history":[{"loss":1,"step":N}]}'.replace("N", f"1{'0' * 30}")),
        ("metrics.json", '{"test":{"accuracy\\ud800":0.5,"a\\u0000":1e400}}'),
        ("model.json", '{"lr":"\\ud800","seed":99999999999999999999999,"step":1e300}'),
        ("README.md", "---\nlicense: !!python/object/apply:os.system ['touch {canary}']\nbase_model: !!python/name:os.system\n---\n"),
        ("README.md", '---\nlicense: "\\ud800"\nbase_model: "\\ud800"\nlanguage: ["\\ud800"]\n---\n'),
        ("README.md", "---\na: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n---\n"),
        ("README.md", "---\na: " + "[" * 5000 + "]" * 5000 + "\n---\n"),
    ],
    ids=lambda value: value[:40],
)
def test_hostile_sidecars_cost_neither_the_model_nor_the_ingest(tmp_path: Path, name: str, content: str) -> None:
    canary, folder = tmp_path / "canary", tmp_path / "model"
    folder.mkdir()
    save_file({"w": np.ones(3, np.float32)}, folder / "model.safetensors")
    (folder / name).write_text(content.replace("{canary}", str(canary)))
    zoo = Zoo(tmp_path / "zoo")
    assert zoo.ingest([folder], jobs=1).catalogued == 1
    [row] = zoo.sql("select metadata::varchar as metadata, licence, base_model from files join models using (model_id)").to_pylist()
    assert not canary.exists() and row
    assert zoo.ingest([folder], jobs=1).unchanged == 1


def test_an_index_too_deep_to_cross_a_process_border_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    save_file({"w": np.ones(3, np.float32)}, folder / "model-00001-of-00001.safetensors")
    (folder / "model.safetensors.index.json").write_text(INDEX % ("[" * 500 + "]" * 500))
    [refusal] = Zoo(tmp_path / "zoo").ingest([folder], jobs=2).quarantined
    assert (refusal.reason, refusal.place.format) == ("hostile", "sharded") and "nests deeper than 64" in refusal.detail
