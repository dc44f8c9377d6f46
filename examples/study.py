"""Is rotary better than learned positions, over seeds? `python examples/study.py TEXT [STEPS]`."""

import sys

import flyweight as fw


def main(text: str, steps: int = 200) -> None:
    """Run a grid of two models with three seeds and print what it shows."""
    study = {
        "name": "positions",
        "about": "Rotary against learned positions, on the same tokens.",
        "data": {"text": {"corpus": text, "tokenizer": "byte", "context": 32}},
        "models": {
            "small": {
                "config": {"dim": 32, "layers": 1, "attention": {"heads": 2}},
                "grid": {"position": ["learned", "rope"]},
            }
        },
        "budgets": {"short": {"steps": steps}},
        "train": {"batch": 8, "optimizer": {"kind": "muon", "rest": {"lr": 0.03}}},
        "seeds": [0, 1, 2],
        "findings": [
            {
                "claim": "rotary below learned",
                "below": {"fields": {"position": "rope"}},
                "above": {"fields": {"position": "learned"}},
            }
        ],
    }
    print(fw.plan(study))
    result = fw.study(study)
    for finding in result.summary.findings:
        print(finding.claim, "->", finding.verdict)
    print(result.report)


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(sys.argv[1], *map(int, sys.argv[2:]))
