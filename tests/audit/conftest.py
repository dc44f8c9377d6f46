import pytest
from audit_fixture import Lab, packed, text, trained_model

from flyweight.evaluation.checks import Subject
from flyweight.model import folder


@pytest.fixture(scope="session")
def _sound(tmp_path_factory):
    corpus = packed(tmp_path_factory.mktemp("corpus"), text(700, 0))
    return trained_model(tmp_path_factory.mktemp("model"), corpus), corpus


@pytest.fixture
def lab(_sound, tmp_path) -> Lab:
    place, corpus = _sound
    return Lab(Subject(place, folder.load(place).eval(), corpus), tmp_path)
