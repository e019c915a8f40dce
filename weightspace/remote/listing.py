"""What the Hub lists: names of models, page by page."""

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urljoin, urlsplit

from weightspace.errors import FormatError, one_line
from weightspace.remote.client import retried, status_of
from weightspace.remote.hub import COMMIT, HubAddress, endpoint, refusal

MOST_PAGES = 100_000  # of a listing


def names(asked: Mapping[str, Any], most: int | None = None, *, pinned: bool = False) -> Iterator[str]:
    """Yield the names of models that the Hub lists, page by page, each page asked for again where that may help.

    Args:
        asked: `author`, `search`, `filter`, as the Hub's own listing takes them.
        most: no more than so many.
        pinned: with the commit that each is at, `org/name@commit`, where the Hub says it.

    Raises:
        FormatError: the Hub cannot be asked, lists what cannot be, or the same page again.
    """
    from huggingface_hub import constants

    base = endpoint() or constants.ENDPOINT
    where = HubAddress(str(asked.get("author") or asked.get("search") or "models"))
    url: str | None = f"{base.rstrip('/')}/api/models"
    further = ({"limit": most} if most else {}) | ({"expand": "sha"} if pinned else {})
    parameters: Mapping[str, Any] | None = {key: value for key, value in asked.items() if value} | further
    seen, left = set[str](), most
    while url is not None and (left is None or left > 0):
        try:
            if url in seen or len(seen) > MOST_PAGES:
                raise ValueError(f"a listing that goes on at {one_line(url, 120)}")
            seen.add(url)
            found, following = _page(url, parameters, pinned)
        except Exception as error:
            if status_of(error) == 401:  # lists are open to everybody: it is the login that is wrong
                advice = "log in with `hf auth login`, or take a wrong HF_TOKEN away"
                raise FormatError(f"{where}: the Hub does not know this login", reason="unreadable", advice=advice) from None
            raise refusal(where, error) from None
        yield from found[:left]
        left = None if left is None else left - len(found)
        # Whatever host it names, the next page lies on the Hub that was asked.
        url = None if following is None else urljoin(base, urlsplit(following)._replace(scheme="", netloc="").geturl())
        parameters = None


def _page(url: str, parameters: Mapping[str, Any] | None, pinned: bool) -> tuple[list[str], str | None]:
    from huggingface_hub.utils._headers import build_hf_headers
    from huggingface_hub.utils._http import get_session, hf_raise_for_status

    def ask() -> Any:
        answer = get_session().get(url, params=parameters, headers=build_hf_headers())
        hf_raise_for_status(answer)
        return answer

    answer = retried(ask)
    found = [str(one["id"]) + (f"@{one['sha']}" if pinned and COMMIT.fullmatch(str(one.get("sha"))) else "") for one in answer.json()]
    return found, answer.links.get("next", {}).get("url") if found else None


__all__ = ["names"]
