import pytest

from flyweight.api.finetuning import _method
from flyweight.errors import RequestError


def test_a_method_is_a_name_or_its_fields():
    assert _method("lora", ()).method == "lora"
    word = "method={kind: lora, r: 4}"
    assert _method(None, [word]).method == {"kind": "lora", "r": 4}
    assert _method(None, ["method=rslora"]).method == "rslora"
    assert _method(None, []) is None
    with pytest.raises(RequestError, match="no method is called 'loro'"):
        _method(None, ["method={kind: loro}"])
    with pytest.raises(RequestError, match="not valid YAML"):
        _method(None, ["method={kind: lora"])
