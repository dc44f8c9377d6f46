"""The quickstart from Python, a small part of it: `python examples/quickstart.py`."""

import flyweight as fw

recipe = fw.load("quickstart", "stages.teacher.train.steps=20", "stages.student.train.steps=20")
print(fw.plan(recipe).totals)  # seconds, FLOPs, memory; nothing is allocated
run = fw.run(recipe)  # makes what is missing
print(run.report)  # .../report.html
print(fw.evaluate(run["student"]).bits_per_byte)  # value, 95 % interval, n
print(fw.audit(run["student"]).passed)
print(fw.generate(run["student"], "def ", max_new_tokens=64))
