"""A published model, tinyllamas' stories260K, on the stories it was trained for: what was published of it comes out here."""

import pytest

PUBLISHED = """\
Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, she saw a big, red ball. \
She wanted to play with it, but it was too high.
Lily's mom said, "Lily, let's go to the park." Lily was sad and didn't know what to do. She said, "I want to play with your \
ball, but I can't find it."
Lily was sad and didn't know what to do. She said, "I'm sorry, Lily. I didn't know what to do."
Lily didn't want to help her mom, so she"""
"""What llama2.c expects of 200 greedy tokens from the begin token."""

STORIES, END = 60, "<|endoftext|>"


@pytest.fixture(scope="session")
def stories260k(real_data):
    """The published model's folder."""
    if not (real_data / "stories260k").is_dir():
        pytest.skip("no local copy of stories260k")
    return real_data / "stories260k"


def test_its_greedy_story_from_the_begin_token_is_the_published_one(stories260k, answer):
    told = answer("generate", stories260k, "", "--max-new-tokens", "200", "--temperature", "0")[
        "text"
    ]
    assert PUBLISHED.startswith(told.strip()[: len(PUBLISHED)]) and len(told.strip()) > 300


def test_by_documents_its_likelihood_is_the_published_one(stories260k, real_data, answer, tmp_path):
    sample = (real_data / "tinystories" / "train-sample-2MiB.txt").read_text(encoding="utf-8")
    stories = [story.strip() for story in sample.split(END)[:STORIES]]
    path = tmp_path / "stories.txt"
    path.write_text(f"\n{END}\n".join(stories), encoding="utf-8")
    scored = answer("eval", stories260k, "--data", path, "--separator", END, "--split", "train")
    assert scored["nll"]["value"] < 1.30  # published: 1.2968; as one text it would be 1.81
