"""A folder of lm-eval task files over a few questions of our own: nothing is fetched."""

import json

ROWS = [
    {"text": "the cat sat on the", "label": 0},
    {"text": "the dog sat on the", "label": 1},
    {"text": "a cat", "label": 1},
]

CHOICE = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{file}"}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{text}}}}"
doc_to_target: "{{{{label}}}}"
doc_to_choice: ["mat", "log"]
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
metadata: {{version: 1}}
"""

PERPLEXITY = """
task: tiny-text
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{file}"}}}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list:
  - {{metric: word_perplexity, aggregation: weighted_perplexity, higher_is_better: false}}
  - {{metric: bits_per_byte, aggregation: bits_per_byte, higher_is_better: false}}
metadata: {{version: 1}}
"""

GROUP = """
group: tiny-group-of-two
task: [tiny-again, tiny-text]
aggregate_metric_list: [{metric: acc, aggregation: mean, weight_by_size: true}]
"""


def write(place, monkeypatch, rows=None):
    """Return a new folder `place/tasks` of task files over `place/tiny.jsonl`."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(place / "cache"))
    file = place / "tiny.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows or ROWS))
    folder = place / "tasks"
    folder.mkdir()
    for name in ("tiny-choice", "tiny-again"):
        (folder / f"{name}.yaml").write_text(CHOICE.format(name=name, file=file))
    (folder / "text.yaml").write_text(PERPLEXITY.format(file=file))
    (folder / "group.yaml").write_text(GROUP)
    return folder
