"""What the command line tells of tasks."""

import json

from typer.testing import CliRunner

from flyweight.cli.app import app
from flyweight.data.tasks import TEMPLATES


def test_tasks_are_listed_with_their_fixed_texts():
    answer = CliRunner().invoke(app, ["ls", "--tasks", "--json"])
    listed = {item["task"]: item for item in json.loads(answer.stdout)["items"]}
    assert set(listed) == set(TEMPLATES)
    assert listed["squad"]["prompt"] == "{context}\n\nQuestion: {question}\nAnswer:"
    assert listed["squad"]["completion"] == " {answer}"
    assert listed["summarize"]["prompt"] == "{article}\n\nSummary:"
    shown = CliRunner().invoke(app, ["ls", "--tasks"]).stdout
    assert 'prompt: "{context}\\n\\nQuestion: {question}\\nAnswer:"' in shown
    assert "files: DIR/squad/{train,validation}.{jsonl,json,parquet}" in shown
