"""The files of the studies that come with the package."""

import pytest

from flyweight.config import catalogue, tuning_study
from flyweight.errors import RequestError
from flyweight.studies import study_files

OTHERS = ("tradeoffs/", "compact-ladder/")
"""Folders of the catalogue that shipped studies are written for."""


OF_TUNING = [name for name in study_files.shipped() if name.startswith("finetuning")]


@pytest.mark.parametrize("name", OF_TUNING)
def test_shipped_studies_of_fine_tuning_are_valid(name):
    study = tuning_study.parse(study_files.read_raw(name)[1], name)
    assert study.name == name
    assert len(study.seeds) >= 3
    assert {"full", "frozen", "bottleneck", "lora", "prefix", "scratch"} <= set(study.methods)


@pytest.mark.parametrize("name", [name for name in study_files.shipped() if name not in OF_TUNING])
def test_shipped_studies_are_valid(name):
    try:
        study = study_files.load(name, yes=True)
    except RequestError as error:
        faults = str(error).splitlines()[1:]
        missing = {
            folder
            for folder in OTHERS
            if not any(each.startswith(folder) for each in catalogue.names())
        }
        assert missing
        assert all(any(f"config: {folder}" in fault for folder in OTHERS) for fault in faults), (
            "\n".join(faults)
        )
    else:
        assert study.name == name
        assert len(study.seeds) >= 3
        assert study.findings
