"""Each planted mistake is caught, refused or impossible, and the page says which."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from audit.planted import MISTAKES, table
from audit.planted.mistake import Mistake

from flyweight.errors import RequestError
from flyweight.evaluation.audit import CHECKS
from flyweight.evaluation.run_checks import RUN_CHECKS

PAGE = Path(__file__).parents[2] / "docs" / "audit.md"


def of(outcome: str):
    chosen = [each for each in MISTAKES if each.outcome == outcome]
    return pytest.mark.parametrize("mistake", chosen, ids=[each.name for each in chosen])


@of("caught")
@torch.no_grad()
def test_a_mistake_is_caught_and_the_sound_thing_passes(mistake: Mistake, lab):
    assert mistake.by in CHECKS or mistake.by in RUN_CHECKS
    assert mistake.sound is not None
    sound = mistake.sound(lab.room("sound"))
    assert (sound.name, sound.verdict) == (mistake.by, "pass"), sound
    failed = mistake.plant(lab.room("planted"))
    assert failed is not None and (failed.name, failed.verdict) == (mistake.by, "fail"), failed


@of("refused")
def test_a_mistake_is_refused(mistake: Mistake, lab):
    with pytest.raises(RequestError):
        mistake.plant(lab)


@of("impossible")
def test_a_mistake_is_impossible(mistake: Mistake, lab):
    assert mistake.plant(lab) is None


def test_all_twenty_four_mistakes_of_the_pages_are_planted():
    numbers = {(each.page, each.number) for each in MISTAKES if each.page != "others"}
    counts = Counter(page for page, _ in numbers)
    assert counts == {"lightgpt2": 10, "distilqwen3": 6, "compact-ladder": 8}


def test_each_check_of_a_run_has_a_mistake_that_it_catches():
    caught = {each.by for each in MISTAKES if each.outcome == "caught"}
    assert set(RUN_CHECKS) <= caught


def test_the_page_has_the_table():
    assert table() in PAGE.read_text()
