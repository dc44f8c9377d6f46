"""The Python interface: the same words as the command line, which calls these functions alone.

Every function takes a `session`: the runs root (default `FLYWEIGHT_RUNS`, else `./runs`), the
folder of local copies of corpora (default `FLYWEIGHT_DATA`), the device, the threads. Errors are
RequestError (the request was wrong) and FlyweightError (it failed).
"""

from __future__ import annotations

from flyweight.api.exchange import export as export, import_ as import_
from flyweight.api.finetuning import finetune as finetune
from flyweight.api.maintenance import (
    artifacts as artifacts,
    doctor as doctor,
    gc as gc,
    listed_models as listed_models,
    report as report,
    shipped_models as shipped_models,
    shipped_studies as shipped_studies,
    task_templates as task_templates,
)
from flyweight.api.measurements import (
    Measurement as Measurement,
    Model as Model,
    audit as audit,
    bench as bench,
    compare as compare,
    evaluate as evaluate,
    floors as floors,
    profile as profile,
    tasks as tasks,
    verify as verify,
)
from flyweight.api.one_stage import (
    distill as distill,
    merge as merge,
    pack as pack,
    prune as prune,
    quantize as quantize,
)
from flyweight.api.own_text import choose as choose, is_text as is_text, train as train
from flyweight.api.plans import (
    checked as checked,
    measure_memory as measure_memory,
    plan as plan,
)
from flyweight.api.recipes import load as load, shipped as shipped, with_words as with_words
from flyweight.api.results import (
    Run as Run,
    StudyRun as StudyRun,
    TuningStudyRun as TuningStudyRun,
)
from flyweight.api.runs import run as run
from flyweight.api.session import DEFAULT as DEFAULT, Session as Session
from flyweight.api.study_runs import study as study
from flyweight.api.text import chat as chat, generate as generate
from flyweight.api.within_limit import Compressed as Compressed, compress as compress
