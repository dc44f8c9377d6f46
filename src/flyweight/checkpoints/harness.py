"""Run lm-eval's tasks on any model here, through transformers' interface of the model."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flyweight.checkpoints import load_any
from flyweight.checkpoints.foreign_model import Foreign
from flyweight.errors import FlyweightError, RequestError
from flyweight.model.decoder import Decoder


def transformers_model(folder: Path, device: str) -> Any:
    """Return the model in an artifact's `model/` folder as a transformers model."""
    model = load_any.load(folder, device)
    if isinstance(model, Foreign):
        return model.model
    if not isinstance(model, Decoder):
        raise RequestError(
            f"--tasks: lm-eval reads decoders; {folder} is a baseline (kind: {model.config.kind})"
        )
    import torch

    from flyweight.checkpoints.auto import FlyweightForCausalLM
    from flyweight.checkpoints.auto_config import FlyweightConfig

    with torch.device("meta"):
        wrapped = FlyweightForCausalLM(FlyweightConfig.of(model.config, dtype=model.dtype))
    wrapped.decoder.load_state_dict(model.state_dict(), assign=True)
    # Packed layers have no tensor of the float type that they unpack into.
    wrapped.decoder.to(model.dtype)
    return wrapped.eval()


def transformers_tokenizer(folder: Path, context: int | None) -> Any:
    """Return the tokenizer in an artifact's `model/` folder as a transformers tokenizer.

    Compares the two. Raises RequestError for one with regular expressions that may never end:
    nothing would stop them in lm-eval.
    """
    from transformers import PreTrainedTokenizerFast

    from flyweight.checkpoints import tokenizer_files
    from flyweight.data import patterns, special
    from flyweight.data.tokenizer import Tokenizer

    file = folder / "tokenizer.json"
    if not file.is_file():
        raise RequestError(f"{folder} has no tokenizer.json: it cannot read text")
    own = Tokenizer.load(file)
    if patterns.foreign(own.text):
        raise RequestError(
            f"--tasks: the tokenizer in {folder} splits text by a regular expression that may take "
            "for ever, and nothing would stop it in lm-eval; measure this model with --data"
        )
    words = {**own.words, "pad": own.words["pad"] or own.words["eos"]}
    fields = special.config(words, own.adds, context or 2**31)
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(file), **fields)
    tokenizer_files.compare(own, theirs, folder, named=())  # their names are given here
    return theirs


def evaluate(
    folder: Path,
    tasks: Sequence[str],
    device: str,
    task_path: Path | None = None,
    few_shot: int | None = None,
    limit: int | None = None,
    batch: int = 8,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """Return lm-eval's metrics by task, each with its value and standard error.

    The error is None where lm-eval gives none. `task_path` is a folder of task files of the user's
    own. Raises RequestError for tasks that lm-eval does not know.
    """
    try:
        import lm_eval
        from lm_eval.models import huggingface
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise RequestError(
            "--tasks needs the lm-eval harness: pip install 'flyweight[tasks]'"
        ) from error
    if task_path is not None and not task_path.is_dir():
        raise RequestError(f"--task-path {task_path}: the folder does not exist")
    manager = TaskManager(include_path=None if task_path is None else str(task_path))
    unknown = [task for task in tasks if not manager.match_tasks([task])]
    if unknown or not tasks:
        what = ", ".join(unknown) or "empty list"
        raise RequestError(
            f"--tasks: lm-eval knows no {what}; see `lm-eval ls tasks`, or name a folder with "
            "--task-path"
        )
    context = load_any.config(folder).context
    tokenizer = transformers_tokenizer(folder, context)
    if not tokenizer.eos_token:
        raise RequestError(
            f"--tasks: the tokenizer in {folder} has no end-of-text token, which lm-eval starts "
            "texts with"
        )
    library: Any = lm_eval  # its decorators hide what these two take
    wrapper: Any = huggingface.HFLM
    harness = wrapper(
        pretrained=transformers_model(folder, device),
        tokenizer=tokenizer,
        max_length=context or load_any.WINDOW,
        batch_size=batch,
        device=device,
    )
    try:
        outcome = library.simple_evaluate(
            model=harness,
            tasks=list(tasks),
            num_fewshot=few_shot,
            limit=limit,
            task_manager=manager,
            random_seed=seed,
            numpy_random_seed=seed,
            torch_random_seed=seed,
            fewshot_random_seed=seed,
        )
    except (OSError, ConnectionError, ValueError, KeyError) as error:
        raise FlyweightError(
            f"--tasks: lm-eval failed ({type(error).__name__}: {str(error)[:300]})"
        ) from error
    assert outcome is not None
    return {
        task: _metrics(result, outcome["n-samples"].get(task, {}))
        for task, result in outcome["results"].items()
    }


def _metrics(result: dict[str, Any], samples: dict[str, int]) -> dict[str, Any]:
    """Return `{metric: {value, stderr, n}}` of one task.

    lm-eval writes `metric,filter` and `metric_stderr,filter`. A metric that several filters give,
    such as strict and flexible answers of one task, keeps its filter in its name.
    """
    parts = {
        key: key.partition(",")
        for key, value in result.items()
        if isinstance(value, int | float) and "," in key
    }
    parts = {key: part for key, part in parts.items() if not part[0].endswith("_stderr")}
    names = Counter(name for name, _, _ in parts.values())
    metrics: dict[str, Any] = {}
    for key, (name, _, kind) in parts.items():
        value, error = result[key], result.get(f"{name}_stderr,{kind}")
        stderr = error if isinstance(error, int | float) and math.isfinite(error) else None
        place = name if names[name] == 1 else key
        metrics[place] = {
            "value": value if math.isfinite(value) else None,
            "stderr": stderr,
            "n": samples.get("effective"),
        }
    return metrics
