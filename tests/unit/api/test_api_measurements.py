"""What is said beside a measurement."""


def test_floors_say_where_bits_per_byte_are_too_good(answer, flyweight, tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text(
        "".join(f"Ann  sees the number {place % 7}, and Bob takes two.\n" for place in range(1000))
    )
    told = answer("floors", text, "--tokenizer", "word")
    (note,) = told["notes"]
    assert "lines of the test split" in note and "too good" in note
    assert answer("floors", text, "--tokenizer", "char")["notes"] == []
    status, out, _ = flyweight("floors", text, "--tokenizer", "word")
    assert status == 0 and f"note: {note}" in " ".join(out.split())
