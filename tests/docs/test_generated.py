"""The pages that commands write are those of this version."""

import re

from tests.docs.pages import text
from weightspace.cli.method_table import methods_of
from weightspace.experiments.claim import claims


def test_the_page_of_methods_names_every_method() -> None:
    written = re.findall(r"^\| `(\w+)` \|", text("docs/methods.md"), re.M)
    assert written == [row["name"] for row in methods_of({})], "write it anew: weightspace methods -o docs/methods.md --force"


def test_the_page_of_claims_names_every_claim_with_what_was_found() -> None:
    verdicts = dict(re.findall(r"^\*\*([\w-]+)\*\*: (held in part|held|did not hold|not tried)", text("docs/claims.md"), re.M))
    assert set(verdicts) == set(claims), "write it anew: weightspace reproduce --all -o docs/claims.md --force"
    assert len([name for name, said in verdicts.items() if said != "not tried"]) >= 25
