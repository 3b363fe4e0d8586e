"""The agent's two tools: what a model reads, what it gets back, and what no input can do."""

import asyncio
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from langchain_core.messages import ToolMessage
from langchain_core.utils.function_calling import convert_to_openai_tool

from shared import tools
from shared.arithmetic import MAX_BITS, MAX_DEPTH, MAX_EXPRESSION
from shared.tools import NOT_FOUND, calculate, search_handbook


def calculated(expression: str) -> str:
    return str(calculate.invoke({"expression": expression}))


def found(query: str) -> str:
    return str(search_handbook.invoke({"query": query}))


def headings(query: str) -> list[str]:
    return re.findall(r"^\[.+\.md\] .+ > .+$", found(query), flags=re.MULTILINE)


# ---------------------------------------------------------------- exact arithmetic


@pytest.mark.parametrize(
    ("expression", "answer"),
    [
        ("17.5% of 2480 - 12", "422"),
        ("2 + 3 * 4", "14"),
        ("(2 + 3) * 4", "20"),
        ("7 - 3 - 2", "2"),
        ("64 / 4 / 2", "8"),
        ("0.1 + 0.2", "0.3"),
        ("1 / 8", "0.125"),
        ("3.", "3"),
        (".5", "0.5"),
        ("2.50", "2.5"),
        ("100 * 10", "1000"),
        ("-0.0", "0"),
        ("1.5e3", "1500"),
        ("2E-3", "0.002"),
        ("1e3 + 1", "1001"),
        ("12345678901234567890 + 1", "12345678901234567891"),
        ("0.123456789012345678901", "0.123456789012345678901"),
        ("2,480", "2480"),
        ("1,234,567.89", "1234567.89"),
        ("6 \N{MULTIPLICATION SIGN} 7", "42"),
        ("6 \N{DIVISION SIGN} 4", "1.5"),
        ("6 \N{MINUS SIGN} 7", "-1"),
        ("2 ^ 10", "1024"),
        ("\t2\n+\N{NO-BREAK SPACE}2 ", "4"),
    ],
)
def test_is_exact(expression: str, answer: str) -> None:
    """Decimals are never floats, and signs and separators mean what people mean by them."""
    assert calculated(expression) == answer


@pytest.mark.parametrize(
    ("expression", "answer"),
    [
        ("-2 ** 2", "-4"),
        ("(-2) ** 2", "4"),
        ("2 ** -1", "0.5"),
        ("2 ** 3 ** 2", "512"),
        ("2 * 3 ** 2", "18"),
        ("0 ** 0", "1"),
        ("--2", "2"),
        ("2 - -3", "5"),
        ("-7 // 2", "-4"),
        ("-7 % 3", "2"),
        ("7 // 0.5", "14"),
        ("1 ** 1e99", "1"),
        ("(-1) ** 1e99", "1"),
    ],
)
def test_signs_and_powers_bind_as_in_python(expression: str, answer: str) -> None:
    """Powers bind tighter than a sign on their left, and to the right; // rounds down."""
    assert calculated(expression) == answer


@pytest.mark.parametrize(
    ("expression", "answer"),
    [
        ("17.5%", "0.175"),
        ("17.5 %", "0.175"),
        ("50% of 50% of 80", "20"),
        ("10 PERCENT OF 50", "5"),
        ("(10 + 5)% of 200", "30"),
        ("5% * 200", "10"),
        ("200 * 5%", "10"),
        ("50 + 10%", "50.1"),
        ("50 * (1 + 10%)", "55"),
        ("100% - 20%", "0.8"),
        ("4 ** 200%", "16"),
        ("-10%", "-0.1"),
        ("17 % 5", "2"),
        ("17%5", "2"),
        ("17 % (2 + 3)", "2"),
        ("5 % .3", "0.2"),
        ("17 % -5", "-4.83"),  # no number follows the %: seventeen per cent, minus five
        ("10% % 3", "0.1"),
        ("2 of 3", "6"),
    ],
)
def test_percent_or_remainder(expression: str, answer: str) -> None:
    """A % before a number or a parenthesis is the remainder, any other is percent."""
    assert calculated(expression) == answer


@pytest.mark.parametrize(
    ("expression", "answer"),
    [
        ("1/3", "1/3 (about 0.333333)"),
        ("-2/3", "-2/3 (about -0.666667)"),
        ("22/7", "22/7 (about 3.142857)"),
        ("1234567.89/7", "123456789/700 (about 176366.841429)"),
        ("1/30000", "1/30000 (about 0.0000333333)"),
        ("10**15/7", "1000000000000000/7 (about 142857142857142.857143)"),
        ("10**16/7", "10000000000000000/7 (about 1.42857E+15)"),
        ("10**23", "100000000000000000000000"),
        ("10**24", "1000000000000000000000000 (about 1.00000E+24)"),
        ("2**-22", "0.0000002384185791015625"),
        ("2**-23", "0.00000011920928955078125 (about 1.19209E-7)"),
    ],
)
def test_says_about_how_much_when_hard_to_read(expression: str, answer: str) -> None:
    """Fractions and numbers of more than 24 characters come with a rounded value."""
    assert calculated(expression) == answer


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("", "a number is missing at the end"),
        ("   ", "a number is missing at the end"),
        ("2 +", "a number is missing at the end"),
        ("(", "a number is missing at the end"),
        ("(2", "a ')' is missing"),
        ("(2]", "a ')' is missing"),
        ("2)", "an operator is missing before ')'"),
        ("2 3", "an operator is missing before '3'"),
        ("2(3)", "an operator is missing before '('"),
        ("2 apples", "an operator is missing before 'apples'"),
        ("5%%", "an operator is missing before 'percent'"),
        ("2\N{SUPERSCRIPT TWO}", "an operator is missing before '\N{SUPERSCRIPT TWO}'"),
        ("1/0", "the expression divides by zero"),
        ("1//0", "the expression divides by zero"),
        ("1 % (0)", "the expression divides by zero"),
        ("0 ** -1", "the expression divides by zero"),
        ("2 ** 0.5", "only whole-number powers are exact"),
        ("2 ** 3%", "only whole-number powers are exact"),
    ],
)
def test_says_what_is_wrong(expression: str, reason: str) -> None:
    """What cannot be calculated is answered in one sentence that says what to change."""
    assert calculated(expression) == f"Cannot calculate: {reason}."


@pytest.mark.parametrize(
    "expression",
    [
        "x",
        "sqrt(2)",
        "__import__('os').system('true')",
        "().__class__",
        "lambda: 1",
        "[1]",
        "'a' * 9",
        "$5",
        "1,2345",
        "12,34",
        ",5",
        "1.2.3",
        "1..2",
        ".",
        "nan",
        "inf",
        "1e1000",
        "* 2",
        "\N{ARABIC-INDIC DIGIT ONE}",
        "\N{FULLWIDTH DIGIT ONE}",
        "\N{VULGAR FRACTION ONE HALF}",
        "\0",
        "\ud800",
    ],
)
def test_reads_numbers_and_nothing_else(expression: str) -> None:
    """Names, calls, strings and half-written numbers are named in the refusal, never guessed."""
    assert re.fullmatch(
        r"Cannot calculate: (['\"]).*\1 is not a number; use .*\.", calculated(expression)
    )


def test_repeats_little_of_a_refused_expression() -> None:
    """A refusal shows at most 20 characters, with control characters and surrogates escaped."""
    assert calculated("a" * 21).startswith(f"Cannot calculate: '{'a' * 20}' is")
    assert calculated("\u202e\ud800").encode() == calculated("\u202e\ud800").encode("ascii")


def test_length_limit() -> None:
    """200 characters are read, 201 are not."""
    assert calculated("1".rjust(MAX_EXPRESSION)) == "1"
    assert calculated("1".rjust(MAX_EXPRESSION + 1)) == (
        "Cannot calculate: the expression is longer than 200 characters."
    )


@pytest.mark.parametrize("opening", ["(", "-", "+"])
def test_depth_limit(opening: str) -> None:
    """Parentheses and signs nest 30 deep, never deeper."""
    closing = ")" if opening == "(" else ""
    inner = MAX_DEPTH - 1  # the number itself is the innermost level
    assert calculated(opening * inner + "1" + closing * inner) in {"1", "-1"}
    assert calculated(opening * MAX_DEPTH + "1" + closing * MAX_DEPTH) == (
        "Cannot calculate: it is nested more than 30 deep."
    )


def test_breadth_is_not_depth() -> None:
    """As many numbers side by side as the length allows are fine."""
    assert calculated("+".join("1" * 100)) == "100"
    assert calculated("+".join(["(-1)"] * 40)) == "-40"


def test_longest_decimals_are_whole() -> None:
    """The decimal with the most digits that fits is printed to its last one."""
    exact = calculated("(2**1023 - 1 + 2**1023) / 2**1023").split(" ")[0]
    assert Fraction(exact) == Fraction(2**1024 - 1, 2**1023)
    assert len(exact) == len("1.") + 1023


@pytest.mark.parametrize(
    ("fits", "too_large"),
    [
        ("2 ** 1023", "2 ** 1024"),
        ("2 ** -1023", "2 ** -1024"),
        ("(2 ** 1023 - 1) * 2 + 1", "(2 ** 1023 - 1) * 2 + 2"),
        ("1e308", "1e309"),
        ("1e-308", "1e-309"),
        ("3 ** 646", "3 ** 647"),
        ("(1/3) ** 646", "(1/3) ** 647"),
    ],
)
def test_size_limit(fits: str, too_large: str) -> None:
    """Numerators and denominators have up to 1024 bits, on the way as well as in the result."""
    assert not calculated(fits).startswith("Cannot")
    assert calculated(too_large) == "Cannot calculate: the result is too large."
    assert calculated(f"0 * ({too_large})") == "Cannot calculate: the result is too large."


@pytest.mark.parametrize(
    "expression",
    [
        "9**9**9**9",
        "9**9e99",
        "9**-9e99",
        "(((9**300)**300)**300)",
        "**".join("9" * 60),
        "9" * 200,
        "(" * 200,
        "-" * 200,
        "2**" * 66,
        "%" * 200,
        "1e999" + "*1e999" * 30,
        "1/" * 99 + "1",
        "2**-1023/" + "3" * 100,
    ],
)
def test_never_hangs(expression: str) -> None:
    """Bombs are refused before they are computed: any of them would take minutes, or all memory."""
    started = time.thread_time()
    answer = calculated(expression)
    assert time.thread_time() - started < 1  # the process may collect its garbage meanwhile
    assert len(answer) <= 1100


numbers = st.one_of(
    st.integers(0, 999).map(str),
    st.decimals(0, 999, places=2).map(str),
    st.sampled_from(["0.001", ".5", "7."]),
)


def grown(parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    binary = st.sampled_from([" + ", "-", " * ", "/", " // "])
    return st.one_of(
        st.builds("{}{}{}".format, parts, binary, parts),
        st.builds("{} % ({})".format, parts, parts),
        st.builds("({})".format, parts),
        st.builds("-{}".format, parts),
        st.builds("({})**{}".format, parts, st.integers(-3, 3)),
    )


def python_says(expression: str) -> Fraction:
    """The same text, with each literal an exact fraction, under Python's own grammar."""
    exact = re.sub(r"\d+\.?\d*|\.\d+", lambda number: f"F('{number[0]}')", expression)
    return Fraction(eval(exact, {"F": Fraction}))


@settings(max_examples=500, deadline=None)
@given(st.recursive(numbers, grown, max_leaves=8))
def test_agrees_with_python_on_fractions(expression: str) -> None:
    """For any expression the answer is exactly what Python computes with Fraction."""
    assume(len(expression) <= MAX_EXPRESSION)
    answer = calculated(expression)
    assume("too large" not in answer and "nested" not in answer)
    try:
        expected = python_says(expression)
    except ZeroDivisionError:
        assert answer == "Cannot calculate: the expression divides by zero."
        return
    exact, _, about = answer.partition(" (about ")
    assert Fraction(exact) == expected
    assert ("/" in exact) == (10**MAX_BITS % expected.denominator != 0)
    if about:
        assert abs(Fraction(Decimal(about[:-1])) - expected) <= abs(expected) / 10**5


@settings(max_examples=500, deadline=None)
@given(
    st.one_of(
        st.text(max_size=300),
        st.text(alphabet="0123456789.,+-*/%()^eof \N{MULTIPLICATION SIGN}", max_size=220),
        st.text(alphabet="9*-()%", max_size=220),
    )
)
def test_any_text_gets_an_answer(expression: str) -> None:
    """Whatever comes in, one short line that can be sent as JSON comes out."""
    answer = calculated(expression)
    assert re.fullmatch(r"-?[0-9][0-9./]*( \(about [-+.E0-9]+\))?|Cannot calculate: .+\.", answer)
    assert len(answer.encode()) <= 1100


# ---------------------------------------------------------------- search

QUESTIONS = """
this-course: What is this course about?
this-course: which tracks are there, and how long do they take
deploying-an-agent: How do I deploy an agent with FastAPI?
deploying-an-agent: how do i put my agent into production
async-endpoints: Why does my graph.invoke block all other requests?
async-endpoints: Should an endpoint be def or async def?
async-endpoints: can I use requests.get inside async def
streaming-tokens: How do I stream tokens with FastAPI?
streaming-tokens: streaming tokens
streaming-tokens: stream token
streaming-tokens: how can I stream the answer word by word
server-sent-events: What is the format of a server-sent event?
server-sent-events: How do I read SSE events in the browser?
server-sent-events: Do I need a WebSocket or SSE?
sessions: How do I keep two users' conversations apart?
sessions: Why are my sessions lost with several workers?
sessions: How do I handle concurrent requests in a session?
langgraph-state: What is a reducer in LangGraph?
langgraph-state: Should I use operator.add or add_messages?
langgraph-state: Why are my messages duplicated in the state?
langgraph-checkpoints: How does LangGraph remember a conversation?
langgraph-checkpoints: What is a checkpointer?
langgraph-checkpoints: what does thread_id mean
multi-agent-graphs: How do I build a supervisor with specialists?
multi-agent-graphs: How do I stop two agents from looping forever?
tool-calling: How does tool calling work?
tool-calling: What should a tool do when it fails?
error-handling: How should I handle errors in FastAPI?
error-handling: Which status code should I return?
error-handling: What happens when an error occurs in the middle of a stream?
validation: How do I validate requests with Pydantic?
validation: Why does NaN in the body give a 500?
timeouts: How do I set a timeout for the model call?
timeouts: What happens when the client disconnects?
timeouts: swallowing CancelledError
retries: When should I retry a failed request?
retries: What is exponential backoff with jitter?
jwt: How do I create a JWT?
jwt: How do I log out a user with JWT?
jwt: How do I revoke a token?
password-hashing: How do I store passwords?
password-hashing: why does bcrypt refuse a long password
caching: How do I cache answers in Redis?
caching: What if Redis is down?
rate-limits: How do I limit requests per user?
rate-limits: 429 too many requests
rate-limits: What is a token bucket?
metrics: How do I add Prometheus metrics?
metrics: Counter, gauge or histogram?
logging: How do I write structured logs?
logging: How do I put a request id into every log line?
health-checks: What is the difference between liveness and readiness?
health-checks: Kubernetes probe
containers: How do I containerize my service with Docker?
containers: Why can I not reach my service in the container?
graceful-shutdown: What happens to open streams at SIGTERM?
graceful-shutdown: How do I shut down gracefully?
configuration: How do I load settings from the environment?
configuration: Where do I put my API key?
cors: Why does the browser report a CORS error?
cors: preflight OPTIONS request
testing: How do I test my agent without an API key?
testing: mock the LLM in pytest
tracing: How do I trace a request with OpenTelemetry?
tracing: Should I switch LangSmith on?
"""


@pytest.mark.parametrize("line", QUESTIONS.strip().splitlines())
def test_finds_the_right_page_first(line: str) -> None:
    """A student's question finds the page on its subject before any other."""
    page, question = line.split(": ", 1)
    assert headings(question)[0].startswith(f"[{page}.md] ")


def test_every_page_is_asked_for() -> None:
    """No page of the handbook is without a question that finds it."""
    asked = {line.split(": ")[0] for line in QUESTIONS.strip().splitlines()}
    assert asked == {page.stem for page in tools.HANDBOOK.glob("*.md")}


def test_first_passage_answers_the_question() -> None:
    """The first passage on streaming tokens is the answer itself, under its source."""
    heading, passage = found("How do I stream tokens with FastAPI?").split("\n\n")[0].split("\n", 1)
    assert heading == "[streaming-tokens.md] Stream tokens with FastAPI > Summary"
    assert "`StreamingResponse`" in passage
    assert "`text/event-stream`" in passage


def test_returns_three_passages_at_most_as_the_page_has_them() -> None:
    """Passages are whole sections, word for word, code included."""
    assert len(headings("model request session token error")) == 3
    heading, passage = found("bcrypt checkpw verify").split("\n\n[")[0].split("\n", 1)
    page = (tools.HANDBOOK / "password-hashing.md").read_text(encoding="utf-8")
    assert heading == "[password-hashing.md] Password hashing > Hash and verify with bcrypt"
    assert page.count(f"## Hash and verify with bcrypt\n\n{passage}\n\n## ") == 1
    assert "```python" in passage


@pytest.mark.parametrize(
    "query",
    [
        "",
        " ",
        "?!",
        "hello",
        "good morning",
        "thanks!",
        "What is the capital of France?",
        "Who won the world cup in 1998?",
        "What is 17.5% of 2480, minus 12?",
        "how do I do it",
        "\0",
        "\ud800",
        "\N{PILE OF POO}" * 3000,
        "\u202e\u200b",
        "% _ ' \" ; -- */ \\",
        "[]().*+?^${}|",
    ],
)
def test_says_so_when_nothing_is_found(query: str) -> None:
    """Small talk, sums, stop words and noise find nothing, which is said in one sentence."""
    assert found(query) == NOT_FOUND


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("streaming tokens", "STREAMED  token!"),
        ("hashing passwords", "hash a password"),
        ("retries", "retry"),
        ("validation", "validate"),
        ("cancelled", "cancellation"),
        ("cached", "caching"),
        ("logging", "logs"),
        ("what is a session", "sessions"),
        ("rate-limit", "rate_limits"),
    ],
)
def test_word_forms_find_the_same(one: str, other: str) -> None:
    """Endings, case, punctuation and stop words make no difference."""
    assert found(one) == found(other) != NOT_FOUND


@pytest.fixture
def pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Replaces the handbook: each keyword argument is a page that holds this text."""

    def write(**texts: str) -> None:
        for name, text in texts.items():
            (tmp_path / f"{name}.md").write_text(f"# T\n\n{text}\n", encoding="utf-8")

    monkeypatch.setattr(tools, "HANDBOOK", tmp_path)
    tools._index.cache_clear()
    yield write
    tools._index.cache_clear()


def test_passages_come_in_the_order_of_bm25(pages: Callable[..., None]) -> None:
    """Rare words outweigh common ones, more of a word counts for more, and length for less."""
    pages(
        rare="walrus filler filler filler",
        long="tiger " + "filler " * 30,
        short="tiger filler filler filler",
        twice="tiger tiger filler filler",
    )
    assert headings("tiger") == [f"[{name}.md] T > Summary" for name in ("twice", "short", "long")]
    assert headings("tiger walrus")[0] == "[rare.md] T > Summary"


def test_equal_passages_come_in_the_order_of_their_names(pages: Callable[..., None]) -> None:
    """A tie is settled by the page's name, never by chance."""
    pages(b="tiger", a="tiger", c="tiger")
    assert headings("tiger") == [f"[{name}.md] T > Summary" for name in "abc"]


def test_repetition_does_not_change_the_answer() -> None:
    """A word that is said many times counts once."""
    assert found("redis cors cors cors") == found("redis cors")


def test_looks_at_two_thousand_characters() -> None:
    """What a user may send is read to its last word, and not one character further."""
    assert found("jwt".rjust(tools.MAX_QUERY)) == found("jwt")
    assert found("jwt".rjust(tools.MAX_QUERY + 1)) == NOT_FOUND


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=3000))
def test_any_query_gets_an_answer(query: str) -> None:
    """Whatever is asked, the answer is text from the handbook, never an error or an echo."""
    answer = found(query)
    assert answer == NOT_FOUND or answer.startswith("[")
    answer.encode()


def best_of(times: int, work: Callable[[], object]) -> float:
    """CPU seconds of the fastest run: what the code costs, not what the machine was doing."""

    def once() -> float:
        started = time.thread_time()
        work()
        return time.thread_time() - started

    return min(once() for _ in range(times))


def test_is_fast() -> None:
    """A search costs a small part of reading the handbook, however long the query is."""
    reading = best_of(5, tools._index.__wrapped__)
    assert best_of(5, lambda: found("How do I stream tokens with FastAPI?")) < reading / 10
    assert best_of(5, lambda: found(" ".join(tools._index()))) < reading / 2
    assert best_of(5, lambda: found("x " * 500_000)) < reading / 2


def test_first_searches_may_come_together() -> None:
    """Sixteen threads that all search first get the same answer."""
    expected = found("session token")
    tools._index.cache_clear()
    together = threading.Barrier(16)

    def search(_: int) -> str:
        together.wait()
        return found("session token")

    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(search, range(16))) == {expected}


async def in_a_thread(tool_input: str) -> str:
    return str(await search_handbook.ainvoke({"query": tool_input}))


def test_works_from_async_code() -> None:
    """Awaited tools answer as called ones do."""
    assert asyncio.run(in_a_thread("session")) == found("session")
    assert asyncio.run(calculate.ainvoke({"expression": "1 + 1"})) == "2"


def test_same_words_in_every_run() -> None:
    """Another process with another hash seed gives the same passages in the same order."""
    query = " ".join(sorted(tools._index())[:200])
    script = (
        "import sys; from shared.tools import search_handbook as s; print(s.invoke(sys.argv[1]))"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, query],
        env={**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": str(Path.cwd()), "PYTHONUTF8": "1"},
        capture_output=True,
        encoding="utf-8",
        check=True,
        timeout=60,
    )
    assert run.stdout == found(query) + "\n"


# ---------------------------------------------------------------- as the model sees them


@pytest.mark.parametrize(
    ("tool", "argument"), [(search_handbook, "query"), (calculate, "expression")]
)
def test_model_is_told_how_to_use_it(tool: object, argument: str) -> None:
    """Each tool has a name, a description and one required, described text argument."""
    function = convert_to_openai_tool(tool)["function"]  # type: ignore[arg-type]
    assert len(function["description"]) > 200
    assert function["parameters"]["required"] == [argument]
    assert function["parameters"]["properties"][argument]["type"] == "string"
    assert function["parameters"]["properties"][argument]["description"]


@pytest.mark.parametrize(
    ("expression", "content"),
    [("2 + 2", "4"), ("1 / 0", "Cannot calculate: the expression divides by zero.")],
)
def test_answers_a_tool_call_with_a_message(expression: str, content: str) -> None:
    """A model's tool call gets a ToolMessage of the same id, and so does one that fails."""
    call = {"type": "tool_call", "id": "call_1", "name": "calculate"}
    message = calculate.invoke({**call, "args": {"expression": expression}})
    assert isinstance(message, ToolMessage)
    assert (message.content, message.tool_call_id) == (content, "call_1")


def test_description_tells_the_truth() -> None:
    """The examples in the tools' descriptions are real."""
    assert '"17.5% of 2480 - 12" is 422' in calculate.description
    assert calculated("17.5% of 2480 - 12") == "422"
    assert '"1/3 (about 0.333333)"' in calculate.description
    assert calculated("1/3") == "1/3 (about 0.333333)"
    assert calculated("2,480") == "2480"
    assert calculated("50 * (1 + 10%)") == "55"
