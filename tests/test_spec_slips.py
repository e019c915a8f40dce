"""What users hand in by mistake: each slip is told in one line, in a fresh interpreter without the type checks of tests."""

import json
import subprocess
import sys

import pytest

NO_WEIGHTS = "expected a checkpoint or a state dict, found"
OPEN = "open a file with ws.open(path)"
MODULE = "give its state_dict()"
ARRAYS = "a state dict maps names to torch tensors, found str -> ndarray at 'b'; convert it with torch.as_tensor, or leave it out"

SLIPS = {
    "SymmetrySpec.from_yaml(None)": "expected the path of a YAML or JSON file, or its text, found NoneType; give one of them",
    "SymmetrySpec.parse({'a': 3})": "the axes of tensor 'a' are 3; expected text such as 'h in'",
    "SymmetrySpec.parse(['a'])": "'tensors' is a list; expected names with what is said of them",
    "SymmetrySpec.parse(None)": "'tensors' is a NoneType; expected names with what is said of them",
    "SymmetrySpec.parse({}, sizes=[3])": "'sizes' is a list; expected names with what is said of them",
    "SymmetrySpec.parse({}, groups={'h': 3})": "neuron group 'h' is 3; expected a mapping of size, kind, symmetry and per",
    "SymmetrySpec.parse({'a': 'h'}, sizes={'h': 'x'})": "neuron group 'h' has size 'x'; expected a whole number",
    "SymmetrySpec.parse({'a': 'h'}, sizes={'h': 2.5})": "neuron group 'h' has size 2.5; expected a whole number",
    "ws.NeuronGroup(3, 3)": "'3' cannot name a neuron group; use letters, digits, '_' and '.', a letter first",
    "spec.with_groups(h={'foo': 1})": "neuron group 'h' has a field 'foo'; expected size, kind, symmetry or per",
    "spec.with_groups(h=3)": "neuron group 'h' is 3; expected a mapping of size, kind, symmetry and per",
    "spec.random(3)": "expected a torch.Generator as the source of chance, found 3; give torch.Generator().manual_seed(3)",
    "spec.random('x')": "expected a torch.Generator as the source of chance, found 'x'; give one, or nothing",
    "g @ 3": "expected another element after '@', found int; move weights with act(element, weights)",
    "spec.element([1, 0])": "expected actions by group, found list; give a mapping such as {'h': [1, 0]}",
    "spec.diff(None)": "expected another spec to compare with, found NoneType; give a SymmetrySpec",
    "spec.check(None)": f"{NO_WEIGHTS} NoneType; {OPEN}",
    "ws.act(g, {'b': np.zeros(2)})": ARRAYS,
    "ws.act(g, {1: torch.zeros(2)})": ARRAYS.replace("str -> ndarray at 'b'", "int -> Tensor at '1'"),
    "ws.act(g, torch.nn.Linear(2, 2))": f"{NO_WEIGHTS} Linear; {MODULE}",
    "ws.act(g, None)": f"{NO_WEIGHTS} NoneType; {OPEN}",
    "ws.act(state, g)": "expected an element first, found dict; call act(element, weights)",
    "ws.fold(None, spec)": f"{NO_WEIGHTS} NoneType; {OPEN}",
    "ws.spec_for('model.pt')": f"{NO_WEIGHTS} the text 'model.pt'; {OPEN}",
    "ws.spec_for(torch.nn.Linear(2, 2))": f"{NO_WEIGHTS} Linear; {MODULE}",
    "ws.infer_spec(None)": f"{NO_WEIGHTS} NoneType; {OPEN}",
    "ws.infer_spec({'b': np.zeros(2)})": ARRAYS,
}

PROGRAM = """
import json, sys
import numpy as np, torch
import weightspace as ws
from weightspace import SymmetrySpec
spec = SymmetrySpec.parse({"b": "h"}, sizes={"h": 2})
g, state = spec.element({"h": [1, 0]}), {"b": torch.zeros(2)}
told = {}
for slip in json.load(sys.stdin):
    try:
        told[slip] = repr(eval(slip))
    except ws.WeightSpaceError as error:
        told[slip] = str(error)
    except Exception as error:
        told[slip] = f"a traceback: {error!r}"
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def told() -> dict[str, str]:
    ran = subprocess.run([sys.executable, "-c", PROGRAM], input=json.dumps(list(SLIPS)), capture_output=True, text=True, check=True)
    answers: dict[str, str] = json.loads(ran.stdout)
    return answers


@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_is_told_in_one_line(slip: str, told: dict[str, str]) -> None:
    assert told[slip] == SLIPS[slip]
