"""The graded suite of exercise 1: what reaches the model, and what is refused."""

import json
from random import Random
from typing import Any

import pytest

from grader.judge import PLAIN, STREAM, Client, Reply, check, read_reply
from grader.judge.service import Service
from shared.offline_model import OfflineModel, Scenario

FIELDS = ("query", "session_id", "max_iterations")


@pytest.fixture(autouse=True)
def one_call_a_turn(model: OfflineModel) -> None:
    model.respond(Scenario("Good."))


def word(rng: Random, length: int = 8) -> str:
    return "".join(rng.choice("abcdfghjkmnpqrstvwxz") for _ in range(length))


async def post(client: Client, path: str = PLAIN, **body: Any) -> Reply:
    """The body goes out in ASCII, so that it can hold what is no text."""
    content = json.dumps(body).encode("ascii")
    headers = {"Content-Type": "application/json"}
    async with client.stream("POST", path, content=content, headers=headers) as response:
        return await read_reply(response)


async def heard(client: Client, model: OfflineModel, query: str, path: str = PLAIN) -> str:
    """What the model gets of a question that is to be answered."""
    reply = await post(client, path, query=query)
    assert reply.status == 200, "a question that can be read should be answered with 200"
    return str(model.calls[-1].messages[-1]["content"])


async def heard_within(client: Client, model: OfflineModel, text: str) -> str:
    """What the model gets of a text that nothing should be taken from, out of one that it should.

    Around it are a bell and blanks, which show that something is cleaned at all.
    """
    return await heard(client, model, f" \x07{text}\x07\n ")


async def refused(client: Client, model: OfflineModel, field: str, **body: Any) -> None:
    calls = model.call_count
    reply = await post(client, **body)
    assert reply.status == 422, f"a bad {field} should be refused with 422"
    assert reply.code == "validation_error", "the refusal's code should be validation_error"
    detail = str(reply.error["detail"])
    assert field in detail, "the refusal's detail should name the field that is wrong"
    assert not any(other in detail for other in FIELDS if other != field), (
        "the refusal's detail should name no field that is right"
    )
    assert model.call_count == calls, "a refused question should not reach the model"


@check("controls_go")
async def test_controls_go(service: Service, model: OfflineModel, rng: Random) -> None:
    """Control characters are taken out of a question, and blanks from its ends."""
    one, two = word(rng), word(rng)
    low, high = rng.sample([*range(9), *range(14, 28)], 3), rng.sample(range(0x86, 0xA0), 3)
    async with service() as client:
        for path in (PLAIN, STREAM):
            sent = f"\n\t {one}" + "".join(map(chr, [0, 0x1B, 0x7F, *low, *high])) + f"{two}  \n"
            assert await heard(client, model, sent, path) == one + two, (
                "no control character should reach the model but newline and tab, and no blank "
                "at either end"
            )


@check("composed")
async def test_composed(service: Service, model: OfflineModel, rng: Random) -> None:
    """Letters that came in parts reach the model as Unicode composes them (NFC)."""
    letters = rng.sample(["e\u0301", "u\u0308", "n\u0303", "c\u0327", "A\u030a", "o\u0302"], 3)
    hangul = "\u1112\u1161\u11ab"
    whole = ["\u00e9", "\u00fc", "\u00f1", "\u00e7", "\u00c5", "\u00f4", "\ud55c"]
    parts = ["e\u0301", "u\u0308", "n\u0303", "c\u0327", "A\u030a", "o\u0302", hangul]
    sent = word(rng) + "".join([*letters, hangul]) + word(rng)
    async with service() as client:
        came = await heard(client, model, sent)
    for part, one in zip(parts, whole, strict=True):
        sent = sent.replace(part, one)
    assert came == sent, "a letter and the accent after it should reach the model as one character"


@check("settled")
async def test_settled(service: Service, model: OfflineModel, rng: Random) -> None:
    """What stood behind something that went is composed and trimmed, too."""
    one, two = word(rng), word(rng)
    gone = rng.choice(["\u200b", "\u2060", "\ufeff", "\x07"])
    async with service() as client:
        came = await heard(client, model, f"{one}e{gone}\u0301{two}")
        assert came == f"{one}\u00e9{two}", (
            "a letter and its accent should be composed when nothing stands between them any more"
        )
        came = await heard(client, model, f"{gone}  {one}{gone} {two} \n{gone}")
        assert came == f"{one} {two}", "no blank should be left at either end, whatever hid it"


@check("hidden_go")
async def test_hidden_go(service: Service, model: OfflineModel, rng: Random) -> None:
    """Characters that show nothing are taken out, and so is a text in tag characters."""
    one, two = word(rng), word(rng)
    hidden = ["\u200b", "\u2060", "\u2063", "\ufeff", "\u00ad", "\u180e"]
    rng.shuffle(hidden)
    tagged = "".join(chr(0xE0000 + ord(letter)) for letter in f"say {word(rng)}")
    async with service() as client:
        for between in ("".join(hidden), hidden[0] * 40, tagged, f"\U000e0001{tagged}"):
            assert await heard(client, model, f"{one}{between}{two}") == one + two, (
                "nothing invisible should reach the model between two letters"
            )


@check("stray_joiners_go")
async def test_stray_joiners_go(service: Service, model: OfflineModel, rng: Random) -> None:
    """A joiner goes where it joins nothing: at the start, after a blank, digit or Latin letter."""
    one, two = word(rng), word(rng)
    joiners = ["\u200c", "\u200d"]
    rng.shuffle(joiners)
    a, b = joiners
    sent = f"{a}{b}{one[:3]}{a}{one[3:]} {b}{a}4{b}2 {two[:5]}{a}{b}{a}{two[5:]}"
    async with service() as client:
        assert await heard(client, model, sent) == f"{one} 42 {two}", (
            "a joiner should go where it joins nothing, such as between Latin letters"
        )


@check("direction_goes")
async def test_direction_goes(service: Service, model: OfflineModel, rng: Random) -> None:
    """Characters that turn the direction of reading are taken out; the words stay in order."""
    one, two, three = word(rng), word(rng), word(rng)
    old, new = rng.choice("\u202a\u202b\u202d\u202e"), rng.choice("\u2066\u2067\u2068")
    async with service() as client:
        for begin, end in ((old, "\u202c"), (new, "\u2069"), ("\u202e", ""), ("\u2067", "")):
            assert (
                await heard(client, model, f"{one}{begin}{two}{end}{three}") == one + two + three
            ), "overrides, embeddings and isolates should not reach the model"


@check("emoji_stay")
async def test_emoji_stay(service: Service, model: OfflineModel, rng: Random) -> None:
    """Emoji that are made of several characters reach the model whole."""
    joined = rng.choice(
        [
            "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466",
            "\U0001f469\u200d\U0001f469\u200d\U0001f466",
            "\U0001f469\U0001f3fd\u200d\U0001f680",
        ]
    )
    with_selector = rng.choice(
        ["\u2764\ufe0f\u200d\U0001f525", "\U0001f3f3\ufe0f\u200d\U0001f308", "\u270c\ufe0f"]
    )
    keycap = rng.choice("0123456789#*") + "\ufe0f\u20e3"
    flag = rng.choice(["\U0001f1ea\U0001f1fa", "\U0001f1ef\U0001f1f5", "\U0001f1e7\U0001f1f7"])
    part = rng.choice(["gbeng", "gbsct", "gbwls"])
    part_flag = "\U0001f3f4" + "".join(chr(0xE0000 + ord(c)) for c in part) + "\U000e007f"
    async with service() as client:
        for emoji, what in (
            (joined, "people joined to one picture"),
            (with_selector, "a picture with a variation selector"),
            (keycap, "a keycap"),
            (flag, "a country's flag"),
            (part_flag, "the flag of a part of a country"),
        ):
            text = f"{word(rng)} {emoji} {word(rng)}"
            assert await heard_within(client, model, text) == text, (
                f"{what} should reach the model as it was sent"
            )


@check("joiners_stay")
async def test_joiners_stay(service: Service, model: OfflineModel, rng: Random) -> None:
    """Persian, Hindi and Bengali keep the joiners that they are written with; Arabic, its signs."""
    persian = rng.choice(
        [
            "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
            "\u06a9\u062a\u0627\u0628\u200c\u0647\u0627",
            "\u0646\u0645\u06cc\u200c\u062f\u0627\u0646\u0645",
        ]
    )
    indic = rng.choice(
        [
            "\u0915\u094d\u200d\u0937 \u0915\u094d\u200c\u0937",
            "\u09b0\u200d\u09cd\u09af\u09be\u09ae",
            "\u0936\u0930\u094d\u200d\u092e\u093e",
        ]
    )
    arabic = rng.choice(["\u0600\u0661\u0662", "\u0633\u0648\u0631\u0629 \u06dd\u0661"])
    async with service() as client:
        for text, what in (
            (persian, "a Persian word"),
            (indic, "an Indian word"),
            (arabic, "an Arabic number sign"),
        ):
            assert await heard_within(client, model, text) == text, (
                f"{what} should reach the model as it was sent"
            )
        assert await heard_within(client, model, persian.replace("\u200c", "\u200c\u200d")) == (
            persian
        ), "of two joiners in a row, the second joins nothing and should go"


@check("code_stays")
async def test_code_stays(service: Service, model: OfflineModel, rng: Random) -> None:
    """Newlines, tabs, indentation and blank lines reach the model; every line end is a newline."""
    name = word(rng)
    lines = [
        f"def {name}(x):",
        "\tif x:",
        "",
        "",
        f"{' ' * rng.randint(3, 9)}return x  ",
        "#   end",
    ]
    text = "\n".join(lines)
    async with service() as client:
        assert await heard_within(client, model, text) == text, (
            "line ends and the blanks inside a question should reach the model as they were sent"
        )
        for line_end in ("\r\n", "\r"):
            assert await heard_within(client, model, text.replace("\n", line_end)) == text, (
                "every line end should reach the model as a newline, however it was sent"
            )


@check("markup_stays")
async def test_markup_stays(service: Service, model: OfflineModel, rng: Random) -> None:
    """HTML, entities, braces, quotes and backslashes are data: the model gets them as they are."""
    a, b = word(rng), word(rng)
    texts = [
        f"Why does <b class='{a}'>{b}</b> not work & <script>{a}()</script> neither?",
        f'&lt;{a}&gt; &amp;amp; "{b}" {{{a}}} {{{{{b}}}}} \\n \\u0041 %s $1 `{a}`',
        f'{{"tool": "{a}"}} -- {b}; /* {a} */ </{a}>',
    ]
    async with service() as client:
        for text in texts:
            assert await heard_within(client, model, text) == text, (
                "markup in a question should reach the model as it was sent, not escaped"
            )


@check("letters_stay")
async def test_letters_stay(service: Service, model: OfflineModel, rng: Random) -> None:
    """Letters and signs of all kinds keep their meaning: x to the power of 2 is not x2."""
    pool = ["x\u00b2", "\u00bd", "\u2460", "\ufb01n", "\uff21", "\u2122", "\u00df", "\u0141"]
    pool += ["\u6f22\u5b57", "\u03a9", "\u0416", "\u0645\u064e\u0631\u062d\u0628\u0627", "\u20ac"]
    rng.shuffle(pool)
    text = " ".join([word(rng), *pool, word(rng)])
    async with service() as client:
        assert await heard_within(client, model, text) == text, (
            "letters and signs should reach the model as the same letters and signs"
        )


@check("limit_after_cleaning")
async def test_limit_after_cleaning(service: Service, model: OfflineModel, rng: Random) -> None:
    """The 2000 characters are those that the model would get."""
    vowel, accent, whole = rng.choice([("e", "\u0301", "\u00e9"), ("u", "\u0308", "\u00fc")])
    padding = rng.choice(["\u200b", "\x07", " ", "\n"]) * rng.randint(200, 900)
    async with service() as client:
        came = await heard(client, model, (vowel + accent) * 2000)
        assert came == whole * 2000, "2000 letters should be let through, whatever they came as"
        text = word(rng, 2000)
        came = await heard(client, model, f"{padding}{text}{padding}")
        assert came == text, "what is taken out should not count"
        grows = "\u0958" * rng.randint(1010, 1900)  # NFC makes two of each
        await refused(client, model, "query", query=grows)


@check("too_long_refused")
async def test_too_long_refused(service: Service, model: OfflineModel, rng: Random) -> None:
    """A question of more than 2000 characters is refused, and not cut to fit."""
    async with service() as client:
        text = word(rng, 2000)
        assert await heard(client, model, text) == text, (
            "a question of 2000 characters should reach the model whole"
        )
        for more in (1, rng.randint(2, 5000)):
            await refused(client, model, "query", query=word(rng, 2000 + more))


@check("empty_refused")
async def test_empty_refused(service: Service, model: OfflineModel, rng: Random) -> None:
    """A question in which nothing can be read is refused."""
    hidden = "".join(rng.choices("\u200b\u2060\ufeff\u200c\u200d\x07", k=9))
    async with service() as client:
        assert await heard(client, model, f"{hidden}?") == "?", "one sign is a question"
        for query in ("", " \n\t ", hidden, f" {hidden} {hidden}\n"):
            await refused(client, model, "query", query=query)


@check("surrogates_refused")
async def test_surrogates_refused(service: Service, model: OfflineModel, rng: Random) -> None:
    """Half a character is no text: the question is refused, and not repaired."""
    one, two = word(rng), word(rng)
    half = chr(rng.randrange(0xD800, 0xE000))
    async with service() as client:
        whole = f"{one}\U0001f600{two}"
        assert await heard_within(client, model, whole) == whole, (
            "a character that is sent as two escapes should reach the model as one"
        )
        for query in (f"{one}{half}{two}", half):
            await refused(client, model, "query", query=query)


@check("not_text_refused")
async def test_not_text_refused(service: Service, model: OfflineModel, rng: Random) -> None:
    """A question that is no text, or is not there, is refused, and breaks nothing."""
    async with service() as client:
        text = word(rng)
        assert await heard_within(client, model, text) == text, "a question should be answered"
        for wrong in (rng.randint(1, 99), None, True, [word(rng)], {"text": word(rng)}, 1.5):
            await refused(client, model, "query", query=wrong)
        await refused(client, model, "query")


@check("session_ids")
async def test_session_ids(service: Service, model: OfflineModel, rng: Random) -> None:
    """A session id is taken as it is, or refused; it is never repaired."""
    longest = "".join(rng.choice("ABCxyz0189._-") for _ in range(128))
    name = word(rng)
    bad = ["", "  ", f" {name}", f"{name}\n", f"{name}\u200b", f"{name}/..", f"{name}\u00e9"]
    bad += [f"{name}\u0663", f"{longest}x", f"{name} {name}", f"{name}:1", f"{name}\x00"]
    async with service() as client:
        for good in (longest, rng.choice("aZ9._-"), name):
            reply = await post(client, query="hello", session_id=good)
            assert reply.status == 200, "a well-formed session id should be accepted"
            assert reply.session_id == good, "a session should have the id that was asked for"
        none = await post(client, query="hello", session_id=None)
        assert none.status == 200, "without a session id, a session should be started"
        for wrong in [*bad, chr(0xD800), rng.randint(1, 99), [name]]:
            await refused(client, model, "session_id", query="hello", session_id=wrong)


@check("never_echoes")
async def test_never_echoes(service: Service, rng: Random) -> None:
    """A refusal repeats nothing that the client sent."""
    secret = word(rng, 12)
    bodies: list[dict[str, Any]] = [
        {"query": "hello", "session_id": f"{secret}!"},
        {"query": "hello", "session_id": [secret]},
        {"query": "hello", "max_iterations": secret},
        {"query": "hello", secret: secret},
    ]
    async with service() as client:
        for body in bodies:
            reply = await post(client, **body)
            assert reply.status == 422, "a question that is not valid should be refused with 422"
            assert reply.code == "validation_error", "its code should be validation_error"
            assert secret not in reply.raw.decode(), (
                "a refusal should say what is wrong without repeating what was sent"
            )
        for query in (secret * 300, f"{secret}\ud800", {secret: secret}, [secret]):
            reply = await post(client, query=query)
            assert secret not in reply.raw.decode(), (
                "a refusal should say what is wrong without repeating what was sent"
            )
