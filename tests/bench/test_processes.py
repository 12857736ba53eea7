"""Processes of a benchmark: they answer, and nothing stays behind."""

import asyncio
import os

import pytest

from bench import processes
from bench.processes import Handlers, NoAnswerError, Process


async def echoes(word: str) -> Handlers:
    async def later(given: str) -> str:
        await asyncio.sleep(0)
        return f"{word} {given}, later"

    return {"now": lambda given: f"{word} {given}", "later": later, "process": os.getpid, "end": lambda: os._exit(1)}


async def never_ready() -> Handlers:
    os._exit(1)


def test_a_process_answers_in_the_order_it_is_asked() -> None:
    with Process(echoes, "you said") as process:
        process.say("now", "a")
        process.say("later", "b")
        assert [process.answer(), process.answer()] == ["you said a", "you said b, later"]
        assert process.ask("cpu") > 0


def test_a_process_is_gone_after_its_block() -> None:
    with Process(echoes, "") as process:
        number = process.ask("process")
        os.kill(number, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(number, 0)


def test_a_process_that_ended_does_not_answer() -> None:
    with Process(echoes, "") as process:
        process.say("end")
        with pytest.raises(NoAnswerError, match="echoes does not answer"):
            process.answer()


def test_a_process_that_is_not_ready_is_an_error_at_once() -> None:
    with pytest.raises(NoAnswerError, match="never_ready"), Process(never_ready):
        pass


def test_a_process_that_does_not_answer_in_time_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "ANSWER_TIME", 0.01)
    with pytest.raises(NoAnswerError), Process(echoes, ""):
        pass
