"""A compression in the terminal: what was chosen, every try, what it cost."""

from __future__ import annotations

from rich.text import Text

from flyweight.api import Compressed
from flyweight.cli.show.console import prose, say
from flyweight.cli.show.tables import drawn
from flyweight.config.units import format_bits, format_size, format_time
from flyweight.records.compression import Compression, Tried
from flyweight.records.verification import Verification
from flyweight.tables.plain import Cells


def show(result: Compressed) -> None:
    """Print the chosen way, its steps, the tries, plain quantization, the cost and the report."""
    found = result.record
    chosen = found[found.chosen]
    prose(Text(_headline(found, chosen), "bold"))
    say("", *(f"  {place}. {step}" for place, step in enumerate(chosen.steps, 1)), "")
    rows = [(each.name, _cells(found, each)) for each in found.tried]
    say(drawn(_heads(found), rows, about={"bits/byte": "on validation text"}))
    prose("", _against_plain(found))
    trained = f"{found.tokens:,} tokens of training" if found.tokens else "no training"
    prose(
        f"Cost: {format_time(found.seconds)} and {trained} for {len(found.tried)} tries, with "
        f"those that were kept from before."
    )
    prose(*(Text(f"left out: {line}", "yellow") for line in found.left_out))
    prose(_verified(found.verification))
    if not found.audit_passed:
        prose(Text("The audit of the result failed: flyweight audit says where.", "bold red"))
    say("", f"model: {result.model.path}", f"report: {result.run.report}")


def _headline(found: Compression, chosen: Tried) -> str:
    speed = "" if chosen.speed is None else f", {chosen.speed:.2f} times as fast"
    before, after = found.bits_per_byte.value, chosen.bits_per_byte.value
    return (
        f"{chosen.name}: {format_size(chosen.bytes)} instead of {format_size(found.bytes)}{speed}; "
        f"on validation text {format_bits(after)} bits per byte instead of {format_bits(before)}"
    )


def _verified(found: Verification) -> Text:
    """Return which exports of the result were found to be it, or which were not."""
    ran = [each for each in found.exports if each.verdict != "not run"]
    if not ran:
        why = "; ".join(dict.fromkeys(each.why for each in found.exports))
        return Text(f"Not verified: {why}", "yellow")
    failed = [each for each in ran if each.verdict == "fail"]
    if failed:
        which = "; ".join(f"{each.export} in {each.program}: {each.why}" for each in failed)
        return Text(f"Verification failed: {which}", "bold red")
    which = " and ".join(f"{each.export} in {each.program}" for each in ran)
    return Text(f"Verified: the saved files are the model that was measured ({which})")


def _heads(found: Compression) -> tuple[str, ...]:
    speed = ("speed",) if found.limit == "speed" else ()
    return ("way", "weights", *speed, "bits/byte", "front", "made in")


def _cells(found: Compression, each: Tried) -> Cells:
    speed = () if each.speed is None else (f"{each.speed:.2f}x",)
    front = "yes" if each.name in found.front else ""
    bits = format_bits(each.bits_per_byte.value)
    return (format_size(each.bytes), *speed, bits, front, format_time(each.seconds))


def _against_plain(found: Compression) -> str:
    """Return what plain quantization alone would have given, on the test split as well."""
    if found.plain == found.chosen:
        test = format_bits(found.test[found.chosen].value)
        return f"Plain quantization is the best way here: {test} bits per byte on the test split."
    plain = found[found.plain]
    size = format_size(plain.bytes)
    within = "as small" if found.limit == "loss" else "within the limit"
    which = f"the best {within} is {plain.name} ({size})"
    if not found.plain_fits:
        which = f"none is {within}, and the smallest is {plain.name} ({size})"
    scores = [format_bits(found.test[name].value) for name in (found.plain, found.chosen)]
    return (
        f"Of plain quantization {which}: {scores[0]} bits per byte on the test split, and "
        f"{found.chosen} has {scores[1]}."
    )
