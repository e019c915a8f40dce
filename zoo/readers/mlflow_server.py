"""MLflow's tracking server, asked over its REST interface with the standard library."""

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any

from weightspace.errors import RecordError, one_line
from weightspace.zoo.beside.documents import parse_json
from weightspace.zoo.metrics import History, whole
from weightspace.zoo.readers import tracker_reader
from weightspace.zoo.readers.mlflow_values import finite, make_run, milliseconds
from weightspace.zoo.runs.run import Run

TIMEOUT = 30.0  # seconds for one answer
MAX_ANSWER = 64 << 20
MAX_PAGES = 100_000
PAGE = 1000
HISTORY_PAGE = 10_000


def sniff(source: str) -> bool:
    """An http address: no other reader takes one, so it is not asked what it is before it is read."""
    return source.startswith(("http://", "https://"))


@tracker_reader("mlflow-server", sniff=sniff)
def read(source: str) -> Iterator[Run]:
    """Yield the runs of all experiments, deleted ones left out, with the full history of each metric."""
    server = source.rstrip("/")
    for experiment in _pages(server, "experiments/search", {"max_results": PAGE}, "experiments"):
        query = {"experiment_ids": [experiment.get("experiment_id")], "max_results": PAGE}
        for found in _pages(server, "runs/search", query, "runs"):
            yield _run(server, found, str(experiment.get("name") or ""))


def _run(server: str, found: Mapping[str, Any], experiment: str) -> Run:
    info, data = _mapping(found.get("info"), server), _mapping(found.get("data", {}), server)
    run_id = str(info.get("run_id") or info.get("run_uuid") or "")
    if not run_id:
        raise RecordError(f"{server}: a run without an id; is this an MLflow server?")
    history = History()
    for metric in _mappings(data.get("metrics")):
        key = str(metric.get("key"))
        query = {"run_id": run_id, "metric_key": key, "max_results": HISTORY_PAGE}
        for point in _pages(server, "metrics/get-history", query, "metrics", is_get=True):
            history.add(key, finite(point.get("value")), whole(point.get("step", 0)), milliseconds(point.get("timestamp")))
    return make_run(run_id, {**info, "experiment": experiment}, _texts(data.get("params")), _texts(data.get("tags")), history)


def _pages(server: str, method: str, query: Mapping[str, Any], name: str, is_get: bool = False) -> Iterator[Mapping[str, Any]]:
    """Yield the entries of all pages of an answer."""
    token, seen = "", set()
    for _ in range(MAX_PAGES):
        answer = _ask(server, method, {**query, **({"page_token": token} if token else {})}, is_get)
        yield from _mappings(answer.get(name))
        token = str(answer.get("next_page_token") or "")
        if not token:
            return
        if token in seen:
            break
        seen.add(token)
    raise RecordError(f"{server}: {method} has pages without end; is this an MLflow server?")


def _ask(server: str, method: str, query: Mapping[str, Any], is_get: bool) -> Mapping[str, Any]:
    url = f"{server}/api/2.0/mlflow/{method}"
    request = (
        urllib.request.Request(f"{url}?{urllib.parse.urlencode(query)}")
        if is_get
        else urllib.request.Request(url, json.dumps(query).encode(), {"Content-Type": "application/json"})
    )
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            raw = answer.read(MAX_ANSWER + 1)
    except urllib.error.HTTPError as error:
        said = one_line(error.read(500).decode("utf-8", "replace"), 200)
        error.close()
        raise RecordError(f"{server}: answered {error.code} to {method} ({said}); is this an MLflow server that lets you in?") from None
    except (OSError, ValueError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise RecordError(f"{server}: no answer ({one_line(str(reason), 120)}); check the address and that the server runs") from None
    if len(raw) > MAX_ANSWER:
        raise RecordError(f"{server}: answered {method} with more than {MAX_ANSWER} bytes; is this an MLflow server?")
    return _mapping(parse_json(raw, f"{server} {method}"), server)


def _texts(entries: object) -> dict[str, str]:
    return {str(one.get("key")): str(one.get("value", "")) for one in _mappings(entries)}


def _mapping(value: object, server: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise RecordError(f"{server}: expected a JSON object, found {type(value).__name__}; is this an MLflow server?")
    return value


def _mappings(value: object) -> list[Mapping[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
